"""Every composite anychip emits, by name. Back ends that know one use it, others inline its body.

The functions are called while tracing JAX code; see ops/composite.py for how one is declared.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from anychip.ops.composite import Composite, Example
from anychip.ops.composite_attention import attention
from anychip.ops.composite_cache import cache_update
from anychip.ops.composite_cached import cached_attention, latent_attention, window_attention
from anychip.ops.composite_matmul import (
    expected_experts,
    grouped_matmul,
    grouped_quantized_matmul,
    grouped_scaled_matmul,
    quantized_matmul,
    scaled_matmul,
)
from anychip.ops.composite_paged import paged_attention, paged_update
from anychip.ops.composite_pointwise import (
    gelu,
    layer_norm,
    rms_norm,
    rope,
    silu,
    softmax,
    swiglu,
)
from anychip.ops.view import OpView

COMPOSITES: Mapping[str, Composite] = MappingProxyType(
    {
        one.full_name: one
        for one in (
            softmax,
            layer_norm,
            rms_norm,
            gelu,
            silu,
            swiglu,
            rope,
            attention,
            cached_attention,
            window_attention,
            latent_attention,
            cache_update,
            paged_attention,
            paged_update,
            quantized_matmul,
            scaled_matmul,
            grouped_matmul,
            grouped_scaled_matmul,
            grouped_quantized_matmul,
        )
    }
)
"""By the name in the IR (`anychip.softmax`)."""


def composite_of(op: OpView) -> Composite | None:
    """The entry a `stablehlo.composite` op stands for; None for other ops and unknown names."""
    if op.name != "stablehlo.composite":
        return None
    return COMPOSITES.get(op.attributes["name"])


__all__ = [
    "COMPOSITES",
    "Composite",
    "Example",
    "attention",
    "cache_update",
    "cached_attention",
    "composite_of",
    "expected_experts",
    "gelu",
    "grouped_matmul",
    "grouped_quantized_matmul",
    "grouped_scaled_matmul",
    "latent_attention",
    "layer_norm",
    "paged_attention",
    "paged_update",
    "quantized_matmul",
    "rms_norm",
    "rope",
    "scaled_matmul",
    "silu",
    "softmax",
    "swiglu",
    "window_attention",
]
