"""torch tensors and element types seen as numpy's, without copies."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch

from anychip.core.dtypes import dtype
from anychip.core.errors import UnsupportedError
from anychip.core.weights import Weight

_NUMPY: dict[torch.dtype, Any] = {
    torch.bool: np.bool_,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.uint8: np.uint8,
    torch.uint16: np.uint16,
    torch.uint32: np.uint32,
    torch.uint64: np.uint64,
    torch.float16: np.float16,
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.complex64: np.complex64,
    torch.complex128: np.complex128,
    torch.bfloat16: ml_dtypes.bfloat16,
    torch.float8_e4m3fn: ml_dtypes.float8_e4m3fn,
    torch.float8_e4m3fnuz: ml_dtypes.float8_e4m3fnuz,
    torch.float8_e5m2: ml_dtypes.float8_e5m2,
    torch.float8_e5m2fnuz: ml_dtypes.float8_e5m2fnuz,
    torch.float8_e8m0fnu: ml_dtypes.float8_e8m0fnu,
}
_TORCH: dict[np.dtype, torch.dtype] = {np.dtype(n): t for t, n in _NUMPY.items()}
_CARRIER = {1: torch.uint8, 2: torch.int16}  # numpy has no bf16 or f8: their bits travel in these


def numpy_dtype(element: torch.dtype) -> np.dtype:
    """The numpy type of a torch type. Raises UnsupportedError for those StableHLO does not have."""
    if element not in _NUMPY:
        raise UnsupportedError(
            f"tensors of {element} cannot be expressed; dequantise or cast them to one of "
            + ", ".join(str(t).removeprefix("torch.") for t in _NUMPY)
        )
    return np.dtype(_NUMPY[element])


def torch_dtype(element: Any) -> torch.dtype:
    """The torch type of a numpy or JAX type."""
    return _TORCH[np.dtype(element)]


def element_name(element: torch.dtype) -> str:
    """StableHLO's name of a torch type."""
    return dtype(numpy_dtype(element)).name


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """A numpy view of a dense CPU tensor's memory, strides kept; a conjugated view is copied."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise UnsupportedError(
            f"a {tensor.layout} tensor of {tensor.dtype} has no dense view; call .to_dense() or "
            ".dequantize() on it first"
        )
    plain = tensor.detach().cpu().resolve_conj().resolve_neg()
    target = numpy_dtype(plain.dtype)
    if target.type.__module__ == "numpy":
        return plain.numpy()
    return plain.view(_CARRIER[target.itemsize]).numpy().view(target)


def to_jax(tensor: torch.Tensor) -> Any:
    """A JAX array over the tensor's memory; a tensor that is not contiguous is copied first."""
    import jax

    with jax.enable_x64(True):  # or 64-bit elements would be refused
        return jax.dlpack.from_dlpack(tensor.detach().contiguous().resolve_conj().resolve_neg())


def to_torch(array: Any) -> torch.Tensor:
    """A torch tensor over the memory of a numpy or JAX array (read-only numpy memory is copied)."""
    if not isinstance(array, np.ndarray):
        return torch.from_dlpack(array)
    writable = array if array.flags.writeable else array.copy()
    if array.dtype.type.__module__ == "numpy":
        return torch.from_numpy(writable)
    carrier = {1: np.uint8, 2: np.int16}[array.dtype.itemsize]
    return torch.from_numpy(writable.view(carrier)).view(torch_dtype(array.dtype))


def weight_of(name: str, tensor: torch.Tensor, source: str) -> Weight:
    """A Weight that reads `tensor` in place; shape only when it is on the meta device."""
    element = element_name(tensor.dtype)
    return Weight(
        name,
        tuple(tensor.shape),
        element,
        read=None if tensor.is_meta else lambda: to_numpy(tensor),
        stored_as=element,
        stored_bytes=tensor.numel() * tensor.element_size(),
        source=source,
    )
