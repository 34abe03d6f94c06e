"""Views, copies and joins: the same elements in another arrangement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.core.errors import UnsupportedError
from anychip.frontends.torch.plain import get, has_elements, iota, is_static, min_size, take, where
from anychip.frontends.torch.promote import axes_of, axis_of, cast, is_array, result_type
from anychip.frontends.torch.table import Rules
from anychip.frontends.torch.tensors import torch_dtype

RULES = Rules()

for _name in (
    "alias",
    "clone",
    "detach",
    "lift",
    "lift_fresh",
    "lift_fresh_copy",
):
    RULES(_name)(lambda x: x)


@RULES("view", "_unsafe_view", "_reshape_alias")
def view(x: Any, size: Sequence[Any], *_strides: Any) -> Any:
    return lax.reshape(x, _filled_in(x, size))


def _filled_in(x: Any, size: Sequence[Any]) -> tuple[Any, ...]:
    """The size with its -1 worked out."""
    open_axes = [i for i, d in enumerate(size) if isinstance(d, int) and d == -1]
    if not open_axes:
        return tuple(size)
    known = math.prod(d for i, d in enumerate(size) if i != open_axes[0])
    total = math.prod(x.shape)
    return tuple(total // known if i == open_axes[0] else d for i, d in enumerate(size))


@RULES("expand")
def expand(x: Any, size: Sequence[Any], *, implicit: bool = False) -> Any:
    lead = len(size) - x.ndim
    kept = [x.shape[i - lead] if isinstance(d, int) and d == -1 else d for i, d in enumerate(size)]
    return jnp.broadcast_to(x, tuple(kept))


@RULES("permute")
def permute(x: Any, dims: Sequence[int]) -> Any:
    return lax.transpose(x, [axis_of(d, x.ndim) for d in dims])


@RULES("transpose.int")
def transpose(x: Any, dim0: int, dim1: int) -> Any:
    return jnp.swapaxes(x, dim0, dim1) if x.ndim else x


RULES("t")(lambda x: jnp.transpose(x))


@RULES("squeeze", "squeeze.dim", "squeeze.dims")
def squeeze(x: Any, dim: Any = None) -> Any:
    axes = range(x.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
    ones = {a for d in axes if x.ndim and _is_one(x.shape[a := axis_of(d, x.ndim)])}
    return lax.reshape(x, tuple(d for i, d in enumerate(x.shape) if i not in ones))


def _is_one(size: Any) -> bool:
    return isinstance(size, int) and size == 1


@RULES("unsqueeze")
def unsqueeze(x: Any, dim: int) -> Any:
    return jnp.expand_dims(x, dim)


def _flattened(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    if not x.ndim:
        return x.reshape(1)
    first, last = axis_of(start_dim, x.ndim), axis_of(end_dim, x.ndim)
    joined = math.prod(x.shape[first : last + 1])
    return lax.reshape(x, (*x.shape[:first], joined, *x.shape[last + 1 :]))


@RULES("cat", "concat", "concatenate")
def cat(tensors: Sequence[Any], dim: int = 0) -> Any:
    common = result_type(*tensors)
    kept = [cast(t, common) for t in tensors if t.shape != (0,)] or [cast(tensors[0], common)]
    return lax.concatenate(kept, axis_of(dim, kept[0].ndim)) if len(kept) > 1 else kept[0]


@RULES("stack")
def stack(tensors: Sequence[Any], dim: int = 0) -> Any:
    axis = axis_of(dim, tensors[0].ndim + 1)
    return cat([jnp.expand_dims(t, axis) for t in tensors], axis)


@RULES("repeat")
def repeat(x: Any, repeats: Sequence[Any]) -> Any:
    x = x.reshape((1,) * (len(repeats) - x.ndim) + x.shape)
    wide = [part for d, r in zip(x.shape, repeats, strict=True) for part in (r, d)]
    inner = [part for d in x.shape for part in (1, d)]
    out = [d * r for d, r in zip(x.shape, repeats, strict=True)]
    return lax.reshape(jnp.broadcast_to(x.reshape(inner), wide), out)


@RULES("tile")
def tile(x: Any, dims: Sequence[Any]) -> Any:
    return repeat(x, [1] * (x.ndim - len(dims)) + list(dims))


@RULES("repeat_interleave.self_int")
def repeat_interleave(x: Any, repeats: Any, dim: int | None = None, *, output_size: Any = None):
    axis = 0 if dim is None else axis_of(dim, x.ndim)
    if dim is None:
        x = x.reshape(-1)
    spread = jnp.broadcast_to(
        jnp.expand_dims(x, axis + 1), (*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :])
    )
    return _flattened(spread, axis, axis + 1)


@RULES("slice.Tensor")
def slice_(x: Any, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Any:
    axis = axis_of(dim, x.ndim)
    begin, stop = bounds(x.shape[axis], start, end)
    if is_array(begin) or is_array(stop):
        raise UnsupportedError(
            "a slice whose bounds are computed from data has no static size; use torch.narrow with "
            "a fixed length, or a mask"
        )
    index = (*(slice(None),) * axis, slice(begin, stop, step))
    if is_static(x.shape) and isinstance(begin, int) and isinstance(stop, int):
        return lax.slice_in_dim(x, begin, max(begin, stop), step, axis)
    return x[index]


def bounds(size: Any, start: Any, end: Any) -> tuple[Any, Any]:
    """Python's reading of slice bounds: negative from the end, clipped to the axis."""

    def within(bound: Any, default: Any) -> Any:
        if bound is None:
            return default
        if is_array(bound):
            return bound
        if isinstance(bound, int) and bound >= 2**62:
            return size
        if isinstance(bound, int) and isinstance(size, int):
            return min(max(bound + size if bound < 0 else bound, 0), size)
        if isinstance(bound, int) and bound < 0:
            return size + bound
        return min_size(bound, size)

    return within(start, 0), within(end, size)


@RULES("select.int")
def select(x: Any, dim: int, index: Any) -> Any:
    axis = axis_of(dim, x.ndim)
    if is_array(index):
        return lax.dynamic_index_in_dim(x, index, axis, keepdims=False)
    if isinstance(index, int) and index < 0:
        index = x.shape[axis] + index
    return lax.index_in_dim(x, index, axis, keepdims=False)


@RULES("split.Tensor")
def split(x: Any, split_size: Any, dim: int = 0) -> list[Any]:
    size = x.shape[axis_of(dim, x.ndim)]
    count = -(-size // split_size)
    parts = [split_size] * (count - 1) + [size - split_size * (count - 1)]
    return split_with_sizes(x, parts, dim)


@RULES("split_with_sizes")
def split_with_sizes(x: Any, split_sizes: Sequence[Any], dim: int = 0) -> list[Any]:
    out, start = [], 0
    for size in split_sizes:
        out.append(slice_(x, dim, start, start + size))
        start = start + size
    return out


@RULES("unbind.int")
def unbind(x: Any, dim: int = 0) -> list[Any]:
    return [select(x, dim, i) for i in range(x.shape[axis_of(dim, x.ndim)])]


@RULES("flip")
def flip(x: Any, dims: Sequence[int]) -> Any:
    return lax.rev(x, axes_of(dims, x.ndim)) if len(dims) else x


RULES("fliplr")(lambda x: lax.rev(x, (1,)))
RULES("flipud")(lambda x: lax.rev(x, (0,)))


@RULES("roll")
def roll(x: Any, shifts: Any, dims: Any = ()) -> Any:
    if not has_elements(x):
        return x
    if not (isinstance(dims, int) or dims):
        return roll(x.reshape(-1), shifts, [0]).reshape(x.shape)
    pairs = zip(_listed(shifts), _listed(dims), strict=True)
    for shift, dim in pairs:
        axis = axis_of(dim, x.ndim)
        at = (x.shape[axis] - shift) % x.shape[axis]
        if isinstance(at, int) and at == 0:
            continue
        x = lax.concatenate([slice_(x, axis, at, None), slice_(x, axis, 0, at)], axis)
    return x


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


@RULES("rot90")
def rot90(x: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    return jnp.rot90(x, k, tuple(dims))  # pyright: ignore[reportArgumentType]


@RULES("constant_pad_nd", "pad")
def pad(x: Any, pad: Sequence[Any], mode: Any = "constant", value: Any = None) -> Any:
    if not isinstance(mode, str):  # constant_pad_nd has the value in this place
        mode, value = "constant", mode
    if mode != "constant":
        return pad_edges(x, pad, mode)
    if not all(isinstance(p, int) for p in pad):
        raise UnsupportedError("padding by a symbolic amount; pad by a fixed one")
    config = [(0, 0, 0)] * x.ndim
    for i in range(len(pad) // 2):
        config[x.ndim - 1 - i] = (pad[2 * i], pad[2 * i + 1], 0)
    return lax.pad(x, cast(value or 0, torch_dtype(x.dtype)), config)


def pad_edges(x: Any, pad: Sequence[int], mode: str) -> Any:
    """Reflection, replication or circular padding of the last axes."""
    for i in range(len(pad) // 2):
        axis, before, after = x.ndim - 1 - i, pad[2 * i], pad[2 * i + 1]
        x = _pad_edge(x, axis, before, after, mode)
    return x


def _pad_edge(x: Any, axis: int, before: int, after: int, mode: str) -> Any:
    size = x.shape[axis]
    parts = [slice_(x, axis, max(-before, 0), size - max(-after, 0))]
    if mode == "circular":  # what negative padding leaves goes round
        x, size = parts[0], parts[0].shape[axis]
    repeated = lambda at, n: jnp.repeat(slice_(x, axis, at, at + 1), n, axis)  # noqa: E731
    if before > 0:
        head = {
            "reflect": lambda: lax.rev(slice_(x, axis, 1, before + 1), (axis,)),
            "replicate": lambda: repeated(0, before),
            "circular": lambda: slice_(x, axis, size - before, size),
        }[mode]()
        parts.insert(0, head)
    if after > 0:
        tail = {
            "reflect": lambda: lax.rev(slice_(x, axis, size - 1 - after, size - 1), (axis,)),
            "replicate": lambda: repeated(size - 1, after),
            "circular": lambda: slice_(x, axis, 0, after),
        }[mode]()
        parts.append(tail)
    return lax.concatenate(parts, axis) if len(parts) > 1 else parts[0]


for _d in (1, 2, 3):
    RULES(f"reflection_pad{_d}d")(lambda x, padding: pad_edges(x, padding, "reflect"))
    RULES(f"replication_pad{_d}d")(lambda x, padding: pad_edges(x, padding, "replicate"))
RULES("_pad_circular")(lambda x, pad: pad_edges(x, pad, "circular"))


@RULES("diagonal")
def diagonal(x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    return jnp.diagonal(x, offset, dim1, dim2)


@RULES("diag_embed")
def diag_embed(x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    size = x.shape[-1] + abs(offset)
    rows = iota(size, 2, 0) - (0 if offset >= 0 else -offset)
    on_diagonal = iota(size, 2, 1) == iota(size, 2, 0) + offset
    within = jnp.clip(rows, 0, x.shape[-1] - 1)
    spread = jnp.broadcast_to(
        take(x, within[:, 0], x.ndim - 1)[..., None], (*x.shape[:-1], size, size)
    )
    out = where(on_diagonal, spread, jnp.zeros((), x.dtype))
    return jnp.moveaxis(out, (-2, -1), (dim1, dim2))


@RULES("tril")
def tril(x: Any, diagonal: int = 0) -> Any:
    kept = iota(x.shape[-1], 2, 1) <= iota(x.shape[-2], 2, 0) + diagonal
    return where(kept, x, jnp.zeros((), x.dtype))


@RULES("triu")
def triu(x: Any, diagonal: int = 0) -> Any:
    kept = iota(x.shape[-1], 2, 1) >= iota(x.shape[-2], 2, 0) + diagonal
    return where(kept, x, jnp.zeros((), x.dtype))


@RULES("unfold")
def unfold(x: Any, dimension: int, size: int, step: int) -> Any:
    if not x.ndim:
        return x.reshape(1)[:size]
    axis = axis_of(dimension, x.ndim)
    count = (x.shape[axis] - size) // step + 1
    starts = lax.iota(jnp.int32, count)[:, None] * step
    windows = take(x, starts + lax.iota(jnp.int32, size)[None], axis)
    return jnp.moveaxis(windows, axis + 1, -1)


@RULES("as_strided")
def as_strided(
    x: Any,
    size: Sequence[Any],
    stride: Sequence[Any],
    storage_offset: Any = None,
    *,
    memory: Sequence[int] = (),
    start: int = 0,
) -> Any:
    """`memory` lists the axes as they lie in torch's memory, outermost first, () being in order;
    `start` is where in its storage `x` begins, which the offset counts from."""
    first = 0 if storage_offset is None else storage_offset - start
    places = strided_places(x, size, stride, first)
    return get(in_memory_order(x, memory).reshape(-1), (places,))


def strided_places(x: Any, size: Sequence[Any], stride: Sequence[Any], first: Any) -> Any:
    """Where among the elements of `x` in memory each one of a strided view lies."""
    reach = [*size, *stride, first, *x.shape]
    if is_static(reach) and all(size):
        last = first + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if first < 0 or last >= math.prod(x.shape):
            raise UnsupportedError(
                "as_strided reaches memory outside of the tensor it is called on, where another "
                "tensor's view of the same memory lies; call it on that one"
            )
    at = jnp.full(tuple(size), first, jnp.int32)
    for axis, (count, step) in enumerate(zip(size, stride, strict=True)):
        at = at + iota(count, len(size), axis) * step
    return at


def in_memory_order(x: Any, memory: Sequence[int]) -> Any:
    """The array with its axes as they lie in memory."""
    return lax.transpose(x, memory) if memory else x


@RULES("pixel_shuffle")
def pixel_shuffle(x: Any, upscale_factor: int) -> Any:
    *lead, c, h, w = x.shape
    r = upscale_factor
    x = x.reshape(*lead, c // (r * r), r, r, h, w)
    n = len(lead)
    order = [*range(n), n, n + 3, n + 1, n + 4, n + 2]
    return lax.transpose(x, order).reshape(*lead, c // (r * r), h * r, w * r)


@RULES("pixel_unshuffle")
def pixel_unshuffle(x: Any, downscale_factor: int) -> Any:
    *lead, c, h, w = x.shape
    r = downscale_factor
    x = x.reshape(*lead, c, h // r, r, w // r, r)
    n = len(lead)
    order = [*range(n), n, n + 2, n + 4, n + 1, n + 3]
    return lax.transpose(x, order).reshape(*lead, c * r * r, h // r, w // r)


@RULES("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(x: Any, groups: int) -> Any:
    b, c, *rest = x.shape
    return jnp.swapaxes(x.reshape(b, groups, c // groups, *rest), 1, 2).reshape(x.shape)


@RULES("meshgrid", "meshgrid.indexing")
def meshgrid(tensors: Sequence[Any], *, indexing: str = "ij") -> list[Any]:
    return list(jnp.meshgrid(*(t.reshape(-1) for t in tensors), indexing=indexing))


RULES("broadcast_tensors")(lambda tensors: list(jnp.broadcast_arrays(*tensors)))
