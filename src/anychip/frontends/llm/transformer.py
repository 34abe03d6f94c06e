"""A TransformerConfig as StableHLO: one step over `length` new tokens, prefill or decode alike, or
over tokens of many sequences whose caches lie in pages.

Layers of one kind are one function of the module, called once a layer with that layer's weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anychip.core.errors import UsageError
from anychip.core.language_model import PagedShape, Precision
from anychip.core.module import Module
from anychip.core.origin import scope
from anychip.core.signature import Argument
from anychip.core.weights import Weights
from anychip.frontends.llm.attention import Paged, State, attend
from anychip.frontends.llm.config import LayerKind, TransformerConfig
from anychip.frontends.llm.linear import Layer, product
from anychip.frontends.llm.mla import attend_latent
from anychip.frontends.llm.moe import mix_experts
from anychip.frontends.llm.weights import WeightSpec, cache_specs, page_specs, weight_specs
from anychip.frontends.trace import to_module


def build_step(
    config: TransformerConfig,
    *,
    name: str,
    batch: int,
    length: int,
    context: int,
    precision: Precision,
    stored: Mapping[str, str] | None = None,
    weights: Weights = Weights(),
    every: bool = False,
) -> Module:
    """The module that appends `length` tokens to caches made for `context` positions.

    Arguments: the weights of `weight_specs`, the state of `cache_specs`, `tokens`
    i32[batch, length], `start` i32[batch] (tokens already cached; start + length may not pass
    context). Results: `logits` f32[batch, vocabulary] of the last token (with `every`,
    f32[batch, length, vocabulary] of all), then the state. A prefill
    computes the last layers for all its tokens, as serving engines do. Raises UsageError for sizes
    that cannot be.
    """
    if not 1 <= length <= context:
        raise UsageError(f"length = {length} must be between 1 and context = {context}")
    if context > config.context:
        raise UsageError(f"{name} was made for {config.context} tokens, not {context}")
    specs = weight_specs(config, precision, stored)
    state = cache_specs(config, batch, context, precision)
    arguments = (
        *(argument for spec in specs for argument in spec.arguments),
        *state,
        Argument("tokens", (batch, length), "i32"),
        Argument("start", (batch,), "i32"),
    )
    return _module(config, name, precision, specs, state, arguments, weights, every=every)


def build_paged_step(
    config: TransformerConfig,
    *,
    name: str,
    shape: PagedShape,
    precision: Precision,
    stored: Mapping[str, str] | None = None,
    weights: Weights = Weights(),
) -> Module:
    """The module of LanguageModel.step. Raises UsageError for sizes that cannot be, and
    UnsupportedError for latent attention."""
    specs = weight_specs(config, precision, stored)
    state = page_specs(config, shape, precision)
    arguments = (
        *(argument for spec in specs for argument in spec.arguments),
        *state,
        Argument("tokens", (shape.tokens,), "i32"),
        Argument("places", (2, shape.tokens), "i32"),
        Argument("table", (shape.sequences, shape.table), "i32"),
    )
    more = {"rows": shape.rows, "hidden": shape.gives_hidden}
    return _module(config, name, precision, specs, state, arguments, weights, **more)


def _module(
    config: TransformerConfig,
    name: str,
    precision: Precision,
    specs: Sequence[WeightSpec],
    state: Sequence[Argument],
    arguments: Sequence[Argument],
    weights: Weights,
    rows: int = 0,
    every: bool = False,
    hidden: bool = False,
) -> Module:
    names = [argument.name for argument in arguments]
    step = _step(config, precision, specs, [s.name for s in state], rows, every, hidden)
    return to_module(
        lambda *arrays: step(dict(zip(names, arrays, strict=True))),
        arguments,
        name=name,
        result_names=["logits", *(["hidden"] if hidden else []), *(s.name for s in state)],
        updates={s.name: s.name for s in state},
        weights=weights,
    )


Step = Callable[[Mapping[str, Any]], list[Any]]


def _step(
    config: TransformerConfig,
    precision: Precision,
    specs: Sequence[WeightSpec],
    state: Sequence[str],
    rows: int,
    every: bool,
    hidden: bool,
) -> Step:
    """The whole model as a function of its arguments by name; paged with `rows` of logits. `every`
    position's logits, or the last one's; and with `hidden` what the head is given of each."""
    outer, layers = _by_layer(config, specs)
    functions: dict[tuple[Any, ...], Any] = {}

    def function(index: int) -> Any:
        kind = config.kind(index)
        formats = tuple(sorted((n, s.format) for n, s in layers[index].items()))
        key = (kind, formats)
        if key not in functions:
            functions[key] = layer_function(config, precision, kind, layers[index])
        return functions[key]

    def step(arrays: Mapping[str, Any]) -> list[Any]:
        around = Layer(config, precision, outer, arrays)
        if rows:
            tokens, positions = arrays["tokens"][None], arrays["places"][1:]
            start = Paged(arrays["table"], arrays["places"])
        else:
            tokens, start = arrays["tokens"], arrays["start"]
            positions = start[:, None] + lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
        with jax.named_scope(scope("embed")):
            x = around.rows("embed", tokens)
            if config.embedding_scale != 1.0:
                x = x * jnp.asarray(config.embedding_scale, x.dtype)
        turns = {
            rope: jnp.asarray(rope.inverse_frequencies(config.rotated))
            for rope in dict.fromkeys(config.rope_of(index) for index in range(config.layers))
        }
        updated: dict[str, Any] = {}

        def updated_in_order() -> list[Any]:
            return [updated[name] for name in state]

        for index in range(config.layers):
            prefix = f"layers.{index}."
            caches = {n.removeprefix(prefix): arrays[n] for n in state if n.startswith(prefix)}
            with jax.named_scope(scope(f"layers.{index}")):
                own = _arrays_of(layers[index], arrays, prefix)
                turn = turns[config.rope_of(index)]
                x, new = function(index)(own, x, caches, start, positions, turn)
            updated.update({prefix + n: value for n, value in new.items()})
        with jax.named_scope(scope("head")):
            if hidden:
                x = around.norm("norm", x)
                return [head(around, x[0, -rows:]), x[0].astype(jnp.float32), *updated_in_order()]
            x = x[0, -rows:] if rows else x if every else x[:, -1]
            logits = head(around, around.norm("norm", x))
        return [logits, *updated_in_order()]

    return step


def _by_layer(
    config: TransformerConfig, specs: Sequence[WeightSpec]
) -> tuple[dict[str, WeightSpec], list[dict[str, WeightSpec]]]:
    """The specs outside layers, and each layer's by short name."""
    outer: dict[str, WeightSpec] = {}
    layers: list[dict[str, WeightSpec]] = [{} for _ in range(config.layers)]
    for spec in specs:
        if spec.name.startswith("layers."):
            _, index, short = spec.name.split(".", 2)
            layers[int(index)][short] = spec
        else:
            outer[spec.name] = spec
    return outer, layers


def _arrays_of(
    specs: Mapping[str, WeightSpec], arrays: Mapping[str, Any], prefix: str
) -> dict[str, Any]:
    return {
        argument.name.removeprefix(prefix): arrays[argument.name]
        for spec in specs.values()
        for argument in spec.arguments
    }


def layer_function(
    config: TransformerConfig,
    precision: Precision,
    kind: LayerKind,
    specs: Mapping[str, WeightSpec],
) -> Any:
    """One kind of layer as a jitted function: (weights, x, caches, start, positions, inv_freq)."""
    is_moe = "moe.router" in specs

    def block(
        arrays: dict[str, Any], x: Any, caches: State, start: Any, positions: Any, inv_freq: Any
    ) -> tuple[Any, State]:
        layer = Layer(config, precision, specs, arrays)
        where: dict[str, Any] = {"start": start, "positions": positions, "inv_freq": inv_freq}
        with jax.named_scope(scope("attn")):
            normed = layer.norm("attn_norm", x)
            if config.mla is not None:
                out, caches = attend_latent(layer, normed, caches, **where)
            else:
                out, caches = attend(layer, normed, caches, kind=kind, **where)
            x = x + (layer.norm("attn_post_norm", out) if config.post_norms else out)
        with jax.named_scope(scope("moe" if is_moe else "ffn")):
            normed = layer.norm("ffn_norm", x)
            out = mix_experts(layer, normed) if is_moe else layer.feed_forward("ffn", normed)
            return x + (layer.norm("ffn_post_norm", out) if config.post_norms else out), caches

    block.__name__ = block.__qualname__ = f"{kind}_{'moe' if is_moe else 'dense'}_layer"
    return jax.jit(block)


def head(around: Layer, x: Any) -> Any:
    """x[…,hidden], normed, → logits f32[…,vocabulary]."""
    c = around.config
    name = "embed" if c.tied_embeddings else "head"
    if around.specs[name].is_block:
        logits = around.linear(name, x).astype(jnp.float32)
    else:
        table = around.arrays[name]
        wide = jnp.promote_types(x.dtype, table.dtype)  # activations keep their bits
        logits = product(x.astype(wide), table.astype(wide), out=jnp.float32)
    if c.logit_softcap:
        logits = c.logit_softcap * jnp.tanh(logits / c.logit_softcap)
    return logits
