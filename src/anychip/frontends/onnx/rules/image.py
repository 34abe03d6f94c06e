"""Regions and grids of images: RoiAlign, MaxRoiPool, NonMaxSuppression, GridSample, AffineGrid."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anychip.core.errors import InputError
from anychip.frontends.onnx.fold import bounded
from anychip.frontends.onnx.graph import Node
from anychip.frontends.onnx.rules.cast import clamp
from anychip.frontends.onnx.rules.conv import lowest
from anychip.frontends.onnx.table import ALL, Call, explain, ints, op

explain(
    "ImageDecoder",
    why="decodes a compressed image file, which no chip does; "
    "decode it before the model and feed the pixels",
)


def _roi_known(node: Node) -> tuple[int, ...]:
    """An adaptive number of samples follows from the boxes' sizes."""
    return () if node.attributes.get("sampling_ratio", 0) > 0 else (1,)


@op("RoiAlign", known=_roi_known)
def roi_align(call: Call, x: Any, rois: Any, batch: Any) -> Any:
    """Mean (or maximum) of bilinear samples in each bin (arXiv:1703.06870, section 3)."""
    half = call.version >= 16 and call.attr("coordinate_transformation_mode", "half_pixel") == (
        "half_pixel"
    )
    high, wide = call.attr("output_height", 1), call.attr("output_width", 1)
    ratio = call.attr("sampling_ratio", 0)
    boxes = jnp.asarray(rois) * call.attr("spatial_scale", 1.0) - (0.5 if half else 0.0)
    left, top = boxes[:, 0], boxes[:, 1]
    width, height = boxes[:, 2] - left, boxes[:, 3] - top
    if not half:
        width, height = jnp.maximum(width, 1), jnp.maximum(height, 1)
    bins = high, wide

    def pool(indices: Any, samples: tuple[int, int]) -> Any:
        def one(index: Any) -> Any:
            rows, columns = (
                start[index] + (jnp.arange(n * k, dtype=x.dtype) + 0.5) * (length[index] / (n * k))
                for start, length, n, k in zip(
                    (top, left), (height, width), bins, samples, strict=True
                )
            )
            return _pooled_box(call, x[batch[index]], rows, columns, bins)

        return jax.vmap(one)(indices)

    if ratio > 0:
        return pool(jnp.arange(rois.shape[0]), (ratio, ratio))
    sizes = (rois[:, :1:-1] - rois[:, 1::-1]) * call.attr("spatial_scale", 1.0)  # height, width
    counts = np.maximum(np.ceil((sizes if half else np.maximum(sizes, 1)) / bins), 1).astype(int)
    out = jnp.zeros((rois.shape[0], x.shape[1], *bins), x.dtype)
    for samples in np.unique(counts, axis=0):
        same = np.flatnonzero(np.all(counts == samples, axis=1))
        out = out.at[same].set(pool(same, (int(samples[0]), int(samples[1]))))
    return out


def _pooled_box(call: Call, image: Any, rows: Any, columns: Any, bins: tuple[int, int]) -> Any:
    """Sample image[C, H, W] at rows × columns and reduce the samples of each bin."""
    rows, columns = rows.astype(image.dtype), columns.astype(image.dtype)
    terms = jnp.stack(_corner_terms(image, rows[:, None], columns[None]))
    most = call.attr("mode", "avg") == "max"
    samples = jnp.max(terms, axis=0) if most else jnp.sum(terms, axis=0)
    split = samples.reshape((image.shape[0], bins[0], -1, bins[1], columns.size // bins[1]))
    return jnp.max(split, axis=(2, 4)) if most else jnp.mean(split, axis=(2, 4))


def _corner_terms(image: Any, y: Any, x: Any) -> list[Any]:
    """The four weighted corners of a bilinear sample; places more than 1 outside give 0."""
    height, width = image.shape[1:]
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y, x = clamp(y, 0, height - 1), clamp(x, 0, width - 1)
    y0, x0 = jnp.floor(y).astype(np.int32), jnp.floor(x).astype(np.int32)
    y1, x1 = jnp.minimum(y0 + 1, height - 1), jnp.minimum(x0 + 1, width - 1)
    fy, fx = y - y0, x - x0
    corners = (
        (y0, x0, (1 - fy) * (1 - fx)),
        (y0, x1, (1 - fy) * fx),
        (y1, x0, fy * (1 - fx)),
        (y1, x1, fy * fx),
    )
    return [
        jnp.where(inside, image[:, a, b] * share, 0).astype(image.dtype) for a, b, share in corners
    ]


@op("MaxRoiPool")
def max_roi_pool(call: Call, x: Any, rois: Any) -> Any:
    """Maximum in each bin of whole pixels (Fast R-CNN, arXiv:1504.08083)."""
    high, wide = call.required("pooled_shape")
    scale = call.attr("spatial_scale", 1.0)

    def one(roi: Any) -> Any:
        image = x[roi[0].astype(np.int32)]
        left, top, right, bottom = (jnp.floor(roi[i] * scale + 0.5) for i in (1, 2, 3, 4))
        rows = _bins(top, bottom, high, x.shape[2])
        columns = _bins(left, right, wide, x.shape[3])
        low = lowest(x.dtype)
        tall = jnp.max(jnp.where(rows[None, :, :, None], image[:, None], low), axis=2)
        out = jnp.max(jnp.where(columns[None, None], tall[:, :, None], low), axis=3)
        return jnp.where(out == low, 0, out)

    return jax.vmap(one)(rois)


def _bins(start: Any, end: Any, count: int, size: int) -> Any:
    """mask[bin, pixel]."""
    step = jnp.maximum(end - start + 1, 1) / count
    index = jnp.arange(count)
    first = clamp(jnp.floor(index * step) + start, 0, size)[:, None]
    last = clamp(jnp.ceil((index + 1) * step) + start, 0, size)[:, None]
    pixel = jnp.arange(size)[None]
    return (pixel >= first) & (pixel < last)


@op("NonMaxSuppression", known=ALL, eager=True)
def non_max_suppression(
    call: Call, boxes: Any, scores: Any, most: Any = None, overlap: Any = None, least: Any = None
) -> Any:
    """Greedy suppression by score; how many boxes stay depends on the data."""
    limit = 0 if most is None else int(np.reshape(most, ()))
    threshold = 0.0 if overlap is None else float(np.reshape(overlap, ()))
    minimum = None if least is None else float(np.reshape(least, ()))
    chosen: list[tuple[int, int, int]] = []
    for batch, label in product(range(scores.shape[0]), range(scores.shape[1])):
        corners = _corners(np.asarray(boxes[batch], np.float64), call.attr("center_point_box", 0))
        order = np.argsort(-scores[batch, label], kind="stable")
        kept: list[int] = []
        for index in order:
            if len(kept) >= limit or (
                minimum is not None and scores[batch, label, index] <= minimum
            ):
                break
            if all(_overlap(corners[index], corners[k]) <= threshold for k in kept):
                kept.append(int(index))
        chosen += [(batch, label, k) for k in kept]
    return np.array(chosen, np.int64).reshape(-1, 3)


def _corners(boxes: np.ndarray, centred: int) -> np.ndarray:
    if centred:
        half = boxes[:, 2:] / 2
        return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)
    low = np.minimum(boxes[:, :2], boxes[:, 2:])
    return np.concatenate([low, np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    if np.any(sides <= 0):
        return 0.0
    both = float(np.prod(sides))
    total = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
    return both / total if total > 0 else 0.0


@op("AffineGrid", known=(1,))
def affine_grid(call: Call, theta: Any, size: Any) -> Any:
    spatial = ints(size)[2:]
    steps = []
    bounded(math.prod(spatial), "a grid")
    for n in spatial:
        if call.attr("align_corners", 0):
            steps.append(np.linspace(-1, 1, n) if n > 1 else np.zeros(1))
        else:
            steps.append((np.arange(n) * 2 + 1) / n - 1)
    mesh = np.meshgrid(*steps, indexing="ij")[::-1]
    points = np.stack([*mesh, np.ones(spatial)], axis=-1).astype(theta.dtype)
    return jnp.einsum("...i,nji->n...j", points, theta)


@op("GridSample")
def grid_sample(call: Call, x: Any, grid: Any) -> Any:
    """Sample x[N,C,…] at grid[N,…,axes] in [-1, 1], the last axis first."""
    mode = call.attr("mode", "linear").replace("bilinear", "linear").replace("bicubic", "cubic")
    padding, align = call.attr("padding_mode", "zeros"), bool(call.attr("align_corners", 0))
    spatial = x.shape[2:]
    if len(spatial) > 3:
        raise call.unsupported(f"samples a grid of {len(spatial)} axes; up to 3 work")
    places = [_denormalised(grid[..., -1 - axis], size, align) for axis, size in enumerate(spatial)]
    if mode != "cubic":
        places = [_folded(p, n, padding, align) for p, n in zip(places, spatial, strict=True)]
    taps = [_grid_taps(p, mode) for p in places]
    out: Any = 0
    for choice in product(*taps):
        weight: Any = 1
        inside: Any = True
        index = []
        for (at, share), size in zip(choice, spatial, strict=True):
            weight = weight * share
            if mode == "cubic" and padding != "zeros":
                at = jnp.round(_folded(at, size, padding, align))
            inside = inside & (at >= 0) & (at <= size - 1)
            index.append(clamp(at, 0, size - 1).astype(np.int32))
        picked = jax.vmap(lambda image, at: image[(slice(None), *at)])(x, tuple(index))
        out = out + jnp.where(inside[:, None], picked, 0) * jnp.asarray(weight)[:, None]
    return jnp.asarray(out).astype(x.dtype)


def _denormalised(value: Any, size: int, align: bool) -> Any:
    return (value + 1) / 2 * (size - 1) if align else ((value + 1) * size - 1) / 2


def _folded(place: Any, size: int, padding: str, align: bool) -> Any:
    """Bring places outside back inside, as the padding mode says."""
    if padding == "border":
        return clamp(place, 0, size - 1)
    if padding != "reflection":
        return place
    low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
    span = high - low
    if span == 0:
        return jnp.zeros_like(place)
    distance = jnp.abs(place - low)
    extra = jnp.mod(distance, np.asarray(2 * span, place.dtype))
    return clamp(jnp.where(extra > span, 2 * span - extra, extra) + low, 0, size - 1)


def _grid_taps(place: Any, mode: str) -> list[tuple[Any, Any]]:
    """(position, weight) of each tap along one axis."""
    if mode == "nearest":
        return [(jnp.round(place), jnp.ones_like(place))]
    base = jnp.floor(place)
    if mode == "linear":
        part = place - base
        return [(base, 1 - part), (base + 1, part)]
    if mode != "cubic":
        raise InputError(f"mode {mode!r} is unknown")
    a = -0.75
    taps = []
    for offset in (-1, 0, 1, 2):
        d = jnp.abs(place - base - offset)
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((d - 5) * d + 8) * d * a - 4 * a
        taps.append((base + offset, jnp.where(d <= 1, near, far)))
    return taps
