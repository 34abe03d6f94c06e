"""The engine on real steps of a tiny model: an answer is the one its request gets alone, whatever
runs beside it, is preempted, cancelled, guessed or shared."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
from quick_xla import QuickXla

from anychip.core import AnychipError, UnsupportedError, UsageError
from anychip.frontends.llm import MLA
from anychip.llm import Limits, Sampling, Stop
from anychip.llm.engine import Engine, Speculation
from anychip.llm.generate import compile_runner
from anychip.llm.paged import Pace
from anychip.llm.speculate import Acceptance, DraftModel, PromptLookup, best_length

LIMITS = Limits(pages=12, page_tokens=4, step_tokens=16, sequences=6, context=48)
CPU = QuickXla()


class Bytes:
    """Token i is the byte i + 160: half of them begin or continue characters of two bytes."""

    bos, stop = None, ()

    def encode(self, text: str) -> list[int]:
        return [b - 160 for b in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(i + 160 for i in ids).decode(errors="replace")

    def stream(self):
        import codecs

        class Stream:
            decoder = codecs.getincrementaldecoder("utf-8")("replace")

            def push(self, token: int) -> str:
                return self.decoder.decode(bytes([token + 160]))

            def flush(self) -> str:
                return self.decoder.decode(b"", final=True)

        return Stream()


COMPILED: dict[tuple, dict] = {}


def engine(model, limits=LIMITS, is_coarse=True, **options):
    """Engines of one model and size share their compiled steps, most of a test's time; with
    `is_coarse` steps are of two sizes, not of every power of two."""
    made = Engine(model, CPU, limits, **options)
    if is_coarse:
        made.steps._size = lambda count, most: min(most, 8) if count <= 8 else most
    made.steps._compiled = COMPILED.setdefault((id(model), made.steps.shape), {})
    return made


def answers(pieces):
    out: dict[int, list[int]] = {}
    for piece in pieces:
        out.setdefault(piece.request, [])
        if piece.token >= 0:
            out[piece.request].append(piece.token)
    return out


def test_answers_are_those_of_the_plain_loop(tiny):
    model = tiny()
    runner = compile_runner(model, CPU, prompt_tokens=12, max_new=20)
    dice = random.Random(0)
    prompts = [[dice.randrange(97) for _ in range(n)] for n in (1, 5, 12)]
    one = engine(model, is_coarse=False)
    got = answers(one.generate(prompts, max_new=20))
    for number, prompt in enumerate(prompts):
        assert got[number] == [p.token for p in runner.generate(prompt, max_new=20)]


def test_200_requests_a_third_cancelled_with_memory_for_a_tenth(tiny):
    model, dice = tiny(), random.Random(1)
    requests = []
    for _ in range(200):
        prompt = [dice.randrange(97) for _ in range(dice.randrange(1, 10))]
        hot = Sampling(temperature=1.0, seed=dice.randrange(100)) if dice.random() < 0.5 else None
        requests.append((prompt, dice.randrange(1, 30), hot or Sampling()))
    # Pages for a tenth of what they all need; more sequences than fit, so that some are preempted.
    need = sum(-(-(len(p) + n) // 4) for p, n, _ in requests)
    limits = Limits(pages=need // 10, page_tokens=4, step_tokens=64, sequences=64, context=48)
    one = engine(model, limits)
    numbers = [one.submit(p, max_new=n, sampling=s) for p, n, s in requests]
    gone = set(dice.sample(numbers, 67))
    got: dict[int, list[int]] = {}
    finish: dict[int, str] = {}
    preempted, todo = 0, sorted(gone)
    while not one.is_idle:
        before = {s.request.id for s in one.state.running}
        for piece in one.step():
            got.setdefault(piece.request, []).append(piece.token)
            finish[piece.request] = piece.finish
        waiting = {s.request.id for s in one.state.waiting}
        preempted += len(before & waiting)
        if todo and dice.random() < 0.7:
            one.cancel(todo.pop(dice.randrange(len(todo))))
    assert preempted > 0
    assert not one.state.pages.users
    alone = engine(model, limits)  # one request at a time
    for number, (prompt, count, sampling) in enumerate(requests):
        if number in gone:
            continue
        alone.submit(prompt, max_new=count, sampling=sampling)
        assert [p.token for p in alone.run()] == got[number]
        assert finish[number] == "length"


@pytest.fixture(scope="module")
def drafters(tiny):
    return {
        "prompt-lookup": PromptLookup(),
        "same-model": DraftModel(tiny(), CPU, 64),
        "other-model": DraftModel(tiny(seed=7), CPU, 64),
    }


@pytest.fixture(scope="module")
def looping():
    """Prompts that repeat themselves, so that looking back finds something."""
    return [[5, 6, 7, 8, 9, 10] * 3, [20, 21, 22] * 5]


@pytest.mark.parametrize("heat", [0.0, 0.8])
@pytest.mark.parametrize("how", ["prompt-lookup", "same-model", "other-model"])
def test_guessing_changes_no_token(tiny, drafters, looping, how, heat):
    model, sampling = tiny(), Sampling(temperature=heat, seed=3)
    want = answers(engine(model).generate(looping, max_new=24, sampling=sampling))
    one = engine(model, speculation=Speculation(drafter=drafters[how], most=4))
    assert answers(one.generate(looping, max_new=24, sampling=sampling)) == want
    stats = one.acceptance.to_json()
    assert stats["proposed"] >= stats["accepted"]
    if how == "same-model" and not heat:
        assert stats["accepted"] == stats["proposed"] > 0
        assert one.batches < 24


def test_where_no_guess_pays_one_is_compared_with_what_comes(tiny, looping):
    """Steps of so many seconds as they have tokens: guessing never pays, and no step is longer."""
    model = tiny()
    plain = engine(model)
    want = answers(plain.generate(looping, max_new=24))
    one = engine(model, speculation=Speculation(drafter=PromptLookup(), most=4))
    one.steps.pace = lambda: Pace({n: float(n) for n in (1, 2, 4, 8)})
    assert answers(one.generate(looping, max_new=24)) == want
    assert one.acceptance.checks == 0
    assert one.batches == plain.batches
    lucky = engine(model, speculation=Speculation(drafter=PromptLookup(), most=4))
    lucky.steps.pace = lambda: Pace(dict.fromkeys((1, 2, 4, 8), 1.0))
    assert answers(lucky.generate(looping, max_new=24)) == want
    assert lucky.acceptance.checks > 0


def test_sampling_with_guesses_keeps_the_distribution(tiny):
    """Pearson's χ² of the second token over 1000 seeds against its exact distribution."""
    model = tiny()
    sampling = [Sampling(temperature=0.7, top_k=6, seed=s) for s in range(1000)]
    limits = Limits(pages=200, page_tokens=4, step_tokens=128, sequences=32, context=16)
    guess = Speculation(drafter=Always(tiny), most=2)
    one = engine(model, limits, speculation=guess)
    prompt = [3, 1, 4, 1, 5]
    for each in sampling:
        one.submit(prompt, max_new=3, sampling=each)
    drawn = answers(one.run())
    plain = engine(model, limits)
    first = Sampling(temperature=0.7, top_k=6, logprobs=40)
    plain.submit(prompt, max_new=1, sampling=first)
    (piece,) = plain.run()
    ids = [t for t, _ in piece.logprobs.top[:6]]
    odds = np.exp(np.array([v for _, v in piece.logprobs.top[:6]]) / 0.7)
    common = ids[int(np.argmax(odds))]
    plain.submit([*prompt, common], max_new=1, sampling=first)
    (after,) = plain.run()
    ids = [t for t, _ in after.logprobs.top[:6]]
    odds = np.exp(np.array([v for _, v in after.logprobs.top[:6]]) / 0.7)
    odds /= odds.sum()
    second = [tokens[1] for tokens in drawn.values() if tokens[0] == common]
    counts = np.array([second.count(i) for i in ids])
    assert counts.sum() == len(second) > 200
    assert one.acceptance.accepted > 0
    chi2 = float((np.square(counts - len(second) * odds) / (len(second) * odds)).sum())
    assert chi2 < 20.5  # 5 degrees of freedom, p = 0.001


class Always:
    """Guesses by another random model's taste: right now and then."""

    name = "always"

    def __init__(self, tiny):
        self.dice = random.Random(0)

    def draft(self, request, tokens, most):
        return [self.dice.randrange(97) if self.dice.random() < 0.5 else tokens[-1]] * most

    def forget(self, request): ...


def test_a_shared_prefix_is_computed_once(tiny):
    one = engine(tiny())
    prefix = list(range(20))
    first = answers(one.generate([prefix], max_new=4))[0]
    batches = one.batches
    other = answers(one.generate([prefix, [*prefix[:18], 50]], max_new=4))
    assert other[1] == first
    assert one.batches - batches == 4
    fresh = engine(tiny(), LIMITS)
    assert other[2] == answers(fresh.generate([[*prefix[:18], 50]], max_new=4))[0]


def test_pieces_never_hold_half_a_character_and_stop_texts_stay_inside(tiny):
    model = tiny(tokenizer=Bytes(), vocabulary=96)
    sampling = Sampling(temperature=5.0, seed=1)
    one = engine(model)
    pieces = list(one.generate([[1, 2, 3]], max_new=30, sampling=sampling, stop=Stop()))
    text = model.tokenizer.decode([p.token for p in pieces])
    assert "".join(p.text for p in pieces) == text
    stop = text[8:10]
    one.submit([1, 2, 3], max_new=30, sampling=sampling, stop=Stop((), (stop,)))
    cut = list(one.run())
    assert "".join(p.text for p in cut) == text[: text.index(stop)]
    assert cut[-1].finish == "stop"
    for some in (pieces, cut):
        assert [p.finish for p in some[:-1]] == [""] * (len(some) - 1)


def test_logprobs_and_penalties_come_through(tiny):
    one = engine(tiny())
    sampling = Sampling(repetition=50.0, logprobs=2)
    pieces = list(one.generate([[1, 2, 3]], max_new=10, sampling=sampling))
    tokens = [p.token for p in pieces]
    assert len(set(tokens)) == len(tokens)
    assert all(
        len(p.logprobs.top) == 2 and p.logprobs.drawn <= p.logprobs.top[0][1] for p in pieces
    )


def test_a_full_context_ends_an_answer(tiny):
    pieces = list(engine(tiny()).generate([[1, 2, 3]], max_new=60))
    assert len(pieces) == LIMITS.context - 3 + 1
    assert pieces[-1].finish == "context"


@pytest.mark.parametrize(
    ("prompt", "options", "says"),
    [
        ([], {}, "empty prompt"),
        ([97], {}, "outside tiny's vocabulary of 97"),
        ([-1], {}, "outside tiny's vocabulary"),
        ([1] * 49, {}, "shorten it by 1"),
        ([1], {"max_new": 0}, "max_new"),
        ([1], {"stop": Stop((), ("x",))}, "no tokenizer"),
        ([1], {"sampling": Sampling(bias={97: 1.0})}, "outside tiny's vocabulary"),
        ([1] * 40, {"max_new": 9}, ""),
    ],
)
def test_a_bad_request_is_refused_and_harms_nobody(tiny, prompt, options, says):
    one = engine(tiny(), Limits(pages=10, page_tokens=4, step_tokens=8, sequences=2, context=48))
    one.submit([1, 2], max_new=3)
    with pytest.raises(UsageError, match=says or "40 tokens|more pages"):
        one.submit(prompt, **{"max_new": 5, **options})
    assert len(answers(one.run())[0]) == 3


def test_a_late_request_ends_at_its_deadline(tiny):
    now = [0.0]
    one = engine(tiny(), clock=lambda: now[0])
    one.submit([1, 2], max_new=30, timeout_s=5.0)
    one.step()
    now[0] = 6.0
    (piece,) = one.run()
    assert (piece.finish, piece.token) == ("deadline", -1)


def test_numbers_that_are_none_end_their_request_only(tiny):
    one = engine(tiny())
    for prompt in ([1, 2], [3, 4]):
        one.submit(prompt, max_new=4)
    run = one.steps.run

    def broken(rows, wanted, table):
        logits = np.array(run(rows, wanted, table))
        logits[0] = np.nan
        return logits

    one.steps.run = broken
    first = one.step()
    one.steps.run = run
    assert [p.finish for p in first] == ["error", ""]
    assert len(answers(one.run())[1]) == 3


def test_a_broken_engine_says_so(tiny):
    one = engine(tiny())
    one.submit([1, 2], max_new=4)

    def dies(rows, wanted, table):
        raise OSError("worker died")

    one.steps.run = dies
    with pytest.raises(OSError, match="worker died"):
        one.step()
    with pytest.raises(AnychipError, match=r"worker died.*new engine"):
        one.submit([1], max_new=1)


def test_the_cache_is_known_before_anything_is_compiled(tiny):
    one = engine(tiny())
    assert one.kv_bytes == 2 * 2 * 13 * 4 * 2 * 16 * 4  # k, v × layers × pages × slots × heads × …


def test_models_and_targets_that_cannot_are_refused(tiny):
    latent = tiny(kv_heads=4, mla=MLA(kv_rank=12, nope_dim=8, rope_dim=4, value_dim=6, q_rank=16))
    with pytest.raises(UnsupportedError, match="no paged step"):
        engine(latent)
    with pytest.raises(UsageError, match="made for 64 tokens"):
        engine(tiny(), Limits(pages=99, context=65))


def test_the_best_length_follows_the_rate():
    costs = [1 + 0.1 * count for count in range(9)]
    assert best_length(0.0, costs) == 0
    assert best_length(1.0, costs) == 8
    lengths = [best_length(rate, costs) for rate in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert lengths == sorted(lengths)
    # Steps of powers of two: a third guess goes along with the second.
    assert best_length(0.6, (1, 1.2, 1.6, 1.6)) == 3
    stats = Acceptance("x")
    stats.add(4, 2)
    stats.add(3, 0)
    assert stats.to_json()["mean_accepted_length"] == 2.0


def test_native_answers_do_not_depend_on_the_batch(tiny):
    pytest.importorskip("llvmlite")
    from anychip.compilers.native import NativeTarget
    from anychip.core import CompileOptions
    from anychip.frontends.llm import PRECISIONS

    model, dice = tiny(hidden=128, ffn=256, head_dim=32), random.Random(2)
    limits = Limits(pages=12, page_tokens=16, step_tokens=16, sequences=4, context=64)
    options = {"precision": PRECISIONS["f32"], "options": CompileOptions(threads=2)}
    prompts = [[dice.randrange(97) for _ in range(n)] for n in (3, 9, 20, 33)]
    sampling = Sampling(temperature=0.9, seed=5)
    one = Engine(model, NativeTarget(), limits, **options)
    together = answers(one.generate(prompts, max_new=12, sampling=sampling))
    for number, prompt in enumerate(prompts):
        alone = answers(one.generate([prompt], max_new=12, sampling=sampling))
        assert list(alone.values()) == [together[number]]
