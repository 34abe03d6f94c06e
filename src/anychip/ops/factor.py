"""Factorisations, triangular solves and Fourier transforms: the rest of linear algebra."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.ops.case import case
from anychip.ops.count import moved
from anychip.ops.table import op
from anychip.ops.view import OpView
from anychip.ops.work import Work


def _definite(shape: tuple[int, ...]) -> np.ndarray:
    """A fixed symmetric positive definite matrix (or a batch of them)."""
    n = shape[-1]
    values = np.cos(np.arange(math.prod(shape), dtype=np.float64)).reshape(shape)
    return values @ np.swapaxes(values, -1, -2) + n * np.eye(n)


def _cholesky_work(op: OpView) -> Work:
    """n³/3 per matrix (LAPACK Working Note 41, appendix C), n roots."""
    n = op.inputs[0].sizes[-1]
    matrices = op.inputs[0].size // max(1, n * n)
    return moved(op) + Work(flops=matrices * n**3 // 3, transcendentals=matrices * n)


@op(
    "stablehlo.cholesky",
    unit="matmul",
    work=_cholesky_work,
    cases=[
        case(
            "f32[3,3]",
            attributes="lower = true",
            given={0: _definite((3, 3))},
            expect=np.linalg.cholesky,
            reduced=9,
        ),
        case(
            "f64[2,4,4]",
            attributes="lower = false",
            given={0: _definite((2, 4, 4))},
            expect=lambda a: np.swapaxes(np.linalg.cholesky(a), -1, -2),
            reduced=16,
        ),
        case(
            "f32[2,2]",
            given={0: _definite((2, 2))},
            expect=lambda a: np.linalg.cholesky(a).T,
            reduced=4,
        ),
        case("f32[0,2,2]", attributes="lower = true"),
    ],
    reference="it has no rule for this op",
)
def cholesky(op: OpView, a: Any) -> Any:
    """L with L·Lᴴ = a (`lower`), or U with Uᴴ·U = a; the other triangle is zero.

    Only the named triangle of a is read.
    """
    if op.attributes.get("lower", False):
        return jnp.tril(lax.linalg.cholesky(a, symmetrize_input=False))
    lower = lax.linalg.cholesky(_adjoint(a), symmetrize_input=False)
    return _adjoint(jnp.tril(lower))


def _adjoint(a: Any) -> Any:
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def _solve(left: bool, lower: bool, unit: bool, how: str) -> str:
    flag = lambda b: "true" if b else "false"  # noqa: E731
    return (
        f"left_side = {flag(left)}, lower = {flag(lower)}, unit_diagonal = {flag(unit)}, "
        f"transpose_a = #stablehlo<transpose {how}>"
    )


def _solve_work(op: OpView) -> Work:
    """n² flops per right-hand side (LAPACK Working Note 41, appendix C)."""
    return moved(op) + Work(flops=op.outputs[0].size * op.inputs[0].sizes[-1])


@op(
    "stablehlo.triangular_solve",
    unit="matmul",
    work=_solve_work,
    cases=[
        case(
            "f32[3,3]",
            "f32[3,2]",
            out="f32[3,2]",
            attributes=_solve(True, True, False, "NO_TRANSPOSE"),
            given={0: _definite((3, 3))},
            expect=lambda a, b: np.linalg.solve(np.tril(a), b),
            reduced=9,
        ),
        case(
            "f64[2,3,3]",
            "f64[2,2,3]",
            out="f64[2,2,3]",
            attributes=_solve(False, False, True, "TRANSPOSE"),
            given={0: _definite((2, 3, 3)) / 10},
            reduced=9,
        ),
        case(
            "complex<f32>[2,2]",
            "complex<f32>[2,1]",
            out="complex<f32>[2,1]",
            attributes=_solve(True, True, False, "ADJOINT"),
            given={0: [[2 + 1j, 0], [1 - 1j, 3 - 1j]]},
            expect=lambda a, b: np.linalg.solve(np.tril(a).conj().T, b),
            reduced=4,
        ),
        case(
            "f32[2,2]",
            "f32[2,0]",
            out="f32[2,0]",
            attributes=_solve(True, True, False, "NO_TRANSPOSE"),
        ),
    ],
)
def triangular_solve(op: OpView, a: Any, b: Any) -> Any:
    """x with op(a)·x = b (`left_side`) or x·op(a) = b, reading only the named triangle of a."""
    at = op.attributes
    return lax.linalg.triangular_solve(
        a,
        b,
        left_side=at["left_side"],
        lower=at["lower"],
        transpose_a=at["transpose_a"] != "NO_TRANSPOSE",
        conjugate_a=at["transpose_a"] == "ADJOINT",
        unit_diagonal=at["unit_diagonal"],
    )


def _fft(kind: str, *lengths: int) -> str:
    sizes = ", ".join(map(str, lengths))
    return f"fft_type = #stablehlo<fft_type {kind}>, fft_length = array<i64: {sizes}>"


def _fft_work(op: OpView) -> Work:
    """5·n·log₂n flops per complex transform, half for real ones (the convention of FFTW's
    benchmarks: Frigo and Johnson, Proc. IEEE 93(2), 2005)."""
    length = math.prod(op.attributes["fft_length"])
    is_real = op.attributes["fft_type"] in ("RFFT", "IRFFT")
    full = op.outputs[0] if op.attributes["fft_type"] == "IRFFT" else op.inputs[0]
    transforms = full.size // max(1, length)
    flops = 5 * length * math.log2(max(1, length)) * transforms / (2 if is_real else 1)
    return moved(op) + Work(flops=round(flops))


_FFT_F32 = "it aborts on transforms of single precision"


@op(
    "stablehlo.fft",
    unit="vector",
    work=_fft_work,
    cases=[
        case("complex<f64>[2,8]", attributes=_fft("FFT", 8), expect=np.fft.fft, reduced=8),
        case("complex<f64>[6]", attributes=_fft("IFFT", 6), expect=np.fft.ifft, reduced=6),
        case(
            "f64[3,8]",
            out="complex<f64>[3,5]",
            attributes=_fft("RFFT", 8),
            expect=np.fft.rfft,
            reduced=8,
        ),
        case(
            "complex<f64>[5]",
            out="f64[8]",
            attributes=_fft("IRFFT", 8),
            expect=lambda x: np.fft.irfft(x, 8),
            reduced=8,
        ),
        case(
            "complex<f32>[2,8]",
            attributes=_fft("FFT", 8),
            expect=np.fft.fft,
            reduced=8,
            skip_reference=_FFT_F32,
        ),
        case(
            "f32[3,8]",
            out="complex<f32>[3,5]",
            attributes=_fft("RFFT", 8),
            expect=np.fft.rfft,
            reduced=8,
            skip_reference=_FFT_F32,
        ),
        case(
            "complex<f32>[5]",
            out="f32[8]",
            attributes=_fft("IRFFT", 8),
            expect=lambda x: np.fft.irfft(x, 8),
            reduced=8,
            skip_reference=_FFT_F32,
        ),
        case("complex<f64>[4,6]", attributes=_fft("FFT", 4, 6), expect=np.fft.fft2, reduced=24),
    ],
)
def fft(op: OpView, x: Any) -> Any:
    """Discrete Fourier transform over the last dimensions; inverse kinds divide by the length."""
    return lax.fft(x, op.attributes["fft_type"], op.attributes["fft_length"])
