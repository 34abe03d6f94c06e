"""Attention, its KV caches and rotary embeddings: which kernels, and how the work is cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from anychip.compilers.native.kernels.attention import Attention, MergeChunks
from anychip.compilers.native.kernels.cache import CacheUpdate
from anychip.compilers.native.kernels.paged import PagedAttention, PagedUpdate
from anychip.compilers.native.kernels.rope import Rope, Turns
from anychip.compilers.native.plan import Outside
from anychip.compilers.native.view import FLOATS, NoKernel, View
from anychip.core.blocks import block_format
from anychip.ops.view import OpView


def rope(reader: Any, op: OpView, inputs: list[Any]) -> View:
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


def cache_update(reader: Any, op: OpView, inputs: list[Any]) -> View:
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


def cached_attention(reader: Any, op: OpView, inputs: list[Any]) -> View:
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
    operands = [q, k, v, _i32s(reader, inputs[3])]
    return _attended(reader, kernel, operands, (batch, queries, heads, value_width))


def _attended(reader: Any, kernel: Any, operands: list[Any], shape: tuple[int, ...]) -> View:
    """What the kernel gives as [B,Q,H,V], merged where it cuts the keys, seen as [B,H,Q,V]."""
    batch, queries, heads, width = shape
    out = reader.buffer("attended", shape, kernel, kernel.out_bytes)
    reader.add(kernel, *operands, out)
    if kernel.chunks > 1:
        merge = MergeChunks(batch * queries, heads, width, kernel.chunks)
        parts, out = out, reader.buffer("attended", shape, merge)
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


def paged_update(reader: Any, op: OpView, inputs: list[Any]) -> View:
    pool, name, element, width = _pool(reader.view(inputs[0]))
    new = reader.wide(inputs[1])
    table, places = (_i32s(reader, one) for one in inputs[2:4])
    _, heads, page, _ = pool.shape
    tokens, per = new.shape[2], table.shape[1]
    kernel = PagedUpdate(tokens, heads, page, width, per, new.strides[1:3], element)
    reader.add(kernel, new, table, places, pool)
    reader.versions[name] = pool.version + 1
    return replace(pool, version=pool.version + 1)


def paged_attention(reader: Any, op: OpView, inputs: list[Any]) -> View:
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
    return _attended(reader, kernel, [q, k, v, table, places], (1, tokens, heads, value_width))
