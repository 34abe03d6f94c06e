"""One sequence, token by token, on two Executables: prefill and decode share the KV cache.

No batching, no scheduling, no server; the loop an engine can be checked against.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.core import (
    CompileOptions,
    Executable,
    LanguageModel,
    Precision,
    Target,
    TextStream,
    UsageError,
    dtype,
)

BUCKETS = (16, 64, 256, 512)
"""Lengths a prefill is compiled for; longer prompts go through in pieces of the last one."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is drawn. Temperature 0 takes the likeliest; `top_k` 0 keeps all tokens,
    `top_p` the fewest whose probabilities reach it (arXiv:1904.09751). Equal seeds draw alike."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 100:
            raise UsageError(f"temperature {self.temperature} must be 0 (greedy) to 100")
        if self.top_k < 0:
            raise UsageError(f"top_k {self.top_k} must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p} must be more than 0 and at most 1")
        if self.seed < 0:
            raise UsageError(f"seed {self.seed} must be 0 or more")


@dataclass(frozen=True)
class Stop:
    """What ends a generation: token ids (their text is not given out) or texts (nor is theirs)."""

    ids: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if "" in self.texts:
            raise UsageError("a stop text is empty; it would end every generation at once")


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One generated token. `text` is what it lets out: nothing while a character or a possible
    stop text is unfinished. `seconds` is since the generation was asked for. `finish` is set on the
    last piece: "stop", "length" (max_new reached) or "context" (the cache is full)."""

    token: int
    text: str
    seconds: float
    finish: str = ""


@dataclass(frozen=True, kw_only=True)
class Runner:
    """A model compiled for one target at batch 1. `prefill` is None when no prompt needs one."""

    model: LanguageModel
    prefill: Executable | None
    decode: Executable
    context: int
    target: str
    precision: Precision

    def generate(
        self,
        prompt: Sequence[int],
        *,
        max_new: int,
        sampling: Sampling = Sampling(),
        stop: Stop | None = None,
    ) -> Iterator[Piece]:
        """See `generate`. Without `stop`, the model's own stop tokens end it."""
        return generate(
            self.model,
            self.prefill,
            self.decode,
            prompt,
            context=self.context,
            max_new=max_new,
            sampling=sampling,
            stop=stop,
        )


def compile_runner(
    model: LanguageModel,
    target: Target,
    *,
    prompt_tokens: int,
    max_new: int,
    precision: Precision | None = None,
    options: CompileOptions | None = None,
) -> Runner:
    """Compile what prompts of up to `prompt_tokens` and `max_new` tokens after them need.

    The context is the next power of two, at most the model's own, so that few shapes are compiled.
    Raises UsageError for a prompt that leaves no room in the model's context.
    """
    _check_room(prompt_tokens, model.facts.context, f"{model.name} has")
    precision, options = precision or model.native_precision, options or CompileOptions()
    wanted = max(64, prompt_tokens + max_new)
    context = min(1 << (wanted - 1).bit_length(), model.facts.context)
    weights = model.bind(precision)
    decode = target.compile(model.decode(1, context, precision).with_weights(weights), options)
    prefill = None
    if prompt_tokens > 1:
        length = next((b for b in BUCKETS if b >= prompt_tokens - 1), BUCKETS[-1])
        module = model.prefill(1, min(length, context), context, precision)
        prefill = target.compile(module.with_weights(weights), options)
    return Runner(
        model=model,
        prefill=prefill,
        decode=decode,
        context=context,
        target=target.name,
        precision=precision,
    )


def prompt_ids(model: LanguageModel, text: str) -> list[int]:
    """Token ids of a prompt, starting as the model expects.

    Raises UsageError when the model has no tokenizer, or the prompt is empty and nothing starts it.
    """
    if model.tokenizer is None:
        raise UsageError(f"{model.name} has no tokenizer; give token ids")
    ids, bos = model.tokenizer.encode(text), model.tokenizer.bos
    if bos is not None and ids[:1] != [bos]:
        ids.insert(0, bos)
    if not ids:
        raise UsageError(
            f"the prompt is empty, and {model.name} has no token that starts a text; "
            "write at least one character"
        )
    return ids


def chat_ids(model: LanguageModel, messages: Sequence[dict[str, str]]) -> list[int]:
    """Token ids of a conversation, up to where the assistant speaks.

    Raises UsageError when the model has no chat template, InputError when the template refuses.
    """
    if model.chat is None:
        raise UsageError(f"{model.name} has no chat template; give the prompt as plain text")
    return prompt_ids(model, model.chat.render(messages))


def generate(
    model: LanguageModel,
    prefill: Executable | None,
    decode: Executable,
    prompt: Sequence[int],
    *,
    context: int,
    max_new: int,
    sampling: Sampling = Sampling(),
    stop: Stop | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Piece]:
    """Generate up to `max_new` tokens after `prompt` (ids), each yielded as it is known.

    `prefill` and `decode` are compiled at batch 1 for `context` positions; prefill takes any
    length of tokens. All but the last prompt token go through prefill, the last piece padded: what
    padding writes into the cache lies after every position a query sees, and is overwritten before
    it is seen. So the numbers are those of the unpadded prompt. Where a layer keeps a window only,
    padding would overwrite what is still needed, and what is left over is decoded one by one.

    Raises UsageError at once for an empty or too long prompt and for ids outside the vocabulary.
    """
    started = clock()
    _check(model, prompt, context, max_new)
    stop = _own_stop(model) if stop is None else stop
    if stop.texts and model.tokenizer is None:
        raise UsageError(f"{model.name} has no tokenizer, so stop texts cannot be found")
    loop = _Loop(decode, context)
    random = np.random.default_rng(sampling.seed)
    text = _Text(model.tokenizer.stream() if model.tokenizer else None, stop.texts)

    def pieces() -> Iterator[Piece]:
        loop.read(prefill, list(prompt[:-1]))
        token = prompt[-1]
        for count in range(1, max_new + 1):
            token = sample(loop.step(token), sampling, random)
            finish = ""
            if token in stop.ids:
                finish, out = "stop", text.rest()
            else:
                out = text.push(token)
                if text.is_over:
                    finish = "stop"
                elif count == max_new or loop.position == context:
                    finish = "length" if count == max_new else "context"
                    out += text.rest()
            yield Piece(token=token, text=out, seconds=clock() - started, finish=finish)
            if finish:
                return

    return pieces()


def sample(logits: np.ndarray, sampling: Sampling, random: np.random.Generator) -> int:
    """A token id drawn from logits f32[vocabulary]."""
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    scaled = logits.astype(np.float64) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")  # equal logits: the smaller id first
    if sampling.top_k:
        order = order[: sampling.top_k]
    odds = np.exp(scaled[order] - scaled[order[0]])
    odds /= odds.sum()
    if sampling.top_p < 1:
        kept = int(np.searchsorted(np.cumsum(odds), sampling.top_p)) + 1
        order, odds = order[:kept], odds[:kept] / odds[:kept].sum()
    return int(random.choice(order, p=odds))


@dataclass
class _Loop:
    """The KV cache and how many positions of it are filled."""

    decode: Executable
    context: int
    position: int = 0
    _state: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self._state = {
            a.name: np.zeros([int(d) for d in a.shape], dtype(a.dtype).numpy)
            for a in self.decode.signature.named("state")
        }

    @property
    def _keeps_all(self) -> bool:
        """Whether every layer's cache has a place for each position of the context.

        Caches are [batch, heads, positions, width], or [batch, positions, width] for latents.
        """
        return all(a.shape[-2] == self.context for a in self.decode.signature.named("state"))

    def read(self, prefill: Executable | None, tokens: list[int]) -> None:
        """Fill the cache with these tokens."""
        length = _length(prefill) if prefill else 0
        while tokens and prefill and (len(tokens) >= length or self._keeps_all):
            # A padded piece must not reach past the cache: near its end the rest is decoded.
            if self.position + length > self.context:
                break
            piece, tokens = tokens[:length], tokens[length:]
            self._run(prefill, piece + [0] * (length - len(piece)))
            self.position += len(piece)
        for token in tokens:
            self.step(token)

    def step(self, token: int) -> np.ndarray:
        """Logits f32[vocabulary] after one more token."""
        logits = self._run(self.decode, [token])
        self.position += 1
        return np.asarray(logits)[0]

    def _run(self, executable: Executable, tokens: list[int]) -> Any:
        values: Mapping[str, Any] = {
            "tokens": np.array([tokens], np.int32),
            "start": np.array([self.position], np.int32),
            **self._state,
        }
        signature = executable.signature
        inputs = [values[a.name] for a in signature.arguments if a.role != "weight"]
        outputs = executable.run(*inputs)
        named = dict(zip(signature.results, outputs, strict=True))
        self._state = {r.updates: value for r, value in named.items() if r.updates}
        return next(value for r, value in named.items() if r.name == "logits")


class _Text:
    """Generated text, held back while it may be the beginning of a stop text."""

    def __init__(self, stream: TextStream | None, stops: tuple[str, ...]):
        self._stream, self._stops = stream, stops
        self._held, self.is_over = "", False

    def push(self, token: int) -> str:
        return self._let_out(self._stream.push(token)) if self._stream else ""

    def rest(self) -> str:
        """What is still held, at the end."""
        out = self._let_out(self._stream.flush()) if self._stream else ""
        held, self._held = self._held, ""
        return out if self.is_over else out + held

    def _let_out(self, more: str) -> str:
        text, self._held = self._held + more, ""
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.is_over = True
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """The longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def _length(prefill: Executable) -> int:
    """How many tokens a prefill takes at once."""
    tokens = next(a for a in prefill.signature.arguments if a.name == "tokens")
    return int(tokens.shape[1])


def _own_stop(model: LanguageModel) -> Stop:
    return Stop(model.tokenizer.stop) if model.tokenizer else Stop()


def _check(model: LanguageModel, prompt: Sequence[int], context: int, max_new: int) -> None:
    if max_new < 1:
        raise UsageError(f"max_new is {max_new}; at least 1 token must be generated")
    if not prompt:
        raise UsageError("the prompt has no tokens; give at least one")
    _check_room(len(prompt), context, "it was compiled for")
    for token in prompt:
        if not 0 <= token < model.facts.vocabulary:
            raise UsageError(
                f"token id {token} is outside {model.name}'s vocabulary of {model.facts.vocabulary}"
            )


def _check_room(prompt_tokens: int, context: int, whose: str) -> None:
    if prompt_tokens > context:
        raise UsageError(
            f"the prompt has {prompt_tokens} tokens, {whose} a context of {context}; "
            f"shorten the prompt by {prompt_tokens - context}"
        )
