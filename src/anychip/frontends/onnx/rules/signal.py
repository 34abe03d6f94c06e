"""Spectra, windows and mel filters; random numbers from a fixed seed."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.onnx.fold import bounded
from anychip.frontends.onnx.table import Call, ints, op
from anychip.frontends.onnx.tensors import element


def _complex(x: Any) -> Any:
    """[…, 1 or 2] as complex numbers."""
    return x[..., 0] if x.shape[-1] == 1 else jax.lax.complex(x[..., 0], x[..., 1])


def _pairs(x: Any) -> Any:
    return jnp.stack([jnp.real(x), jnp.imag(x)], axis=-1)


@op("DFT", known=(1, 2))
def dft(call: Call, x: Any, length: Any = None, axis: Any = None) -> Any:
    along = (
        call.attr("axis", 1)
        if call.version < 20
        else -2
        if axis is None
        else int(np.reshape(axis, ()))
    )
    along %= x.ndim
    count = None if length is None else int(np.reshape(length, ()))
    kind = x.dtype if x.dtype in (np.float32, np.float64) else np.dtype(np.float32)
    value = _complex(x.astype(kind))
    one_sided, inverse = bool(call.attr("onesided", 0)), bool(call.attr("inverse", 0))
    if inverse and one_sided:
        out = jnp.fft.irfft(value, n=count, axis=along)[..., None]
        return out.astype(x.dtype)
    if one_sided:
        if x.shape[-1] != 1:
            raise InputError("a one-sided transform takes real input")
        return _pairs(jnp.fft.rfft(value, n=count, axis=along)).astype(x.dtype)
    transform = jnp.fft.ifft if inverse else jnp.fft.fft
    return _pairs(transform(value, n=count, axis=along)).astype(x.dtype)


@op("STFT", known=(1, 3))
def stft(call: Call, x: Any, step: Any, window: Any = None, length: Any = None) -> Any:
    hop = int(np.reshape(step, ()))
    size = int(np.reshape(length, ())) if length is not None else window.shape[0]
    value = _complex(x if x.ndim == 3 else x[..., None])
    count = (value.shape[1] - size) // hop + 1
    bounded(count * size, "a set of frames")
    starts = np.arange(count) * hop
    frames = value[:, starts[:, None] + np.arange(size)[None]]
    if window is not None:
        frames = frames * window
    one_sided = bool(call.attr("onesided", 1))
    if one_sided and jnp.iscomplexobj(frames):
        raise InputError("a one-sided transform takes real input")
    transform = jnp.fft.rfft if one_sided else jnp.fft.fft
    return _pairs(transform(frames, axis=-1)).astype(x.dtype)


_WINDOWS = {
    "HannWindow": (0.5, 0.5, 0.0),
    "HammingWindow": (25 / 46, 21 / 46, 0.0),  # ONNX operator docs: alpha = 25/46
    "BlackmanWindow": (0.42, 0.5, 0.08),
}


@op(*_WINDOWS, known=(0,))
def window(call: Call, size: Any) -> Any:
    count = bounded(ints(size)[0], "a window")
    kind = element(call.attr("output_datatype", 1)).numpy
    span = count if call.attr("periodic", 1) else count - 1
    turn = 2 * np.pi * np.arange(count) / max(span, 1)
    a, b, c = _WINDOWS[call.node.op]
    return (a - b * np.cos(turn) + c * np.cos(2 * turn)).astype(kind)


@op("MelWeightMatrix", known=(0, 1, 2, 3, 4))
def mel_weight_matrix(call: Call, bands: Any, size: Any, rate: Any, low: Any, high: Any) -> Any:
    """Triangular filters between equally spaced mels, as the operator's reference has them."""
    count, bins = int(np.reshape(bands, ())), int(np.reshape(size, ())) // 2 + 1
    bounded(count, "a set of bands")
    bounded(bins * count, "a mel matrix")
    rate = int(np.reshape(rate, ()))

    def mel(hertz: float) -> float:
        return 2595 * np.log10(1 + hertz / 700)

    first, last = mel(float(np.reshape(low, ()))), mel(float(np.reshape(high, ())))
    points = np.arange(count + 2) * ((last - first) / (count + 2)) + first
    edges = ((2 * (bins - 1) + 1) * 700 * (10 ** (points / 2595) - 1) // rate).astype(int)
    out = np.zeros((bins, count))
    for band in range(count):
        left, centre, right = edges[band : band + 3]
        if centre == left:
            out[centre, band] = 1
        else:
            rising = np.arange(left, centre + 1)
            out[rising, band] = (rising - left) / (centre - left)
        if right > centre:
            falling = np.arange(centre, right)
            out[falling, band] = (right - falling) / (right - centre)
    return out.astype(element(call.attr("output_datatype", 1)).numpy)


def _key(call: Call) -> Any:
    """The random key of a node: from the caller's seed, and the node's own name and seed."""
    if call.evaluator.seed is None:
        raise UnsupportedError(
            "draws random numbers, anew on every run in other runtimes; "
            "pass seed=… to load to fix them, or feed the noise as an input"
        )
    own = f"{call.node.label}/{call.attr('seed', '')}".encode()
    return jax.random.fold_in(jax.random.key(call.evaluator.seed), zlib.crc32(own) & 0x7FFFFFFF)


def _random_type(call: Call, default: Any) -> Any:
    code = call.attr("dtype")
    return element(code).numpy if code else np.dtype(default)


@op("RandomNormal", "RandomNormalLike", raw=True)
def random_normal(call: Call, like: Any = None) -> Any:
    shape = call.required("shape") if like is None else like.shape
    kind = _random_type(call, np.float32 if like is None else call.evaluator.traced(like).dtype)
    noise = jax.random.normal(_key(call), tuple(shape), np.float32)
    return (noise * call.attr("scale", 1.0) + call.attr("mean", 0.0)).astype(kind)


@op("RandomUniform", "RandomUniformLike", raw=True)
def random_uniform(call: Call, like: Any = None) -> Any:
    shape = call.required("shape") if like is None else like.shape
    kind = _random_type(call, np.float32 if like is None else call.evaluator.traced(like).dtype)
    low, high = call.attr("low", 0.0), call.attr("high", 1.0)
    noise = jax.random.uniform(_key(call), tuple(shape), np.float32)
    return (noise * (high - low) + low).astype(kind)


@op("Bernoulli")
def bernoulli(call: Call, x: Any) -> Any:
    drawn = jax.random.uniform(_key(call), x.shape, np.float32) < x
    return drawn.astype(_random_type(call, x.dtype))


@op("Multinomial")
def multinomial(call: Call, x: Any) -> Any:
    count = call.attr("sample_size", 1)
    drawn = jax.random.categorical(_key(call), x, axis=-1, shape=(count, x.shape[0]))
    return drawn.T.astype(_random_type(call, np.int32))
