"""Conversions between real numbers and `!quant.uniform` integers, held as their storage type.

The `quant` dialect is not among the MLIR bindings jaxlib ships, so programs with these types do not
parse today; the rules are here for readers that bring the dialect. Block formats are composites.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.core.dtypes import dtype
from anychip.ops.case import case
from anychip.ops.count import elementwise
from anychip.ops.table import op
from anychip.ops.view import OpView, Quantized, Spec

NO_DIALECT = "jaxlib's MLIR has no quant dialect, so no program with it can be parsed"


def _per_axis(quantized: Quantized, spec: Spec, element: np.dtype) -> tuple[Any, Any]:
    """Scale and zero point, shaped to broadcast against the tensor."""
    shape = [1] * len(spec.shape)
    if quantized.axis is not None:
        shape[quantized.axis] = len(quantized.scales)
    scale = np.asarray(quantized.scales, element).reshape(shape)
    return scale, np.asarray(quantized.zero_points, element).reshape(shape)


@op(
    "stablehlo.uniform_quantize",
    unit="vector",
    work=elementwise(4),
    cases=[
        case(
            "f32[2]",
            body="""  %0 = stablehlo.uniform_quantize %a0
    : (tensor<2xf32>) -> tensor<2x!quant.uniform<i8:f32, 0.1:-30>>
  %1 = stablehlo.uniform_dequantize %0
    : (tensor<2x!quant.uniform<i8:f32, 0.1:-30>>) -> tensor<2xf32>
  return %1 : tensor<2xf32>""",
        )
    ],
    reference=NO_DIALECT,
    inexpressible=NO_DIALECT,
)
def uniform_quantize(op: OpView, x: Any) -> Any:
    """clamp(round(x / scale) + zero point), nearest even; another quantised type is read first."""
    out, source = op.outputs[0], op.inputs[0]
    assert out.quantized is not None, f"{op} has no quantised result"
    if source.quantized is not None:
        x = _real(x, source)
    scale, zero = _per_axis(out.quantized, out, x.dtype)
    stored = lax.round(x / scale, lax.RoundingMethod.TO_NEAREST_EVEN) + zero
    clamped = jnp.clip(stored, out.quantized.low, out.quantized.high)
    return clamped.astype(dtype(out.dtype).numpy)


@op(
    "stablehlo.uniform_dequantize",
    unit="vector",
    work=elementwise(2),
    cases=[
        case(
            "f32[2]",
            body="""  %0 = stablehlo.uniform_quantize %a0
    : (tensor<2xf32>) -> tensor<2x!quant.uniform<i8:f32, 0.5:3>>
  %1 = stablehlo.uniform_dequantize %0
    : (tensor<2x!quant.uniform<i8:f32, 0.5:3>>) -> tensor<2xf32>
  return %1 : tensor<2xf32>""",
        )
    ],
    reference=NO_DIALECT,
    inexpressible=NO_DIALECT,
)
def uniform_dequantize(op: OpView, x: Any) -> Any:
    """(x - zero point) · scale, in the expressed type."""
    return _real(x, op.inputs[0])


def _real(x: Any, spec: Spec) -> Any:
    assert spec.quantized is not None, f"{spec} is not quantised"
    element = dtype(spec.quantized.expressed).numpy
    scale, zero = _per_axis(spec.quantized, spec, element)
    return (x.astype(element) - zero) * scale
