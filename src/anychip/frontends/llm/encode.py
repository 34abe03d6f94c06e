"""A weight's numbers as the arrays its spec's arguments take, and back."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np

from anychip.core.blocks import block_format
from anychip.core.dtypes import dtype
from anychip.frontends.llm.weights import DENSE, WeightSpec


def encode(spec: WeightSpec, values: np.ndarray) -> tuple[np.ndarray, ...]:
    """f32 of the spec's logical shape → one array for each of `spec.arguments`.

    f8 and i8 get one scale a row, its largest magnitude at the type's largest number. Raises
    UnsupportedError for block formats that are only read here (q5_0, the k-quants).
    """
    if spec.format in DENSE:
        return (values.astype(dtype(spec.format).numpy),)
    values = values.astype(np.float32, copy=False)
    if spec.is_block:
        form = block_format(spec.format)
        if not form.has_outer_scale:
            return (form.quantize(values),)
        outer = form.outer_scale(values)
        return form.quantize(values / outer[..., None]), outer
    element = dtype(spec.format).numpy
    top = 127.0 if spec.format == "i8" else float(ml_dtypes.finfo(element).max)
    largest = np.abs(values).max(axis=-1)
    scale = np.where(largest > 0, largest / top, 1).astype(np.float32)
    codes = values / scale[..., None]
    return (np.rint(codes) if spec.format == "i8" else codes).astype(element), scale


def decode(spec: WeightSpec, arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The arrays of `spec.arguments` → f32 of the spec's logical shape."""
    if spec.is_block:
        values = block_format(spec.format).dequantize(arrays[0])
    else:
        values = arrays[0].astype(np.float32)
    return values if len(arrays) == 1 else values * arrays[1][..., None]
