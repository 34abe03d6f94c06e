"""TransformerConfig: the shape facts of a decoder-only transformer, whatever file they came from.

One config covers Llama, Mistral, Qwen3, Gemma-3, SmolLM2, Mixtral, Qwen3-MoE, gpt-oss and
DeepSeek-V3. Numbers only: no weights, no precision. `weights.py` lists the tensors it implies.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from anychip.core.errors import InputError
from anychip.frontends.llm.rope import Rope

Activation = Literal["silu", "gelu_tanh", "gelu", "clamped_silu"]
"""The gate of the gated feed-forward network, down(act(gate(x)) * up(x)):
silu: Llama's SwiGLU; gelu_tanh: Gemma's GeGLU; clamped_silu: gpt-oss, where
act(g)*up = g*sigmoid(1.702 g) * (u + 1) with g at most `activation_limit` and u within ±it."""

LayerKind = Literal["global", "window"]


@dataclass(frozen=True, kw_only=True)
class MoE:
    """A mixture-of-experts feed-forward network.

    Scores are softmax or sigmoid of the router's logits (f32); the `active` best experts are
    taken; `normalise` divides their scores by their sum (Mixtral, Qwen3-MoE, and gpt-oss, whose
    softmax over the chosen logits is the same thing); `route_scale` multiplies last. With
    `groups` > 1 only experts in the `active_groups` best groups are eligible, a group's score
    being the sum of its two best (DeepSeek-V3, arXiv:2412.19437, section 2.1.2).
    """

    experts: int
    active: int
    ffn: int  # width of one expert
    shared_ffn: int = 0  # total width of the experts every token uses; 0: none
    first_dense: int = 0  # leading layers that have a dense network of width `config.ffn` instead
    scoring: Literal["softmax", "sigmoid"] = "softmax"
    normalise: bool = True
    route_scale: float = 1.0
    groups: int = 1
    active_groups: int = 1
    router_bias: bool = False  # added to the logits (gpt-oss)
    score_correction: bool = False  # added to the scores for choosing only (DeepSeek-V3)
    expert_bias: bool = False  # gate, up and down have biases (gpt-oss)


@dataclass(frozen=True, kw_only=True)
class MLA:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    What is cached for a token is `kv_rank` latent numbers and one rotated key of `rope_dim`,
    shared by all heads. A head's query and key are `nope_dim` plain then `rope_dim` rotated.
    """

    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    q_rank: int = 0  # 0: the query projection is one full matrix


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """A pre-norm decoder: x += attention(norm(x)); x += ffn(norm(x)); logits = head(norm(x)).

    Every norm is RMSNorm in f32, x/rms(x) * (norm_offset + weight). Linear weights are
    [out, in]. Raises InputError, naming the field, for facts that contradict each other.
    """

    family: str  # for messages and reports only; nothing branches on it
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int  # width of the dense feed-forward network; 0 when every layer is a MoE layer
    vocabulary: int
    context: int  # longest sequence the model was made for, in tokens
    rope: Rope
    norm_eps: float
    activation: Activation = "silu"
    activation_limit: float = 0.0  # for clamped_silu
    norm_offset: float = 0.0  # 1.0 for Gemma, whose norm weights are stored minus one
    post_norms: bool = False  # a norm after attention and after ffn, before the sum (Gemma)
    qk_norm: bool = False  # RMSNorm of each query and key head before rotation (Qwen3, Gemma-3)
    qkv_bias: bool = False
    output_bias: bool = False  # bias of the attention's output projection
    sinks: bool = False  # one learned logit a head that only joins the softmax's sum (gpt-oss)
    attention_scale: float = 0.0  # 0: 1/sqrt(query width of a head)
    attention_softcap: float = 0.0  # 0: none; else cap*tanh(logits/cap)
    logit_softcap: float = 0.0  # the same for the final logits
    embedding_scale: float = 1.0  # sqrt(hidden) for Gemma
    tied_embeddings: bool = False  # the head is the embedding table
    window: int = 0  # a window layer's token sees itself and the window-1 before it; 0: none
    global_every: int = 0  # layers i with (i+1) % global_every == 0 see all; 0: no layer does
    window_rope: Rope | None = None  # rotation of window layers when it differs (Gemma-3)
    moe: MoE | None = None
    mla: MLA | None = None  # kv_heads and head_dim are then unused
    mtp: int = 0  # modules that guess one token more each, behind the last layer (mtp.py)

    def __post_init__(self) -> None:
        for one in (self, *(part for part in (self.moe, self.mla) if part is not None)):
            for field in fields(one):
                value = getattr(one, field.name)
                if isinstance(value, int | float) and value < 0:
                    raise InputError(f"{value} is negative", field=field.name)
        positive = ("layers", "hidden", "heads", "kv_heads", "head_dim", "vocabulary", "context")
        for name in positive:
            if getattr(self, name) < 1:
                raise InputError("it must be at least 1", field=name)
        for wrong, name, why in self._contradictions():
            if wrong:
                raise InputError(why, field=name)

    def _contradictions(self) -> list[tuple[bool, str, str]]:
        moe, mla, window = self.moe, self.mla, self.window
        rows = [
            (
                self.heads % self.kv_heads != 0,
                "kv_heads",
                f"{self.kv_heads} does not divide heads = {self.heads}",
            ),
            (self.norm_eps <= 0, "norm_eps", f"{self.norm_eps} is not positive"),
            (
                self.ffn < 1 and (moe is None or moe.first_dense > 0),
                "ffn",
                "a model with dense layers needs their width",
            ),
            (
                (self.activation == "clamped_silu") != (self.activation_limit > 0),
                "activation_limit",
                "clamped_silu needs a limit, and only it has one",
            ),
            (
                window == 0 and (self.global_every > 0 or self.window_rope is not None),
                "window",
                "global_every and window_rope mean nothing without a window",
            ),
            (
                mla is not None and (self.qk_norm or self.qkv_bias or self.sinks or window > 0),
                "mla",
                "latent attention with qk_norm, biases, sinks or a window is not known",
            ),
            (
                self.rotated > self.query_dim or self.rotated % 2 != 0,
                "rope.dim",
                f"cannot rotate {self.rotated} of {self.query_dim} numbers",
            ),
        ]
        if moe is not None:
            rows += [
                (not 1 <= moe.active <= moe.experts, "moe.active", f"not in 1…{moe.experts}"),
                (moe.ffn < 1, "moe.ffn", "it must be at least 1"),
                (
                    moe.groups < 1 or moe.experts % moe.groups != 0,
                    "moe.groups",
                    f"{moe.groups} does not divide {moe.experts} experts",
                ),
                (
                    not 1 <= moe.active_groups <= moe.groups,
                    "moe.active_groups",
                    f"not in 1…{moe.groups}",
                ),
            ]
        return rows

    @property
    def query_dim(self) -> int:
        """Width of one head's query and key."""
        return self.head_dim if self.mla is None else self.mla.nope_dim + self.mla.rope_dim

    @property
    def rotated(self) -> int:
        """How many numbers of a query or key head are rotated."""
        if self.mla is not None:
            return self.mla.rope_dim
        return self.rope.dim or self.head_dim

    @property
    def scale(self) -> float:
        """What multiplies query·key: attention_scale, times YaRN's amplitude factors."""
        base = self.attention_scale or self.query_dim**-0.5
        return base * self.rope.attention_factor(latent=self.mla is not None)

    def kind(self, layer: int) -> LayerKind:
        """Whether a layer sees the whole sequence or a window of it."""
        if self.window == 0:
            return "global"
        is_global = self.global_every > 0 and (layer + 1) % self.global_every == 0
        return "global" if is_global else "window"

    def is_moe(self, layer: int) -> bool:
        """Whether a layer's feed-forward network is a mixture of experts."""
        return self.moe is not None and layer >= self.moe.first_dense

    def rope_of(self, layer: int) -> Rope:
        """The rotation a layer uses."""
        if self.kind(layer) == "window" and self.window_rope is not None:
            return self.window_rope
        return self.rope
