"""Multi-token prediction (arXiv:2412.19437, section 2.2): a module behind the last layer that reads
what the model made of token i, and token i + 1, and guesses token i + 2. It costs one layer.

The first module of a model is built; it guesses further from its own output. Known by their
weights' names: DeepSeek-V3's (`model.layers.{n}.eh_proj`) and MiMo's (`model.mtp_layers.0.…`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anychip.core.language_model import Precision
from anychip.core.module import Module
from anychip.core.origin import scope
from anychip.core.signature import Argument
from anychip.core.weights import Weights
from anychip.frontends.llm.config import TransformerConfig
from anychip.frontends.llm.linear import Layer
from anychip.frontends.llm.transformer import head, layer_function
from anychip.frontends.llm.weights import WeightSpec, cache_specs, mtp_specs
from anychip.frontends.trace import to_module

PREFIX = "mtp."


def build_mtp_step(
    config: TransformerConfig,
    *,
    name: str,
    length: int,
    context: int,
    precision: Precision,
    weights: Weights = Weights(),
) -> Module:
    """The module that appends `length` pairs to a cache made for `context` of them.

    Arguments: the weights of `mtp_specs`, state `mtp.k` and `mtp.v`, `tokens` i32[1, length],
    `hidden` f32[1, length, hidden] (what the model, or this module, made of the tokens before
    these, normed), `keep` f32[1, length] (0 for a sequence's first pair, whose token such modules
    are trained without, else 1), `start` i32[1]. Results: `logits` f32[1, vocabulary] and
    `next` f32[1, hidden] of the last pair, then the state.
    """
    specs = {spec.name: spec for spec in mtp_specs(config, precision)}
    state = [
        Argument(PREFIX + a.name.split(".")[-1], a.shape, a.dtype, "state")
        for a in cache_specs(config, 1, context, precision)[:2]
    ]
    arguments = (
        *(argument for spec in specs.values() for argument in spec.arguments),
        *state,
        Argument("tokens", (1, length), "i32"),
        Argument("hidden", (1, length, config.hidden), "f32"),
        Argument("keep", (1, length), "f32"),
        Argument("start", (1,), "i32"),
    )
    names = [argument.name for argument in arguments]
    return to_module(
        lambda *arrays: _step(config, precision, specs, dict(zip(names, arrays, strict=True))),
        arguments,
        name=name,
        result_names=["logits", "next", *(s.name for s in state)],
        updates={s.name: s.name for s in state},
        weights=weights,
    )


def _step(
    config: TransformerConfig,
    precision: Precision,
    specs: Mapping[str, WeightSpec],
    arrays: Mapping[str, Any],
) -> list[Any]:
    around = Layer(config, precision, specs, arrays)
    own = {n.removeprefix(PREFIX): s for n, s in specs.items() if n.startswith(PREFIX)}
    held = {n.removeprefix(PREFIX): a for n, a in arrays.items() if n.startswith(PREFIX)}
    layer = Layer(config, precision, own, held)
    tokens, start = arrays["tokens"], arrays["start"]
    positions = start[:, None] + lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    with jax.named_scope(scope("mtp")):
        x = around.rows("embed", tokens)
        x = x * arrays["keep"].astype(x.dtype)[..., None]
        hidden = arrays["hidden"].astype(x.dtype)
        pair = [layer.norm("hidden_norm", hidden), layer.norm("embed_norm", x)]
        x = layer.linear("join", jnp.concatenate(pair, axis=-1))
        turn = jnp.asarray(config.rope.inverse_frequencies(config.rotated))
        caches = {name: held[name] for name in ("k", "v")}
        block = {n: s for n, s in own.items() if n.startswith(("attn", "ffn"))}
        taken = {a.name.removeprefix(PREFIX) for s in block.values() for a in s.arguments}
        weights = {name: held[name] for name in taken}
        x, new = layer_function(config, precision, "global", block)(
            weights, x, caches, start, positions, turn
        )
        made = layer.norm("norm", x[:, -1])
    with jax.named_scope(scope("head")):
        logits = head(around, made)
    return [logits, made.astype(jnp.float32), new["k"], new["v"]]
