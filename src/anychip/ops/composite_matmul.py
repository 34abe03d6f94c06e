"""Composites of products with compressed or grouped weights: what matrix units do natively.

Weights are [out, in], those of experts [expert, out, in]. Products accumulate in f32 and come out
in x's type.
"""

# JAX's own annotations are partly unknown to pyright; strictness about them finds nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.core.blocks import BLOCK_FORMATS, block_format
from anychip.core.dtypes import dtype
from anychip.ops.composite import attributes_of, composite, example, rows
from anychip.ops.composite_pointwise import wide
from anychip.ops.view import OpView
from anychip.ops.work import Work


def round_in_blocks(x: Any, name: str) -> Any:
    """x rounded to a block format along its last dimension, in x's type."""
    form = block_format(name)
    y = x.astype(jnp.float32)
    if not form.has_outer_scale:
        return form.dequantize(form.quantize(y, jnp), jnp).astype(x.dtype)
    outer = form.outer_scale(y, jnp)[..., None]
    return (form.dequantize(form.quantize(y / outer, jnp), jnp) * outer).astype(x.dtype)


def quantize_rows(x: Any, name: str) -> tuple[Any, Any]:
    """(codes of x's shape, f32 scale a row): symmetric, the row's largest magnitude at the top."""
    element = dtype(name)
    y = x.astype(jnp.float32)
    top = 127.0 if element.kind == "int" else float(jnp.finfo(element.numpy).max)
    largest = jnp.max(jnp.abs(y), axis=-1, keepdims=True)
    scale = jnp.maximum(largest, jnp.finfo(jnp.float32).tiny) / top
    codes = y / scale
    if element.kind == "int":
        codes = jnp.round(codes)
    return lax.clamp(jnp.float32(-top), codes, jnp.float32(top)).astype(element.numpy), scale


def _product(x: Any, w: Any) -> Any:
    """x[…,K] · w[N,K] in f32 (i32 for integers)."""
    integer = jnp.issubdtype(x.dtype, jnp.integer)
    accumulator = jnp.int32 if integer else wide(x).dtype
    dims = (((x.ndim - 1,), (w.ndim - 1,)), ((), ()))
    return lax.dot_general(x, w, dims, preferred_element_type=accumulator)


def _matmul_work(op: OpView) -> Work:
    """2·M·N·K, the packed bytes as they lie in memory, the activations once."""
    x, out = op.inputs[0], op.outputs[0]
    read = sum(s.nbytes for s in op.inputs)
    return Work(2 * out.size * x.sizes[-1], read, out.nbytes)


def _np_blocks(x: Any, blocks: Any, scale: Any = None, *, format: str, activation: str = "") -> Any:
    w = BLOCK_FORMATS[format].dequantize(blocks).astype(np.float64)
    w = w if scale is None else w * scale[:, None]
    if activation:
        form = BLOCK_FORMATS[activation]
        x = form.dequantize(form.quantize(x.astype(np.float32))).astype(np.float64)
    return x @ w.T


def _some_blocks(name: str, *shape: int) -> Callable[[], np.ndarray]:
    """Blocks of normal numbers, for examples."""
    values = np.random.default_rng(11).normal(size=shape).astype(np.float32)
    return lambda: block_format(name).quantize(values)


@composite(
    "quantized_matmul",
    unit="matmul",
    work=_matmul_work,
    examples=[
        example(
            *("f32[3,64]", "ui8[5,36]"),
            expect=_np_blocks,
            given={1: _some_blocks("q4_0", 5, 64)},
            format="q4_0",
            reduced=64,
        ),
        example(
            *("f32[2,2,64]", "ui8[5,34]"),
            expect=_np_blocks,
            given={1: _some_blocks("mxfp4", 5, 64)},
            format="mxfp4",
            activation="mxfp8",
            reduced=64,
        ),
        example(
            *("f32[3,64]", "ui8[5,36]", "f32[5]"),
            expect=_np_blocks,
            given={1: _some_blocks("nvfp4", 5, 64)},
            format="nvfp4",
            reduced=64,
        ),
        example(
            *("bf16[3,64]", "ui8[5,68]"),
            expect=_np_blocks,
            given={1: _some_blocks("q8_0", 5, 64)},
            format="q8_0",
            reduced=64,
        ),
    ],
)
def quantized_matmul(
    x: Any, blocks: Any, scale: Any = None, *, format: str, activation: str = ""
) -> Any:
    """x[…,K] · dequantised(blocks ui8[N,bytes])ᵀ → […,N] in x's type.

    `format` names the block format; `scale` f32[N] is its outer scale where it has one (nvfp4).
    `activation` "" multiplies x as it is; a block format's name rounds x to that first.
    """
    form = block_format(format)
    if activation:
        x = round_in_blocks(x, activation)
    w = form.dequantize(blocks, jnp)
    out = _product(x, w.astype(x.dtype))
    if scale is not None:
        out = out * scale
    return out.astype(x.dtype)


def _np_scaled(x: Any, w: Any, scale: Any, *, activation: str = "") -> Any:
    w = w.astype(np.float64) * scale[:, None]
    if activation:
        element = dtype(activation)
        top = 127.0 if element.kind == "int" else float(jnp.finfo(element.numpy).max)
        unit = np.abs(x).max(-1, keepdims=True) / top
        codes = np.round(x / unit) if element.kind == "int" else x / unit
        x = codes.astype(np.float32).astype(element.numpy).astype(np.float64) * unit
    return x @ w.T


@composite(
    "scaled_matmul",
    unit="matmul",
    work=_matmul_work,
    examples=[
        example("f32[3,32]", "i8[5,32]", "f32[5]", expect=_np_scaled, reduced=32),
        example(
            *("f32[2,3,32]", "i8[5,32]", "f32[5]"),
            expect=_np_scaled,
            activation="i8",
            reduced=32,
        ),
        example(
            *("f32[3,32]", "f8E4M3FN[5,32]", "f32[5]"),
            expect=_np_scaled,
            activation="f8E4M3FN",
            reduced=32,
        ),
        example("bf16[3,32]", "f8E4M3FN[5,32]", "f32[5]", expect=_np_scaled, reduced=32),
    ],
)
def scaled_matmul(x: Any, w: Any, scale: Any, *, activation: str = "") -> Any:
    """x[…,K] · (w[N,K] * scale[N])ᵀ → […,N] in x's type; w is f8 or i8, scale f32.

    `activation` "" multiplies x as it is; an element type's name rounds x to that first, each row
    scaled so that its largest magnitude is that type's largest number (127 for i8).
    """
    if not activation:
        return (_product(x, w.astype(x.dtype)) * scale).astype(x.dtype)
    codes, unit = quantize_rows(x, activation)
    out = _product(codes, w).astype(jnp.float32)
    return (out * unit * scale).astype(x.dtype)


def expected_experts(experts: int, active: int, tokens: float) -> float:
    """Distinct experts that `tokens` tokens touch, each choosing `active` uniformly at random.

    E (1 - (1 - k/E)^T): a token misses a given expert with probability 1 - k/E.
    """
    return experts * (1 - (1 - active / experts) ** tokens)


def _grouped_work(op: OpView) -> Work:
    """2·T·N·K over the T rows; of the weights, the experts these tokens are expected to touch."""
    x, w, out = op.inputs[0], op.inputs[1], op.outputs[0]
    active, experts = attributes_of(op)["active"], w.sizes[0]
    touched = expected_experts(experts, active, rows(x) / active) / experts
    scales = sum(s.nbytes for s in op.inputs[3:])
    read = x.nbytes + op.inputs[2].nbytes + round(touched * (w.nbytes + scales))
    return Work(2 * out.size * x.sizes[-1], read, out.nbytes)


def _grouped(x: Any, sizes: Any, experts: int, width: int, one: Any) -> Any:
    """Rows of x[T,K] in runs of sizes[E]; run e goes through `one(rows, e)` → [rows, width].

    Few rows take their expert's weights one row at a time; many go through every expert in turn,
    each keeping its own run, which reads each weight once and multiplies E times too much. A chip
    that knows the composite does neither.
    """
    ends = jnp.cumsum(sizes)
    row = lax.iota(jnp.int32, x.shape[0])
    if x.shape[0] <= experts:
        owner = jnp.sum((row[:, None] >= ends[None, :]).astype(jnp.int32), axis=1)
        owner = jnp.minimum(owner, experts - 1)

        def single(index: Any, out: Any) -> Any:
            here = one(lax.dynamic_slice_in_dim(x, index, 1), owner[index])
            return lax.dynamic_update_slice(out, here, (index, 0))

        return lax.fori_loop(0, x.shape[0], single, jnp.zeros((x.shape[0], width), x.dtype))

    def through(expert: Any, out: Any) -> Any:
        mine = (row < ends[expert]) & (row >= ends[expert] - sizes[expert])
        return jnp.where(mine[:, None], one(x, expert), out)

    return lax.fori_loop(0, experts, through, jnp.zeros((x.shape[0], width), x.dtype))


def _pick(w: Any, expert: Any) -> Any:
    return lax.dynamic_index_in_dim(w, expert, keepdims=False)


def _np_grouped(x: Any, w: Any, sizes: Any, *, active: int) -> Any:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return np.einsum("tk,tnk->tn", x, w[owner])


_SIZES = {2: [2, 0, 3, 1]}


@composite(
    "grouped_matmul",
    unit="matmul",
    work=_grouped_work,
    examples=[
        example(
            *("f32[6,8]", "f32[4,5,8]", "i32[4]"),
            expect=_np_grouped,
            given=_SIZES,
            active=2,
            reduced=8,
        ),
        example(
            *("bf16[3,8]", "bf16[4,5,8]", "i32[4]"),
            expect=_np_grouped,
            given={2: [0, 1, 0, 2]},
            active=1,
            reduced=8,
        ),
    ],
)
def grouped_matmul(x: Any, w: Any, sizes: Any, *, active: int) -> Any:
    """x[T,K], sorted by expert, times each row's expert w[E,N,K] → [T,N] in x's type.

    sizes i32[E] says how many rows each expert has, in order, and sums to T. `active` is how many
    experts a token takes, so T/active tokens stand behind the rows: Work reads the experts they
    are expected to touch under uniform routing, E (1 - (1 - active/E)^(T/active)).
    """

    def one(part: Any, expert: Any) -> Any:
        return _product(part, _pick(w, expert).astype(x.dtype)).astype(x.dtype)

    return _grouped(x, sizes, w.shape[0], w.shape[1], one)


def _np_grouped_scaled(
    x: Any, w: Any, sizes: Any, scale: Any, *, active: int, activation: str = ""
) -> Any:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return np.concatenate(
        [
            _np_scaled(x[t : t + 1], w[e], scale[e], activation=activation)
            for t, e in enumerate(owner)
        ]
    )


@composite(
    "grouped_scaled_matmul",
    unit="matmul",
    work=_grouped_work,
    examples=[
        example(
            *("f32[6,16]", "i8[4,5,16]", "i32[4]", "f32[4,5]"),
            expect=_np_grouped_scaled,
            given=_SIZES,
            active=2,
            activation="i8",
            reduced=16,
        ),
    ],
)
def grouped_scaled_matmul(
    x: Any, w: Any, sizes: Any, scale: Any, *, active: int, activation: str = ""
) -> Any:
    """grouped_matmul with scaled_matmul's weights: w f8 or i8 [E,N,K], scale f32[E,N]."""

    def one(part: Any, expert: Any) -> Any:
        mine = (_pick(w, expert), _pick(scale, expert))
        return scaled_matmul.body(part, *mine, activation=activation)

    return _grouped(x, sizes, w.shape[0], w.shape[1], one)


def _np_grouped_blocks(
    x: Any,
    blocks: Any,
    sizes: Any,
    scale: Any = None,
    *,
    format: str,
    active: int,
    activation: str = "",
) -> Any:
    owner = np.repeat(np.arange(len(sizes)), sizes)
    return np.concatenate(
        [
            _np_blocks(
                x[t : t + 1],
                blocks[e],
                None if scale is None else scale[e],
                format=format,
                activation=activation,
            )
            for t, e in enumerate(owner)
        ]
    )


@composite(
    "grouped_quantized_matmul",
    unit="matmul",
    work=_grouped_work,
    examples=[
        example(
            *("f32[6,32]", "ui8[4,5,17]", "i32[4]"),
            expect=_np_grouped_blocks,
            given={1: _some_blocks("mxfp4", 4, 5, 32), **_SIZES},
            format="mxfp4",
            active=2,
            reduced=32,
        ),
        example(
            *("f32[2,64]", "ui8[4,5,36]", "i32[4]", "f32[4,5]"),
            expect=_np_grouped_blocks,
            given={1: _some_blocks("nvfp4", 4, 5, 64), 2: [0, 1, 0, 1]},
            format="nvfp4",
            active=2,
            reduced=64,
        ),
    ],
)
def grouped_quantized_matmul(
    x: Any,
    blocks: Any,
    sizes: Any,
    scale: Any = None,
    *,
    format: str,
    active: int,
    activation: str = "",
) -> Any:
    """grouped_matmul with quantized_matmul's weights: blocks ui8[E,N,bytes], scale f32[E,N]."""

    def one(part: Any, expert: Any) -> Any:
        outer = None if scale is None else _pick(scale, expert)
        return quantized_matmul.body(
            part, _pick(blocks, expert), outer, format=format, activation=activation
        )

    return _grouped(x, sizes, blocks.shape[0], blocks.shape[1], one)
