"""ONNX tensors as numpy arrays and lazy Weights: element types, packing, external files.

Every size is checked against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core.dtypes import DType, dtype
from anychip.core.errors import InputError, UnsupportedError
from anychip.core.weights import Weight

STRING = 8
"""TensorProto.STRING: the one element type that is no StableHLO type."""

ELEMENTS: dict[int, str] = {
    **dict(enumerate(("f32", "ui8", "i8", "ui16", "i16", "i32", "i64"), start=1)),
    **dict(enumerate(("i1", "f16", "f64", "ui32", "ui64"), start=9)),
    **dict(enumerate(("complex<f32>", "complex<f64>", "bf16"), start=14)),
    **dict(enumerate(("f8E4M3FN", "f8E4M3FNUZ", "f8E5M2", "f8E5M2FNUZ"), start=17)),
    **dict(enumerate(("ui4", "i4", "f4E2M1FN", "f8E8M0FNU", "ui2", "i2"), start=21)),
    **dict(enumerate(("f6E2M3FN", "f6E3M2FN"), start=27)),
}
"""TensorProto.DataType to StableHLO's name (onnx.proto3)."""


def element(code: int, path: str = "", field: str = "") -> DType:
    """The element type of a TensorProto.DataType; strings and unknown codes are errors."""
    if code == STRING:
        raise UnsupportedError(f"{path}: {field} holds strings, which no chip computes on")
    if code not in ELEMENTS:
        raise InputError(f"unknown element type {code}", path=path, field=field)
    return dtype(ELEMENTS[code])


def to_array(tensor: Any, path: str) -> np.ndarray:
    """The value of a small TensorProto (strings as an object array)."""
    if tensor.data_type == STRING:
        text = np.array([s.decode("utf-8", "replace") for s in tensor.string_data], object)
        return _shaped(text, tensor, path)
    if tensor.data_location == 1:
        return external(tensor, path).array()
    if tensor.HasField("raw_data"):
        return from_bytes(memoryview(tensor.raw_data), tensor, path)
    return _from_fields(tensor, path)


def stored(tensor: Any, path: str, data: memoryview) -> Weight:
    """A Weight whose bytes are `data`, a view of a memory map; checked now, read when touched."""
    return _weight(tensor, path, len(data), lambda: from_bytes(data, tensor, path), path)


def external(tensor: Any, path: str) -> Weight:
    """A Weight in an external data file beside the model, mapped when touched.

    Raises InputError when the entry is malformed, leaves the model's folder, or the file is short.
    """
    field = f"initializer {tensor.name}"
    entries = {e.key: e.value for e in tensor.external_data}
    folder = Path(path).parent.resolve()
    location = entries.get("location", "")
    target = (folder / location).resolve()
    if not location or Path(location).is_absolute() or not target.is_relative_to(folder):
        raise InputError(
            f"external data location {location!r} is not inside the model's folder",
            path=path,
            field=field,
        )
    try:
        offset = int(entries.get("offset", "0") or 0)
        available = target.stat().st_size
        length = int(entries.get("length", "0") or 0) or available - offset
    except ValueError:
        raise InputError(
            "external data offset or length is no number", path=path, field=field
        ) from None
    except OSError as error:
        raise InputError(
            f"external data file {location!r} cannot be read: {error.strerror}",
            path=path,
            field=field,
        ) from None
    if offset < 0 or length < 0 or offset + length > available:
        raise InputError(
            f"external data file {location!r} has {available} bytes; "
            f"the model asks for bytes {offset} to {offset + length}",
            path=path,
            field=field,
        )

    def read() -> np.ndarray:
        if length == 0:
            return from_bytes(memoryview(b""), tensor, path)
        with open(target, "rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return from_bytes(memoryview(data)[offset : offset + length], tensor, path)

    return _weight(tensor, path, length, read, str(target))


def count(tensor: Any, path: str) -> int:
    """How many elements the dims of a TensorProto claim."""
    if any(d < 0 for d in tensor.dims):
        raise InputError(
            f"negative dimension in {list(tensor.dims)}",
            path=path,
            field=f"initializer {tensor.name}",
        )
    return math.prod(tensor.dims)


def from_bytes(data: memoryview, tensor: Any, path: str) -> np.ndarray:
    """Little-endian bytes as an array; whole-byte types are views of `data`."""
    kind = element(tensor.data_type, path, f"initializer {tensor.name}")
    _check_length(tensor, path, len(data))
    raw = np.frombuffer(data, np.uint8)
    if kind.kind == "bool":
        return (raw != 0).reshape(tuple(tensor.dims))
    if kind.bits < 8:
        raw = _unpack(raw, kind.bits, count(tensor, path))
    return raw.view(kind.numpy).reshape(tuple(tensor.dims))


def _weight(
    tensor: Any, path: str, length: int, read: Callable[[], np.ndarray], source: str
) -> Weight:
    kind = element(tensor.data_type, path, f"initializer {tensor.name}")
    _check_length(tensor, path, length)
    return Weight(
        tensor.name,
        tuple(tensor.dims),
        kind.name,
        read=read,
        stored_as=kind.name,
        stored_bytes=length,
        source=source,
    )


def _check_length(tensor: Any, path: str, length: int) -> None:
    kind = element(tensor.data_type, path, f"initializer {tensor.name}")
    wanted = (count(tensor, path) * kind.bits + 7) // 8
    if wanted != length:
        raise InputError(
            f"{kind.name}{list(tensor.dims)} takes {wanted} bytes, {length} are there",
            path=path,
            field=f"initializer {tensor.name}",
        )


def _from_fields(tensor: Any, path: str) -> np.ndarray:
    """A tensor whose numbers are in the typed fields of the message."""
    kind = element(tensor.data_type, path, f"initializer {tensor.name}")
    if kind.name in ("f32", "complex<f32>"):
        values = np.array(tensor.float_data, np.float32).view(kind.numpy)
    elif kind.name in ("f64", "complex<f64>"):
        values = np.array(tensor.double_data, np.float64).view(kind.numpy)
    elif kind.name in ("ui32", "ui64"):
        values = np.array(tensor.uint64_data, np.uint64).astype(kind.numpy)
    elif kind.name == "i64":
        values = np.array(tensor.int64_data, np.int64)
    else:
        values = _from_int32(np.array(tensor.int32_data, np.int32), kind, count(tensor, path))
    return _shaped(values, tensor, path)


def _from_int32(values: np.ndarray, kind: DType, size: int) -> np.ndarray:
    """`int32_data` holds small integers as they are and other types as their bits."""
    if kind.kind == "bool":
        return values != 0
    if kind.bits in (2, 4):
        return _unpack(values.astype(np.uint8), kind.bits, size).view(kind.numpy)
    if kind.kind in ("int", "uint"):
        return values.astype(kind.numpy)
    width = np.uint16 if kind.bits == 16 else np.uint8
    return values.astype(width).view(kind.numpy)


def _shaped(values: np.ndarray, tensor: Any, path: str) -> np.ndarray:
    if values.size != count(tensor, path):
        raise InputError(
            f"dimensions {list(tensor.dims)} ask for {count(tensor, path)} elements, "
            f"{values.size} are there",
            path=path,
            field=f"initializer {tensor.name}",
        )
    return values.reshape(tuple(tensor.dims))


def _unpack(data: np.ndarray, bits: int, size: int) -> np.ndarray:
    """`size` unsigned values of `bits` bits each, lowest bits first, one a byte."""
    if bits == 4:
        return np.stack([data & 15, data >> 4], axis=-1).reshape(-1)[:size]
    flat = np.unpackbits(data, bitorder="little")[: size * bits].reshape(-1, bits)
    return np.packbits(np.pad(flat, ((0, 0), (0, 8 - bits))), axis=1, bitorder="little")[:, 0]
