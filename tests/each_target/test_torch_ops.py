"""frontends/torch: every rule against torch itself, all of one subject in one program."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from anychip.compilers.xla import XlaTarget
from anychip.core import CompileOptions
from anychip.frontends.torch import load
from anychip.frontends.torch.tensors import to_numpy, to_torch


@cache
def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Made once, outside any tracing, so that rules see constants."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X = randn(3, 4, 5)
Y = randn(3, 4, 5, seed=1)
POSITIVE = X.abs() + 0.1
UNIT = torch.sigmoid(X) * 1.8 - 0.9
INTS = torch.arange(-30, 30).reshape(3, 4, 5)
OTHER_INTS = (torch.arange(60) * 7 % 11 + 1).reshape(3, 4, 5)
BYTES = torch.arange(60, dtype=torch.uint8).reshape(3, 4, 5)
BOOLS = X > 0
COMPLEX = torch.complex(X, Y)
HALF = X.to(torch.bfloat16)
IMAGE = randn(2, 4, 9, 10, seed=2)
LINE = randn(2, 4, 11, seed=3)
VOLUME = randn(1, 2, 5, 6, 7, seed=4)
TIED = torch.tensor([[3, 1, 2, 1, 3], [0, 0, 0, 5, 5]])
TENSORS = {
    "X": X,
    "Y": Y,
    "POSITIVE": POSITIVE,
    "UNIT": UNIT,
    "INTS": INTS,
    "OTHER_INTS": OTHER_INTS,
    "BYTES": BYTES,
    "BOOLS": BOOLS,
    "COMPLEX": COMPLEX,
    "HALF": HALF,
    "IMAGE": IMAGE,
    "LINE": LINE,
    "VOLUME": VOLUME,
    "TIED": TIED,
}


def same(*shape: int) -> torch.Tensor:
    return randn(*shape, seed=sum(shape))


Group = dict[str, Callable[[Any], Any]]

ARITHMETIC: Group = {
    "add alpha": lambda t: torch.add(t.X, t.Y, alpha=2),
    "add int float": lambda t: t.INTS + t.X,
    "add scalar to int": lambda t: t.INTS + 1.5,
    "add zero-dim keeps type": lambda t: t.HALF + torch.tensor(1.5, dtype=torch.float64),
    "add halves": lambda t: t.HALF + t.X.half(),
    "sub bool int": lambda t: t.INTS - t.BOOLS.long(),
    "rsub": lambda t: torch.rsub(t.X, 3.0, alpha=2),
    "mul bool": lambda t: t.BOOLS * t.BOOLS,
    "mul complex": lambda t: t.COMPLEX * t.X,
    "div ints": lambda t: t.INTS / t.OTHER_INTS,
    "div floor": lambda t: torch.div(t.INTS, t.OTHER_INTS, rounding_mode="floor"),
    "div trunc": lambda t: torch.div(t.INTS, t.OTHER_INTS, rounding_mode="trunc"),
    "div floor float": lambda t: torch.div(t.X, t.Y, rounding_mode="floor"),
    "floor_divide": lambda t: t.INTS // 4,
    "remainder": lambda t: torch.remainder(t.INTS, -7),
    "remainder float": lambda t: torch.remainder(t.X, 0.7),
    "fmod": lambda t: torch.fmod(t.INTS, 7),
    "pow 2": lambda t: t.X**2,
    "pow -1": lambda t: t.POSITIVE**-1,
    "pow half": lambda t: t.POSITIVE**0.5,
    "pow 0": lambda t: t.X**0,
    "pow tensor": lambda t: t.POSITIVE**t.Y,
    "pow of scalar": lambda t: 2.0**t.X,
    "pow of ints": lambda t: t.INTS**3,
    "pow negative base": lambda t: t.X**3.0,
    "float_power": lambda t: torch.float_power(t.POSITIVE, 1.5),
    "maximum": lambda t: torch.maximum(t.X, t.Y),
    "minimum int": lambda t: torch.minimum(t.INTS, t.OTHER_INTS),
    "fmax": lambda t: torch.fmax(t.X, torch.where(t.Y > 1, torch.nan, t.Y)),
    "atan2": lambda t: torch.atan2(t.X, t.Y),
    "hypot": lambda t: torch.hypot(t.X, t.Y),
    "copysign": lambda t: torch.copysign(t.X, t.Y),
    "addcmul": lambda t: torch.addcmul(t.X, t.Y, t.Y, value=0.5),
    "addcdiv": lambda t: torch.addcdiv(t.X, t.Y, t.POSITIVE, value=0.5),
    "lerp": lambda t: torch.lerp(t.X, t.Y, 0.3),
    "lerp tensor": lambda t: torch.lerp(t.X, t.Y, t.UNIT),
    "clamp": lambda t: torch.clamp(t.X, -0.5, 0.5),
    "clamp tensor": lambda t: torch.clamp(t.X, min=t.Y),
    "clamp int by float": lambda t: torch.clamp(t.INTS, -2.5, 3.5),
    "shift left": lambda t: t.OTHER_INTS << 2,
    "shift right": lambda t: t.INTS >> 1,
    "and or xor": lambda t: (t.INTS & 12) | (t.OTHER_INTS ^ 5),
    "not": lambda t: ~t.INTS,
    "bool not": lambda t: ~t.BOOLS,
    "gcd": lambda t: torch.gcd(t.INTS, t.OTHER_INTS),
    "xlogy": lambda t: torch.xlogy(torch.relu(t.X), t.POSITIVE),
    "logaddexp": lambda t: torch.logaddexp(t.X, t.Y),
    "heaviside": lambda t: torch.heaviside(t.X, t.Y),
    "ldexp": lambda t: torch.ldexp(t.X, t.OTHER_INTS),
    "nan_to_num": lambda t: torch.nan_to_num(t.X / torch.zeros_like(t.X), posinf=7.0),
    "uint8 wraps": lambda t: t.BYTES * 7,
}

UNARY: Group = {
    name: (lambda t, name=name: getattr(torch, name)(t.X))
    for name in (
        "abs exp exp2 expm1 sin cos tan sinh cosh tanh asinh atan erf erfc sigmoid neg sign floor "
        "ceil trunc round frac square relu sinc rad2deg deg2rad i0 isnan isinf isfinite signbit"
    ).split()
}
UNARY |= {
    name: (lambda t, name=name: getattr(torch, name)(t.POSITIVE))
    for name in "log log2 log10 log1p sqrt rsqrt reciprocal lgamma digamma".split()
}
UNARY |= {
    name: (lambda t, name=name: getattr(torch, name)(t.UNIT))
    for name in "asin acos atanh erfinv".split()
}
UNARY |= {
    "acosh": lambda t: torch.acosh(t.POSITIVE + 1),
    "sqrt of int": lambda t: torch.sqrt(t.OTHER_INTS),
    "floor of int": lambda t: torch.floor(t.INTS),
    "round decimals": lambda t: torch.round(t.X, decimals=2),
    "logit": lambda t: torch.logit(torch.sigmoid(t.X), eps=1e-3),
    "complex exp": lambda t: torch.exp(t.COMPLEX),
    "complex abs": lambda t: t.COMPLEX.abs(),
    "angle": lambda t: torch.angle(t.COMPLEX),
    "real imag": lambda t: t.COMPLEX.real + t.COMPLEX.imag,
    "conj": lambda t: torch.conj(t.COMPLEX) * 1,
    "polar": lambda t: torch.polar(t.POSITIVE, t.X),
    "view_as_real": lambda t: torch.view_as_real(t.COMPLEX),
    "view_as_complex": lambda t: torch.view_as_complex(randn(3, 2)),
    "to half": lambda t: t.X.half(),
    "to int": lambda t: (t.X * 10).to(torch.int32),
    "to bool": lambda t: t.INTS.bool(),
    "view dtype": lambda t: t.X.view(torch.int32),
    "view narrower": lambda t: t.X.view(torch.int16),
    "bf16 exp": lambda t: torch.exp(t.HALF),
}

ACTIVATIONS: Group = {
    name: (lambda t, name=name: getattr(F, name)(t.X * 3))
    for name in (
        "relu relu6 silu gelu elu selu celu hardswish hardsigmoid hardtanh leaky_relu softplus "
        "mish logsigmoid softsign tanhshrink hardshrink softshrink"
    ).split()
}
ACTIVATIONS |= {
    "gelu tanh": lambda t: F.gelu(t.X, approximate="tanh"),
    "softplus beta": lambda t: F.softplus(t.X * 20, beta=2.0, threshold=10),
    "glu": lambda t: F.glu(randn(3, 6), 1),
    "prelu": lambda t: F.prelu(t.X, torch.tensor([0.1, 0.2, 0.3, 0.4])),
    "threshold": lambda t: F.threshold(t.X, 0.1, 7.0),
    "softmax": lambda t: torch.softmax(t.X, 1),
    "softmax bf16 to f32": lambda t: torch.softmax(t.HALF, -1, dtype=torch.float32),
    "log_softmax": lambda t: torch.log_softmax(t.X, -1),
    "softmin": lambda t: F.softmin(t.X, 0),
    "rrelu": lambda t: F.rrelu(t.X),
    "normalize": lambda t: F.normalize(t.X, dim=1),
    "cosine_similarity": lambda t: F.cosine_similarity(t.X, t.Y, dim=2),
}

LOGIC: Group = {
    "eq mixed": lambda t: t.INTS == t.X.round(),
    "ne scalar": lambda t: t.INTS != 3,
    "lt ge": lambda t: (t.X < t.Y) ^ (t.X >= 0.5),
    "logical": lambda t: torch.logical_and(t.X > 0, t.INTS) | torch.logical_not(t.INTS),
    "where": lambda t: torch.where(t.X > 0, t.X, t.Y),
    "where promotes": lambda t: torch.where(t.X > 0, t.INTS, t.Y),
    "where scalar": lambda t: torch.where(t.X > 0, t.X, 0.0),
    "masked_fill": lambda t: t.X.masked_fill(t.Y > 0, -math.inf),
    "isin": lambda t: torch.isin(t.INTS, torch.tensor([1, 5, 9])),
    "isclose": lambda t: torch.isclose(t.X, t.X + 1e-9),
    "any all": lambda t: torch.stack([torch.any(t.X > 2), torch.all(t.X < 9)]),
    "any dim": lambda t: torch.any(t.INTS, 1, keepdim=True),
    "is any, is all": lambda t: torch.stack(
        [
            torch.ops.aten._is_any_true(t.BOOLS),
            torch.ops.aten._is_any_true(t.X > 99),
            torch.ops.aten._is_all_true(t.BOOLS),
            torch.ops.aten._is_all_true(t.X < 99),
        ]
    ),
    "bool index put": lambda t: torch.zeros(3, 4, 5).index_put((t.X > 0,), torch.tensor(2.0)),
}

SHAPES: Group = {
    "view -1": lambda t: t.X.view(2, -1),
    "expand": lambda t: t.X[:, :1].expand(-1, 6, -1),
    "permute": lambda t: t.X.permute(2, 0, 1),
    "squeeze": lambda t: t.X[:, :1].squeeze(1),
    "squeeze all": lambda t: t.X[:1, :1].squeeze(),
    "unflatten": lambda t: t.X.unflatten(1, (2, -1)),
    "cat promotes": lambda t: torch.cat([t.X, t.INTS], 1),
    "cat empty": lambda t: torch.cat([torch.zeros(0), t.X[0, 0]]),
    "stack": lambda t: torch.stack([t.X, t.Y], 1),
    "repeat": lambda t: t.X.repeat(2, 1, 2, 1),
    "tile": lambda t: torch.tile(t.X, (2, 1)),
    "repeat_interleave": lambda t: t.X.repeat_interleave(3, 1),
    "slice step": lambda t: t.X[:, 1:4:2, -3:],
    "slice beyond": lambda t: t.X[:, 2:99],
    "select": lambda t: t.X[:, -1],
    "narrow": lambda t: t.X.narrow(1, 1, 2),
    "split": lambda t: torch.cat(t.X.split(2, 2)[:2]),
    "split sizes": lambda t: t.X.split([1, 3], 1)[1],
    "chunk": lambda t: t.X.chunk(3, 2)[2],
    "unbind": lambda t: t.X.unbind(1)[2],
    "tensor_split": lambda t: torch.tensor_split(t.X, 3, 2)[0],
    "flip": lambda t: t.X.flip(0, 2),
    "roll": lambda t: t.X.roll((1, -2), (0, 2)),
    "roll flat": lambda t: t.X.roll(3),
    "rot90": lambda t: t.X.rot90(1, (1, 2)),
    "pad": lambda t: F.pad(t.X, (1, 2, 0, 1), value=3.0),
    "pad negative": lambda t: F.pad(t.X, (-1, 2)),
    "pad reflect": lambda t: F.pad(t.IMAGE, (2, 1, 3, 0), mode="reflect"),
    "pad replicate": lambda t: F.pad(t.IMAGE, (2, 1, 0, 3), mode="replicate"),
    "pad circular": lambda t: F.pad(t.LINE, (2, 3), mode="circular"),
    "diagonal": lambda t: t.X.diagonal(1, 1, 2),
    "diag_embed": lambda t: torch.diag_embed(t.X[0], 1),
    "diag_embed negative": lambda t: torch.diag_embed(t.X[0], -2),
    "tril": lambda t: t.X.tril(-1),
    "triu": lambda t: t.X.triu(1),
    "unfold": lambda t: t.X.unfold(2, 3, 2),
    "as_strided": lambda t: torch.as_strided(t.X.clone(), (3, 2), (5, 1), 1),
    "as_strided transposed": lambda t: torch.as_strided(
        (t.X * 2).transpose(0, 2), (4, 2), (3, 2), 2
    ),
    "as_strided of a view": lambda t: torch.as_strided((t.X * 2)[1], (2, 2), (5, 1)),
    "as_strided by place": lambda t: torch.as_strided(
        (v := (t.X * 2)[1]), (2, 2), (5, 1), v.storage_offset() + 1
    ),
    "pixel_shuffle": lambda t: F.pixel_shuffle(t.IMAGE, 2),
    "pixel_unshuffle": lambda t: F.pixel_unshuffle(t.IMAGE[:, :, :8], 2),
    "channel_shuffle": lambda t: F.channel_shuffle(t.IMAGE, 2),
    "meshgrid": lambda t: torch.stack(torch.meshgrid(t.X[0, 0], t.X[0, :, 0], indexing="xy")),
    "movedim": lambda t: t.X.movedim(0, -1),
    "swapaxes": lambda t: t.X.swapaxes(0, 2),
    "broadcast_to": lambda t: t.X[0].broadcast_to(2, 4, 5),
    "block_diag": lambda t: torch.block_diag(t.X[0], t.Y[0]),
    "cartesian": lambda t: torch.cartesian_prod(t.X[0, 0], t.Y[0, 0]),
    "in place": lambda t: _in_place(t),
}


def _in_place(t: Any) -> torch.Tensor:
    out = t.X.clone()
    out[:, 1] += 1
    out[0, ::2, 1:3] = 9
    out.view(-1)[3:7].mul_(2)
    return out.t_() if out.ndim == 2 else out.transpose_(0, 1)


INDICES: Group = {
    "index": lambda t: t.X[torch.tensor([2, 0, -1])],
    "index pair": lambda t: t.X[torch.tensor([2, 0]), :, torch.tensor([1, -1])],
    "index adjacent": lambda t: t.X[:, torch.tensor([[2, 0]]), torch.tensor([1, 3])],
    "index_select": lambda t: t.X.index_select(1, torch.tensor([3, 3, 0])),
    "embedding": lambda t: F.embedding(t.TIED, randn(6, 7)),
    "gather": lambda t: t.X.gather(1, t.INTS.abs()[:, :2, :3] % 4),
    "take": lambda t: t.X.take(torch.tensor([1, -1])),
    "take_along_dim": lambda t: torch.take_along_dim(t.X, t.X.argsort(2), 2),
    "index_put": lambda t: t.X.index_put((torch.tensor([1, 2]),), torch.tensor(4.0)),
    "index_put accumulate": lambda t: t.X.index_put(
        (torch.tensor([1, 1, 2]), torch.tensor([0, 0, 1])), torch.ones(3, 5), accumulate=True
    ),
    "mask put values": lambda t: t.X.index_put((t.Y > 0,), randn(23)),
    "masked_scatter": lambda t: t.X.masked_scatter(t.Y > 0, t.Y),
    "scatter": lambda t: t.X.scatter(1, t.INTS.abs()[:, :1] % 4, t.Y),
    "scatter value": lambda t: t.X.scatter(2, t.INTS.abs()[:, :, :1] % 5, 7.0),
    "scatter_add": lambda t: t.X.scatter_add(0, t.INTS.abs() % 3, t.Y),
    "scatter_reduce sum": lambda t: t.X.scatter_reduce(0, t.INTS.abs() % 3, t.Y, "sum"),
    "scatter_reduce amax": lambda t: t.X.scatter_reduce(
        0, t.INTS.abs() % 3, t.Y, "amax", include_self=False
    ),
    "scatter_reduce mean": lambda t: t.X.scatter_reduce(1, t.INTS.abs() % 4, t.Y, "mean"),
    "scatter_reduce mean alone": lambda t: t.X.scatter_reduce(
        1, t.INTS.abs() % 4, t.Y, "mean", include_self=False
    ),
    "scatter_reduce prod": lambda t: t.X.scatter_reduce(2, t.INTS.abs() % 5, t.Y, "prod"),
    "index_add": lambda t: t.X.index_add(1, torch.tensor([0, 0]), t.Y[:, :2], alpha=0.5),
    "index_copy": lambda t: t.X.index_copy(1, torch.tensor([3, 0]), t.Y[:, :2]),
    "index_fill": lambda t: t.X.index_fill(2, torch.tensor([1, 4]), 5.0),
    "select_scatter": lambda t: t.X.select_scatter(t.Y[:, 0], 1, -1),
    "slice_scatter": lambda t: t.X.slice_scatter(t.Y[:, :2], 1, 1, 3),
    "slice_scatter step": lambda t: t.X.slice_scatter(t.Y[..., :3], 2, 0, 5, 2),
    "diagonal_scatter": lambda t: torch.diagonal_scatter(t.X[0], randn(4)),
    "embedding_bag": lambda t: F.embedding_bag(
        torch.tensor([1, 2, 4, 5, 4, 3]), randn(6, 3), torch.tensor([0, 2, 5]), mode="mean"
    ),
    "embedding_bag max": lambda t: F.embedding_bag(
        torch.tensor([1, 2, 4, 5, 4, 3]), randn(6, 3), torch.tensor([0, 4]), mode="max"
    ),
    "one_hot": lambda t: F.one_hot(t.TIED, 6),
}

REDUCTIONS: Group = {
    "sum": lambda t: t.X.sum(),
    "sum ints": lambda t: t.BYTES.sum(1),
    "sum bools": lambda t: t.BOOLS.sum((0, 2), keepdim=True),
    "sum bf16": lambda t: t.HALF.sum(-1),
    "mean": lambda t: t.X.mean((1, 2)),
    "mean to f64": lambda t: t.INTS.mean(dtype=torch.float64),
    "prod": lambda t: t.X.prod(1),
    "amax": lambda t: t.X.amax((0, 1)),
    "max": lambda t: t.INTS.max(),
    "max dim": lambda t: t.X.max(1)[0],
    "max dim places": lambda t: t.TIED.max(1)[1],
    "min dim places": lambda t: t.X.min(2, keepdim=True)[1],
    "argmax flat": lambda t: t.X.argmax(),
    "argmin": lambda t: t.X.argmin(1, keepdim=True),
    "aminmax": lambda t: torch.stack(torch.aminmax(t.X, dim=1)),
    "var": lambda t: t.X.var(1),
    "var biased": lambda t: t.X.var((0, 1), correction=0),
    "std": lambda t: t.X.std(2, keepdim=True),
    "var_mean": lambda t: torch.stack(torch.var_mean(t.X, 1)),
    "logsumexp": lambda t: t.X.logsumexp((1, 2)),
    "norm": lambda t: t.X.norm(),
    "norm 1": lambda t: torch.linalg.vector_norm(t.X, 1, (0, 1)),
    "norm inf": lambda t: torch.linalg.vector_norm(t.X, math.inf, 2),
    "norm 3": lambda t: torch.linalg.vector_norm(t.X, 3, 1, keepdim=True),
    "frobenius": lambda t: torch.linalg.matrix_norm(t.X),
    "nansum": lambda t: torch.nansum(torch.where(t.X > 1, torch.nan, t.X), 1),
    "count_nonzero": lambda t: torch.count_nonzero(t.INTS, 1),
    "cdist": lambda t: torch.cdist(t.X, t.Y),
    "cdist 1": lambda t: torch.cdist(t.X, t.Y, p=1.0),
    "median": lambda t: t.X.median(1)[0],
    "kthvalue": lambda t: t.X.kthvalue(2, 1)[1],
    "mode": lambda t: t.TIED.mode(1)[0],
    "cumsum": lambda t: t.X.cumsum(1),
    "cumsum ints": lambda t: t.BYTES.cumsum(0),
    "cumprod": lambda t: t.X.cumprod(2),
    "cummax": lambda t: t.X.cummax(1)[0],
    "cummin places": lambda t: t.X.cummin(1)[1],
    "logcumsumexp": lambda t: t.X.logcumsumexp(1),
    "diff": lambda t: t.X.diff(dim=1),
    "trace": lambda t: t.X[0].trace(),
    "histc": lambda t: torch.histc(t.X, 5, -1, 1),
    "std_mean": lambda t: torch.stack(torch.std_mean(t.X, 0)),
    "quantile": lambda t: torch.quantile(t.X, 0.3, 1),
    "trapezoid": lambda t: torch.trapezoid(t.X, dim=1),
    "renorm": lambda t: torch.renorm(t.X, 2, 0, 1.0),
}

ORDER: Group = {
    "sort": lambda t: t.X.sort(1)[0],
    "sort places": lambda t: torch.sort(t.TIED, dim=1, descending=True, stable=True)[1],
    "sort bools": lambda t: torch.sort(t.BOOLS, dim=1, stable=True)[1],
    "argsort": lambda t: t.X.argsort(0),
    "topk": lambda t: torch.cat([p.double() for p in t.X.topk(2, 1)]),
    "topk smallest": lambda t: torch.cat([p.double() for p in t.X.topk(3, 2, largest=False)]),
    "topk ints": lambda t: t.INTS.topk(2, 1, largest=False)[0],
    "searchsorted": lambda t: torch.searchsorted(t.X.sort(-1)[0], t.Y, right=True),
    "bucketize": lambda t: torch.bucketize(t.X, torch.tensor([-1.0, 0.0, 0.5])),
}

PRODUCTS: Group = {
    "mm": lambda t: t.X[0] @ t.Y[0].T,
    "bmm": lambda t: torch.bmm(t.X, t.Y.transpose(1, 2)),
    "matmul broadcast": lambda t: t.X[:, None] @ t.Y.transpose(1, 2)[None],
    "matmul vector": lambda t: t.X @ randn(5),
    "mv dot": lambda t: torch.mv(t.X[0], t.Y[0, 0]) * torch.dot(t.X[0, 0], t.Y[0, 0]),
    "linear": lambda t: F.linear(t.X, randn(7, 5), randn(7)),
    "addmm": lambda t: torch.addmm(randn(4), t.X[0], t.Y[0].T, beta=0.5, alpha=2),
    "baddbmm": lambda t: torch.baddbmm(randn(3, 1, 4), t.X, t.Y.mT, beta=2),
    "addbmm": lambda t: torch.addbmm(randn(4, 4), t.X, t.Y.mT),
    "outer": lambda t: torch.outer(t.X[0, 0], t.Y[0, 0]),
    "einsum": lambda t: torch.einsum("bij,bkj->bik", t.X, t.Y),
    "einsum ellipsis": lambda t: torch.einsum("...ij,...ij->...", t.X, t.Y),
    "tensordot": lambda t: torch.tensordot(t.X, t.Y, ([1, 2], [1, 2])),
    "bilinear": lambda t: F.bilinear(t.X, t.Y, randn(2, 5, 5), randn(2)),
    "kron": lambda t: torch.kron(t.X[0], t.Y[0]),
    "int mm": lambda t: t.INTS[0] @ t.OTHER_INTS[0].T,
    "bf16 mm": lambda t: t.HALF @ t.HALF.mT,
    "cross": lambda t: torch.linalg.cross(randn(4, 3), randn(4, 3, seed=5)),
    "multi_dot": lambda t: torch.linalg.multi_dot([t.X[0], t.Y[0].T, t.X[1]]),
    "matrix_power": lambda t: torch.linalg.matrix_power(t.X[0] @ t.Y[0].T, 3),
    "grouped_mm": lambda t: F.grouped_mm(
        randn(8, 16).bfloat16(),
        randn(3, 16, 8).bfloat16(),
        offs=torch.tensor([2, 2, 8], dtype=torch.int32),
    ),
}

CONVOLUTIONS: Group = {
    "conv1d": lambda t: F.conv1d(t.LINE, same(6, 4, 3), same(6), stride=2, padding=1),
    "conv2d": lambda t: F.conv2d(t.IMAGE, same(6, 4, 3, 2), padding=(1, 0), dilation=2),
    "conv2d groups": lambda t: F.conv2d(t.IMAGE, same(8, 2, 3, 3), groups=2),
    "depthwise": lambda t: F.conv2d(t.IMAGE, same(8, 1, 3, 3), groups=4),
    "conv2d same": lambda t: F.conv2d(t.IMAGE, same(6, 4, 3, 5), padding="same"),
    "conv2d unbatched": lambda t: F.conv2d(t.IMAGE[0], same(6, 4, 3, 3)),
    "conv3d": lambda t: F.conv3d(t.VOLUME, same(3, 2, 2, 3, 3), stride=(1, 2, 1)),
    "transpose1d": lambda t: F.conv_transpose1d(t.LINE, same(4, 3, 4), stride=2, padding=1),
    "transpose2d": lambda t: F.conv_transpose2d(
        t.IMAGE, same(4, 3, 3, 3), same(6), 2, 1, 1, groups=2, dilation=2
    ),
    "transpose3d": lambda t: F.conv_transpose3d(t.VOLUME, same(2, 3, 2, 2, 2), stride=2),
    "unfold": lambda t: F.unfold(t.IMAGE, (3, 2), padding=1, stride=2),
    "fold": lambda t: F.fold(same(2, 18, 18), (5, 7), (3, 2)),
}

POOLS: Group = {
    "max1d": lambda t: F.max_pool1d(t.LINE, 3, 2, 1),
    "max2d": lambda t: F.max_pool2d(t.IMAGE, 3, 2, 1, ceil_mode=True),
    "max2d places": lambda t: F.max_pool2d(t.IMAGE, 2, 2, return_indices=True)[1],
    "max2d dilated": lambda t: F.max_pool2d(t.IMAGE, 2, 1, dilation=2),
    "max3d": lambda t: F.max_pool3d(t.VOLUME, 2),
    "avg1d": lambda t: F.avg_pool1d(t.LINE, 3, 2, 1),
    "avg2d": lambda t: F.avg_pool2d(t.IMAGE, 3, 2, 1),
    "avg2d uncounted": lambda t: F.avg_pool2d(t.IMAGE, 3, 2, 1, count_include_pad=False),
    "avg2d ceil": lambda t: F.avg_pool2d(t.IMAGE, 3, 2, 1, ceil_mode=True),
    "avg2d divisor": lambda t: F.avg_pool2d(t.IMAGE, 2, divisor_override=3),
    "avg3d": lambda t: F.avg_pool3d(t.VOLUME, 2),
    "adaptive avg": lambda t: F.adaptive_avg_pool2d(t.IMAGE, (4, 5)),
    "adaptive avg 1": lambda t: F.adaptive_avg_pool2d(t.IMAGE, 1),
    "adaptive avg 1d": lambda t: F.adaptive_avg_pool1d(t.LINE, 3),
    "adaptive max": lambda t: F.adaptive_max_pool2d(t.IMAGE, (4, 3)),
    "adaptive max places": lambda t: F.adaptive_max_pool1d(t.LINE, 3, return_indices=True)[1],
    "lp": lambda t: F.lp_pool2d(t.IMAGE.abs(), 2, 2),
    "unpool": lambda t: F.max_unpool2d(*F.max_pool2d(t.IMAGE, 2, return_indices=True), 2),
}

NORMS: Group = {
    "layer": lambda t: F.layer_norm(t.X, (5,), same(5), same(5)),
    "layer plain": lambda t: F.layer_norm(t.X, (4, 5)),
    "layer bias only": lambda t: F.layer_norm(t.X, (5,), None, same(5)),
    "rms": lambda t: F.rms_norm(t.X, (5,), same(5)),
    "group": lambda t: F.group_norm(t.IMAGE, 2, same(4), same(4)),
    "batch eval": lambda t: F.batch_norm(t.IMAGE, same(4), same(4).abs(), same(4), same(4)),
    "batch training": lambda t: F.batch_norm(t.IMAGE, None, None, training=True),
    "instance": lambda t: F.instance_norm(t.IMAGE),
    "local response": lambda t: F.local_response_norm(t.IMAGE, 3),
    "weight norm": lambda t: torch._weight_norm(same(4, 3), same(4, 1), 0),
}

ATTENTION: Group = {
    "plain": lambda t: F.scaled_dot_product_attention(_heads(4), _heads(4, 7), _heads(4, 7)),
    "causal": lambda t: F.scaled_dot_product_attention(
        _heads(4), _heads(4), _heads(4), is_causal=True
    ),
    "bool mask": lambda t: F.scaled_dot_product_attention(
        _heads(4), _heads(4), _heads(4), attn_mask=torch.ones(6, 6).tril().bool()
    ),
    "added mask": lambda t: F.scaled_dot_product_attention(
        _heads(4), _heads(4), _heads(4), attn_mask=randn(2, 1, 6, 6)
    ),
    "masked row": lambda t: F.scaled_dot_product_attention(
        _heads(4), _heads(4), _heads(4), attn_mask=torch.ones(6, 6).tril(-1).bool()
    ),
    "grouped queries": lambda t: F.scaled_dot_product_attention(
        _heads(4), _heads(2), _heads(2), enable_gqa=True, scale=0.3
    ),
    "three axes": lambda t: F.scaled_dot_product_attention(t.X, t.Y, t.Y),
    "five axes": lambda t: F.scaled_dot_product_attention(
        _heads(4)[None].repeat(2, 1, 1, 1, 1), _heads(4)[None], _heads(4)[None]
    ),
}


def _heads(heads: int, length: int = 6) -> torch.Tensor:
    return randn(2, heads, length, 8, seed=heads + length)


IMAGES: Group = {
    "nearest": lambda t: F.interpolate(t.IMAGE, scale_factor=2),
    "nearest size": lambda t: F.interpolate(t.IMAGE, (5, 13)),
    "nearest-exact": lambda t: F.interpolate(t.IMAGE, (5, 13), mode="nearest-exact"),
    "linear": lambda t: F.interpolate(t.LINE, 17, mode="linear"),
    "bilinear": lambda t: F.interpolate(t.IMAGE, (13, 6), mode="bilinear"),
    "bilinear corners": lambda t: F.interpolate(
        t.IMAGE, (13, 6), mode="bilinear", align_corners=True
    ),
    "bilinear scale": lambda t: F.interpolate(t.IMAGE, scale_factor=1.7, mode="bilinear"),
    "bicubic": lambda t: F.interpolate(t.IMAGE, (13, 6), mode="bicubic"),
    "bicubic corners": lambda t: F.interpolate(
        t.IMAGE, (5, 23), mode="bicubic", align_corners=True
    ),
    "bilinear antialias": lambda t: F.interpolate(t.IMAGE, (5, 6), mode="bilinear", antialias=True),
    "bicubic antialias": lambda t: F.interpolate(t.IMAGE, (5, 16), mode="bicubic", antialias=True),
    "trilinear": lambda t: F.interpolate(t.VOLUME, (7, 3, 9), mode="trilinear"),
    "area": lambda t: F.interpolate(t.IMAGE, (3, 4), mode="area"),
    "grid_sample": lambda t: F.grid_sample(t.IMAGE, _grid(2, 5, 6, 2), align_corners=False),
    "grid_sample reflect": lambda t: F.grid_sample(
        t.IMAGE, _grid(2, 5, 6, 2), padding_mode="reflection", align_corners=True
    ),
    "grid_sample nearest": lambda t: F.grid_sample(
        t.IMAGE, _grid(2, 5, 6, 2), mode="nearest", padding_mode="border", align_corners=False
    ),
    "grid_sample bicubic": lambda t: F.grid_sample(
        t.IMAGE, _grid(2, 5, 6, 2), mode="bicubic", align_corners=False
    ),
    "grid_sample 3d": lambda t: F.grid_sample(t.VOLUME, _grid(1, 3, 4, 5, 3), align_corners=False),
    "affine_grid": lambda t: F.affine_grid(randn(2, 2, 3), [2, 4, 5, 6], align_corners=False),
}


def _grid(*shape: int) -> torch.Tensor:
    return torch.tanh(randn(*shape, seed=9)) * 1.2


FOURIER: Group = {
    "fft": lambda t: torch.fft.fft(t.X),
    "rfft": lambda t: torch.fft.rfft(t.X, norm="ortho"),
    "irfft": lambda t: torch.fft.irfft(t.COMPLEX, n=9),
    "fft2": lambda t: torch.fft.fft2(t.COMPLEX, norm="forward"),
    "ifft": lambda t: torch.fft.ifft(t.COMPLEX),
    "rfftn": lambda t: torch.fft.rfftn(t.X, dim=(1, 2)),
    "irfft2": lambda t: torch.fft.irfft2(t.COMPLEX, s=(4, 8)),
    "fftshift": lambda t: torch.fft.fftshift(t.X, dim=(1,)),
    "stft": lambda t: torch.stft(
        randn(2, 64), 16, 8, window=torch.hann_window(16), return_complex=True
    ),
    "istft": lambda t: torch.istft(
        torch.stft(randn(2, 64), 16, 8, window=torch.hann_window(16), return_complex=True),
        16,
        8,
        window=torch.hann_window(16),
    ),
}

CREATED: Group = {
    "arange": lambda t: t.X[..., 0] * torch.arange(4),
    "arange step": lambda t: t.X[0, 0] * torch.arange(0.0, 1.0, 0.2),
    "arange float": lambda t: t.X[0, 0] + torch.arange(1, 6, dtype=torch.float32),
    "linspace": lambda t: t.X[0, 0] + torch.linspace(-1, 1, 5),
    "logspace": lambda t: t.X[0, 0] + torch.logspace(0, 1, 5),
    "eye": lambda t: t.X[0] + torch.eye(4, 5),
    "full like": lambda t: torch.full_like(t.X, 3, dtype=torch.int32),
    "new_full": lambda t: t.X.new_full((2, 3), 1.5),
    "zeros ones": lambda t: t.X.new_zeros(3, 4, 5) + torch.ones_like(t.X),
    "tril_indices": lambda t: torch.tril_indices(3, 4, 1) * t.INTS[0, 0, 0],
    "hann": lambda t: t.X[0, 0] * torch.hann_window(5),
}

RECURRENT: Group = {
    "lstm": lambda t: _recurrent(layer(torch.nn.LSTM, 5, 6, 2, bidirectional=True), t.X),
    "lstm projected": lambda t: _recurrent(
        layer(torch.nn.LSTM, 5, 6, batch_first=True, proj_size=3), t.X
    ),
    "gru": lambda t: _recurrent(layer(torch.nn.GRU, 5, 6, 2, batch_first=True), t.X),
    "gru no bias": lambda t: _recurrent(
        layer(torch.nn.GRU, 5, 6, bias=False, bidirectional=True), t.X
    ),
    "rnn": lambda t: _recurrent(layer(torch.nn.RNN, 5, 6), t.X),
    "rnn relu": lambda t: _recurrent(layer(torch.nn.RNN, 5, 6, nonlinearity="relu"), t.X),
    "lstm cell": lambda t: _recurrent(layer(torch.nn.LSTMCell, 5, 6), t.X[0]),
}


@cache
def layer(kind: type[torch.nn.Module], *sizes: int, **options: Any) -> torch.nn.Module:
    made = kind(*sizes, **options)
    with torch.no_grad():
        for i, weight in enumerate(made.parameters()):
            weight.copy_(randn(*weight.shape, seed=i) * 0.5)
    return made


def _recurrent(made: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    out, states = made(x)
    last = states if isinstance(states, tuple) else (states,)
    return out + sum(state.sum() for state in last)


GROUPS = {
    name.lower(): group
    for name, group in list(globals().items())
    if name.isupper() and isinstance(group, dict) and name != "TENSORS"
}


class Both(torch.nn.Module):
    """Every entry of a group, on buffers, which are arguments: nothing folds away."""

    def __init__(self, group: Group):
        super().__init__()
        self.group = group
        for name, value in TENSORS.items():
            self.register_buffer(name, value)

    def forward(self, zero: torch.Tensor) -> list[torch.Tensor]:
        return [make(self) for make in self.group.values()]


def tolerance(value: torch.Tensor) -> float:
    return 2e-2 if value.dtype in (torch.bfloat16, torch.float16) else 2e-5


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", sorted(GROUPS))
def test_rules_agree_with_torch(name: str):
    group = GROUPS[name]
    model = Both(group).eval()
    with torch.no_grad():
        expected = model(torch.zeros(()))
    target = XlaTarget()
    module = load(model, torch.zeros(()))
    inputs = [np.zeros((), np.float32)] * len(module.signature.named("input"))
    got = target.compile(module, CompileOptions()).run(*inputs)
    wrong = []
    for label, want, have in zip(group, expected, got, strict=True):
        have = to_torch(np.asarray(have))
        if have.dtype != want.dtype or have.shape != want.shape:
            wrong.append(
                f"{label}: {have.dtype}{tuple(have.shape)}, not {want.dtype}{tuple(want.shape)}"
            )
            continue
        wide = [
            to_numpy(t).astype(np.complex128 if t.is_complex() else np.float64)
            for t in (have, want)
        ]
        largest = max(
            1.0, float(np.max(np.abs(np.where(np.isfinite(wide[1]), wide[1], 0)), initial=0))
        )
        if not np.allclose(
            *wide, rtol=tolerance(want), atol=tolerance(want) * largest, equal_nan=True
        ):
            wrong.append(f"{label}: max |Δ| {np.nanmax(np.abs(wide[0] - wide[1])):.3g}")
    assert not wrong, "\n".join(wrong)
