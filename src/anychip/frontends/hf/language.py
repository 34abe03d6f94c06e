"""A folder that generates text as a LanguageModel: prefill and decode of any such architecture."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from anychip.core.errors import UnsupportedError
from anychip.core.language_model import Facts, LanguageModel, Precision
from anychip.core.module import Module
from anychip.core.weights import Weights
from anychip.frontends.hf.folder import Folder
from anychip.frontends.hf.tokenizer import read_chat_of, read_tokenizer

_PLAIN = ("f32", "bf16", "f16")


def language_model(folder: Folder, *, name: str, dtype: str = "") -> LanguageModel:
    """The LanguageModel of a folder. Its weights are mapped now, read when they are touched.

    Prefill and decode in f32, bf16 and f16 are PyTorch's own code, captured. Where our builders
    know the architecture (families.py), they give paged steps, and every step in block formats and
    8 bits, quantised when a weight is touched.
    """
    from anychip.frontends.torch.tensors import element_name

    native_model = folder.model(dtype)
    native = element_name(native_model.dtype)

    built = _built(folder, name)

    def is_built(precision: Precision) -> bool:
        return built is not None and precision.weights not in _PLAIN

    @lru_cache(maxsize=2)
    def model_in(element: str) -> Any:
        return native_model if element == native else folder.model(element)

    @lru_cache(maxsize=8)
    def build(batch: int, length: int, context: int, precision: Precision) -> Module:
        if built and is_built(precision):
            return built.prefill(batch, length, context, precision)
        model = model_in(_element(name, precision))
        kind = "decode" if length == 1 else "prefill"
        return _step_module(folder, model, f"{name}-{kind}", batch, length, context, precision)

    def bind(precision: Precision) -> Weights:
        if built and is_built(precision):
            return built.bind(precision)
        return build(1, 1, 16, precision).weights

    return LanguageModel(
        name=name,
        facts=_facts(folder, native_model),
        native_precision=Precision(
            name=native, weights=native, activations=native, cache=native, matmul=native
        ),
        prefill=build,
        decode=lambda batch, context, precision: build(batch, 1, context, precision),
        bind=lru_cache(maxsize=2)(bind),
        source=str(folder.path),
        step=built.step if built else None,
        step_state=built.step_state if built else None,
        mtp=built.mtp if built else None,
        tokenizer=read_tokenizer(folder.path),
        chat=read_chat_of(folder.path),
        licence=str(folder.config_json.get("license", "")),
    )


def _built(folder: Folder, name: str) -> LanguageModel | None:
    """The model of our builders, where they know all of it."""
    from anychip.frontends import llm
    from anychip.frontends.hf.families import Stored, read_config

    config = read_config(folder.config)
    stored = Stored(folder.path, config) if config else None
    if config is None or stored is None or not stored.is_whole:
        return None
    return llm.language_model(
        config,
        name=name,
        source=str(folder.path),
        bind=stored.bind,
        bind_mtp=stored.bind_mtp if stored.has_mtp else None,
    )


def _element(name: str, precision: Precision) -> str:
    held = {precision.weights, precision.activations}
    if held - set(_PLAIN) or len(held) > 1 or precision.cache not in _PLAIN or precision.experts:
        raise UnsupportedError(
            f"{name} is built from its PyTorch code, which runs in {', '.join(_PLAIN)} (weights "
            f"and activations alike), not in precision {precision.name!r}; choose one of these, or "
            "a GGUF file for block formats"
        )
    return precision.weights


def _step_module(
    folder: Folder,
    model: Any,
    name: str,
    batch: int,
    length: int,
    context: int,
    precision: Precision,
) -> Module:
    import torch

    from anychip.core.dtypes import dtype
    from anychip.frontends.hf.step import Step
    from anychip.frontends.torch import load
    from anychip.frontends.torch.tensors import torch_dtype

    step = Step(model, batch, context, torch_dtype(dtype(precision.cache).numpy)).eval()
    tokens = torch.ones(batch, length, dtype=torch.int32)
    start = torch.zeros(batch, dtype=torch.int32)
    module = load(step, (tokens, start), name=name)
    return module.with_weights(folder.weights(module, step))


def _facts(folder: Folder, model: Any) -> Facts:
    config = model.config.get_text_config()
    total = sum(p.numel() for p in model.parameters())
    return Facts(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        vocabulary=config.vocab_size,
        context=getattr(config, "max_position_embeddings", 0) or 2048,
        parameters=total,
        active_parameters=total - _idle_experts(model, config),
    )


def _idle_experts(model: Any, config: Any) -> int:
    """Parameters of the experts that a token does not take: stacked tensors [experts, …]."""
    keys = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    experts = next((n for k in keys if (n := getattr(config, k, None))), 0)
    active = getattr(config, "num_experts_per_tok", None) or getattr(config, "moe_k", None)
    if not experts or not active:
        return 0
    routed = sum(
        p.numel()
        for name, p in model.named_parameters()
        if "experts" in name and "shared" not in name and p.ndim >= 3 and p.shape[0] == experts
    )
    return routed * (experts - active) // experts
