"""PRECISIONS: the ways of holding a language model's numbers that anychip builds modules for."""

from __future__ import annotations

from anychip.core.language_model import Precision


def _row(
    name: str,
    weights: str,
    matmul: str,
    *,
    activations: str = "bf16",
    cache: str = "bf16",
    experts: str = "",
) -> Precision:
    return Precision(
        name=name,
        weights=weights,
        activations=activations,
        cache=cache,
        matmul=matmul,
        experts=experts,
    )


PRECISIONS: dict[str, Precision] = {
    row.name: row
    for row in (
        _row("f32", "f32", "f32", activations="f32", cache="f32"),
        _row("f16", "f16", "f16", activations="f16", cache="f16"),
        _row("bf16", "bf16", "bf16"),
        # Weights and activations multiplied in eight bits: a scale a channel, a scale a token.
        _row("fp8", "f8E4M3FN", "f8E4M3FN", cache="f8E4M3FN"),
        _row("int8", "i8", "i8"),
        # Weights in eight bits, activations as they are.
        _row("int8-weights", "i8", "bf16"),
        # Block formats of the OCP MX specification and NVIDIA, both operands in blocks.
        _row("mxfp8", "mxfp8", "mxfp8"),
        _row("mxint8", "mxint8", "mxint8"),
        _row("mxfp4", "mxfp4", "mxfp8"),
        _row("mxint4", "mxint4", "mxint8"),
        _row("nvfp4", "nvfp4", "nvfp4", cache="f8E4M3FN"),
        # gpt-oss as released: routed experts in mxfp4, everything else bf16.
        _row("mxfp4-experts", "bf16", "bf16", experts="mxfp4"),
        # ggml's formats: weights only, dequantised as they are read.
        _row("q4_0", "q4_0", "bf16"),
        _row("q4_1", "q4_1", "bf16"),
        _row("q8_0", "q8_0", "bf16"),
        # A file as it is, computed in f32.
        _row("stored", "stored", "f32", activations="f32", cache="f32"),
    )
}
"""By name. `matmul` is the format both operands of a linear layer are multiplied in. Where that is
not the activations' own type, each token's activations are first rounded to it: with a scale a
token for f8E4M3FN and i8, with a scale a block for block formats."""
