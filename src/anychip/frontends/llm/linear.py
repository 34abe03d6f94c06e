"""Products with a weight in whatever format the precision gives it, and the small layers around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.core.blocks import BLOCK_FORMATS, block_format
from anychip.core.dtypes import dtype
from anychip.core.errors import UsageError
from anychip.core.language_model import Precision
from anychip.frontends.llm.config import TransformerConfig
from anychip.frontends.llm.weights import DENSE, SCALED, WeightSpec
from anychip.ops import composites


@dataclass(frozen=True)
class Layer:
    """The weights of one layer (or of what surrounds them) while tracing, by their short names.

    `arrays` holds what the specs' arguments hold, `specs` says how to read them.
    """

    config: TransformerConfig
    precision: Precision
    specs: Mapping[str, WeightSpec]
    arrays: Mapping[str, Any]

    def __contains__(self, name: str) -> bool:
        return name in self.specs

    @property
    def activations(self) -> Any:
        return dtype(self.precision.activations).numpy

    def dense(self, name: str) -> Any:
        """The weight as a plain array in its own element type, dequantised if need be."""
        spec, array = self.specs[name], self.arrays[name]
        scale = self.arrays.get(f"{name}.scale")
        if spec.is_block:
            array = block_format(spec.format).dequantize(array, jnp)
        elif scale is not None:
            array = array.astype(jnp.float32)
        return array if scale is None else array * scale[..., None]

    def rows(self, name: str, index: Any) -> Any:
        """Rows of a matrix, i32 index of any shape → […, K] in the activations' type."""
        parts = {
            key: self.arrays[key].at[index].get(mode="clip", wrap_negative_indices=False)
            for key in (name, f"{name}.scale")
            if key in self.arrays
        }
        taken = Layer(self.config, self.precision, {name: self.specs[name]}, parts)
        return taken.dense(name).astype(self.activations)

    def linear(self, name: str, x: Any) -> Any:
        """x[…,K] · weight[N,K]ᵀ + bias if there is one, in x's type."""
        spec, array = self.specs[name], self.arrays[name]
        scale = self.arrays.get(f"{name}.scale")
        wide = x.astype(multiplied_in(self.precision))
        if spec.is_block:
            out = composites.quantized_matmul(
                wide, array, scale, format=spec.format, activation=rounded_to(self.precision, spec)
            )
        elif scale is not None:
            out = composites.scaled_matmul(
                wide, array, scale, activation=rounded_to(self.precision, spec)
            )
        else:
            out = product(wide, array.astype(wide.dtype))
        out = out.astype(x.dtype)
        bias = f"{name}.bias"
        return out + self.arrays[bias].astype(x.dtype) if bias in self else out

    def grouped(self, name: str, x: Any, sizes: Any) -> Any:
        """x[T,K], sorted by expert, through each row's expert [E,N,K] → [T,N] in x's type."""
        assert self.config.moe is not None
        spec, array = self.specs[name], self.arrays[name]
        scale = self.arrays.get(f"{name}.scale")
        wide = x.astype(multiplied_in(self.precision))
        active = self.config.moe.active
        if spec.is_block:
            out = composites.grouped_quantized_matmul(
                *(wide, array, sizes, scale),
                format=spec.format,
                active=active,
                activation=rounded_to(self.precision, spec),
            )
        elif scale is not None:
            activation = rounded_to(self.precision, spec)
            out = composites.grouped_scaled_matmul(
                wide, array, sizes, scale, active=active, activation=activation
            )
        else:
            out = composites.grouped_matmul(wide, array.astype(wide.dtype), sizes, active=active)
        return out.astype(x.dtype)

    def norm(self, name: str, x: Any) -> Any:
        """RMSNorm of the last dimension."""
        c = self.config
        return composites.rms_norm(x, self.arrays[name], eps=c.norm_eps, offset=c.norm_offset)

    def gated(self, gate: Any, up: Any) -> Any:
        """The feed-forward network's middle: act(gate) * up."""
        c = self.config
        if c.activation == "silu":
            return composites.swiglu(gate, up)
        if c.activation == "clamped_silu":
            return composites.swiglu(gate, up, alpha=1.702, limit=c.activation_limit, offset=1.0)
        return composites.gelu(gate, approximate=c.activation == "gelu_tanh") * up

    def feed_forward(self, prefix: str, x: Any) -> Any:
        """down(act(gate(x)) * up(x)) with the weights under `prefix`."""
        middle = self.gated(self.linear(f"{prefix}.gate", x), self.linear(f"{prefix}.up", x))
        return self.linear(f"{prefix}.down", middle)


def product(x: Any, w: Any, *, out: Any = None) -> Any:
    """x[…,K] · w[N,K]ᵀ summed in f32, given in `out` (x's type when left out)."""
    dims = (((x.ndim - 1,), (1,)), ((), ()))
    made = lax.dot_general(x, w, dims, preferred_element_type=jnp.float32)
    return made.astype(x.dtype if out is None else out)


def multiplied_in(precision: Precision) -> Any:
    """The element type activations have when they enter a product."""
    name = precision.matmul if precision.matmul in DENSE else precision.activations
    return dtype(name).numpy


def rounded_to(precision: Precision, spec: WeightSpec) -> str:
    """The format a product with this weight first rounds its activations to; "" for none.

    Raises UsageError when weight and multiplication formats are of different kinds.
    """
    wanted = precision.matmul
    if wanted in DENSE:
        return ""
    fits = wanted in BLOCK_FORMATS if spec.is_block else wanted in SCALED
    if not fits:
        raise UsageError(
            f"precision {precision.name} multiplies in {wanted}, but {spec.name} is held in "
            f"{spec.format}; multiply block formats in block formats, f8 and i8 in those, or in "
            f"one of {', '.join(DENSE)}"
        )
    if not spec.is_block and dtype(spec.format).kind != dtype(wanted).kind:
        raise UsageError(
            f"precision {precision.name} multiplies {spec.format} weights in {wanted}; "
            "give both the same kind"
        )
    return wanted
