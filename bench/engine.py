"""The token engine on SmolLM2-135M: many requests, long answers, guessing ahead.

    python bench/engine.py [--what requests,context,guess,kv] [--json FILE] [--target T]
                           [--threads N]
                           [--llama PYTHON_WITH_LLAMA_CPP] [--svg FILE]

requests: 200 of mixed lengths, a third cancelled, KV cache for a tenth of their need; the others
must end with the tokens they get alone. context: one long answer, tokens a second by context, and
llama.cpp's at the same lengths in turns with it.
guess: prompt lookup on a text that repeats itself, on code and on prose, in turns with none.
kv: decoding behind 4,096 tokens with caches of f32, f16 and q8_0, in turns; how well the model then
foretells the shipped text, here and where activations stay f32 (cpu:xla), and how many of 1,000
greedy tokens come before the first that f32 would not have chosen. Elsewhere caches are of f16, as
`anychip run` has them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from llm import Watch
from llm_engines import Peer

import anychip
from anychip.core import (
    CompileOptions,
    LanguageModel,
    Precision,
    Target,
    config,
    discover,
    machine_name,
    shipped_text,
)
from anychip.frontends.pull import pull
from anychip.llm import Limits, Sampling, Stop, prompt_ids
from anychip.llm.engine import Engine, Speculation
from anychip.llm.paged import PAGE
from anychip.llm.perplexity import perplexity
from anychip.llm.speculate import PromptLookup

TEXTS = (
    "The capital of France is",
    "Once upon a time there was a small",
    "Photosynthesis is the process by which",
    "In 1969, Neil Armstrong",
    "To make bread you need flour, water and",
)
REPEATS = "Write the same list again.\n" + "apple, pear, plum, cherry, quince, fig, date\n" * 4
NO_STOP = Stop()
CODE = "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n    return a - b\n\ndef mul(a, b):\n"
CACHES = ("f32", "f16", "q8_0")
PEER_STEPS = 24
"""Steps the peer decodes at each length; the engine decodes all of a window."""


class Bench:
    def __init__(self, target: str, threads: int):
        model = anychip.load("smollm2-135m")
        assert isinstance(model, LanguageModel)
        self.model, self.target = model, discover().target(target)
        self.options = CompileOptions(threads=threads)

    def engine(
        self, limits: dict[str, Any], speculation: Speculation | None = None, cache: str = "f16"
    ) -> Engine:
        return Engine(
            self.model,
            self.target,
            Limits(page_tokens=PAGE, **limits),
            options=self.options,
            speculation=speculation,
            precision=self.precision(cache),
        )

    def precision(self, cache: str) -> Precision:
        return replace(self.model.native_precision, cache=cache)

    def requests(self, count: int) -> dict[str, Any]:
        dice = random.Random(0)
        asked: list[tuple[list[int], int, Sampling]] = []
        for number in range(count):
            prompt = prompt_ids(self.model, dice.choice(TEXTS)) * dice.randrange(1, 12)
            heat = dice.choice((0.0, 0.8))
            asked.append((prompt, dice.randrange(4, 150), Sampling(temperature=heat, seed=number)))
        need = sum(-(-(len(p) + n) // PAGE) for p, n, _ in asked)
        limits = {"pages": need // 10, "step_tokens": 128, "sequences": 64, "context": 512}
        one = self.engine(limits)
        numbers = [one.submit(p, max_new=n, sampling=s, stop=NO_STOP) for p, n, s in asked]
        gone = set(dice.sample(numbers, count // 3))
        left, got, preempted = sorted(gone), {n: [] for n in numbers}, 0
        started = time.perf_counter()
        while not one.is_idle:
            before = {s.request.id for s in one.state.running}
            for piece in one.step():
                got[piece.request].append(piece.token)
            preempted += len(before & {s.request.id for s in one.state.waiting})
            if left and dice.random() < 0.7:
                one.cancel(left.pop(dice.randrange(len(left))))
        seconds = time.perf_counter() - started
        differ = []
        alone = self.engine(limits)
        for number, (prompt, most, sampling) in zip(numbers, asked, strict=True):
            if number in gone:
                continue
            alone.submit(prompt, max_new=most, sampling=sampling, stop=NO_STOP)
            if [p.token for p in alone.run()] != got[number]:
                differ.append(number)
        return {
            "requests": count,
            "cancelled": len(gone),
            "pages": need // 10,
            "pages_needed": need,
            "kv_mb": one.kv_bytes / 1e6,
            "preempted": preempted,
            "finished": count - len(gone),
            "as_alone": count - len(gone) - len(differ),
            "differ": differ,
            "tok_s": sum(map(len, got.values())) / seconds,
        }

    def context(
        self, most: int, llama: str, note: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any]:
        """Tokens a second in windows of a sixteenth of the answer. `llama`: a Python, or none;
        `note` takes what is known after each window."""
        prompt = prompt_ids(self.model, TEXTS[1])
        whole = self.model.facts.context
        most = min(most, whole - len(prompt))
        pages, window = -(-whole // PAGE), max(most // 16, 1)
        limits = {"pages": pages, "step_tokens": 16, "sequences": 1, "context": whole}
        one = self.engine(limits, cache="f16")  # as llama.cpp's
        one.warm([len(prompt)])
        peer = None
        if llama:
            path = pull("smollm2-135m", config.read("home")).path
            peer = Peer(llama, "llm_peer_llama.py", path, self.options.threads or 1)
        sampling, curve = Sampling(temperature=1.0, seed=1), list[dict[str, Any]]()
        watch = Watch([os.getpid(), *([peer.process] if peer else [])])
        found: dict[str, Any] = {"tokens": most, "kv_mb": one.kv_bytes / 1e6, "curve": curve}
        if peer:
            found["peer"] = peer.version
        watch.start()
        started = time.perf_counter()
        answer = one.generate([prompt], max_new=most, sampling=sampling, stop=NO_STOP)
        for number, _ in enumerate(answer, 1):
            if number % window:
                continue
            rate = window / (time.perf_counter() - started)
            row = {"context": len(prompt) + number - window // 2, "tok_s": rate}
            if peer:
                row["llama_cpp_tok_s"] = PEER_STEPS / peer.ask(
                    "grow", whole, row["context"], PEER_STEPS
                )
            curve.append(row | {"others_cpus": watch.share()})
            print(curve[-1], flush=True)
            note(found)
            watch.start()
            started = time.perf_counter()
        if peer:
            peer.close()
        return found

    def guess(self, rounds: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        limits = {"pages": 512 // PAGE, "step_tokens": 64, "sequences": 1, "context": 512}
        for name, text in (("repeats", REPEATS), ("code", CODE), ("prose", TEXTS[1])):
            prompt = prompt_ids(self.model, text)
            plain = self.engine(limits)
            ahead = self.engine(limits, Speculation(drafter=PromptLookup(), most=7))
            ratios = []
            for number in range(rounds + 1):
                times, tokens = [], []
                for one in (plain, ahead):
                    pieces = list(one.generate([prompt], max_new=96, stop=NO_STOP))
                    times.append(pieces[-1].seconds - pieces[0].seconds)
                    tokens.append([p.token for p in pieces])
                assert tokens[0] == tokens[1]
                if number:  # the first compiles
                    ratios.append(times[0] / times[1])
            assert ahead.acceptance is not None
            found[name] = {
                "speedup": statistics.median(ratios),
                "rounds": ratios,
                **ahead.acceptance.to_json(),
            }
        return found

    def kv(self, rounds: int) -> dict[str, Any]:
        """Tokens a second behind a long prompt, whose pages later rounds find again."""
        dice, behind, steps = random.Random(0), 4096, 48
        prompt = [dice.randrange(self.model.facts.vocabulary) for _ in range(behind)]
        limits = {"pages": 4288 // PAGE, "step_tokens": 256, "sequences": 1, "context": 4288}
        engines = {cache: self.engine(limits, cache=cache) for cache in CACHES}
        seconds: dict[str, list[float]] = {cache: [] for cache in engines}
        for number in range(rounds + 1):
            for cache, one in engines.items():
                pieces = list(one.generate([prompt], max_new=steps, stop=NO_STOP))
                if number:  # the first compiles, and reads the prompt
                    took = (pieces[-1].seconds - pieces[0].seconds) / (steps - 1)
                    seconds[cache].append(took)
        chosen = {cache: self._greedy(cache) for cache in CACHES}
        return {
            "behind": behind,
            "text_tokens": len(prompt_ids(self.model, shipped_text())),
            "greedy_tokens": sum(map(len, chosen[CACHES[0]])),
            "caches": {
                cache: {
                    "kv_mb": one.kv_bytes / 1e6,
                    "tok_s": 1 / statistics.median(seconds[cache]),
                    "seconds": seconds[cache],
                    "perplexity": self._perplexity(self.target, cache),
                    "perplexity_exact": self._perplexity(discover().target("cpu:xla"), cache),
                    "greedy_as_f32": sum(map(_agreed, chosen[CACHES[0]], chosen[cache])),
                }
                for cache, one in engines.items()
            },
        }

    def _perplexity(self, target: Target, cache: str) -> float:
        text = prompt_ids(self.model, shipped_text())
        return perplexity(self.model, target, self.precision(cache), text, options=self.options)

    def _greedy(self, cache: str) -> list[list[int]]:
        """200 tokens behind each text."""
        limits = {"pages": 320 // PAGE, "step_tokens": 64, "sequences": 1, "context": 320}
        one = self.engine(limits, cache=cache)
        prompts = [prompt_ids(self.model, text) for text in TEXTS]
        return [
            [piece.token for piece in one.generate([prompt], max_new=200, stop=NO_STOP)]
            for prompt in prompts
        ]


def _agreed(one: list[int], other: list[int]) -> int:
    """Tokens before the first that differs."""
    pairs = zip(one, other, strict=True)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), len(one))


def chart(curve: list[dict[str, Any]]) -> str:
    """Tokens a second by context, a line for each engine."""
    lines = {"tok_s": ("cpu:native", "#4878a8"), "llama_cpp_tok_s": ("llama.cpp", "#c03020")}
    wide = max(row["context"] for row in curve)
    tall = 1.1 * max(row.get(key, 0.0) for row in curve for key in lines)

    def place(context: float, rate: float) -> tuple[float, float]:
        return 50 + 520 * context / wide, 260 - 230 * rate / tall

    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" width="660" height="300" font-size="11" '
        'font-family="sans-serif"><rect width="100%" height="100%" fill="white"/>',
        '<text x="50" y="16">tokens a second by tokens before, one sequence</text>',
    ]
    _, bottom = place(0, 0)
    for rate in ticks(tall):
        left, y = place(0, rate)
        parts.append(f'<line x1="{left}" x2="570" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="44" y="{y + 4:.1f}" text-anchor="end">{rate}</text>')
    for context in ticks(wide):
        x, _ = place(context, 0)
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{context}</text>')
    for key, (name, colour) in lines.items():
        points = [place(row["context"], row[key]) for row in curve if key in row]
        if not points:
            continue
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, y = points[-1]
        parts.append(f'<text x="{x + 6:.1f}" y="{y + 4:.1f}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>\n"])


def ticks(most: float) -> range:
    """Round numbers from 0 to at most `most`, four to ten of them."""
    power = 10 ** int(math.log10(most / 4))
    step = max(m * power for m in (1, 2, 5) if m * power <= most / 4)
    return range(0, int(most) + 1, step)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", default="requests,context,guess")
    parser.add_argument("--target", default="cpu:native")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--llama", default="", help="Python with llama_cpp")
    parser.add_argument("--svg", type=Path, help="write the context curve's picture here")
    arguments = parser.parse_args()
    bench = Bench(arguments.target, arguments.threads)

    def note(found: dict[str, Any]) -> None:
        if arguments.json:
            arguments.json.write_text(json.dumps(result | {"context": found}, indent=1))

    jobs = {
        "requests": lambda: bench.requests(arguments.requests),
        "context": lambda: bench.context(arguments.tokens, arguments.llama, note),
        "guess": lambda: bench.guess(arguments.rounds),
        "kv": lambda: bench.kv(arguments.rounds),
    }
    result: dict[str, Any] = {
        "machine": machine_name(),
        "target": arguments.target,
        "threads": arguments.threads,
    }
    for what in arguments.what.split(","):
        result[what] = jobs[what]()
        print(what, json.dumps(result[what]), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(result, indent=1))
    if arguments.svg and "context" in result:
        arguments.svg.write_text(chart(result["context"]["curve"]))


if __name__ == "__main__":
    main()
