"""Torch cases: element by element, and reduced."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F
from torch_tensors import Group, randn

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

NO_AXES: Group = {
    "sum of none": lambda t: t.X[0, 0, 0].sum(0, keepdim=True),
    "max of none": lambda t: t.X[0, 0, 0].max(-1).indices,
    "norm of none": lambda t: torch.linalg.vector_norm(t.X[0, 0, 0], dim=0),
    "median of none": lambda t: t.X[0, 0, 0].median(0).values,
    "mode of none": lambda t: t.X[0, 0, 0].mode(0).values,
    "unfold of none": lambda t: t.X[0, 0, 0].unfold(0, 1, 1),
    "softmax of nothing": lambda t: t.X[:0].softmax(0).sum(0),
    "windows of nothing": lambda t: F.unfold(t.IMAGE[:0], 3).sum(0),
    "meshgrid of numbers": lambda t: torch.meshgrid(t.X[0, 0, 0], t.Y[0, 0], indexing="xy")[1],
    "msort": lambda t: torch.msort(t.X),
    "igamma": lambda t: torch.special.gammainc(t.POSITIVE, t.X.abs()[0]),
    "igammac": lambda t: torch.special.gammaincc(t.POSITIVE, t.X.abs()[0]),
    "polygamma": lambda t: torch.polygamma(0, t.POSITIVE),
    "nanmedian": lambda t: torch.where(t.Y > 1, torch.nan, t.X).nanmedian(1).values,
    "nanmedian of all": lambda t: torch.where(t.Y > 1, torch.nan, t.X).nanmedian(),
    "complex broadcasts": lambda t: torch.complex(t.X, t.Y[0]),
    "pad circular negative": lambda t: F.pad(t.LINE, (-2, 3), mode="circular"),
}
