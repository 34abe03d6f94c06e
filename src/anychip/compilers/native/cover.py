"""Which kernel does which op: one function an op (cover_*.py, by subject), which raises NoKernel
with a reason if it cannot.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from anychip.compilers.native.cover_attention import (
    cache_update,
    cached_attention,
    paged_attention,
    paged_update,
    rope,
)
from anychip.compilers.native.cover_moves import FOLDS, MOVES
from anychip.compilers.native.cover_products import dot_general, quantized_matmul
from anychip.compilers.native.cover_rows import gelu, pointwise, rms_norm, swiglu_numbers
from anychip.compilers.native.view import NoKernel
from anychip.ops.view import OpView

OPAQUE = frozenset(
    f"anychip.{name}"
    for name in (
        *("quantized_matmul", "cached_attention", "cache_update"),
        *("paged_attention", "paged_update"),
    )
)
"""Composites whose plain bodies would be worse than a no: they read whole weights or caches."""

EIGHT_BITS = "activations rounded to 8 bits in groups of 32"
KEPT_WIDE = "kept in f32 between ops"


def cover(reader: Any, name: str, op: OpView, inputs: list[Any]) -> tuple[Any, str]:
    """(result, what differs from the op's meaning) of an op with one result."""
    if name not in _COVERS or len(op.results) != 1:
        raise NoKernel("no kernel for this op")
    if all(isinstance(one, np.ndarray) for one in inputs) and name in FOLDS:
        return np.asarray(FOLDS[name](op, *inputs)), ""  # numpy's sums of scalars are no arrays
    result = _COVERS[name](reader, op, inputs)
    is_narrow = op.outputs[0].dtype in ("bf16", "f16") and name not in MOVES
    if name == "anychip.quantized_matmul":
        return result, EIGHT_BITS
    return result, KEPT_WIDE if is_narrow else ""


_COVERS: dict[str, Any] = {
    **MOVES,
    "stablehlo.constant": None,
    "stablehlo.iota": None,
    **{
        f"stablehlo.{name}": pointwise(name)
        for name in (
            *("add", "subtract", "multiply", "divide", "maximum", "minimum"),
            *("tanh", "logistic", "exponential"),
        )
    },
    "stablehlo.dot_general": dot_general,
    "anychip.quantized_matmul": quantized_matmul,
    "anychip.rms_norm": rms_norm,
    "anychip.rope": rope,
    "anychip.cache_update": cache_update,
    "anychip.cached_attention": cached_attention,
    "anychip.paged_attention": paged_attention,
    "anychip.paged_update": paged_update,
    "anychip.swiglu": pointwise("swiglu", swiglu_numbers),
    "anychip.silu": pointwise("silu"),
    "anychip.gelu": gelu,
}
