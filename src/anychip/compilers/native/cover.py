"""Which kernel does which op: one function an op, which raises NoKernel with a reason if it cannot.

Ops that only move elements become views here and cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anychip.compilers.native.kernels.attention import Attention, MergeChunks
from anychip.compilers.native.kernels.cache import CacheUpdate
from anychip.compilers.native.kernels.embed import Embed
from anychip.compilers.native.kernels.layout import LAYOUTS
from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.compilers.native.kernels.matmul_dense import DenseMatmul
from anychip.compilers.native.kernels.norm import RmsNorm
from anychip.compilers.native.kernels.number import SIZES
from anychip.compilers.native.kernels.paged import PagedAttention, PagedUpdate
from anychip.compilers.native.kernels.pointwise import ON_INTEGERS, Pointwise, Source
from anychip.compilers.native.kernels.rope import Rope, Turns
from anychip.compilers.native.plan import Operand, Outside, PackedWeight
from anychip.compilers.native.recognise import dequantised
from anychip.compilers.native.view import NoKernel, Raw, Shape, View
from anychip.core import dtype
from anychip.core.blocks import block_format
from anychip.ops.view import Block, OpView, Value

FLOATS = ("f32", "bf16", "f16")
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


@dataclass(frozen=True)
class Rows:
    """Gathered rows: the value they are, as a view, and the ops that became part of the kernel."""

    value: Value
    view: View
    ops: tuple[OpView, ...]


def cover(reader: Any, name: str, op: OpView, inputs: list[Any]) -> tuple[Any, str]:
    """(result, what differs from the op's meaning) of an op with one result."""
    if name not in _COVERS or len(op.results) != 1:
        raise NoKernel("no kernel for this op")
    if all(isinstance(one, np.ndarray) for one in inputs) and name in _FOLDS:
        return np.asarray(_FOLDS[name](op, *inputs)), ""  # numpy's sums of scalars are no arrays
    result = _COVERS[name](reader, op, inputs)
    is_narrow = op.outputs[0].dtype in ("bf16", "f16") and name not in _MOVES
    if name == "anychip.quantized_matmul":
        return result, EIGHT_BITS
    return result, KEPT_WIDE if is_narrow else ""


def gathered(reader: Any, op: OpView, inputs: list[Any], block: Block) -> Rows:
    """Rows of a weight by index."""
    table, index = inputs
    dims, (*lead, width) = op.attributes["dimension_numbers"], op.outputs[0].sizes
    expected = ((len(lead),), (0,), (), (0,), len(lead))
    got = (dims.offset, dims.collapsed, dims.operand_batch, dims.start_index_map, dims.index_vector)
    place = table.place if isinstance(table, View) else None
    if not isinstance(place, Raw) or table.shape != place.shape or not table.is_dense:
        raise NoKernel("not a gather from a whole weight")
    if got != expected or op.attributes["slice_sizes"] != (1, width) or len(table.shape) != 2:
        raise NoKernel("not a gather of whole rows of a weight")
    tokens = reader.view(index)
    if tokens.element != "i32" or not tokens.is_dense:
        raise NoKernel("row numbers that are not i32 in a row")
    count, vocabulary = math.prod(lead), table.shape[0]
    value, ops, form, depth = op.results[0], (), table.element, width
    if form == "ui8":
        found = dequantised(block, op)
        if found is None or found.format not in LAYOUTS:
            kind = found.format if found else "bytes"
            raise NoKernel(f"rows of {kind}; there are kernels for {', '.join(LAYOUTS)}")
        value, ops, form = found.value, found.ops, found.format
        depth = found.value.spec.sizes[-1]
    elif form not in FLOATS:
        raise NoKernel(f"rows of {form}")
    kernel = Embed(form, vocabulary, depth, count)
    out = reader.buffer("embedded", (*lead, depth), kernel)
    reader.add(kernel, Operand(packed(place, form, depth)), tokens, out)
    return Rows(value, out, ops)


def packed(place: Raw, form: str, depth: int) -> PackedWeight:
    """A matrix in the tiles of its product's kernel."""
    rows = place.shape[0]
    kernel = (
        BlockMatmul(form, rows, depth, 1)
        if form in LAYOUTS
        else DenseMatmul(form, rows, depth, 1, depth)
    )
    return PackedWeight(place.argument, form, rows, depth, kernel.packed_bytes)


def _matrix(known: Any) -> Raw:
    """The weight a whole, untransposed matrix operand is."""
    place = known.place if isinstance(known, View) else None
    if not isinstance(place, Raw) or known.shape != place.shape or not known.is_dense:
        raise NoKernel("the right-hand side is no whole weight")
    if len(known.shape) != 2:
        raise NoKernel("the weight is no matrix")
    return place


def _quantized_matmul(reader: Any, op: OpView, inputs: list[Any]) -> View:
    attributes = op.attributes["composite_attributes"]
    form = attributes["format"]
    if form not in LAYOUTS:
        raise NoKernel(f"weights in {form}; there are kernels for {', '.join(LAYOUTS)}")
    if attributes["activation"]:
        raise NoKernel(f"activations rounded to {attributes['activation']}")
    if block_format(form).has_outer_scale:
        raise NoKernel("an outer scale")
    # Constants of the composite's own body, as JAX hands them over, stand before the operands.
    (left, size), (right, _) = (
        (one, spec.sizes)
        for one, spec in zip(inputs, op.inputs, strict=True)
        if not isinstance(one, np.ndarray)
    )
    weight, depth = _matrix(right), size[-1]
    assert block_format(form).row_bytes(depth) == weight.shape[1]
    x, tokens = reader.quantized(left)
    kernel = BlockMatmul(form, weight.shape[0], depth, tokens)
    out = reader.buffer("product", op.outputs[0].sizes, kernel)
    reader.add(kernel, Operand(packed(weight, form, depth)), x, out)
    return out


def _dot_general(reader: Any, op: OpView, inputs: list[Any]) -> View:
    dims = op.attributes["dot_dimension_numbers"]
    rank = len(op.inputs[0].sizes)
    contracted = (dims.lhs_contract, dims.rhs_contract)
    if contracted != ((rank - 1,), (1,)) or dims.lhs_batch or dims.rhs_batch:
        raise NoKernel("not x[…, K] times a weight [N, K]")
    weight = _matrix(inputs[1])
    if weight.element not in FLOATS:
        raise NoKernel(f"a weight of {weight.element}")
    x, tokens, stride = reader.row_view(inputs[0])
    rows, depth = weight.shape
    kernel = DenseMatmul(weight.element, rows, depth, tokens, stride)
    out = reader.buffer("product", op.outputs[0].sizes, kernel)
    reader.add(kernel, Operand(packed(weight, weight.element, depth)), x, out)
    return out


def _rms_norm(reader: Any, op: OpView, inputs: list[Any]) -> View:
    attributes = op.attributes["composite_attributes"]
    x, rows, stride = reader.row_view(inputs[0])
    scales = [reader.view(one) for one in inputs[1:]]
    kernel = RmsNorm(
        rows,
        x.shape[-1],
        stride,
        attributes["eps"],
        attributes["offset"],
        _float(scales[0]).element if scales else "",
    )
    out = reader.buffer("normed", x.shape, kernel)
    reader.add(kernel, x, *scales, out)
    return out


def _float(view: View) -> View:
    if view.element not in FLOATS:
        raise NoKernel(f"numbers of {view.element}")
    return view


def _rope(reader: Any, op: OpView, inputs: list[Any]) -> View:
    x = reader.wide(inputs[0])
    positions, inv_freq = reader.view(inputs[1]), reader.view(inputs[2])
    if positions.element != "i32" or not positions.is_dense:
        raise NoKernel("positions that are not i32 in a row")
    if inv_freq.element != "f32" or not inv_freq.is_dense:
        raise NoKernel("frequencies that are not f32 in a row")
    (half,), (batch, heads, length, width) = inv_freq.shape, x.shape
    key = ("turns", _identity(positions), _identity(inv_freq))
    if key not in reader.made:
        turns = Turns(batch * length, half)
        out = reader.buffer("turns", (batch * length, 2, half), turns)
        reader.add(turns, positions, inv_freq, out)
        reader.made[key] = (out, positions, inv_freq)
    is_interleaved = op.attributes["composite_attributes"]["interleaved"]
    kernel = Rope(batch, heads, length, width, half, is_interleaved, x.strides[:3])
    out = reader.buffer("turned", (batch, length, heads, width), kernel)
    reader.add(kernel, x, reader.made[key][0], out)
    return out.transposed((0, 2, 1, 3))


def _identity(view: View) -> Any:
    place = view.place
    return (
        place if isinstance(place, Outside) or hasattr(place, "data") else id(place),
        view.offset,
    )


def _state(known: Any) -> tuple[View, str]:
    """A whole cache and the name of the state argument it is."""
    place = known.place if isinstance(known, View) else None
    if not isinstance(place, Outside) or place.argument.role != "state" or not known.is_dense:
        raise NoKernel("the cache is no whole state argument")
    if known.element not in FLOATS or len(known.shape) != 4:
        raise NoKernel(f"a cache of {known.element}{list(known.shape)}")
    return known, place.argument.name


def _pool(known: Any) -> tuple[View, str, str, int]:
    """A pool of pages, its state's name, the type of its numbers, and how many a row holds."""
    is_blocks = isinstance(known, View) and known.element == "ui8"
    pool, name = _state(replace(known, element="f32") if is_blocks else known)
    if not is_blocks:
        return pool, name, pool.element, pool.shape[3]
    block = block_format("q8_0")
    return known, name, block.name, pool.shape[3] // block.nbytes * block.elements


def _i32s(reader: Any, known: Any) -> View:
    view = reader.view(known)
    if view.element != "i32" or not view.is_dense:
        raise NoKernel("start that is not i32 in a row")
    return view


def _cache_update(reader: Any, op: OpView, inputs: list[Any]) -> View:
    cache, name = _state(reader.view(inputs[0]))
    new, start = reader.wide(inputs[1]), inputs[2]
    ring = op.attributes["composite_attributes"]["ring"]
    batch, heads, slots, width = cache.shape
    length = new.shape[2]
    if ring and length > 1:
        raise NoKernel("several rows into a ring")
    kernel = CacheUpdate(
        batch, heads, slots, width, length, new.strides[:3], cache.element, bool(ring)
    )
    reader.add(kernel, new, _i32s(reader, start), cache)
    reader.versions[name] = cache.version + 1
    return replace(cache, version=cache.version + 1)


def _cached_attention(reader: Any, op: OpView, inputs: list[Any]) -> View:
    if len(inputs) > 4:
        raise NoKernel("attention sinks")
    attributes = op.attributes["composite_attributes"]
    q = reader.wide(inputs[0])
    k, v = (_state(reader.view(one))[0] for one in inputs[1:3])
    batch, heads, queries, width = q.shape
    kv_heads, slots, value_width = k.shape[1], k.shape[2], v.shape[3]
    if width % 16 or value_width % 16 or k.element != v.element:
        raise NoKernel(f"heads of width {width}; kernels need multiples of 16")
    shape = (batch, queries, heads, kv_heads, slots, width, value_width)
    strides = (q.strides[0], q.strides[2], q.strides[1])
    together = _queries_together(batch * kv_heads, queries, reader.threads)
    kernel = Attention(
        *shape,
        attributes["scale"],
        attributes["window"],
        attributes["softcap"],
        k.element,
        strides,
        1 if together > 1 else _chunks(batch * kv_heads * queries, reader.threads, slots),
        together,
    )
    out_shape = (batch, queries, heads, value_width)
    if kernel.chunks == 1:
        out = reader.buffer("attended", out_shape, kernel)
        reader.add(kernel, q, k, v, _i32s(reader, inputs[3]), out)
        return out.transposed((0, 2, 1, 3))
    parts = reader.buffer("parts", out_shape, kernel, kernel.out_bytes)
    reader.add(kernel, q, k, v, _i32s(reader, inputs[3]), parts)
    merge = MergeChunks(batch * queries, heads, value_width, kernel.chunks)
    out = reader.buffer("attended", out_shape, merge)
    reader.add(merge, parts, out)
    return out.transposed((0, 2, 1, 3))


def _queries_together(units: int, queries: int, threads: int) -> int:
    """How many queries share a pass over the keys: many, as long as all threads have work."""
    for together in (64, 32, 16):
        if queries >= together and units * -(-queries // together) >= 4 * threads:
            return together
    return 16 if queries >= 16 else 1


def _chunks(units: int, threads: int, slots: int) -> int:
    """Into how many pieces to cut the keys so that threads get equal shares."""
    most = max(1, min(threads, slots // 64))
    for chunks in range(1, most + 1):
        if units * chunks % threads == 0 or units * chunks >= 4 * threads:
            return chunks
    return most


def _paged_update(reader: Any, op: OpView, inputs: list[Any]) -> View:
    pool, name, element, width = _pool(reader.view(inputs[0]))
    new = reader.wide(inputs[1])
    table, places = (_i32s(reader, one) for one in inputs[2:4])
    _, heads, page, _ = pool.shape
    tokens, per = new.shape[2], table.shape[1]
    kernel = PagedUpdate(tokens, heads, page, width, per, new.strides[1:3], element)
    reader.add(kernel, new, table, places, pool)
    reader.versions[name] = pool.version + 1
    return replace(pool, version=pool.version + 1)


def _paged_attention(reader: Any, op: OpView, inputs: list[Any]) -> View:
    if len(inputs) > 5:
        raise NoKernel("attention sinks")
    attributes = op.attributes["composite_attributes"]
    q = reader.wide(inputs[0])
    (k, _, element, _), (v, _, other, value_width) = (
        _pool(reader.view(one)) for one in inputs[1:3]
    )
    table, places = (_i32s(reader, one) for one in inputs[3:5])
    _, heads, tokens, width = q.shape
    _, kv_heads, page, _ = v.shape
    if width % 16 or value_width % 16 or page % 16 or element != other:
        raise NoKernel(f"heads of {width} in pages of {page}; kernels need multiples of 16")
    # Threads share a lone token's keys. As many cuts for many tokens: an answer must not depend
    # on who else is in the step.
    chunks = 1 if kv_heads % reader.threads == 0 else min(reader.threads, 8)
    kernel = PagedAttention(
        *(tokens, heads, kv_heads, page, table.shape[1], width, value_width),
        attributes["scale"],
        attributes["window"],
        attributes["softcap"],
        element,
        q.strides[1:3],
        chunks,
    )
    parts = reader.buffer("attended", (1, tokens, heads, value_width), kernel, kernel.out_bytes)
    reader.add(kernel, q, k, v, table, places, parts)
    if chunks > 1:
        merge = MergeChunks(tokens, heads, value_width, chunks)
        merged = reader.buffer("attended", (1, tokens, heads, value_width), merge)
        reader.add(merge, parts, merged)
        parts = merged
    return parts.transposed((0, 2, 1, 3))


def _pointwise(formula: str, numbers: Callable[[Any], tuple[float, ...]] = lambda _: ()) -> Any:
    def cover_one(reader: Any, op: OpView, inputs: list[Any]) -> View:
        views = [reader.view(one) for one in inputs]
        shape = op.outputs[0].sizes or (1,)
        element = "i32" if op.outputs[0].dtype == "i32" else "f32"
        sources: list[Source] = []
        for view in views:
            if (element == "i32") != (view.element == "i32") or view.element not in SIZES:
                raise NoKernel(f"numbers of {view.element}")
            strides = view.strides or (0,)
            if shape[-1] == 1:
                strides = (*strides[:-1], 0)
            if strides[-1] not in (0, 1):
                raise NoKernel("elements of a row are not next to each other")
            sources.append(Source(view.element, strides))
        if element == "i32" and formula not in ON_INTEGERS:
            raise NoKernel("integers")
        if element == "f32" and op.outputs[0].dtype not in FLOATS:
            raise NoKernel(f"results of {op.outputs[0].dtype}")
        kernel = Pointwise(formula, shape, tuple(sources), numbers(op), element)
        if all(v.is_dense and v.shape == op.outputs[0].sizes for v in views) and len(shape) > 2:
            flat = (math.prod(shape[:-1]), shape[-1])
            plain = tuple(
                Source(v.element, (shape[-1], s.strides[-1]))
                for v, s in zip(views, sources, strict=True)
            )
            kernel = replace(kernel, shape=flat, sources=plain)
        out = reader.buffer(formula, op.outputs[0].sizes, kernel, 4 * math.prod(shape))
        out = replace(out, element=element)
        reader.add(kernel, *views, out)
        return out

    return cover_one


def _swiglu_numbers(op: OpView) -> tuple[float, ...]:
    attributes = op.attributes["composite_attributes"]
    return attributes["alpha"], attributes["limit"], attributes["offset"]


def _gelu(reader: Any, op: OpView, inputs: list[Any]) -> View:
    if not op.attributes["composite_attributes"]["approximate"]:
        raise NoKernel("the exact gelu")
    return _pointwise("gelu_tanh")(reader, op, inputs)


def _reshape(reader: Any, op: OpView, inputs: list[Any]) -> View:
    view = reader.view(inputs[0])
    return view.reshaped(op.outputs[0].sizes) or _must(
        reader.copied(view).reshaped(op.outputs[0].sizes)
    )


def _must(view: View | None) -> View:
    assert view is not None
    return view


def _transpose(reader: Any, op: OpView, inputs: list[Any]) -> View:
    return reader.view(inputs[0]).transposed(op.attributes["permutation"])


def _slice(reader: Any, op: OpView, inputs: list[Any]) -> View:
    a = op.attributes
    return reader.view(inputs[0]).sliced(a["start_indices"], a["limit_indices"], a["strides"])


def _broadcast(reader: Any, op: OpView, inputs: list[Any]) -> View:
    shape: Shape = op.outputs[0].sizes
    return reader.view(inputs[0]).broadcast(shape, op.attributes["broadcast_dimensions"])


def _convert(reader: Any, op: OpView, inputs: list[Any]) -> View:
    view = reader.view(inputs[0])
    if view.element not in FLOATS or op.outputs[0].dtype not in FLOATS:
        raise NoKernel(f"{op.inputs[0].dtype} to {op.outputs[0].dtype}")
    return view


_MOVES: dict[str, Any] = {
    "stablehlo.reshape": _reshape,
    "stablehlo.transpose": _transpose,
    "stablehlo.slice": _slice,
    "stablehlo.broadcast_in_dim": _broadcast,
    "stablehlo.convert": _convert,
}

_COVERS: dict[str, Any] = {
    **_MOVES,
    "stablehlo.constant": None,
    "stablehlo.iota": None,
    **{
        f"stablehlo.{name}": _pointwise(name)
        for name in (
            *("add", "subtract", "multiply", "divide", "maximum", "minimum"),
            *("tanh", "logistic", "exponential"),
        )
    },
    "stablehlo.dot_general": _dot_general,
    "anychip.quantized_matmul": _quantized_matmul,
    "anychip.rms_norm": _rms_norm,
    "anychip.rope": _rope,
    "anychip.cache_update": _cache_update,
    "anychip.cached_attention": _cached_attention,
    "anychip.paged_attention": _paged_attention,
    "anychip.paged_update": _paged_update,
    "anychip.swiglu": _pointwise("swiglu", _swiglu_numbers),
    "anychip.silu": _pointwise("silu"),
    "anychip.gelu": _gelu,
}


def _fold_broadcast(op: OpView, x: np.ndarray) -> np.ndarray:
    shape, dims = op.outputs[0].sizes, op.attributes["broadcast_dimensions"]
    full = [1] * len(shape)
    for own, dim in enumerate(dims):
        full[dim] = x.shape[own]
    return np.broadcast_to(x.reshape(full), shape)


def _fold_iota(op: OpView) -> np.ndarray:
    spec, dim = op.outputs[0], op.attributes["iota_dimension"]
    steps = np.arange(spec.sizes[dim], dtype=dtype(spec.dtype).numpy)
    return _along(steps, spec.sizes, dim)


def _along(steps: np.ndarray, shape: Shape, dim: int) -> np.ndarray:
    full = [1] * len(shape)
    full[dim] = shape[dim]
    return np.broadcast_to(steps.reshape(full), shape)


_FOLDS: dict[str, Callable[..., np.ndarray]] = {
    "stablehlo.constant": lambda op: np.asarray(op.attributes["value"]),
    "stablehlo.iota": _fold_iota,
    "stablehlo.broadcast_in_dim": _fold_broadcast,
    "stablehlo.reshape": lambda op, x: x.reshape(op.outputs[0].sizes),
    "stablehlo.transpose": lambda op, x: x.transpose(op.attributes["permutation"]),
    "stablehlo.convert": lambda op, x: x.astype(dtype(op.outputs[0].dtype).numpy),
    "stablehlo.add": lambda op, x, y: x + y,
    "stablehlo.subtract": lambda op, x, y: x - y,
    "stablehlo.multiply": lambda op, x, y: x * y,
}
"""On known numbers, at planning time."""
