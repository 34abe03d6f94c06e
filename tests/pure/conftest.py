"""Fixtures of the twin and mapper tests: a chip made by hand, and small language models."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest

from anychip.core import ChipSpec, Fact, LanguageModel, LinkSpec, MemorySpec


def _fact(value: float, low: float | None = None, high: float | None = None) -> Fact:
    return Fact(value=value, low=low, high=high, source="made up for a test")


@pytest.fixture(scope="session")
def hand_chip() -> Callable[..., ChipSpec]:
    """Makes a ChipSpec of round numbers: 100 TFLOP/s bf16, 1 TB/s, 80 GB, but for `changes`."""

    def make(**changes: Any) -> ChipSpec:
        bandwidth = changes.pop("bytes_per_s", 1e12)
        flops = changes.pop("flops_per_s", 1e14)
        capacity = changes.pop("capacity_bytes", 8e10)
        base: dict[str, Any] = {
            "name": "hand",
            "title": "Made by hand",
            "vendor": "Acme",
            "family": "simt",
            "matmul_flops_per_s": {"bf16": _fact(flops), "f8E4M3FN": _fact(2 * flops)},
            "vector_flops_per_s": _fact(1e13),
            "memory": (
                MemorySpec(
                    name="hbm",
                    capacity_bytes=_fact(capacity),
                    read_bytes_per_s=_fact(bandwidth),
                    read_j_per_byte=_fact(5e-11),
                ),
                MemorySpec(
                    name="cache",
                    capacity_bytes=_fact(5e7),
                    read_bytes_per_s=_fact(1e13),
                    holds=("activations",),
                ),
            ),
            "matmul_efficiency": _fact(0.8, 0.6, 0.9),
            "memory_efficiency": _fact(0.8, 0.7, 0.9),
            "per_kernel_s": _fact(2e-6),
            "per_step_s": _fact(1e-4),
            "link": LinkSpec(name="link", bytes_per_s=_fact(4e11), hop_s=_fact(5e-6)),
            "tdp_w": _fact(700),
            "idle_w": _fact(100),
            "mac_j": _fact(1e-12),
            "usd_per_hour": _fact(3.0, 2.0, 4.0),
        }
        return ChipSpec(**(base | changes))

    return make


@pytest.fixture(scope="session")
def small_model() -> Callable[..., LanguageModel]:
    """Makes a shape-only model of four layers; `experts` or `latent` for a mixture or MLA."""

    @lru_cache
    def make(experts: int = 0, latent: bool = False, layers: int = 4) -> LanguageModel:
        from anychip.frontends.llm.config import MLA, MoE, TransformerConfig
        from anychip.frontends.llm.model import language_model
        from anychip.frontends.llm.rope import Rope

        config = TransformerConfig(
            family="test",
            layers=layers,
            hidden=512,
            heads=8,
            kv_heads=8 if latent else 4,
            head_dim=64,
            ffn=1024,
            vocabulary=4096,
            context=4096,
            rope=Rope(theta=1e4),
            norm_eps=1e-5,
            moe=MoE(experts=experts, active=2, ffn=256, first_dense=1) if experts else None,
            mla=MLA(kv_rank=64, nope_dim=64, rope_dim=32, value_dim=64, q_rank=128)
            if latent
            else None,
        )
        return language_model(config, name="small", source="acme/small")

    return make
