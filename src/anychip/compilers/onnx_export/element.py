"""Element types as ONNX numbers them."""

from __future__ import annotations

from anychip.core import UnsupportedError

_TYPES = {
    "i1": "BOOL",
    "i4": "INT4",
    "i8": "INT8",
    "i16": "INT16",
    "i32": "INT32",
    "i64": "INT64",
    "ui4": "UINT4",
    "ui8": "UINT8",
    "ui16": "UINT16",
    "ui32": "UINT32",
    "ui64": "UINT64",
    "f16": "FLOAT16",
    "bf16": "BFLOAT16",
    "f32": "FLOAT",
    "f64": "DOUBLE",
    "f8E4M3FN": "FLOAT8E4M3FN",
    "f8E4M3FNUZ": "FLOAT8E4M3FNUZ",
    "f8E5M2": "FLOAT8E5M2",
    "f8E5M2FNUZ": "FLOAT8E5M2FNUZ",
    "f4E2M1FN": "FLOAT4E2M1",
}


def onnx_type(element: str, what: str) -> int:
    """The TensorProto type of a StableHLO element type; UnsupportedError where there is none."""
    from onnx import TensorProto

    if element not in _TYPES:
        raise UnsupportedError(f"{what}: ONNX has no tensors of {element}")
    return int(getattr(TensorProto, _TYPES[element]))
