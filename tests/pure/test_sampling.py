"""Sampling: each knob against its definition, and draws that depend on seed and index alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anychip.core import UsageError
from anychip.llm.sampling import History, Sampling, adjusted, distribution, draw, logprobs

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


def shares(**options: Any) -> np.ndarray:
    sampling = Sampling(temperature=1.0, **options)
    return np.bincount([draw(LOGITS, sampling, i) for i in range(4000)], minlength=4) / 4000


def test_draws_depend_on_seed_and_index_alone():
    logits = np.linspace(0, 1, 50).astype(np.float32)

    def draws(seed: int, indices: Any) -> list[int]:
        return [draw(logits, Sampling(temperature=1.0, seed=seed), i) for i in indices]

    assert draws(1, range(20)) == draws(1, range(20))
    assert draws(1, reversed(range(20)))[::-1] == draws(1, range(20))
    assert draws(1, range(20)) != draws(2, range(20))


def test_sampling_follows_the_distribution():
    np.testing.assert_allclose(shares(), [0.5, 0.3, 0.15, 0.05], atol=0.03)
    np.testing.assert_allclose(shares(top_k=2), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(top_p=0.75), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(top_p=0.4), [1, 0, 0, 0])
    np.testing.assert_allclose(shares(min_p=0.5), [0.625, 0.375, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(bias={3: 50.0}), [0, 0, 0, 1])
    assert draw(LOGITS, Sampling(), 0) == 0


def test_a_cold_temperature_sharpens():
    _, odds = distribution(LOGITS, Sampling(temperature=0.5))
    np.testing.assert_allclose(odds, np.array([25, 9, 2.25, 0.25]) / 36.5, rtol=1e-5)


def test_penalties_are_their_formulas():
    logits = np.array([2.0, -2.0, 1.0, 1.0], np.float32)
    history = History({0, 1})
    for token in (2, 2):
        history.add(token)
    got = adjusted(logits, Sampling(repetition=2.0), history)
    np.testing.assert_allclose(got, [1.0, -4.0, 0.5, 1.0])
    got = adjusted(logits, Sampling(presence=0.5, frequency=0.25), history)
    np.testing.assert_allclose(got, [2.0, -2.0, 0.0, 1.0])
    assert logits[0] == 2.0


def test_logprobs_are_the_models_own():
    got = logprobs(LOGITS + 7, 2, 2)
    assert got.drawn == pytest.approx(np.log(0.15), abs=1e-5)
    assert [t for t, _ in got.top] == [0, 1]
    assert got.top[1][1] == pytest.approx(np.log(0.3), abs=1e-5)


def test_of_equal_logits_the_smaller_ids_stay():
    ids, _ = distribution(np.zeros(100, np.float32), Sampling(temperature=1.0, top_k=3))
    assert list(ids) == [0, 1, 2]


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": -1},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": 2},
        {"repetition": 0},
        {"presence": 101},
        {"frequency": float("nan")},
        {"logprobs": -1},
        {"bias": {-1: 0.0}},
        {"seed": -1},
    ],
)
def test_senseless_sampling_is_refused(options: dict[str, Any]):
    with pytest.raises(UsageError, match=next(iter(options))):
        Sampling(**options)


@pytest.mark.parametrize(
    "options", [{"top_p": 0.9}, {"min_p": 0.01}, {"top_p": 0.999, "min_p": 0.2}]
)
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_flat_and_steep_distributions_keep_what_the_definition_keeps(options, spread):
    logits = (spread * np.random.default_rng(0).standard_normal(3000)).astype(np.float32)
    odds = np.exp(logits.astype(np.float64))
    odds = np.sort(odds / odds.sum())[::-1]
    kept = np.cumsum(odds) - odds < options.get("top_p", 2)
    kept &= odds >= options.get("min_p", 0) * odds[0]
    _, got = distribution(logits, Sampling(temperature=1.0, **options))
    np.testing.assert_allclose(got, odds[kept] / odds[kept].sum(), rtol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 5000])
@pytest.mark.parametrize("spread", [0.0, 3.0, 300.0])
def test_a_draw_is_the_inverse_of_the_summed_odds(size, spread):
    dice = np.random.default_rng(size)
    logits = (dice.standard_normal(size) * spread).astype(np.float32)
    if size > 2:
        logits[dice.integers(0, size, size // 3)] = -np.inf
    for seed in range(50):
        sampling = Sampling(temperature=0.9, seed=seed)
        share = np.random.Generator(np.random.Philox(key=[seed, 7])).random()
        _, odds = distribution(logits, sampling)
        sums = np.cumsum(odds)
        token = draw(logits, sampling, 7)
        assert odds[token] > 0
        assert sums[token] >= share - 1e-6
        assert (sums[token - 1] if token else 0.0) <= share + 1e-6
