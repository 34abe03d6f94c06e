"""language_model: a TransformerConfig, and the weights if there are any, as a LanguageModel."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

from anychip.core.language_model import (
    ChatTemplate,
    LanguageModel,
    PagedShape,
    Precision,
    Tokenizer,
)
from anychip.core.module import Module
from anychip.core.target import Recipe
from anychip.core.weights import Weight, Weights
from anychip.frontends.llm.config import TransformerConfig
from anychip.frontends.llm.precision import PRECISIONS
from anychip.frontends.llm.weights import facts, page_specs, weight_specs


def language_model(
    config: TransformerConfig,
    *,
    name: str,
    source: str,
    native: Precision = PRECISIONS["bf16"],
    bind: Callable[[Precision], Weights] | None = None,
    stored: Mapping[str, str] | None = None,
    tokenizer: Tokenizer | None = None,
    chat: ChatTemplate | None = None,
    licence: str = "",
    bind_mtp: Callable[[Precision], Weights] | None = None,
) -> LanguageModel:
    """The LanguageModel of a config.

    `bind` gives the weights in a precision, under the names of `weight_specs`; without it the
    model is shape only. `stored` says each tensor's format in its file and makes the precision
    `stored` possible. `native` is the precision the model was published in. `bind_mtp` gives the
    weights of `mtp_specs`, where the model has such a module.
    """
    bound = lru_cache(maxsize=2)(bind or (lambda precision: shape_only(config, precision)))

    # Tracing takes a second or two for the largest models, and callers ask again for one step.
    @lru_cache(maxsize=8)
    def build(
        batch: int, length: int, context: int, precision: Precision, every: bool = False
    ) -> Module:
        from anychip.frontends.llm.transformer import build_step

        return build_step(
            config,
            name=f"{name}-{'score' if every else 'decode' if length == 1 else 'prefill'}",
            batch=batch,
            length=length,
            context=context,
            precision=precision,
            stored=stored,
            weights=bound(precision),
            every=every,
        )

    @lru_cache(maxsize=16)
    def build_paged(shape: PagedShape, precision: Precision) -> Module:
        from anychip.frontends.llm.transformer import build_paged_step

        return build_paged_step(
            config,
            name=f"{name}-step",
            shape=shape,
            precision=precision,
            stored=stored,
            weights=bound(precision),
        )

    def recipe(shape: PagedShape, precision: Precision) -> Recipe:
        facts = (config, sorted((stored or {}).items()), shape, precision)
        return Recipe(
            name=f"{name}-step",
            key=hashlib.sha256(repr((name, *facts)).encode()).hexdigest(),
            weights=bound(precision),
            build=partial(build_paged, shape, precision),
        )

    @lru_cache(maxsize=8)
    def build_mtp(length: int, context: int, precision: Precision) -> Module:
        from anychip.frontends.llm.mtp import build_mtp_step

        return build_mtp_step(
            config,
            name=f"{name}-mtp",
            length=length,
            context=context,
            precision=precision,
            weights=bind_mtp(precision) if bind_mtp else Weights(),
        )

    has_pages = config.mla is None
    return LanguageModel(
        name=name,
        facts=facts(config),
        native_precision=native,
        prefill=build,
        decode=lambda batch, context, precision: build(batch, 1, context, precision),
        bind=bound,
        source=source,
        step=build_paged if has_pages else None,
        step_state=partial(page_specs, config) if has_pages else None,
        step_recipe=recipe if has_pages else None,
        tokenizer=tokenizer,
        chat=chat,
        mtp=build_mtp if bind_mtp else None,
        score=lambda batch, length, precision: build(batch, length, length, precision, True),
        licence=licence,
    )


def shape_only(config: TransformerConfig, precision: Precision) -> Weights:
    """Every weight's name, shape and type in a precision, without values."""
    return Weights(
        tuple(
            Weight(
                argument.name,
                tuple(d for d in argument.shape if isinstance(d, int)),
                argument.dtype,
                stored_as=spec.format,
                stored_bytes=argument.nbytes,
            )
            for spec in weight_specs(config, precision)
            for argument in spec.arguments
        )
    )
