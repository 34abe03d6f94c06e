"""MLIR attributes as Python values: ints, strings, tuples, arrays, small frozen dataclasses."""

# pyright: reportMissingTypeStubs=false, reportUnknownVariableType=false

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from anychip.core.dtypes import dtype
from anychip.core.errors import InputError
from anychip.core.ir import tensor_type


@dataclass(frozen=True)
class DotDims:
    """`#stablehlo.dot`: batching and contracting dimensions of both sides, paired in order."""

    lhs_batch: tuple[int, ...]
    rhs_batch: tuple[int, ...]
    lhs_contract: tuple[int, ...]
    rhs_contract: tuple[int, ...]


@dataclass(frozen=True)
class RaggedDotDims:
    """`#chlo.ragged_dot`: dot dimensions, the ragged dimension of lhs, group dimensions of rhs."""

    dot: DotDims
    lhs_ragged: tuple[int, ...]
    rhs_group: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class ConvDims:
    """`#stablehlo.conv`: which dimension of input, kernel and output is what."""

    input_batch: int
    input_feature: int
    input_spatial: tuple[int, ...]
    kernel_input_feature: int
    kernel_output_feature: int
    kernel_spatial: tuple[int, ...]
    output_batch: int
    output_feature: int
    output_spatial: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class GatherDims:
    """`#stablehlo.gather`."""

    offset: tuple[int, ...]
    collapsed: tuple[int, ...]
    operand_batch: tuple[int, ...]
    indices_batch: tuple[int, ...]
    start_index_map: tuple[int, ...]
    index_vector: int


@dataclass(frozen=True, kw_only=True)
class ScatterDims:
    """`#stablehlo.scatter`."""

    update_window: tuple[int, ...]
    inserted_window: tuple[int, ...]
    operand_batch: tuple[int, ...]
    indices_batch: tuple[int, ...]
    scattered: tuple[int, ...]
    index_vector: int


@dataclass(frozen=True)
class Symbol:
    """A reference to a function of the module."""

    name: str


def decode(attribute: Any) -> Any:
    """The Python value of an MLIR attribute.

    Integers, floats, booleans and strings become themselves, arrays and dictionaries of them
    tuples and dicts, dense elements numpy arrays of the exact element type, enums their StableHLO
    spelling ("LT"), dimension numbers the dataclasses above, symbols `Symbol`. Attributes of other
    dialects (shardings) become their text.
    """
    from jaxlib.mlir import ir

    simple = {ir.StringAttr, ir.IntegerAttr, ir.FloatAttr, ir.BoolAttr}
    kind = type(attribute)
    if kind in simple:
        return attribute.value
    if kind in (
        ir.DenseI64ArrayAttr,
        ir.DenseBoolArrayAttr,
        ir.DenseI32ArrayAttr,
        ir.DenseI16ArrayAttr,
        ir.DenseI8ArrayAttr,
        ir.DenseF32ArrayAttr,
        ir.DenseF64ArrayAttr,
    ):
        return tuple(attribute)
    if kind is ir.ArrayAttr:
        return tuple(decode(one) for one in attribute)
    if kind is ir.DictAttr:
        return {named.name: decode(named.attr) for named in attribute}
    if kind in (ir.FlatSymbolRefAttr, ir.SymbolRefAttr):
        value = attribute.value
        return Symbol(value if isinstance(value, str) else "::".join(value))
    if kind is ir.UnitAttr:
        return True
    if kind in (ir.DenseIntElementsAttr, ir.DenseFPElementsAttr):
        return _dense(attribute)
    if kind is ir.TypeAttr:
        return str(attribute.value)
    return _dialect_attribute(attribute)


_ENUM = re.compile(
    r"^#(?:stablehlo|chlo)<(?:comparison_direction|comparison_type|precision|"
    r"fft_type|transpose|rng_distribution|rng_algorithm|result_accuracy_mode) (\w+)>$"
)


def _dialect_attribute(attribute: Any) -> Any:
    from jaxlib.mlir.dialects import chlo, stablehlo

    text = str(attribute)
    if match := _ENUM.match(text):
        return match[1]
    if text.startswith("dense_resource<"):
        raise InputError(
            f"{text}: constants held as MLIR resources cannot be read; "
            "pass weights as arguments, or save the module with dense constants"
        )
    if text.startswith("dense<"):
        return parse_dense(text)
    if text.startswith("#stablehlo.dot<"):
        return _dot(stablehlo.DotDimensionNumbers(attribute))
    if text.startswith("#stablehlo.conv<"):
        a = stablehlo.ConvDimensionNumbers(attribute)
        return ConvDims(
            input_batch=a.input_batch_dimension,
            input_feature=a.input_feature_dimension,
            input_spatial=tuple(a.input_spatial_dimensions),
            kernel_input_feature=a.kernel_input_feature_dimension,
            kernel_output_feature=a.kernel_output_feature_dimension,
            kernel_spatial=tuple(a.kernel_spatial_dimensions),
            output_batch=a.output_batch_dimension,
            output_feature=a.output_feature_dimension,
            output_spatial=tuple(a.output_spatial_dimensions),
        )
    if text.startswith("#stablehlo.gather<"):
        a = stablehlo.GatherDimensionNumbers(attribute)
        return GatherDims(
            offset=tuple(a.offset_dims),
            collapsed=tuple(a.collapsed_slice_dims),
            operand_batch=tuple(a.operand_batching_dims),
            indices_batch=tuple(a.start_indices_batching_dims),
            start_index_map=tuple(a.start_index_map),
            index_vector=a.index_vector_dim,
        )
    if text.startswith("#stablehlo.scatter<"):
        a = stablehlo.ScatterDimensionNumbers(attribute)
        return ScatterDims(
            update_window=tuple(a.update_window_dims),
            inserted_window=tuple(a.inserted_window_dims),
            operand_batch=tuple(a.input_batching_dims),
            indices_batch=tuple(a.scatter_indices_batching_dims),
            scattered=tuple(a.scattered_dims_to_operand_dims),
            index_vector=a.index_vector_dim,
        )
    if text.startswith("#chlo.ragged_dot<"):
        a = chlo.RaggedDotDimensionNumbers(attribute)
        return RaggedDotDims(_dot(a), tuple(a.lhs_ragged_dimensions), tuple(a.rhs_group_dimensions))
    return text


def _dot(a: Any) -> DotDims:
    return DotDims(
        tuple(a.lhs_batching_dimensions),
        tuple(a.rhs_batching_dimensions),
        tuple(a.lhs_contracting_dimensions),
        tuple(a.rhs_contracting_dimensions),
    )


_BUFFERED = {"i1", "i8", "i16", "i32", "i64", "ui8", "ui16", "ui32", "ui64", "f16", "f32", "f64"}


def _dense(attribute: Any) -> np.ndarray:
    shape, element = tensor_type(str(attribute.type))
    if element in _BUFFERED or element == "index":
        return np.array(attribute).reshape([d for d in shape if d is not None])
    return parse_dense(str(attribute))


_DENSE = re.compile(r"^dense<(.*)>\s*:\s*(tensor<.*>)$", re.DOTALL)
_NUMBER = re.compile(r"0x[0-9A-Fa-f]+|[-+]?[0-9][0-9.]*(?:[eE][-+]?[0-9]+)?|true|false")


def parse_dense(text: str) -> np.ndarray:
    """The array of `dense<…> : tensor<…>`, for element types the bindings expose no buffer of.

    Knows MLIR's three spellings: nested lists, one splat value, and a hex dump of the raw data
    (little endian, one byte for each sub-byte element).
    """
    match = _DENSE.match(text)
    if match is None:
        raise InputError(f"not a dense constant: {text[:80]}")
    body, (sizes, name) = match[1], tensor_type(match[2])
    element, shape = dtype(name), [d for d in sizes if d is not None]
    if body.startswith('"0x'):
        flat = _from_raw(bytes.fromhex(body[3:-1]), element.numpy, element.bits)
    else:
        values = [_number(t, element.name) for t in _NUMBER.findall(body)]
        if element.kind == "complex":
            values = [complex(r, i) for r, i in zip(values[::2], values[1::2], strict=True)]
        flat = np.array(values, dtype=element.numpy)
    if flat.size == 1 and math.prod(shape) != 1:
        return np.broadcast_to(flat.reshape(()), shape)
    return flat.reshape(shape)


def dense_text(array: np.ndarray) -> str:
    """`dense<…> : tensor<…>` of an array; `parse_dense` reads it back bit for bit."""
    element = dtype(array.dtype)
    kind = f"tensor<{''.join(f'{d}x' for d in array.shape)}{element.name}>"
    if array.size == 0:
        return f"dense<> : {kind}"
    if element.kind == "bool":
        listed = str(array.tolist()).replace("True", "true").replace("False", "false")
        return f"dense<{listed}> : {kind}"
    data = np.ascontiguousarray(array)
    if element.bits < 8:
        data = data.view(np.uint8) & ((1 << element.bits) - 1)
    return f'dense<"0x{data.tobytes().hex().upper()}"> : {kind}'


def _number(token: str, element: str) -> Any:
    if token in ("true", "false"):
        return token == "true"
    kind = dtype(element).kind
    if kind in ("int", "uint"):
        return int(token, 0)
    if not token.startswith("0x"):
        return float(token)
    real = {"complex<f32>": "f32", "complex<f64>": "f64"}.get(element, element)
    bits = dtype(real).numpy.itemsize * 8
    raw = np.array([int(token, 16)], dtype=f"uint{bits}")
    return raw.view(dtype(real).numpy)[0]


def _from_raw(raw: bytes, numpy_type: np.dtype, bits: int) -> np.ndarray:
    if bits >= 8:
        return np.frombuffer(raw, dtype=numpy_type)
    low = np.frombuffer(raw, dtype=np.uint8) & ((1 << bits) - 1)
    if numpy_type.name.startswith("int"):  # two's complement in the low bits
        signed = (low.astype(np.int16) ^ (1 << (bits - 1))) - (1 << (bits - 1))
        return signed.astype(numpy_type)
    if numpy_type.name.startswith("uint"):
        return low.astype(numpy_type)
    return low.view(numpy_type)
