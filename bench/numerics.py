"""What does a twin's arithmetic cost on this host? A forward of SmolLM2-135M against plain f32.

    python bench/numerics.py [--targets groq-lpu:twin …] [--length 128] [--rounds 7] [--json FILE]

The plain run is the same module on cpu:xla. Rounds are interleaved; the figure is the median of the
rounds' ratios. `first_s` is the first run: tracing, compiling, rounding the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core import CompileOptions, LanguageModel, discover, dtype

TARGETS = (
    "groq-lpu:twin",
    "dmatrix-corsair:twin",
    "cerebras-wse3:twin",
    "tpu-v5e:twin",
    "h100:twin",
)
OPTIONS = {"b200:twin nvfp4": ("b200:twin", {"matmul": "nvfp4"})}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--targets", nargs="*", default=[*TARGETS, *OPTIONS])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    import anychip
    from anychip.frontends.llm import PRECISIONS

    model, f32 = anychip.load("smollm2-135m"), PRECISIONS["f32"]
    assert isinstance(model, LanguageModel)
    rows: list[dict[str, Any]] = []
    for step, module in (
        (f"prefill {given.length}", model.prefill(1, given.length, given.length, f32)),
        ("decode", model.decode(1, 256, f32)),
    ):
        module = module.with_weights(model.bind(f32))
        plain = discover().target("cpu:xla").compile(module, CompileOptions())
        _run(plain)
        for name in given.targets:
            target, extra = OPTIONS.get(name, (name, {}))
            twin = discover().target(target).compile(module, CompileOptions(extra=extra))
            first = _run(twin)
            _run(twin)
            pairs = [(_run(plain), _run(twin)) for _ in range(given.rounds)]
            rows.append(
                {
                    "step": step,
                    "target": name,
                    "arithmetic": twin.arithmetic.describe(),
                    "plain_s": statistics.median(a for a, _ in pairs),
                    "twin_s": statistics.median(b for _, b in pairs),
                    "ratio": statistics.median(b / a for a, b in pairs),
                    "first_s": first,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
            del twin
    worst = max(row["ratio"] for row in rows)
    print(json.dumps({"worst_ratio": worst}))
    if given.json:
        given.json.write_text(json.dumps({"worst_ratio": worst, "rows": rows}, indent=1))


def _run(executable: Any) -> float:
    inputs = [
        np.zeros(a.shape, dtype(a.dtype).numpy)
        for a in executable.signature.arguments
        if a.role != "weight"
    ]
    start = time.perf_counter()
    for value in executable.run(*inputs):
        np.asarray(value)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
