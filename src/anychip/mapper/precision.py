"""Which precision a chip gets when nobody says: the one such chips are deployed in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from anychip.core import ChipSpec, LanguageModel, Precision, unknown
from anychip.core.blocks import BLOCK_FORMATS
from anychip.core.dtypes import DTYPES

_ORDER = ("f8E4M3FN", "mxfp8", "mxint8", "i8", "bf16", "f16", "f32")
"""Formats of eight bits or more; among equally fast ones the earlier is taken."""

NARROWER = ("int8-weights", "q4_0")
"""What is tried, in this order, where no system of a chip holds the model as deployed."""


def choices(
    wanted: str, model: LanguageModel, spec: ChipSpec, precisions: Mapping[str, Precision]
) -> Iterator[tuple[Precision, str]]:
    """(precision, why), best first; the next is for a model that the one before does not fit.

    `wanted` is "auto", "native" (as the model is stored), or a name in `precisions`; only "auto"
    gives more than one. Auto: a model stored in fewer than eight bits keeps its weights. Any other
    takes the chip's fastest format of eight bits or more in which weights and activations are both
    multiplied; of equally fast ones, one whose rate is not a guess, then the float.
    Raises UsageError for a name that is not there.
    """
    if wanted == "native":
        yield model.native_precision, "as the model is stored"
        return
    if wanted != "auto":
        if wanted not in precisions:
            raise unknown("precision", wanted, ("auto", "native", *precisions))
        yield precisions[wanted], "as asked"
        return
    stored = narrow_format(model)
    if stored:
        yield _keeping(stored, model, precisions), f"the model's weights are stored in {stored}"
        return
    first, why = _fastest(spec, precisions)
    yield first, why
    for name in NARROWER:
        if name in precisions and bits(precisions[name].weights) < bits(first.weights):
            yield precisions[name], f"it does not fit in {first.name}; weights only in {name}"


def _fastest(spec: ChipSpec, precisions: Mapping[str, Precision]) -> tuple[Precision, str]:
    facts = spec.matmul_flops_per_s
    usable = [
        (facts[p.matmul].value, not facts[p.matmul].source.startswith("assumed:"), p)
        for p in precisions.values()
        if p.matmul in facts and p.weights == p.matmul and p.matmul in _ORDER
    ]
    if not usable:
        return precisions["bf16"], f"{spec.name} has no format of 8 bits or more that is built"
    rate, _, best = max(usable, key=lambda one: (one[0], one[1], -_ORDER.index(one[2].matmul)))
    return (
        best,
        f"{best.matmul} is {spec.name}'s fastest format of 8 bits or more: {rate:.3g} FLOP/s",
    )


def narrow_format(model: LanguageModel) -> str:
    """The format of fewer than eight bits in which most of a model's bytes are stored, or ""."""
    native = model.native_precision
    if native.experts and bits(native.experts) < 8:
        return native.experts
    if native.weights != "stored":
        return native.weights if bits(native.weights) < 8 else ""
    sizes: dict[str, int] = {}
    for weight in model.bind(native).values():
        sizes[weight.stored_as] = sizes.get(weight.stored_as, 0) + weight.stored_bytes
    most = max(sizes, key=lambda name: sizes[name], default="")
    return most if most and bits(most) < 8 else ""


def bits(name: str) -> float:
    """Bits of one number without its share of a block's scale."""
    if name in BLOCK_FORMATS:
        return float(int(BLOCK_FORMATS[name].bits_per_element))
    return float(DTYPES[name].bits)


def _keeping(stored: str, model: LanguageModel, precisions: Mapping[str, Precision]) -> Precision:
    """The model's own precision, or for a file the one that multiplies its format in bf16."""
    native = model.native_precision
    if native.weights != "stored":
        return native
    same = [p for p in precisions.values() if p.weights == stored and p.matmul != stored]
    return same[0] if same else native
