"""Which tensors a TransformerConfig has: their names, shapes and formats at a given precision.

Linear weights are [out, in]; the weights of routed experts [expert, out, in].
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from anychip.core.blocks import BLOCK_FORMATS, block_format
from anychip.core.dtypes import dtype
from anychip.core.errors import InputError, UnsupportedError, UsageError, unknown
from anychip.core.language_model import Facts, PagedShape, Precision
from anychip.core.signature import Argument
from anychip.frontends.llm.config import TransformerConfig

Kind = Literal["linear", "expert", "absorbed", "router", "embedding", "head", "norm", "bias"]
"""linear, expert: multiplied in the precision's weight format. absorbed: MLA's per-head up
projections, held like norms since decoding folds them into query and output. The rest is held in
the precision's plain element type: `weights` where that is one, else `activations`."""

DENSE = ("f32", "bf16", "f16")
SCALED = ("f8E4M3FN", "f8E5M2", "i8")
"""Element types with one f32 scale for each output channel, an argument named `<weight>.scale`."""


@dataclass(frozen=True)
class WeightSpec:
    """One logical tensor. `format` is dense, scaled or a block format."""

    name: str
    shape: tuple[int, ...]
    kind: Kind
    format: str

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def is_block(self) -> bool:
        return self.format in BLOCK_FORMATS

    @property
    def has_scale(self) -> bool:
        """Whether a second argument `<name>.scale`, f32[shape[:-1]], belongs to it."""
        return self.format in SCALED or (
            self.is_block and BLOCK_FORMATS[self.format].has_outer_scale
        )

    @property
    def arguments(self) -> tuple[Argument, ...]:
        """The module arguments that hold it: the tensor as stored, then its scale if it has one.

        A block format's argument is ui8[..., bytes of a row]. Raises InputError when a row is not
        a whole number of blocks.
        """
        if self.is_block:
            try:
                size = BLOCK_FORMATS[self.format].row_bytes(self.shape[-1])
            except InputError as error:
                raise InputError(str(error), field=self.name) from None
            main = Argument(self.name, (*self.shape[:-1], size), "ui8", "weight")
        else:
            main = Argument(self.name, self.shape, self.format, "weight")
        if not self.has_scale:
            return (main,)
        return (main, Argument(f"{self.name}.scale", self.shape[:-1], "f32", "weight"))

    @property
    def nbytes(self) -> int:
        return sum(argument.nbytes for argument in self.arguments)


def weight_specs(
    config: TransformerConfig,
    precision: Precision,
    stored: Mapping[str, str] | None = None,
) -> tuple[WeightSpec, ...]:
    """Every weight of the model, embedding first, layers in order, head last.

    Names: `embed` [vocabulary, hidden], `norm` [hidden], `head` [vocabulary, hidden] (absent when
    tied). In layer i, each under `layers.{i}.`:

    - `attn_norm`, `ffn_norm` [hidden]; with post_norms also `attn_post_norm`, `ffn_post_norm`;
    - `attn.q` [heads*head_dim, hidden], `attn.k` and `attn.v` [kv_heads*head_dim, hidden],
      `attn.o` [hidden, heads*head_dim]; biases `attn.q.bias` … [out]; `attn.q_norm` and
      `attn.k_norm` [head_dim]; `attn.sinks` [heads];
    - latent attention instead: `attn.q_down` [q_rank, hidden], `attn.q_down_norm` [q_rank] and
      `attn.q_up` [heads*(nope+rope), q_rank], or one `attn.q` when q_rank is 0; `attn.kv_down`
      [kv_rank+rope, hidden] (latent rows first), `attn.kv_norm` [kv_rank], `attn.k_up`
      [heads, kv_rank, nope], `attn.v_up` [heads, value, kv_rank], `attn.o` [hidden, heads*value];
    - dense layers: `ffn.gate`, `ffn.up` [ffn, hidden], `ffn.down` [hidden, ffn];
    - MoE layers: `moe.router` [experts, hidden], `moe.router.bias` and `moe.router.correction`
      [experts]; `moe.gate`, `moe.up` [experts, ffn, hidden], `moe.down` [experts, hidden, ffn] and
      their `.bias` [experts, out]; `moe.shared.gate`, `.up` [shared_ffn, hidden], `.down`.

    `stored` maps names to formats; it is required, and used, where the precision says `stored`.
    Raises UsageError for an unknown format or a tensor `stored` lacks.
    """
    return _specs(_tensors(config), precision, stored)


def mtp_specs(config: TransformerConfig, precision: Precision) -> tuple[WeightSpec, ...]:
    """Every weight of the first module that guesses ahead: the model's `embed` and `head`, and
    under `mtp.` a layer's, `embed_norm`, `hidden_norm` and `norm` [hidden], and `join`
    [hidden, 2 hidden], whose first columns take the hidden state.

    Raises UnsupportedError where the module is not of this kind of layer.
    """
    if config.mtp < 1 or config.mla is not None or config.window or config.moe is not None:
        raise UnsupportedError(
            f"{config.family}: multi-token prediction is built for models with such modules and "
            "full attention over keys and values, and without experts"
        )
    outside = [one for one in _tensors(config) if one[0] in ("embed", "head")]
    own: list[tuple[str, tuple[int, ...], Kind]] = [
        ("embed_norm", (config.hidden,), "norm"),
        ("hidden_norm", (config.hidden,), "norm"),
        ("join", (config.hidden, 2 * config.hidden), "linear"),
        *_layer(config, 0),
        ("norm", (config.hidden,), "norm"),
    ]
    for name, shape, kind in own:
        outside.append((f"mtp.{name}", shape, kind))
    return _specs(outside, precision, None)


def _specs(
    tensors: Iterable[tuple[str, tuple[int, ...], Kind]],
    precision: Precision,
    stored: Mapping[str, str] | None,
) -> tuple[WeightSpec, ...]:
    plain = _plain(precision)
    own: dict[Kind, str] = {
        "linear": precision.weights,
        "expert": precision.experts or precision.weights,
    }
    specs: list[WeightSpec] = []
    for name, shape, kind in tensors:
        form = own.get(kind, plain)
        if "stored" in (form, precision.weights) and kind not in own:
            form = "stored"
        if form == "stored":
            form = _stored(name, stored)
        if form not in BLOCK_FORMATS and form not in (*DENSE, *SCALED):
            raise unknown("weight format", form, (*DENSE, *SCALED, *BLOCK_FORMATS))
        specs.append(WeightSpec(name, shape, kind, form))
    return tuple(specs)


def _plain(precision: Precision) -> str:
    plain = precision.weights if precision.weights in DENSE else precision.activations
    if plain not in DENSE:
        raise UsageError(
            f"precision {precision.name} has activations {plain}; use one of {', '.join(DENSE)}"
        )
    return plain


def _stored(name: str, stored: Mapping[str, str] | None) -> str:
    if stored is None:
        raise UsageError(
            "precision `stored` takes every tensor as its file has it, and this model has no "
            "file; choose another precision"
        )
    if name not in stored:
        raise InputError("the file has no such tensor", field=name)
    return stored[name]


def _tensors(c: TransformerConfig) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
    yield "embed", (c.vocabulary, c.hidden), "embedding"
    for layer in range(c.layers):
        prefix = f"layers.{layer}."
        for name, shape, kind in _layer(c, layer):
            yield prefix + name, shape, kind
    yield "norm", (c.hidden,), "norm"
    if not c.tied_embeddings:
        yield "head", (c.vocabulary, c.hidden), "head"


def _layer(c: TransformerConfig, layer: int) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
    yield "attn_norm", (c.hidden,), "norm"
    yield from _latent_attention(c) if c.mla else _attention(c)
    if c.post_norms:
        yield "attn_post_norm", (c.hidden,), "norm"
    yield "ffn_norm", (c.hidden,), "norm"
    yield from _moe(c) if c.is_moe(layer) else _gated("ffn", c.ffn, c.hidden)
    if c.post_norms:
        yield "ffn_post_norm", (c.hidden,), "norm"


def _attention(c: TransformerConfig) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
    for name, heads in (("q", c.heads), ("k", c.kv_heads), ("v", c.kv_heads)):
        yield f"attn.{name}", (heads * c.head_dim, c.hidden), "linear"
        if c.qkv_bias:
            yield f"attn.{name}.bias", (heads * c.head_dim,), "bias"
    if c.qk_norm:
        yield "attn.q_norm", (c.head_dim,), "norm"
        yield "attn.k_norm", (c.head_dim,), "norm"
    if c.sinks:
        yield "attn.sinks", (c.heads,), "bias"
    yield "attn.o", (c.hidden, c.heads * c.head_dim), "linear"
    if c.output_bias:
        yield "attn.o.bias", (c.hidden,), "bias"


def _latent_attention(c: TransformerConfig) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
    mla = c.mla
    assert mla is not None
    width = c.heads * (mla.nope_dim + mla.rope_dim)
    if mla.q_rank:
        yield "attn.q_down", (mla.q_rank, c.hidden), "linear"
        yield "attn.q_down_norm", (mla.q_rank,), "norm"
        yield "attn.q_up", (width, mla.q_rank), "linear"
    else:
        yield "attn.q", (width, c.hidden), "linear"
    yield "attn.kv_down", (mla.kv_rank + mla.rope_dim, c.hidden), "linear"
    yield "attn.kv_norm", (mla.kv_rank,), "norm"
    yield "attn.k_up", (c.heads, mla.kv_rank, mla.nope_dim), "absorbed"
    yield "attn.v_up", (c.heads, mla.value_dim, mla.kv_rank), "absorbed"
    yield "attn.o", (c.hidden, c.heads * mla.value_dim), "linear"


def _gated(prefix: str, ffn: int, hidden: int) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
    yield f"{prefix}.gate", (ffn, hidden), "linear"
    yield f"{prefix}.up", (ffn, hidden), "linear"
    yield f"{prefix}.down", (hidden, ffn), "linear"


def _moe(c: TransformerConfig) -> Iterator[tuple[str, tuple[int, ...], Kind]]:
    moe = c.moe
    assert moe is not None
    yield "moe.router", (moe.experts, c.hidden), "router"
    if moe.router_bias:
        yield "moe.router.bias", (moe.experts,), "bias"
    if moe.score_correction:
        yield "moe.router.correction", (moe.experts,), "bias"
    for name, out, into in (
        ("gate", moe.ffn, c.hidden),
        ("up", moe.ffn, c.hidden),
        ("down", c.hidden, moe.ffn),
    ):
        yield f"moe.{name}", (moe.experts, out, into), "expert"
        if moe.expert_bias:
            yield f"moe.{name}.bias", (moe.experts, out), "bias"
    if moe.shared_ffn:
        yield from _gated("moe.shared", moe.shared_ffn, c.hidden)


def facts(config: TransformerConfig) -> Facts:
    """Shape facts. Active parameters are those one token's step multiplies with: all but the
    experts not chosen and the embedding table (unless the head is tied to it)."""
    total = active = 0
    for _, shape, kind in _tensors(config):
        count = math.prod(shape)
        total += count
        if kind == "expert" or (kind == "bias" and len(shape) == 2):
            assert config.moe is not None
            active += count * config.moe.active // config.moe.experts
        elif kind != "embedding" or config.tied_embeddings:
            active += count
    return Facts(
        layers=config.layers,
        hidden=config.hidden,
        vocabulary=config.vocabulary,
        context=config.context,
        parameters=total,
        active_parameters=active,
    )


def cache_specs(
    config: TransformerConfig, batch: int, context: int, precision: Precision
) -> tuple[Argument, ...]:
    """The state arguments for `context` positions.

    `layers.{i}.k` and `layers.{i}.v` [batch, kv_heads, positions, head_dim], where a window layer
    keeps only min(window, context) positions (a ring: position p lies in slot p % window); latent
    attention keeps `layers.{i}.latent` [batch, context, kv_rank + rope_dim].
    """
    if batch < 1 or context < 1:
        raise UsageError(f"batch = {batch} and context = {context} must be at least 1")
    if precision.cache in BLOCK_FORMATS or dtype(precision.cache).kind != "float":
        raise UsageError(
            f"precision {precision.name} caches {precision.cache}; use a float element type "
            "(q8_0 caches are for steps over pages)"
        )
    made: list[Argument] = []
    for layer in range(config.layers):
        if config.mla is not None:
            width = config.mla.kv_rank + config.mla.rope_dim
            shape = (batch, context, width)
            made.append(Argument(f"layers.{layer}.latent", shape, precision.cache, "state"))
            continue
        is_window = config.kind(layer) == "window"
        positions = min(config.window, context) if is_window else context
        shape = (batch, config.kv_heads, positions, config.head_dim)
        for name in ("k", "v"):
            made.append(Argument(f"layers.{layer}.{name}", shape, precision.cache, "state"))
    return tuple(made)


def page_specs(
    config: TransformerConfig, shape: PagedShape, precision: Precision
) -> tuple[Argument, ...]:
    """The state arguments of a paged step: `layers.{i}.k` and `layers.{i}.v`
    [pages, kv_heads, page_tokens, head_dim], for window layers too (they see less, not hold less);
    with a cache of q8_0 the last dimension is that of its blocks in bytes.

    Raises UnsupportedError for latent attention.
    """
    if config.mla is not None:
        raise UnsupportedError(
            f"{config.family} caches latents, for which there is no paged step; "
            "generate with prefill and decode"
        )
    for name in ("tokens", "rows", "sequences", "pages", "page_tokens", "table"):
        if getattr(shape, name) < 1:
            raise UsageError(f"{name} = {getattr(shape, name)} must be at least 1")
    if shape.rows > shape.tokens:
        raise UsageError(f"rows = {shape.rows} of {shape.tokens} tokens cannot have logits")
    element, row = precision.cache, config.head_dim
    if element != "q8_0" and (element in BLOCK_FORMATS or dtype(element).kind != "float"):
        raise UsageError(
            f"precision {precision.name} caches {element}; use a float element type, or q8_0"
        )
    if element == "q8_0":
        element, row = "ui8", block_format("q8_0").row_bytes(config.head_dim)
    sizes = (shape.pages, config.kv_heads, shape.page_tokens, row)
    return tuple(
        Argument(f"layers.{layer}.{name}", sizes, element, "state")
        for layer in range(config.layers)
        for name in ("k", "v")
    )
