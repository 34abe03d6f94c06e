"""Twin of a TPU against its real compiler, op by op: libtpu's own schedule is the reference.

    python bench/tpu_twin.py [--chip tpu-v5e] [--json out.json] [--markdown table.md]

Both sides are estimates of the same chip: the reference replays libtpu's static schedule against
HBM (docs/decisions/008), the twin knows the chip's published figures only. Needs libtpu, no TPU.
Every kernel is in the table, also those the twin is far off at. One to two minutes.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anychip.core import AnychipError, Argument, CompileOptions, Module, discover

Kernel = tuple[str, Module]
RESULTS = Path(__file__).parent / "results"


def kernels() -> Iterator[Kernel]:
    """Names and modules: products of many shapes, convolutions, vector kernels, attention."""
    import jax
    import jax.numpy as jnp

    from anychip.frontends.trace import to_module

    def module(name: str, function: Callable[..., Any], *shapes: Any, weights: int = 0) -> Kernel:
        roles = ["input"] * (len(shapes) - weights) + ["weight"] * weights
        arguments = [
            Argument(f"a{i}", tuple(shape), "bf16", role)
            for i, (shape, role) in enumerate(zip(shapes, roles, strict=True))
        ]
        return name, to_module(function, arguments, name=name.replace(" ", "-"), result_names=["y"])

    for m, k, n in (
        (1, 4096, 4096),
        (8, 4096, 4096),
        (64, 4096, 4096),
        (256, 4096, 4096),
        (1024, 4096, 4096),
        (4096, 4096, 4096),
        (1, 4096, 14336),
        (128, 4096, 14336),
        (128, 14336, 4096),
        (512, 1024, 1024),
        (2048, 1024, 8192),
        (16, 1024, 32000),
    ):
        yield module(f"product {m}x{k}x{n}", lambda x, w: x @ w, (m, k), (k, n), weights=1)
    yield module(
        "gated mlp 16x2048x8192",
        lambda x, g, u, d: (jax.nn.silu(x @ g) * (x @ u)) @ d,
        *((16, 2048), (2048, 8192), (2048, 8192), (8192, 2048)),
        weights=3,
    )
    yield module(
        "product and gelu 512x2048x2048",
        lambda x, w: jax.nn.gelu(x @ w),
        *((512, 2048), (2048, 2048)),
        weights=1,
    )
    for rows, width in ((1024, 4096), (8192, 4096)):
        shape = (rows, width)
        yield module(f"add {rows}x{width}", lambda x, y: x + y, shape, shape)
        yield module(f"softmax {rows}x{width}", lambda x: jax.nn.softmax(x, -1), shape)
        yield module(
            f"rms norm {rows}x{width}",
            lambda x: x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5),
            shape,
        )
        yield module(f"sum {rows}x{width}", lambda x: jnp.sum(x, -1), shape)
    yield module("tanh 4096x4096", jnp.tanh, (4096, 4096))
    for size, channels in ((56, 128), (14, 512)):
        yield module(
            f"convolution {size}x{size}x{channels}",
            lambda x, w: jax.lax.conv_general_dilated(
                x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            ),
            *((8, size, size, channels), (3, 3, channels, channels)),
            weights=1,
        )
    yield module(
        "attention 1x16x1024x128",
        lambda q, k, v: jnp.einsum(
            "bhqk,bhkd->bhqd",
            jax.nn.softmax(jnp.einsum("bhqd,bhkd->bhqk", q, k) * 0.1, -1),
            v,
        ),
        *[(1, 16, 1024, 128)] * 3,
    )


def twin_s(chip: str, module: Module) -> float:
    """The machine model's seconds, at the datasheet's bandwidth, which the reference replays too,
    and without the host's start of a step, which libtpu does not see."""
    from anychip.twin import lower
    from anychip.twin.lowered import Table
    from anychip.twin.machine import machine
    from anychip.twin.simulate import simulate

    spec = discover().chip(chip).spec
    made = simulate(Table.of(lower(module)), machine(spec, turned={"memory_efficiency": 1.0}))
    return made.scheduled.seconds


def table(rows: list[dict[str, Any]]) -> str:
    """Every kernel as a line of Markdown; one that libtpu does not compile with its reason."""
    lines = ["| kernel | libtpu µs | twin µs | error |", "|---|---|---|---|"]
    for row in rows:
        if "libtpu_s" not in row:
            lines.append(f"| {row['kernel']} | – | – | {row['error']} |")
            continue
        ours, theirs = row["twin_s"] * 1e6, row["libtpu_s"] * 1e6
        lines.append(f"| {row['kernel']} | {theirs:.1f} | {ours:.1f} | {row['error']:+.0%} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chip", default="tpu-v5e")
    parser.add_argument("--json", type=Path, default=RESULTS / "tpu-twin.json")
    parser.add_argument("--markdown", type=Path, help="write the table for docs there too")
    given = parser.parse_args()
    target = discover().target(f"{given.chip}:xla")
    rows: list[dict[str, Any]] = []
    for name, module in kernels():
        try:
            reference = target.compile(module, CompileOptions()).trace().seconds
        except AnychipError as error:
            rows.append({"kernel": name, "error": str(error).splitlines()[0]})
            print(json.dumps(rows[-1]), flush=True)
            continue
        predicted = twin_s(given.chip, module)
        rows.append(
            {
                "kernel": name,
                "libtpu_s": reference,
                "twin_s": predicted,
                "error": predicted / reference - 1,
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    errors = sorted(abs(r["error"]) for r in rows if isinstance(r["error"], float))
    summary = {
        "chip": given.chip,
        "kernels": len(errors),
        "median_abs_error": statistics.median(errors),
        "p90_abs_error": errors[int(0.9 * (len(errors) - 1))],
    }
    print(json.dumps(summary))
    given.json.write_text(json.dumps({**summary, "rows": rows}, indent=1), encoding="utf-8")
    if given.markdown:
        given.markdown.write_text(table(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
