"""Language models whose files or publications give shapes and weights but no graph."""

from anychip.frontends.llm.config import MLA, MoE, TransformerConfig
from anychip.frontends.llm.model import language_model
from anychip.frontends.llm.precision import PRECISIONS
from anychip.frontends.llm.rope import Rope
from anychip.frontends.llm.weights import WeightSpec, cache_specs, facts, weight_specs

__all__ = [
    "MLA",
    "PRECISIONS",
    "MoE",
    "Rope",
    "TransformerConfig",
    "WeightSpec",
    "cache_specs",
    "facts",
    "language_model",
    "weight_specs",
]
