"""Batch normalisation: forward with and without statistics, and its gradient."""

# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.ops.case import case
from anychip.ops.count import moved
from anychip.ops.table import op
from anychip.ops.view import OpView
from anychip.ops.work import Work

_EPSILON = float(np.float32(1e-3))  # the attribute is an f32


def _attributes(feature: int) -> str:
    return f"epsilon = 1.000000e-03 : f32, feature_index = {feature} : i64"


def _work(per_element: int, per_feature: int):
    """So many flops for each element and each feature, and one root for each feature."""

    def work(op: OpView) -> Work:
        features = op.inputs[1].size
        flops = per_element * op.inputs[0].size + per_feature * features
        return moved(op) + Work(flops=flops, transcendentals=features)

    return work


def _along(op: OpView, per_feature: Any) -> Any:
    """A vector over features, spread over the operand's shape."""
    return lax.broadcast_in_dim(per_feature, op.inputs[0].sizes, (op.attributes["feature_index"],))


def _others(op: OpView) -> tuple[int, ...]:
    feature = op.attributes["feature_index"]
    return tuple(d for d in range(len(op.inputs[0].sizes)) if d != feature)


def _normalized(op: OpView, x: Any, mean: Any, variance: Any) -> Any:
    epsilon = jnp.asarray(op.attributes["epsilon"], x.dtype)
    return (x - _along(op, mean)) / jnp.sqrt(_along(op, variance + epsilon))


def _numpy_inference(x: Any, scale: Any, offset: Any, mean: Any, variance: Any) -> Any:
    return (x - mean) / np.sqrt(variance + _EPSILON) * scale + offset


@op(
    "stablehlo.batch_norm_inference",
    unit="vector",
    work=_work(4, 1),
    cases=[
        case(
            "f32[2,3,4]",
            *["f32[4]"] * 4,
            attributes=_attributes(2),
            draw=("normal", "normal", "normal", "normal", "positive"),
            expect=_numpy_inference,
        ),
        case(
            "f64[2,3,0]",
            *["f64[3]"] * 4,
            attributes=_attributes(1),
            draw=("normal", "normal", "normal", "normal", "positive"),
        ),
    ],
    reference="it has no rule for this op",
)
def batch_norm_inference(
    op: OpView, x: Any, scale: Any, offset: Any, mean: Any, variance: Any
) -> Any:
    """(x - mean) / sqrt(variance + epsilon) · scale + offset, for each feature."""
    return _normalized(op, x, mean, variance) * _along(op, scale) + _along(op, offset)


def _numpy_training(x: Any, scale: Any, offset: Any) -> Any:
    mean, variance = x.mean((0, 1)), x.var((0, 1))
    return _numpy_inference(x, scale, offset, mean, variance), mean, variance


@op(
    "stablehlo.batch_norm_training",
    unit="vector",
    work=_work(8, 1),
    cases=[
        case(
            "f32[2,3,4]",
            "f32[4]",
            "f32[4]",
            out=("f32[2,3,4]", "f32[4]", "f32[4]"),
            attributes=_attributes(2),
            expect=_numpy_training,
            reduced=6,
        ),
    ],
    reference="it has no rule for this op",
)
def batch_norm_training(op: OpView, x: Any, scale: Any, offset: Any) -> tuple[Any, ...]:
    """The same with mean and (biased) variance of the operand itself, which are also results."""
    mean, variance = jnp.mean(x, _others(op)), jnp.var(x, _others(op))
    y = _normalized(op, x, mean, variance) * _along(op, scale) + _along(op, offset)
    return y, mean, variance


def _numpy_gradient(x: Any, scale: Any, mean: Any, variance: Any, grad: Any) -> Any:
    """Term by term as in Ioffe and Szegedy, Batch Normalization (2015), section 3."""
    m = x.shape[0] * x.shape[1]
    deviation = np.sqrt(variance + _EPSILON)
    centred = x - mean
    d_normal = grad * scale
    d_variance = (d_normal * centred).sum((0, 1)) * -0.5 * deviation**-3
    d_mean = -(d_normal / deviation).sum((0, 1)) + d_variance * (-2 * centred).sum((0, 1)) / m
    d_x = d_normal / deviation + d_variance * 2 * centred / m + d_mean / m
    return d_x, (grad * centred / deviation).sum((0, 1)), grad.sum((0, 1))


@op(
    "stablehlo.batch_norm_grad",
    unit="vector",
    work=_work(14, 4),
    cases=[
        case(
            "f64[2,3,4]",
            "f64[4]",
            "f64[4]",
            "f64[4]",
            "f64[2,3,4]",
            out=("f64[2,3,4]", "f64[4]", "f64[4]"),
            attributes=_attributes(2),
            draw=("normal", "normal", "normal", "positive", "normal"),
            given={2: [0.0, 0.0, 0.0, 0.0]},
            law=lambda x, s, m, v, g, dx, ds, do: bool(
                np.allclose(do, g.sum((0, 1)))
                and np.allclose(ds, (g * x / np.sqrt(v + _EPSILON)).sum((0, 1)))
            ),
            reduced=6,
        ),
        case(
            "f64[2,1,2]",
            "f64[2]",
            "f64[2]",
            "f64[2]",
            "f64[2,1,2]",
            out=("f64[2,1,2]", "f64[2]", "f64[2]"),
            attributes=_attributes(2),
            given={0: [[[-1, 2]], [[1, -2]]], 2: [0, 0], 3: [1, 4]},
            expect=_numpy_gradient,
            reduced=4,
        ),
    ],
    reference="it has no rule for this op",
)
def batch_norm_grad(
    op: OpView, x: Any, scale: Any, mean: Any, variance: Any, grad: Any
) -> tuple[Any, ...]:
    """Gradients of batch_norm_training to operand, scale and offset, given its statistics."""
    others = _others(op)
    count = jnp.asarray(max(1, x.size // max(1, scale.size)), x.dtype)
    epsilon = jnp.asarray(op.attributes["epsilon"], x.dtype)
    centred = x - _along(op, mean)
    deviation = jnp.sqrt(variance + epsilon)
    grad_offset = jnp.sum(grad, others)
    weighted = jnp.sum(grad * centred, others)
    inner = (
        count * grad
        - _along(op, grad_offset)
        - centred * _along(op, weighted / (variance + epsilon))
    )
    grad_x = _along(op, scale / deviation / count) * inner
    return grad_x, weighted / deviation, grad_offset
