"""The baseline beside the twin: a five-parameter roofline of the same serving point.

It covers closed-loop points of dense models on GPUs, where it was fitted; other rows have none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from anychip.twin import Shards, machine, share
from anychip.twin.baseline import Load, Peaks, Sizes, chip_tok_s, peaks, tpot_s, ttft_s
from anychip.validate.names import CHIPS, MODELS, PRECISIONS, Build, lookup, rebuilt
from anychip.validate.predict import Predictor
from anychip.validate.rows import Published

FITTED: Mapping[str, float] = {
    "memory_efficiency": 0.931,
    "matmul_efficiency": 0.657,
    "all_reduce_s": 1.37e-5,
    "per_layer_s": 4.26e-5,
    "per_step_s": 1e-5,
}
"""Of `bench/serving_baseline.py` on all shipped serving points (TPOT), which says how far it is
off when a chip or a stack is left out. `per_step_s` went to its bound: a time a step and a time a
layer cannot be told apart on two models."""

LAWS: Mapping[str, tuple[Callable[..., float], float]] = {
    "tpot_mean": (tpot_s, 1e3),
    "ttft": (ttft_s, 1e3),
    "throughput_output_per_gpu": (chip_tok_s, 1.0),
}
"""Metric → (the baseline's equation, factor to the row's unit)."""

CACHE_BYTES = 2.0
"""A bf16 cache, whatever holds the weights. The points do not tell; an 8-bit one for fp8, as the
twin has, would put the baseline's TPOT a quarter farther off (9.5 % for 7.7 %, in sample)."""
CONTEXT = 256
"""Where the bytes a token leaves in the cache are read off."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A serving point as the baseline sees it."""

    sizes: Sizes
    peaks: Peaks
    load: Load


def setting(row: Published, predictor: Predictor) -> Setting | None:
    """None for what the baseline does not cover."""
    build, name = lookup(CHIPS, row.chip), lookup(MODELS, row.model)
    held = lookup(PRECISIONS, row.precision)
    if not row.stack or row.metric not in LAWS:
        return None
    if not isinstance(build, Build) or not isinstance(name, str) or not isinstance(held, str):
        return None
    spec = rebuilt(predictor.registry.chip(build.chip).spec, build)
    precision = predictor.precisions[held]
    if spec.family != "simt" or precision.matmul not in spec.matmul_flops_per_s:
        return None
    facts = predictor.load(name, 0).facts
    if facts.parameters - facts.active_parameters > facts.vocabulary * facts.hidden:
        return None  # a mixture of experts; the table of token embeddings is looked up, not read
    sizes = _sizes(name, held, predictor)
    load = Load(
        prompt=int(row.prompt), answer=int(row.generate), users=int(row.batch), chips=row.tensor
    )
    return Setting(sizes=sizes, peaks=peaks(machine(spec), precision.matmul), load=load)


def baseline(row: Published, predictor: Predictor) -> float | None:
    """The baseline's figure in the row's unit, None for what it does not cover."""
    at = setting(row, predictor)
    if at is None:
        return None
    law, factor = LAWS[row.metric]
    return law(FITTED, at.sizes, at.peaks, at.load) * factor


def _sizes(name: str, held: str, predictor: Predictor) -> Sizes:
    key = ("sizes", name, held)
    if key not in predictor.kept:
        model = predictor.load(name, 0)
        facts, weights = model.facts, model.bind(predictor.precisions[held]).nbytes
        plain = predictor.surfaces.at(model, predictor.precisions["bf16"], 1)
        cache = share(plain.decode(1, CONTEXT), Shards()).state_bytes
        predictor.kept[key] = Sizes(
            parameters=facts.active_parameters,
            layers=facts.layers,
            hidden=facts.hidden,
            cache_width=round(cache / CONTEXT / facts.layers / CACHE_BYTES),
            weight_bytes=weights / facts.parameters,
            cache_bytes=CACHE_BYTES,
        )
    return predictor.kept[key]
