"""What the token engine itself takes of a host: seconds a step, by the sequences decoding in it.

    python bench/engine_host.py [--json out.json]

The engine runs SmolLM2-135M's paged steps on a target that answers at once with the same logits, so
all that is left is the engine: its scheduler, tables of pages, greedy draws over 49,152 logits.
Steps of 1 to 64 decoding sequences, in turn; no text. The line through the least of each (other
programs only ever slow a step down) gives the two times of the stack "anychip" in
`mapper/stacks.py`. Twenty seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from anychip.core import CompileOptions, Module, Signature, Trace, UnsupportedError, machine_name
from anychip.frontends.llm import catalogue
from anychip.llm import Limits, Stop
from anychip.llm.engine import Engine

COUNTS = (1, 4, 16, 64)
STEPS, ROUNDS = 30, 5
RESULT = Path(__file__).parent / "results" / "engine-host.json"


@dataclass(frozen=True)
class Still:
    """An Executable that takes no time: state as it was, and logits of which 7 is the likeliest."""

    signature: Signature
    artifacts: Mapping[str, str | bytes]
    results: tuple[np.ndarray, ...]

    def run(self, *inputs: Any) -> tuple[Any, ...]:
        return self.results

    def trace(self, *inputs: Any) -> Trace:
        raise UnsupportedError("a target that takes no time has no trace")


@dataclass(frozen=True)
class Nothing:
    """A Target whose steps take no time."""

    name: str = "nothing"
    runs: bool = True
    toolchain: str = "none"

    def compile(self, module: Module, options: CompileOptions) -> Still:
        results: list[np.ndarray] = []
        for one in module.signature.results:
            value = np.zeros([int(d) for d in one.shape], np.float32 if not one.updates else "i1")
            if not one.updates:
                value[..., 7] = 1.0
            results.append(value)
        return Still(module.signature, {}, tuple(results))


def step_s(engine: Engine, sequences: int) -> list[float]:
    """Seconds of each of STEPS decode steps of this many sequences."""
    for id in range(sequences):
        engine.submit(range(id, id + 16), max_new=STEPS + 8, stop=Stop())
    while any(one.cached < 16 for one in engine.state.running) or engine.state.waiting:
        engine.step()
    seconds: list[float] = []
    for _ in range(STEPS):
        began = time.perf_counter()
        pieces = engine.step()
        seconds.append(time.perf_counter() - began)
        assert len(pieces) == sequences
    for _ in engine.run():
        pass
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULT)
    given = parser.parse_args()
    model = catalogue.model("smollm2-135m", 0)
    limits = Limits(pages=1024, page_tokens=16, step_tokens=256, sequences=64, context=2048)
    engine = Engine(model, Nothing(), limits)
    for count in COUNTS:
        step_s(engine, count)  # builds the step of this size
    samples: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(ROUNDS):
        for count in COUNTS:
            samples[count] += step_s(engine, count)
    rows = [
        {
            "sequences": count,
            "least_s": min(some),
            "median_s": statistics.median(some),
            "samples": len(some),
        }
        for count, some in samples.items()
    ]
    token_s, host_s = np.polyfit(COUNTS, [row["least_s"] for row in rows], 1)
    parts = {
        "machine": machine_name(),
        "host_s": float(max(host_s, 0.0)),
        "token_s": float(token_s),
        "rows": rows,
    }
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(part)}" for key, part in parts.items())
    given.json.write_text(f"{{{lines}}}\n", encoding="utf-8")
    print(json.dumps(parts, indent=1))


if __name__ == "__main__":
    main()
