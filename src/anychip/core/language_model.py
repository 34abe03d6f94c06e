"""LanguageModel: what a token generator needs, from a file or from published shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from anychip.core.module import Module
from anychip.core.signature import Argument
from anychip.core.target import Recipe
from anychip.core.weights import Weights


class TextStream(Protocol):
    """Decodes one sequence token by token, never giving out half a character."""

    def push(self, token: int) -> str: ...
    def flush(self) -> str: ...


class Tokenizer(Protocol):
    """Text to ids and back. `bos` and `stop` are ids; `bos` is None when prompts start without one.

    `encode` adds no `bos`. The pieces of a `stream` join to what `decode` gives.
    """

    @property
    def bos(self) -> int | None: ...
    @property
    def stop(self) -> tuple[int, ...]: ...
    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Sequence[int]) -> str: ...
    def stream(self) -> TextStream: ...


class ChatTemplate(Protocol):
    """Renders messages ({"role", "content"}) to the prompt text the model was trained on."""

    def render(self, messages: Sequence[dict[str, str]]) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Precision:
    """How a language model's numbers are held.

    `weights` is an element type (`f32`, `bf16`, `f8E4M3FN`, `i8`) or a block format (`q4_0`,
    `mxfp4`, …), or `stored` for each tensor as its file has it; `experts` is the same for the
    routed experts where they differ. `activations` and `cache` are element types (for steps over
    pages, `cache` may be `q8_0`); `matmul` is the
    format in which the matrix unit multiplies (a key of ChipSpec.matmul_flops_per_s).
    """

    name: str
    weights: str
    activations: str
    cache: str
    matmul: str
    experts: str = ""


@dataclass(frozen=True, kw_only=True)
class PagedShape:
    """The sizes of a paged step: `tokens` of up to `sequences` sequences, whose logits are wanted
    for the last `rows` of them; `pages` of `page_tokens` tokens in all, `table` of them for one
    sequence at most. With `gives_hidden` a second result, `hidden` f32[tokens, hidden], is what the
    head would be given of each token."""

    tokens: int
    rows: int
    sequences: int
    pages: int
    page_tokens: int
    table: int
    gives_hidden: bool = False


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Shape facts every consumer may rely on, whatever the architecture."""

    layers: int
    hidden: int
    vocabulary: int
    context: int
    parameters: int
    active_parameters: int


@dataclass(frozen=True, kw_only=True)
class LanguageModel:
    """A language model as two families of Modules.

    `prefill(batch, length, context, precision)` takes input `tokens` i32[batch, length] and
    `start` i32[batch] (tokens already in the cache), state = the KV cache for `context` positions,
    and gives `logits` f32[batch, vocabulary] of each sequence's last token plus the updated state.
    `decode(batch, context, precision)` is the same with length 1. Weights are arguments of both
    under the same names. `bind(precision)` gives the weights in that precision (shape only for
    catalogue models).

    `step(shape, precision)` is a step over tokens of many sequences, whose KV cache lies in pages:
    inputs `tokens` i32[tokens], `places` i32[2, tokens] (each token's sequence, and its position in
    it) and `table` i32[sequences, table] (each sequence's pages), state = a pool of pages for each
    layer's keys and values, [pages, heads, page_tokens, width]; `logits` f32[rows, vocabulary] of
    the last `rows` tokens. Tokens may come in any order: all are cached before any attends. Its
    weights are bound. `step_state(shape, precision)` says what its state is. Both are None where
    a model has no such step. `step_recipe(shape, precision)` is the same step not yet built, where
    a model can tell its program without tracing it.

    `mtp(length, context, precision)`, where a model has a module that guesses ahead, is that
    module's step for one sequence, bound: inputs `tokens` i32[1, length], `hidden`
    f32[1, length, hidden] of the tokens before each of these, `keep` f32[1, length] (0 for a
    sequence's first pair, else 1), and `start` i32[1]; state = its own cache;
    `logits` f32[1, vocabulary] and `next` f32[1, hidden] of the last one.

    `score(batch, length, precision)`, where a model has it, is a prefill whose `logits` are
    f32[batch, length, vocabulary], those of every position.
    """

    name: str
    facts: Facts
    native_precision: Precision
    prefill: Callable[[int, int, int, Precision], Module]
    decode: Callable[[int, int, Precision], Module]
    bind: Callable[[Precision], Weights]
    source: str
    step: Callable[[PagedShape, Precision], Module] | None = None
    step_state: Callable[[PagedShape, Precision], tuple[Argument, ...]] | None = None
    step_recipe: Callable[[PagedShape, Precision], Recipe] | None = None
    tokenizer: Tokenizer | None = None
    chat: ChatTemplate | None = None
    score: Callable[[int, int, Precision], Module] | None = None
    mtp: Callable[[int, int, Precision], Module] | None = None
    licence: str = ""
