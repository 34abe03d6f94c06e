"""Which precision a chip gets when nobody says: the one such chips are deployed in."""

from __future__ import annotations

from collections.abc import Mapping

from anychip.core import ChipSpec, LanguageModel, Precision, unknown
from anychip.core.blocks import BLOCK_FORMATS
from anychip.core.dtypes import DTYPES

_PREFERRED = ("f8E4M3FN", "mxfp8", "mxint8", "i8", "bf16", "f16", "f32")
"""Order among formats of equal rate: floats before integers, narrow before wide."""


def choose(
    wanted: str, model: LanguageModel, spec: ChipSpec, precisions: Mapping[str, Precision]
) -> tuple[Precision, str]:
    """(precision, why). `wanted` is "auto", "native" (as the model is stored), or a name in
    `precisions`.

    Auto: a model stored in fewer than eight bits keeps its weights, multiplied in what the chip
    has. Any other takes the chip's fastest format of at least eight bits in which both weights and
    activations are multiplied; of equally fast ones the float.
    Raises UsageError for a name that is not there.
    """
    if wanted == "native":
        return model.native_precision, "as the model is stored"
    if wanted != "auto":
        if wanted not in precisions:
            raise unknown("precision", wanted, ("auto", "native", *precisions))
        return precisions[wanted], "as asked"
    stored = narrow_format(model)
    if stored:
        return _keeping(stored, model, precisions)
    rates = {name: fact.value for name, fact in spec.matmul_flops_per_s.items()}
    usable = [
        (rates[p.matmul], -_PREFERRED.index(p.matmul), p)
        for p in precisions.values()
        if p.matmul in rates and p.weights == p.matmul and p.matmul in _PREFERRED
    ]
    if not usable:
        return precisions["bf16"], f"{spec.name} has no format of eight bits or more that is built"
    rate, _, best = max(usable, key=lambda item: item[:2])
    return (
        best,
        f"{best.matmul} is the fastest format of {spec.name} with 8 bits or more ({rate:.3g} FLOP/s)",
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
    """Bits one number takes, its share of a block's scale left out."""
    if name in BLOCK_FORMATS:
        return float(int(BLOCK_FORMATS[name].bits_per_element))
    return float(DTYPES[name].bits)


def _keeping(
    stored: str, model: LanguageModel, precisions: Mapping[str, Precision]
) -> tuple[Precision, str]:
    native = model.native_precision
    why = f"the model's weights are stored in {stored}"
    if native.weights != "stored":
        return native, why
    same = [p for p in precisions.values() if p.weights == stored and p.matmul != stored]
    return (same[0] if same else native), why
