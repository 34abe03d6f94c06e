"""How far are the machine models of lpu, wafer, dimc and chiplet from published figures?

    python bench/spatial_error.py [--left-out] [--time] [-o out.json]

Each row is a published decode rate of one user, with the deployment it is simulated on: the chips
published, else the fewest that hold the model; of LPUs, a node of eight to each layer. Prints
simulated, closed-form and published tokens/s. `--left-out` sets each family's fitted number
without the rows of one model and judges those, in turn, for every model. `--time` also measures one
Llama-3.1-70B step on 576 LPUs.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from anychip.core import Registry, discover
from anychip.frontends.llm import PRECISIONS
from anychip.frontends.llm.catalogue import model
from anychip.twin import Shards, Table, lower, machine, simulate, step_cost


@dataclass(frozen=True, kw_only=True)
class Row:
    """A published figure and what is simulated. `note` is what it is used for: "fit" rows set the
    family's one fitted number, others judge."""

    id: str
    chip: str
    system: str
    model: str
    precision: str
    tensor: int
    pipeline: int
    context: int
    batch: int
    published: float
    note: str


GROQ = {"chip": "groq-lpu", "system": "groqrack", "precision": "int8", "batch": 1}
WAFER = {"system": "cs3", "precision": "f16", "batch": 1, "tensor": 1}
CORSAIR = {"chip": "dmatrix-corsair", "precision": "mxint8", "tensor": 8}
ROWS = (
    Row(
        **GROQ,
        id="GQ02",
        model="llama-2-70b",
        tensor=8,
        pipeline=72,
        context=4096,
        published=300,
        note="fit",
    ),
    Row(
        **GROQ,
        id="GQ03",
        model="llama-2-70b",
        tensor=8,
        pipeline=72,
        context=1100,
        published=241,
        note="fit",
    ),
    Row(
        **GROQ,
        id="GQ08",
        model="llama-3.1-70b",
        tensor=8,
        pipeline=72,
        context=1100,
        published=250,
        note="fit; 576 chips as for Llama-2",
    ),
    Row(
        **GROQ,
        id="GQ04",
        model="llama-2-7b",
        tensor=8,
        pipeline=6,
        context=2048,
        published=750,
        note="fit; chips not published",
    ),
    Row(
        **GROQ,
        id="GQ06",
        model="llama-3.1-8b",
        tensor=8,
        pipeline=6,
        context=1100,
        published=800,
        note="fit; chips not published",
    ),
    Row(
        **GROQ,
        id="GQ07",
        model="llama-3.1-8b",
        tensor=8,
        pipeline=6,
        context=1100,
        published=751,
        note="fit; chips not published",
    ),
    Row(
        **WAFER,
        id="CB01",
        chip="cerebras-wse3",
        model="llama-3.1-8b",
        pipeline=1,
        context=1100,
        published=1837,
        note="fit",
    ),
    Row(
        **WAFER,
        id="CB02",
        chip="cerebras-wse3",
        model="llama-3.1-70b",
        pipeline=4,
        context=1100,
        published=445,
        note="fit",
    ),
    Row(
        **{**WAFER, "system": "cs2"},
        id="WL01",
        chip="cerebras-wse2",
        model="llama-3.1-8b",
        pipeline=1,
        context=4096,
        published=2700,
        note="kernels only, all layers share one square of 660 x 660: another placement",
    ),
    Row(
        id="RB01",
        chip="rebel-quad",
        system="rebel-quad-server",
        model="llama-3.1-70b",
        precision="fp8",
        tensor=1,
        pipeline=1,
        context=3072,
        batch=1,
        published=56.8,
        note="sets memory_efficiency",
    ),
    Row(
        **CORSAIR,
        id="claim 8B",
        system="corsair-server",
        model="llama-3.1-8b",
        pipeline=1,
        context=1100,
        batch=1,
        published=1000,
        note="vendor projection, not measured",
    ),
    Row(
        **CORSAIR,
        id="claim 70B",
        system="corsair-rack",
        model="llama-3.1-70b",
        pipeline=8,
        context=1100,
        batch=1,
        published=500,
        note="vendor projection, not measured",
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--left-out", action="store_true")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("-o", "--output", type=Path)
    chosen = parser.parse_args()
    registry = discover()
    results = []
    tables: dict[tuple[str, str, int], Table] = {}
    print(
        f"{'row':<10}{'chip':<17}{'model':<15}{'division':<10}{'simulated':>10}{'closed':>8}"
        f"{'published':>11}{'error':>8}  note"
    )
    for row in ROWS:
        key = (row.model, row.precision, row.context)
        if key not in tables:
            module = model(row.model).decode(1, row.context, PRECISIONS[row.precision])
            tables[key] = Table.of(lower(module))
        simulated = speed(registry, tables, row)
        (system,) = (s for s in registry.systems(row.chip) if s.name == row.system)
        one = machine(registry.chip(row.chip).spec, system)
        asked, shards = tables[key].at_batch(row.batch), Shards(row.tensor, row.pipeline)
        closed = 1 / step_cost(asked, one, shards).seconds
        error = simulated / row.published - 1
        print(
            f"{row.id:<10}{row.chip:<17}{row.model:<15}{shards!s:<10}{simulated:>10.0f}"
            f"{closed:>8.0f}{row.published:>11g}{error:>+8.0%}  {row.note}"
        )
        results.append({**asdict(row), "simulated": simulated, "closed": closed, "error": error})
    for chip in dict.fromkeys(row.chip for row in ROWS):
        errors = [abs(r["error"]) for r in results if r["chip"] == chip]
        print(f"{chip}: median absolute error {np.median(errors):.0%} of {len(errors)} rows")
    held = left_out(registry, tables) if chosen.left_out else None
    timing = time_576(tables) if chosen.time else None
    if chosen.output:
        document = {"rows": results, "left_out": held, "step_on_576_lpus": timing}
        chosen.output.write_text(json.dumps(document, indent=1))


FITTED = {
    "groq-lpu": ("about.slice_pass_cycles_count", range(100, 805, 20)),
    "cerebras-wse3": ("about.sum_step_cycles_count", range(4, 61, 2)),
}
"""The one fitted number of a family, and the values tried."""


def left_out(registry: Registry, tables: dict[tuple[str, str, int], Table]) -> list[object]:
    """Errors of rows whose model had no part in the fit (least mean of absolute logarithms)."""
    found: list[object] = []
    for chip, (fact, values) in FITTED.items():
        rows = [row for row in ROWS if row.chip == chip]
        ratio = {
            (row.id, value): speed(registry, tables, row, {fact: value}) / row.published
            for row in rows
            for value in values
        }
        errors: dict[str, float] = {}
        for name in dict.fromkeys(row.model for row in rows):
            others = [row.id for row in rows if row.model != name]
            best = min(values, key=lambda v: sum(abs(np.log(ratio[other, v])) for other in others))
            for row in rows:
                if row.model == name:
                    errors[row.id] = ratio[row.id, best] - 1
                    print(f"{row.id} left out with its model: {best} cycles, {errors[row.id]:+.0%}")
        median = float(np.median(np.abs(list(errors.values()))))
        print(f"{chip}: median absolute error left out {median:.0%}")
        found.append({"chip": chip, "fact": fact, "errors": errors, "median": median})
    return found


def speed(
    registry: Registry,
    tables: dict[tuple[str, str, int], Table],
    row: Row,
    turned: dict[str, float] | None = None,
) -> float:
    """Simulated tokens/s of one user, with some facts turned."""
    (system,) = (s for s in registry.systems(row.chip) if s.name == row.system)
    one = machine(registry.chip(row.chip).spec, system, turned)
    asked = tables[row.model, row.precision, row.context].at_batch(row.batch)
    return 1 / simulate(asked, one, Shards(row.tensor, row.pipeline)).seconds


def time_576(tables: dict[tuple[str, str, int], Table]) -> dict[str, object]:
    """Seconds of one simulated step, and of building and lowering its module before that."""
    one = machine(discover().chip("groq-lpu").spec)
    whole, step = [], []
    for _ in range(5):
        start = time.perf_counter()
        module = model("llama-3.1-70b").decode(1, 4096, PRECISIONS["int8-weights"])
        table = Table.of(lower(module))
        ready = time.perf_counter()
        made = simulate(table, one, Shards(8, 72))
        made.trace("groq-lpu:twin")
        end = time.perf_counter()
        whole.append(end - start)
        step.append(end - ready)
    # VmHWM, for Linux hands a parent's ru_maxrss to its child.
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    print(
        f"Llama-3.1-70B on 576 LPUs: lowering, schedule and trace {np.median(whole):.2f} s, of "
        f"which schedule and trace {np.median(step):.3f} s; peak memory {peak:.2f} GiB"
    )
    return {"whole_s": whole, "schedule_and_trace_s": step, "peak_gib": peak}


if __name__ == "__main__":
    main()
