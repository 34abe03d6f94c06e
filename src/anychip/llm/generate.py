"""One sequence, token by token, on two Executables: prefill and decode share the KV cache.

No batching, no scheduling, no server; the loop an engine can be checked against.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from anychip.core import (
    CompileOptions,
    Executable,
    LanguageModel,
    Precision,
    Target,
    UsageError,
    dtype,
)
from anychip.llm.sampling import History, Logprobs, Sampling, draw, logprobs
from anychip.llm.text import Stop, TextOut

BUCKETS = (16, 64, 256, 512)
"""Lengths a prefill is compiled for; longer prompts go through in pieces of the last one."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One generated token. `text` is what it lets out: nothing while a character or a possible
    stop text is unfinished. `seconds` is since the generation was asked for. `finish` is set on the
    last piece: "stop", "length" (max_new reached) or "context" (the cache is full); an engine may
    also end a request by "deadline" or "error", with token -1. `request` is the engine's number."""

    token: int
    text: str
    seconds: float
    finish: str = ""
    logprobs: Logprobs | None = None
    request: int = 0


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
    check_room(prompt_tokens, model.facts.context, f"{model.name} has")
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
    loop = TokenLoop(decode, context)
    history = History(set(prompt)) if sampling.needs_history else None
    text = TextOut(model.tokenizer.stream() if model.tokenizer else None, stop.texts)

    def pieces() -> Iterator[Piece]:
        loop.read(prefill, list(prompt[:-1]))
        token = prompt[-1]
        for count in range(1, max_new + 1):
            logits = loop.step(token)
            token = draw(logits, sampling, count - 1, history)
            if history:
                history.add(token)
            chances = None
            if sampling.logprobs is not None:
                chances = logprobs(logits, token, sampling.logprobs)
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
            yield Piece(
                token=token,
                text=out,
                seconds=clock() - started,
                finish=finish,
                logprobs=chances,
            )
            if finish:
                return

    return pieces()


@dataclass
class TokenLoop:
    """The KV cache of one sequence and how many positions of it are filled. Setting `position`
    back takes the last tokens back, where every layer keeps all positions."""

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


def _length(prefill: Executable) -> int:
    """How many tokens a prefill takes at once."""
    tokens = next(a for a in prefill.signature.arguments if a.name == "tokens")
    return int(tokens.shape[1])


def _own_stop(model: LanguageModel) -> Stop:
    return Stop(model.tokenizer.stop) if model.tokenizer else Stop()


def _check(model: LanguageModel, prompt: Sequence[int], context: int, max_new: int) -> None:
    check_count(max_new)
    if not prompt:
        raise UsageError("the prompt has no tokens; give at least one")
    check_room(len(prompt), context, "it was compiled for")
    check_ids(model, prompt)


def check_count(max_new: int) -> None:
    """Raise UsageError for an answer of no tokens."""
    if max_new < 1:
        raise UsageError(f"max_new is {max_new}; at least 1 token must be generated")


def check_ids(model: LanguageModel, ids: Iterable[int]) -> None:
    """Raise UsageError for token ids outside the model's vocabulary."""
    vocabulary = model.facts.vocabulary
    for token in ids:
        if not 0 <= token < vocabulary:
            raise UsageError(
                f"token id {token} is outside {model.name}'s vocabulary of {vocabulary}"
            )


def check_room(prompt_tokens: int, context: int, whose: str) -> None:
    """Raise UsageError for a prompt longer than the context that `whose` names the owner of."""
    if prompt_tokens > context:
        raise UsageError(
            f"the prompt has {prompt_tokens} tokens, {whose} a context of {context}; "
            f"shorten the prompt by {prompt_tokens - context}"
        )
