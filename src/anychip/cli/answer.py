"""Prompts through the token engine: what `anychip run` and `demo` do with a language model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from anychip.cli.output import console, progress_console, scaled
from anychip.core import (
    CompileOptions,
    LanguageModel,
    Precision,
    SetupError,
    Target,
    UnsupportedError,
    UsageError,
    discover,
    shipped_text,
    simulates,
    unknown,
)
from anychip.core.config import read

KV = ("f32", "f16", "bf16", "q8_0")
"""What a KV cache may hold."""


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What to generate and how. `precision` "" leaves it to the target, `quantize` is a block
    format for the weights; `speculate` is "", "lookup", "mtp" or a draft model's name; `kv_mb`
    bounds the KV cache (0: as much as the prompts need at once), `kv` is what it holds ("": f16 on
    cpu:native, else what the precision says)."""

    max_new: int = 128
    chat: bool = False
    precision: str = ""
    quantize: str = ""
    sampling: dict[str, Any] = field(default_factory=dict[str, Any])
    stops: tuple[str, ...] = ()
    speculate: str = ""
    kv_mb: float = 0.0
    kv: str = ""


def fastest() -> str:
    """The target that generates fastest of those that run here."""
    return "cpu:xla" if why_not_native() else "cpu:native"


def why_not_native() -> str:
    """What keeps cpu:native from running on this host, "" if nothing does."""
    try:
        discover().target("cpu:native")
        from anychip.compilers.native.pool import check_host

        check_host()
    except SetupError as error:
        return str(error)
    return ""


def precision_for(model: LanguageModel, target: str, ask: Ask) -> Precision:
    """The precision asked for; else the model's own where kernels take it, and f32 elsewhere.
    Caches of cpu:native are of f16 unless the precision or the cache was asked for."""
    from anychip.cli.model import precision_of

    if ask.quantize:
        held = quantised(ask.quantize)
    else:
        own = "auto" if target == "cpu:native" else "f32"
        held = precision_of(model, ask.precision or own)
    if ask.kv and ask.kv not in KV:
        raise unknown("KV cache type", ask.kv, KV)
    if not ask.kv:
        is_ours = target == "cpu:native" and not ask.precision and held.cache == "f32"
        return replace(held, cache="f16") if is_ours else held
    return replace(held, name=f"{held.name}, KV {ask.kv}", cache=ask.kv)


def quantised(form: str) -> Precision:
    """Weights in a block format, everything else in f32."""
    from anychip.core.blocks import block_format

    block_format(form)
    return Precision(name=form, weights=form, activations="f32", cache="f32", matmul="f32")


def answer_prompts(
    model: LanguageModel, target: str, prompts: Sequence[str], ask: Ask, *, stream: bool
) -> dict[str, Any]:
    """Compile, generate, and print pieces as they come (with `stream`); returns what happened.

    Where the model or the target has no paged steps, prompts are answered one after the other,
    and `one_by_one` says why.
    """
    from anychip.llm import Sampling, Stop, chat_ids, prompt_ids
    from anychip.llm.generate import check_count, check_ids

    sampling = Sampling(**ask.sampling)
    stop = Stop(model.tokenizer.stop if model.tokenizer else (), ask.stops)
    say = [{"role": "user"}] if ask.chat else []
    ids = [
        chat_ids(model, [{**say[0], "content": text}]) if say else prompt_ids(model, text)
        for text in prompts
    ]
    check_count(ask.max_new)
    for one in (*ids, sampling.bias):
        check_ids(model, one)
    chosen, precision = discover().target(target), precision_for(model, target, ask)
    options: dict[str, Any] = {"max_new": ask.max_new, "sampling": sampling, "stop": stop}
    why = "" if model.step else f"{model.name} has no paged steps"
    engine = None
    if not why:
        try:
            engine = _engine(model, chosen, ids, precision, ask)
        except UnsupportedError as error:
            why = str(error).splitlines()[0]
    if engine is None and ask.speculate:
        raise UnsupportedError(f"guessing ahead needs paged steps: {why}")
    if engine is not None:
        pieces = engine.generate(ids, **options)
    else:
        pieces = _one_by_one(model, chosen, ids, precision, options)
    shown = _Shown(prompts, stream, echo=not ask.chat)
    made: list[list[Any]] = [[] for _ in ids]
    for piece in pieces:
        made[piece.request].append(piece)
        shown.show(piece)
    answers = [
        _described(text, len(own), got) for text, own, got in zip(prompts, ids, made, strict=True)
    ]
    result: dict[str, Any] = {
        "target": target,
        "precision": precision.name,
        "simulated": simulates(chosen),
        "one_by_one": why,
        "kv": precision.cache,
        "kv_bytes": engine.kv_bytes if engine else None,
        "perplexity": None,
        "speculation": engine.acceptance.to_json() if engine and engine.acceptance else None,
        "answers": answers,
    }
    if (ask.quantize or ask.kv == "q8_0") and model.step:
        result["perplexity"] = quantisation_cost(model, chosen, precision)
    if len(answers) == 1:
        result = {**answers[0], **result}
    return result


def quantisation_cost(model: LanguageModel, target: Target, held: Precision) -> dict[str, Any]:
    """How well the model foretells the shipped text in its own precision, and in this one."""
    from anychip.llm import prompt_ids
    from anychip.llm.perplexity import perplexity

    tokens = prompt_ids(model, shipped_text())[: min(512, model.facts.context)]
    own = precision_for(model, target.name, Ask())
    options = CompileOptions(threads=read("threads"))
    with progress_console.status("perplexity …") as status:
        before, after = (
            perplexity(model, target, one, tokens, options=options, progress=status.update)
            for one in (own, held)
        )
    return {
        "tokens": len(tokens),
        "own": {"precision": own.name, "value": before},
        "quantised": {"precision": held.name, "value": after},
        "change": after / before - 1,
    }


def _engine(
    model: LanguageModel,
    target: Target,
    ids: Sequence[Sequence[int]],
    precision: Precision,
    ask: Ask,
) -> Any:
    """An engine with room for these prompts, compiled for the first steps."""
    from anychip.llm import Limits
    from anychip.llm.engine import Engine, Speculation
    from anychip.llm.generate import check_room
    from anychip.llm.paged import PAGE

    longest = max(len(one) for one in ids)
    check_room(longest, model.facts.context, f"{model.name} has")
    context = min(_power(max(64, longest + ask.max_new)), model.facts.context)
    sequences = min(len(ids), 16)
    need = sum(sorted(-(-min(len(i) + ask.max_new, context) // PAGE) for i in ids)[-sequences:])
    options = CompileOptions(threads=read("threads"))
    limits = Limits(
        pages=need, page_tokens=PAGE, step_tokens=256, sequences=sequences, context=context
    )
    speculation = None
    if ask.speculate == "lookup":
        from anychip.llm.speculate import PromptLookup

        speculation = Speculation(drafter=PromptLookup())
    elif ask.speculate == "mtp":
        from anychip.llm.mtp import MTPDrafter

        held = replace(precision, cache="f16") if precision.cache == "q8_0" else precision
        drafter = MTPDrafter(model, target, context, held, options)
        speculation = Speculation(drafter=drafter)
    elif ask.speculate:
        speculation = Speculation(drafter=_draft_model(ask, model, target, context, options))
    with progress_console.status(f"compiling {model.name} for {target.name} …") as status:

        def make(limits: Limits) -> Engine:
            return Engine(
                model,
                target,
                limits,
                precision=precision,
                options=options,
                speculation=speculation,
                progress=lambda what: status.update(f"{target.name}: {what} …"),
            )

        engine = make(limits)
        if ask.kv_mb:
            page_bytes = engine.kv_bytes // (limits.pages + 1)
            pages = int(ask.kv_mb * 1e6 // page_bytes) - 1
            if pages < 1:
                raise UsageError(
                    f"--kv-mb {ask.kv_mb:g} holds no page; one takes {page_bytes / 1e6:.2f} MB"
                )
            most = min(longest + ask.max_new, context)
            if pages < -(-most // PAGE):
                fits = (-(-most // PAGE) + 1) * page_bytes / 1e6 + 0.05
                raise UsageError(
                    f"--kv-mb {ask.kv_mb:g} has room for {pages * PAGE} tokens; the longest prompt "
                    f"and its answer may need {most}. Give --kv-mb {fits:.1f}, or lower --max-new"
                )
            engine = make(replace(limits, pages=min(pages, need)))
        progress_console.print(
            f"[dim]{model.name} on {target.name}, {precision.name}; KV cache "
            f"{engine.kv_bytes / 1e6:.1f} MB of {precision.cache}: {engine.limits.pages} pages of "
            f"{PAGE} tokens for {sequences} sequence{'s'[: sequences > 1]} of {context}[/dim]",
            soft_wrap=True,
        )
        engine.warm([len(one) for one in ids])
        for _ in engine.generate([ids[0][:2]], max_new=1):
            pass  # the first step places the weights; it is not part of the timing
        if engine.steps.memory:
            progress_console.print(f"[dim]{engine.steps.memory}[/dim]", highlight=False)
        if engine.steps.not_kept:
            progress_console.print(
                f"not kept: {engine.steps.not_kept}", style="yellow", soft_wrap=True
            )
    return _Numbered(engine)


class _Numbered:
    """An engine whose requests are counted from 0 after the one that warmed it."""

    def __init__(self, engine: Any):
        self._engine, self.kv_bytes = engine, engine.kv_bytes

    @property
    def acceptance(self) -> Any:
        return self._engine.acceptance

    def generate(self, ids: Sequence[Sequence[int]], **options: Any) -> Any:
        for piece in self._engine.generate(ids, **options):
            yield replace(piece, request=piece.request - 1)


def _draft_model(
    ask: Ask, model: LanguageModel, target: Target, context: int, options: CompileOptions
) -> Any:
    from anychip.api import load
    from anychip.llm.speculate import DraftModel

    draft = load(ask.speculate)
    if not isinstance(draft, LanguageModel):
        raise UsageError(f"--speculate {ask.speculate}: no language model")
    if draft.facts.vocabulary != model.facts.vocabulary:
        raise UsageError(
            f"--speculate {ask.speculate}: its vocabulary has {draft.facts.vocabulary} tokens, "
            f"{model.name}'s {model.facts.vocabulary}; they must be the same"
        )
    precision = precision_for(draft, target.name, replace(ask, quantize="", precision="", kv=""))
    context = min(context, draft.facts.context)
    return DraftModel(draft, target, context, precision, options)


def _one_by_one(
    model: LanguageModel,
    target: Target,
    ids: Sequence[Sequence[int]],
    precision: Precision,
    options: dict[str, Any],
) -> Any:
    from anychip.llm import compile_runner

    with progress_console.status(f"compiling {model.name} for {target.name} …"):
        runner = compile_runner(
            model,
            target,
            prompt_tokens=max(len(one) for one in ids),
            max_new=options["max_new"],
            precision=precision,
            options=CompileOptions(threads=read("threads")),
        )
        for _ in runner.generate(ids[0][:2], max_new=1):
            pass
    for number, one in enumerate(ids):
        for piece in runner.generate(one, **options):
            yield replace(piece, request=number)


class _Shown:
    """One answer is printed as it comes, several each when it is whole."""

    def __init__(self, prompts: Sequence[str], stream: bool, echo: bool):
        self._prompts, self._stream, self._echo = prompts, stream, echo
        self._parts: list[list[str]] = [[] for _ in prompts]
        self._is_begun = False

    def show(self, piece: Any) -> None:
        if not self._stream:
            return
        if len(self._prompts) == 1:
            if self._echo and not self._is_begun:
                console.print(self._prompts[0], end="", style="dim", markup=False)
            self._is_begun = True
            print(piece.text, end="\n" if piece.finish else "", flush=True)
            return
        self._parts[piece.request].append(piece.text)
        if piece.finish:
            prompt = self._prompts[piece.request] if self._echo else ""
            console.print(f"── {piece.request + 1} ", style="bold", highlight=False)
            console.print(prompt, end="", style="dim", markup=False)
            print("".join(self._parts[piece.request]), flush=True)


def _described(prompt: str, length: int, pieces: Sequence[Any]) -> dict[str, Any]:
    tokens = [p for p in pieces if p.token >= 0]
    seconds = [p.seconds for p in tokens]
    figures = {"prompt": f"{length} tokens"}
    if seconds:
        figures["TTFT"] = scaled(seconds[0], "s")
    if len(seconds) > 1:
        pace = (seconds[-1] - seconds[0]) / (len(seconds) - 1)
        figures["TPOT"] = f"{scaled(pace, 's')} (mean of {len(seconds) - 1})"
        figures["speed"] = f"{1 / max(pace, 1e-9):.1f} tok/s"
    figures["end"] = pieces[-1].finish
    chances = [p.logprobs for p in tokens if p.logprobs]
    described: dict[str, Any] = {
        "prompt": prompt,
        "answer": "".join(p.text for p in pieces),
        "tokens": [p.token for p in tokens],
        "seconds": seconds,
        "finish": pieces[-1].finish,
        "figures": figures,
    }
    if chances:
        described["logprobs"] = [
            {"logprob": c.drawn, "top": [list(one) for one in c.top]} for c in chances
        ]
    return described


def _power(least: int) -> int:
    return 1 << (least - 1).bit_length()
