"""The cpu twin against this machine: kernels and whole models through cpu:xla, predicted and timed.

    python bench/cpu_twin.py [--kernels-only] [--rounds 3] [--again] [--json out.json]

A time is the least of repeated runs, as the host's own figures are the best seen: other programs
only ever slow a run down. A round during which they took more than a twentieth of the CPUs is run
again (a program on one of two cores leaves XLA's threads the other: models take 1.6 to 2 times as
long), and left out where a quiet one was had; `others` says what the kept ones saw. The medians
stand beside. The parameters are the micro-benchmarks of chips/cpu, taken in turn with the runs; no
kernel or model here is among them. Two to five minutes. `--again` holds the model as it is now
against the times and benchmarks that are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core import Argument, ChipSpec, CompileOptions, Module, discover

BUDGET_S = 0.3
QUIET = 0.05
"""Share of the CPUs that other programs may take during a round."""
TRIES = 3
"""Rounds, for each one wanted, that may be spent on finding a quiet one."""
RESULTS = Path(__file__).parent / "results"
Kernel = tuple[str, Module]


def kernels() -> Iterator[Kernel]:
    """34 kernels: products from one row to 1024, vector kernels, reductions, convolutions."""
    import jax
    import jax.numpy as jnp

    def conv(x: Any, w: Any) -> Any:
        dims = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=dims)

    for m, k, n in (
        *((1, 2048, 2048), (1, 4096, 4096), (1, 4096, 11008), (1, 8192, 8192)),
        *((4, 4096, 4096), (16, 2048, 2048), (16, 4096, 4096), (32, 1024, 1024)),
        *((64, 1024, 4096), (128, 768, 3072), (128, 2048, 2048), (256, 512, 512)),
        *((256, 2048, 2048), (512, 1024, 1024), (1024, 1024, 1024), (1024, 512, 2048)),
    ):
        yield _module(f"product {m}x{k}x{n}", lambda x, w: x @ w, (m, k), (k, n), weights=1)
    for rows, width in ((64, 1024), (512, 2048), (4096, 4096)):
        shape = (rows, width)
        yield _module(f"add {rows}x{width}", lambda x, y: x + y, shape, shape)
        yield _module(f"tanh {rows}x{width}", jnp.tanh, shape)
        yield _module(f"softmax {rows}x{width}", lambda x: jax.nn.softmax(x, -1), shape)
        yield _module(
            f"rms norm {rows}x{width}",
            lambda x: x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5),
            shape,
        )
        yield _module(f"sum {rows}x{width}", lambda x: jnp.sum(x, -1), shape)
    for size, channels in ((56, 64), (28, 128), (14, 256)):
        shapes = ((1, size, size, channels), (3, 3, channels, channels))
        yield _module(f"convolution {size}x{size}x{channels}", conv, *shapes, weights=1)


def models() -> Iterator[tuple[str, Module, dict[str, tuple[int, int]]]]:
    """Five whole models with drawn weights: token steps, a prefill, an encoder, a mixer, a CNN."""
    from anychip.frontends.llm import PRECISIONS, language_model
    from anychip.frontends.llm.catalogue import read

    f32 = PRECISIONS["f32"]
    shape = read("smollm2-135m").shape
    small = language_model(shape, name="smollm2-135m", source="bench")
    ranges = {"tokens": (0, shape.vocabulary), "start": (200, 201)}
    yield "smollm2-135m decode", small.decode(1, 512, f32), ranges
    yield "smollm2-135m prefill 128", small.prefill(1, 128, 128, f32), {**ranges, "start": (0, 1)}
    yield "smollm2-135m prefill 16", small.prefill(1, 16, 64, f32), {**ranges, "start": (0, 1)}
    yield (
        *_module(
            "encoder 6x512",
            _encoder,
            (1, 128, 512),
            *[(512, 2048), (2048, 512)] * 6,
            *[(512, 1536), (512, 512)] * 6,
            weights=24,
        ),
        {},
    )
    yield (
        *_module(
            "mixer 8x256",
            _mixer,
            (1, 196, 256),
            *[(196, 384), (384, 196), (256, 1024), (1024, 256)] * 8,
            weights=32,
        ),
        {},
    )


def _encoder(x: Any, *w: Any) -> Any:
    import jax
    import jax.numpy as jnp

    ffn, attention = w[:12], w[12:]
    for i in range(6):
        q, k, v = jnp.split(_norm(x) @ attention[2 * i], 3, axis=-1)
        heads = [a.reshape(1, 128, 8, 64).transpose(0, 2, 1, 3) for a in (q, k, v)]
        odds = jax.nn.softmax(heads[0] @ heads[1].transpose(0, 1, 3, 2) * 0.125, -1)
        mixed = (odds @ heads[2]).transpose(0, 2, 1, 3).reshape(1, 128, 512)
        x = x + mixed @ attention[2 * i + 1]
        x = x + jax.nn.gelu(_norm(x) @ ffn[2 * i]) @ ffn[2 * i + 1]
    return x


def _mixer(x: Any, *w: Any) -> Any:
    import jax

    for i in range(8):
        a, b, c, d = w[4 * i : 4 * i + 4]
        x = x + (jax.nn.gelu(_norm(x).transpose(0, 2, 1) @ a) @ b).transpose(0, 2, 1)
        x = x + jax.nn.gelu(_norm(x) @ c) @ d
    return x


def _norm(x: Any) -> Any:
    import jax
    import jax.numpy as jnp

    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)


def _module(name: str, function: Callable[..., Any], *shapes: Any, weights: int = 0) -> Kernel:
    from anychip.frontends.trace import to_module

    roles = ["input"] * (len(shapes) - weights) + ["weight"] * weights
    arguments = [
        Argument(f"a{i}", tuple(shape), "f32", role)
        for i, (shape, role) in enumerate(zip(shapes, roles, strict=True))
    ]
    return name, to_module(function, arguments, name=name.replace(" ", "-"), result_names=["y"])


def _with_weights(module: Module) -> Module:
    from anychip.core import Weight, Weights

    random = np.random.default_rng(0)
    values = {
        a.name: (random.standard_normal(a.shape) * 0.05).astype(np.float32)
        for a in module.signature.named("weight")
    }
    return module.with_weights(
        Weights(tuple(Weight(n, v.shape, "f32", read=lambda v=v: v) for n, v in values.items()))
    )


class Rounds:
    """What rounds gave, and what share of the CPUs other programs took meanwhile."""

    def __init__(self) -> None:
        self._all: list[tuple[float, Any]] = []

    def add(self, run: Callable[[], Any]) -> None:
        """One more, anew while others are busy; without a quiet one the quietest is kept."""
        from anychip.chips.cpu.system import cpu_seconds, others_share

        seen: list[tuple[float, Any]] = []
        while len(seen) < TRIES and not (seen and seen[-1][0] <= QUIET):
            before = cpu_seconds()
            value = run()
            seen.append((others_share(before, cpu_seconds()), value))
        self._all.append(min(seen, key=lambda one: one[0]))

    def kept(self) -> list[Any]:
        """Those of quiet rounds; all where none was."""
        quiet = [value for share, value in self._all if share <= QUIET]
        return quiet or [value for _, value in self._all]

    def others(self) -> float:
        """The largest share among those kept."""
        shares = [share for share, _ in self._all]
        return max([share for share in shares if share <= QUIET] or shares)


class Timed:
    """A compiled module, its inputs on the device and its runs so far; state is handed on."""

    def __init__(self, module: Module, ranges: dict[str, tuple[int, int]]):
        import jax

        from anychip.debug import made_up

        bound = _with_weights(module)
        self._executable = discover().target("cpu:xla").compile(bound, CompileOptions())
        self._inputs = [jax.numpy.asarray(x) for x in made_up(module, ranges=ranges)]
        self._names = [a.name for a in module.signature.arguments if a.role != "weight"]
        self._results = module.signature.results
        self.rounds = Rounds()
        self._run()

    def round(self) -> list[float]:
        """Runs for BUDGET_S, at least three."""
        seconds: list[float] = []
        while len(seconds) < 3 or (sum(seconds) < BUDGET_S and len(seconds) < 100):
            seconds.append(self._run())
        return seconds

    def _run(self) -> float:
        import jax

        start = time.perf_counter()
        out = jax.block_until_ready(self._executable.run(*self._inputs))
        seconds = time.perf_counter() - start
        for result, value in zip(self._results, out, strict=True):
            if result.updates:
                self._inputs[self._names.index(result.updates)] = value
        return seconds


def twin_s(module: Module, spec: ChipSpec) -> float:
    from anychip.twin.lowered import Table
    from anychip.twin.machine import machine
    from anychip.twin.simulate import kernels_of, simulate

    return simulate(Table.of(kernels_of(module, spec.family)), machine(spec)).seconds


def timed_here(given: argparse.Namespace) -> tuple[dict[str, Any], dict[str, list[float]], float]:
    """(a row for each kernel and model, the benchmarks' samples, others' share of the CPUs)."""
    from anychip.chips.cpu.measure import measure
    from anychip.chips.cpu.system import this_host

    asked = [("kernel", n, m, {}) for n, m in kernels()]
    if not given.kernels_only:
        asked += [("model", n, m, r) for n, m, r in models()]
    timed = [Timed(module, ranges) for _, _, module, ranges in asked]
    host = this_host()
    measured = Rounds()
    for number in range(given.rounds):
        print(f"round {number + 1} of {given.rounds}", flush=True)
        measured.add(lambda: measure(host.cache_bytes, host.memory_bytes))
        for one in timed:
            one.rounds.add(one.round)
    samples: dict[str, list[float]] = {}
    for each in measured.kept():
        for name, values in each.items():
            samples.setdefault(name, []).extend(values)
    rows: dict[str, Any] = {}
    for (kind, name, _, _), one in zip(asked, timed, strict=True):
        seconds = [second for each in one.rounds.kept() for second in each]
        rows[name] = {
            "kind": kind,
            "name": name,
            "measured_s": min(seconds),
            "median_s": statistics.median(seconds),
            "samples": len(seconds),
            "others": round(one.rounds.others(), 3),
        }
    return rows, samples, max(measured.others(), *(row["others"] for row in rows.values()))


def main() -> None:
    from anychip.chips.cpu.host import host_spec
    from anychip.chips.cpu.system import this_host

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels-only", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--again", action="store_true", help="predict anew what is kept in --json")
    parser.add_argument("--json", type=Path, default=RESULTS / "cpu-twin.json")
    given = parser.parse_args()
    if given.again:
        kept = json.loads(given.json.read_text(encoding="utf-8"))
        rows = {row["name"]: row for row in kept["rows"]}
        seen, others, title = kept["benchmarks"], kept["others"], kept["machine"]
    else:
        rows, samples, others = timed_here(given)
        title = ""
        seen = {
            name: {
                "least": min(some),
                "median": statistics.median(some),
                "most": max(some),
                "samples": len(some),
            }
            for name, some in samples.items()
        }
    ends = {name: [one["least"], one["median"], one["most"]] for name, one in seen.items()}
    with tempfile.TemporaryDirectory() as home:
        spec = host_spec(Path(home), host=this_host(), measure=lambda _: (ends, others))
    modules = {name: module for name, module in kernels()}
    modules |= {name: module for name, module, _ in models()}
    for name, row in rows.items():
        predicted = twin_s(modules[name], spec)
        row |= {"twin_s": predicted, "error": predicted / row["measured_s"] - 1}
        print(json.dumps(row), flush=True)
    summary: dict[str, Any] = {"machine": title or spec.title, "others": others}
    for kind in dict.fromkeys(row["kind"] for row in rows.values()):
        errors = sorted(abs(row["error"]) for row in rows.values() if row["kind"] == kind)
        summary[kind] = {
            "n": len(errors),
            "median_abs_error": statistics.median(errors),
            "p90_abs_error": errors[int(0.9 * (len(errors) - 1))],
        }
    print(json.dumps(summary))
    lines = ",\n ".join(json.dumps(row) for row in rows.values())
    parts = [f"{json.dumps(key)}: {json.dumps(part)}" for key, part in summary.items()]
    parts += [f'"rows": [\n {lines}]', f'"benchmarks": {json.dumps(seen)}']
    text = ",\n".join(parts)
    given.json.write_text(f"{{{text}}}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
