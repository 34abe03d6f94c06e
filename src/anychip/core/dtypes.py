"""The element types of StableHLO: one table of name, numpy type and width. No arithmetic here."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from anychip.core.errors import unknown


@dataclass(frozen=True)
class DType:
    """One element type. `name` is StableHLO's spelling (`f32`, `bf16`, `ui8`, `i1`)."""

    name: str
    numpy: np.dtype
    bits: int
    kind: str  # "float", "int", "uint", "bool" or "complex"


def _table() -> dict[str, DType]:
    rows: list[tuple[str, object, int, str]] = [
        ("i1", np.bool_, 1, "bool"),
        *((f"i{b}", f"int{b}", b, "int") for b in (8, 16, 32, 64)),
        *((f"ui{b}", f"uint{b}", b, "uint") for b in (8, 16, 32, 64)),
        ("i2", ml_dtypes.int2, 2, "int"),
        ("i4", ml_dtypes.int4, 4, "int"),
        ("ui2", ml_dtypes.uint2, 2, "uint"),
        ("ui4", ml_dtypes.uint4, 4, "uint"),
        ("f16", np.float16, 16, "float"),
        ("bf16", ml_dtypes.bfloat16, 16, "float"),
        ("f32", np.float32, 32, "float"),
        ("f64", np.float64, 64, "float"),
        ("f8E4M3FN", ml_dtypes.float8_e4m3fn, 8, "float"),
        ("f8E4M3", ml_dtypes.float8_e4m3, 8, "float"),
        ("f8E4M3FNUZ", ml_dtypes.float8_e4m3fnuz, 8, "float"),
        ("f8E4M3B11FNUZ", ml_dtypes.float8_e4m3b11fnuz, 8, "float"),
        ("f8E5M2", ml_dtypes.float8_e5m2, 8, "float"),
        ("f8E5M2FNUZ", ml_dtypes.float8_e5m2fnuz, 8, "float"),
        ("f8E3M4", ml_dtypes.float8_e3m4, 8, "float"),
        ("f8E8M0FNU", ml_dtypes.float8_e8m0fnu, 8, "float"),
        ("f4E2M1FN", ml_dtypes.float4_e2m1fn, 4, "float"),
        ("f6E2M3FN", ml_dtypes.float6_e2m3fn, 6, "float"),
        ("f6E3M2FN", ml_dtypes.float6_e3m2fn, 6, "float"),
        ("complex<f32>", np.complex64, 64, "complex"),
        ("complex<f64>", np.complex128, 128, "complex"),
    ]
    return {name: DType(name, np.dtype(t), bits, kind) for name, t, bits, kind in rows}  # type: ignore[arg-type]


DTYPES: dict[str, DType] = _table()
_BY_NUMPY: dict[np.dtype, DType] = {d.numpy: d for d in DTYPES.values()}


def dtype(name: str | DType | np.dtype | type) -> DType:
    """The DType for a StableHLO name, a numpy dtype or a numpy scalar type.

    Raises UsageError for a type StableHLO does not have.
    """
    if isinstance(name, DType):
        return name
    if isinstance(name, str) and name in DTYPES:
        return DTYPES[name]
    try:
        if name is None:  # pyright: ignore[reportUnnecessaryComparison] # numpy: float64
            raise KeyError(name)
        return _BY_NUMPY[np.dtype(name)]
    except (TypeError, KeyError):
        raise unknown("element type", str(name), DTYPES) from None


def nbytes(shape: tuple[int, ...], element: str | DType) -> int:
    """Bytes of a dense array, sub-byte types packed and rounded up to a whole byte."""
    count = 1
    for dim in shape:
        count *= dim
    return (count * dtype(element).bits + 7) // 8
