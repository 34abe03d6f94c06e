"""Whether cpu:native chooses the tokens llama.cpp chooses, greedily, with the same weights.

    python bench/llm_tokens.py [--llama PYTHON] [--tokens 200] [--threads N] [--json FILE]

Both keep f16 caches and round activations to 8 bits in blocks of 32, each in its own way. Where
they first differ they have read the same tokens, and so does a third: the weights' exact values in
f32, activations and caches too (cpu:xla). It says how far apart the two tokens' logits really are,
and how far off each engine is: there, and at every token that both chose alike, between its own two
likeliest tokens. A first difference is explained when, at it, each engine errs by no more than it
does at 99 of 100 of the tokens they agree about, in all prompts together.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
from llm_engines import Peer

from anychip.core import CompileOptions, config, dtype
from anychip.frontends.pull import pull

PROMPTS = (
    *("The capital of France is", "Once upon a time", "def fibonacci(n):"),
    *("Water boils at", "The three laws of robotics are", "In 1969, humans"),
    *("To make bread you need", "The opposite of hot is", "List the planets:", "E = mc^2 means"),
)
CONTEXT, PIECE, PAGE = 512, 64, 16


class Native:
    def __init__(self, path: Path, threads: int):
        import anychip
        from anychip.compilers.native import NativeTarget
        from anychip.frontends.llm import PRECISIONS

        self.model = anychip.load(str(path))
        precision = replace(PRECISIONS["stored"], cache="f16")
        module = self.model.decode(1, CONTEXT, precision).with_weights(self.model.bind(precision))
        target = NativeTarget(packed=config.read("home") / "packed")
        self._step = target.compile(module, CompileOptions(threads=threads))

    def greedy(self, count: int, prompt: list[int]) -> list[tuple[int, np.ndarray]]:
        """(token, logits) one after the other."""
        state: Any = [
            np.zeros([int(d) for d in a.shape], dtype(a.dtype).numpy)
            for a in self._step.signature.named("state")
        ]
        made: list[tuple[int, np.ndarray]] = []
        tokens = list(prompt)
        for position in range(len(prompt) + count - 1):
            ids = np.array([[tokens[position]]], np.int32)
            logits, *state = self._step.run(*state, ids, np.array([position], np.int32))
            if position >= len(prompt) - 1:
                made.append((int(np.argmax(logits[0])), logits[0]))
                tokens.append(made[-1][0])
        return made


class Exact:
    """Logits of the weights' own values, everything in f32."""

    def __init__(self, native: Native, most: int):
        from anychip.core import PagedShape
        from anychip.core.registry import discover
        from anychip.frontends.llm import PRECISIONS
        from anychip.llm.paged import PagedSteps

        pages = -(-most // PAGE)
        shape = PagedShape(
            tokens=PIECE, rows=PIECE, sequences=2, pages=pages + 1, page_tokens=PAGE, table=pages
        )
        target = discover().target("cpu:xla")
        self._steps = PagedSteps(native.model, target, shape, PRECISIONS["f32"], CompileOptions())
        self._table = np.array([list(range(pages)), [self._steps.scratch] * pages], np.int32)

    def logits(self, tokens: list[int], first: int) -> np.ndarray:
        """Behind each token from the one numbered `first` on."""
        from anychip.llm.paged import Row

        found: list[np.ndarray] = []
        for start in range(0, len(tokens), PIECE):
            piece = range(start, min(start + PIECE, len(tokens)))
            rows = [Row(tokens[at], 0, at) for at in piece]
            found.append(self._steps.run(rows, len(piece), self._table))
        return np.concatenate(found)[first:]


def compare(ours: list[tuple[int, np.ndarray]], theirs: list[Any], exact: np.ndarray) -> Any:
    """How many tokens agree, each engine's errors at those, and what is at the first that do not.
    `exact` has a row for each that agrees and one more."""
    errors: dict[str, list[float]] = {"ours": [], "theirs": []}
    for at, ((token, logits), (other, best)) in enumerate(zip(ours, theirs, strict=True)):
        known = dict(best)
        own = {int(i): float(logits[i]) for i in np.argsort(-logits, kind="stable")[:2]}
        if token == other:
            errors["ours"].append(abs(_margin(own, *own) - _margin(exact[at], *own)))
            pair = [i for i, _ in best[:2]]
            errors["theirs"].append(abs(_margin(known, *pair) - _margin(exact[at], *pair)))
            continue
        really = _margin(exact[at], token, other)
        margin = {"ours": _margin(logits, token, other)}
        margin["theirs"] = _margin(known, token, other) if token in known else -np.inf
        first = {
            "ours": token,
            "theirs": other,
            "exact": int(np.argmax(exact[at])),
            "margin": {"exact": really, **margin},
            "errors": {name: abs(value - really) for name, value in margin.items()},
        }
        return {"same": at, "of": len(ours), "first": first}, errors
    return {"same": len(ours), "of": len(ours)}, errors


def _margin(logits: Any, one: int, other: int) -> float:
    return float(logits[one] - logits[other])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--llama", default=sys.executable, help="a Python that has llama_cpp")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    path = pull("smollm2-135m", config.read("home")).path
    native = Native(path, options.threads)
    try:
        peer = Peer(options.llama, "llm_peer_llama.py", path, options.threads)
    except OSError as error:
        parser.exit(2, f"{options.llama} cannot run llama_cpp: {error}\n")
    tokenizer = native.model.tokenizer
    assert tokenizer is not None
    exact = Exact(native, CONTEXT)
    rows: list[dict[str, Any]] = []
    errors: dict[str, list[float]] = {"ours": [], "theirs": []}
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        theirs = json.loads(peer.say("greedy", options.tokens, *ids))
        ours = native.greedy(options.tokens, ids)
        pairs = [(a[0], b[0]) for a, b in zip(ours, theirs, strict=True)]
        same = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs) - 1)
        read = [*ids, *(token for token, _ in ours[:same])]
        row, more = compare(ours, theirs, exact.logits(read, len(ids) - 1))
        rows.append({"prompt": prompt} | row)
        for name, values in more.items():
            errors[name] += values
        print(json.dumps(rows[-1]), flush=True)
    peer.close()
    usual = {name: spread(values) for name, values in errors.items()}
    for row in rows:
        off = row["first"]["errors"] if "first" in row else {}
        row["explained"] = all(value <= usual[name]["99%"] for name, value in off.items())
    print(json.dumps(usual))
    print(
        f"{sum(r['same'] == r['of'] for r in rows)} equal, of {len(rows)}; "
        f"explained: {sum(r['explained'] for r in rows)}"
    )
    if options.json:
        report = {"model": "smollm2-135m", "peer": peer.version, "errors": usual, "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0 if all(row["explained"] for row in rows) else 1


def spread(errors: list[float]) -> dict[str, float]:
    """Of an engine's margins, over all tokens both chose alike."""
    shares = {"50%": 50, "90%": 90, "99%": 99, "most": 100}
    found = {name: float(np.percentile(errors, share)) for name, share in shares.items()}
    return {"tokens": len(errors), **found}


if __name__ == "__main__":
    sys.exit(main())
