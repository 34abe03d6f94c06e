"""Composites of one vector at a time: softmax, norms, activations, rotary embedding."""

# JAX's own annotations are partly unknown to pyright; strictness about them finds nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from anychip.ops.composite import composite, example, moved, pointwise
from anychip.ops.view import OpView
from anychip.ops.work import Work


def wide(x: Any) -> Any:
    """`x` in f32, or in f64 if it is that: the type in which sums are made."""
    return x if x.dtype == jnp.float64 else x.astype(jnp.float32)


def _np_softmax(x: Any, axis: int) -> Any:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


@composite(
    "softmax",
    unit="vector",
    work=pointwise(flops=4, transcendentals=1),  # maximum, subtract, sum, divide; exp
    examples=[
        example("f32[3,37]", expect=_np_softmax, axis=1, reduced=37),
        example("bf16[2,5,8]", expect=_np_softmax, axis=-2, reduced=5),
        example("f32[2,2048]", expect=_np_softmax, axis=-1, reduced=2048),
    ],
)
def softmax(x: Any, *, axis: int = -1) -> Any:
    """exp(x) / sum(exp(x)) along `axis`, summed in f32, in x's type."""
    y = wide(x)
    e = jnp.exp(y - lax.stop_gradient(jnp.max(y, axis=axis, keepdims=True)))
    return (e / jnp.sum(e, axis=axis, keepdims=True)).astype(x.dtype)


def _np_layer_norm(x: Any, scale: Any = 1.0, bias: Any = 0.0, *, eps: float) -> Any:
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)
    return y * scale + bias


@composite(
    "layer_norm",
    unit="vector",
    work=pointwise(flops=8, transcendentals=0),  # the root is one a row
    examples=[
        example("f32[3,64]", "f32[64]", "f32[64]", expect=_np_layer_norm, eps=1e-5, reduced=64),
        example("bf16[2,2,16]", "bf16[16]", expect=_np_layer_norm, eps=1e-6, reduced=16),
        example("f32[4,8]", expect=_np_layer_norm, eps=1e-5, reduced=8),
    ],
)
def layer_norm(x: Any, scale: Any = None, bias: Any = None, *, eps: float) -> Any:
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last dimension, in f32.

    `scale` and `bias` have the last dimension's length and may be None. arXiv:1607.06450.
    """
    y = wide(x)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    if scale is not None:
        y = y * wide(scale)
    if bias is not None:
        y = y + wide(bias)
    return y.astype(x.dtype)


def _np_rms_norm(x: Any, scale: Any = 1.0, *, eps: float, offset: float = 0.0) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * (scale + offset)


@composite(
    "rms_norm",
    unit="vector",
    work=pointwise(flops=4, transcendentals=0),  # square, sum, two products
    examples=[
        example("f32[3,64]", "f32[64]", expect=_np_rms_norm, eps=1e-5, reduced=64),
        example("bf16[2,3,32]", "bf16[32]", expect=_np_rms_norm, eps=1e-6, offset=1.0, reduced=32),
        example("f32[3,8]", expect=_np_rms_norm, eps=1e-6, reduced=8),
    ],
)
def rms_norm(x: Any, scale: Any = None, *, eps: float, offset: float = 0.0) -> Any:
    """x / sqrt(mean(x²) + eps) * (scale + offset) over the last dimension, in f32.

    arXiv:1910.07467. `offset` is 1 for Gemma; without `scale` it is not used.
    """
    y = wide(x)
    y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
    if scale is not None:
        y = y * (wide(scale) + offset if offset else wide(scale))
    return y.astype(x.dtype)


def _np_gelu(x: Any, *, approximate: bool) -> Any:
    if approximate:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


@composite(
    "gelu",
    unit="vector",
    work=pointwise(flops=8, transcendentals=1),
    examples=[
        example("f32[64]", expect=_np_gelu, approximate=True),
        example("f32[64]", expect=_np_gelu, approximate=False),
        example("bf16[2,32]", expect=_np_gelu, approximate=True),
    ],
)
def gelu(x: Any, *, approximate: bool) -> Any:
    """x Φ(x), or its tanh approximation. arXiv:1606.08415."""
    y = wide(x)
    if approximate:
        y = 0.5 * y * (1 + jnp.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * (y * y * y))))
    else:
        y = 0.5 * y * (1 + lax.erf(y * math.sqrt(0.5)))
    return y.astype(x.dtype)


def _np_silu(x: Any) -> Any:
    return x / (1 + np.exp(-x))


@composite(
    "silu",
    unit="vector",
    work=pointwise(flops=3, transcendentals=1),
    examples=[
        example("f32[64]", expect=_np_silu),
        example("bf16[2,32]", expect=_np_silu),
    ],
)
def silu(x: Any) -> Any:
    """x * sigmoid(x)."""
    y = wide(x)
    return (y * lax.logistic(y)).astype(x.dtype)


def _np_swiglu(
    gate: Any, up: Any, *, alpha: float = 1.0, limit: float = 0.0, offset: float = 0.0
) -> Any:
    if limit:
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return gate / (1 + np.exp(-alpha * gate)) * (up + offset)


@composite(
    "swiglu",
    unit="vector",
    work=pointwise(flops=4, transcendentals=1),
    examples=[
        example("f32[4,16]", "f32[4,16]", expect=_np_swiglu),
        example("bf16[4,16]", "bf16[4,16]", expect=_np_swiglu),
        example("f32[8,16]", "f32[8,16]", expect=_np_swiglu, alpha=1.702, limit=1.5, offset=1.0),
    ],
)
def swiglu(
    gate: Any, up: Any, *, alpha: float = 1.0, limit: float = 0.0, offset: float = 0.0
) -> Any:
    """gate * sigmoid(alpha * gate) * (up + offset). arXiv:2002.05202, section 2.

    A `limit` above 0 first caps gate from above and up on both sides (gpt-oss: 7, with alpha
    1.702 and offset 1).
    """
    g, u = wide(gate), wide(up)
    if limit:
        g, u = jnp.minimum(g, limit), lax.clamp(jnp.asarray(-limit, u.dtype), u, limit)
    u = u + offset if offset else u
    return (g * lax.logistic(alpha * g if alpha != 1.0 else g) * u).astype(gate.dtype)


def _np_rope(x: Any, positions: Any, inv_freq: Any, *, interleaved: bool) -> Any:
    angle = positions[:, None, :, None] * inv_freq.astype(np.float64)
    turn = np.cos(angle) + 1j * np.sin(angle)
    out, half = np.array(x, np.float64), inv_freq.size
    if interleaved:
        z = (x[..., 0 : 2 * half : 2] + 1j * x[..., 1 : 2 * half : 2]) * turn
        out[..., 0 : 2 * half : 2], out[..., 1 : 2 * half : 2] = z.real, z.imag
    else:
        z = (x[..., :half] + 1j * x[..., half : 2 * half]) * turn
        out[..., :half], out[..., half : 2 * half] = z.real, z.imag
    return out


def _rope_work(op: OpView) -> Work:
    x, positions, inv_freq = op.inputs[:3]
    turned = x.size // x.sizes[-1] * 2 * inv_freq.size
    read, written = moved(op)
    return Work(3 * turned, read, written, 2 * positions.size * inv_freq.size)


_POSITIONS = {1: [[0, 1, 2, 3, 20], [5, 6, 7, 8, 9]], 2: [1.0, 0.1, 0.01, 0.001]}


@composite(
    "rope",
    unit="vector",
    work=_rope_work,
    examples=[
        example(
            *("f32[2,3,5,8]", "i32[2,5]", "f32[4]"),
            expect=_np_rope,
            given=_POSITIONS,
            interleaved=interleaved,
        )
        for interleaved in (False, True)
    ]
    + [
        example(
            *("bf16[2,1,5,16]", "i32[2,5]", "f32[4]"),
            expect=_np_rope,
            given=_POSITIONS,
            interleaved=False,
        )
    ],
)
def rope(x: Any, positions: Any, inv_freq: Any, *, interleaved: bool = False) -> Any:
    """Turn pairs of x[B,H,Q,D] by positions[B,Q] * inv_freq[R/2] radians. arXiv:2104.09864.

    The first R numbers of each head are turned, in pairs (2i, 2i+1) when `interleaved`, else
    (i, i + R/2); the rest pass. Angles and products are in f32.
    """
    half = inv_freq.shape[0]
    angle = positions[:, None, :, None].astype(jnp.float32) * inv_freq
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y = wide(x)
    if interleaved:
        pairs = y[..., : 2 * half].reshape((*x.shape[:-1], half, 2))
        a, b = pairs[..., 0], pairs[..., 1]
        turned = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1)
        parts = [turned.reshape((*x.shape[:-1], 2 * half))]
    else:
        a, b = y[..., :half], y[..., half : 2 * half]
        parts = [a * cos - b * sin, b * cos + a * sin]
    if 2 * half < x.shape[-1]:
        parts.append(y[..., 2 * half :])
    return jax.lax.concatenate(parts, x.ndim - 1).astype(x.dtype)
