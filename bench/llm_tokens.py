"""Whether cpu:native chooses the tokens llama.cpp chooses, greedily, with the same weights.

    python bench/llm_tokens.py [--llama PYTHON] [--tokens 200] [--threads N] [--json FILE]

Where the two first differ they have read the same tokens, so their logits can be compared: the
difference is explained when both give the two tokens logits nearer to each other than the engines'
logits were over the tokens before, which is the rounding of activations to 8 bits. Where the very
first differs, there are none before, and the engines' logits are those behind the prompt.
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
CONTEXT = 512


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


def compare(ours: list[tuple[int, np.ndarray]], theirs: list[Any]) -> dict[str, Any]:
    """How many tokens agree, and about the first that does not."""
    noise = 0.0
    for at, ((token, logits), (other, best)) in enumerate(zip(ours, theirs, strict=True)):
        apart = [abs(float(logits[i]) - value) for i, value in best]
        if token == other or at == 0:
            noise = max(noise, *apart)
        if token == other:
            continue
        known = dict((i, value) for i, value in best)
        row = {
            "same": at,
            "of": len(ours),
            "ours": token,
            "theirs": other,
            "margin_ours": float(logits[token] - logits[other]),
            "margin_theirs": known[other] - known[token] if token in known else None,
            "engines_apart": noise,
        }
        margins = (row["margin_ours"], row["margin_theirs"])
        row["explained"] = all(m is not None and m <= noise for m in margins)
        return row
    return {"same": len(ours), "of": len(ours), "explained": True, "engines_apart": noise}


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
    rows: list[dict[str, Any]] = []
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt)
        theirs = json.loads(peer.say("greedy", options.tokens, *ids))
        row = {"prompt": prompt} | compare(native.greedy(options.tokens, ids), theirs)
        rows.append(row)
        print(json.dumps(row), flush=True)
    peer.close()
    if options.json:
        report = {"model": "smollm2-135m", "peer": peer.version, "rows": rows}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1))
    return 0 if all(row["explained"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
