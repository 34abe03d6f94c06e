"""What the engine's own scheduler takes of a host: seconds a step, by the sequences decoding in it.

    python bench/scheduler.py [--json out.json]

Steps of 1 to 256 decoding sequences, in turn, `step` and `advance` only: no model, no sampling, no
text. The line through the medians gives the two times of the stack "anychip" in
`mapper/stacks.py`. Seconds in all.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np

from anychip.core.quantity import machine_name
from anychip.llm.scheduler import Limits, Request, advance, start, step, submit

COUNTS = (1, 4, 16, 64, 256)
STEPS, ROUNDS = 30, 5
RESULT = Path(__file__).parent / "results" / "scheduler.json"


def step_s(sequences: int) -> list[float]:
    """Seconds of each of STEPS decode steps."""
    limits = Limits(pages=60_000, page_tokens=16, step_tokens=4096, sequences=256)
    state = start(limits)
    for id in range(sequences):
        prompt = tuple(range(id, id + 16))
        state = submit(state, Request(id=id, prompt=prompt, max_new=10 * STEPS, arrival_s=0.0))
    state, batch = step(state, 0.0)
    state, _ = advance(state, batch, {s.id: (0,) for s in batch.slices if s.samples})
    seconds: list[float] = []
    for _ in range(STEPS):
        began = time.perf_counter()
        state, batch = step(state, 0.0)
        state, _ = advance(state, batch, {s.id: (0,) for s in batch.slices if s.samples})
        seconds.append(time.perf_counter() - began)
        assert len(batch.slices) == sequences
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=RESULT)
    given = parser.parse_args()
    samples: dict[int, list[float]] = {count: [] for count in COUNTS}
    for _ in range(ROUNDS):
        for count in COUNTS:
            samples[count] += step_s(count)
    rows = [
        {"sequences": count, "median_s": statistics.median(some), "samples": len(some)}
        for count, some in samples.items()
    ]
    medians = [row["median_s"] for row in rows]
    token_s, host_s = np.polyfit(COUNTS, medians, 1)
    document = {
        "machine": machine_name(),
        "host_s": float(max(host_s, 0.0)),
        "token_s": float(token_s),
        "rows": rows,
    }
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
