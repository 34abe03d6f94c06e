"""The seam: any family's machine model makes jobs of a Task, and what comes out is a Trace."""

from __future__ import annotations

import pytest

from anychip.core import Origin, UsageError
from anychip.twin import (
    Amounts,
    Block,
    Job,
    Kernel,
    Lowered,
    Program,
    Run,
    Shards,
    Table,
    Task,
    machine,
    simulate,
    ticks,
)


def two_layers(layers: int = 4) -> Table:
    """A table of an embedding and equal layers of one matmul each."""
    matmul = Kernel(
        name="mm",
        unit="matmul",
        amounts=Amounts(flops=2e9, weight_bytes=1e9),
        formats=("bf16",),
        is_split=True,
        dots=((1000, 1000),),
        origin=Origin("mlp"),
    )
    first = Kernel(name="embed", unit="move", amounts=Amounts(read_bytes=1e6))
    return Table.of(
        Lowered(
            name="hand",
            blocks=((first,), (matmul,)),
            schedule=((0, Origin()), *((1, Origin(f"layers.{i}")) for i in range(layers))),
            layers=layers,
            weight_bytes=1e9 * layers,
            state_bytes=0.0,
        )
    )


def one_unit(task: Task) -> Program:
    """The smallest machine model: a memory that feeds one arithmetic unit."""
    one, part = task.machine, task.part
    blocks: dict[range, int] = {}
    made: list[Block] = []
    for rows, _ in task.table.order:
        if rows in blocks:
            continue
        blocks[rows] = len(made)
        jobs: list[Job] = []
        for row in rows:
            load = (part.weight_bytes[row] + part.activation_bytes[row]) / one.levels[
                -1
            ].bytes_per_s
            work = part.flops[row] / one.matmul_flops_per_s["bf16"]
            jobs.append(Job("load", ("chip/memory",), ticks(load), kernel=row))
            after = (len(jobs) - 1,)
            jobs.append(
                Job(
                    *("run", ("chip/arithmetic",), ticks(work), after),
                    reads=("token",),
                    writes=("token",),
                    kernel=row,
                    flops=float(part.flops[row]),
                )
            )
        made.append(Block(tuple(jobs)))
    runs = [
        Run(blocks[rows], at={"chip": f"chip {stage}"}, stage=stage, tag=caller)
        for stage, (rows, caller) in zip(task.stage_of(), task.table.order, strict=True)
    ]
    return Program(blocks=tuple(made), runs=tuple(runs), note="by hand")


def test_a_family_plugs_in_with_one_function(hand_chip):
    one = machine(hand_chip())
    made = simulate(two_layers(), one, Shards(1, 2), model=one_unit)
    trace = made.trace("hand:twin", joules=3.0)
    assert (trace.kind, trace.note) == ("simulated", "by hand")
    assert {s.resource for s in trace.spans} == {
        f"chip {c}/{u}" for c in (0, 1) for u in ("memory", "arithmetic")
    }
    assert sum(s.flops or 0 for s in trace.spans) == pytest.approx(8e9)
    assert sum(s.joules or 0 for s in trace.spans) == pytest.approx(3.0)
    assert {s.origin.layer for s in trace.spans if s.op == "run"} >= {"layers.3/mlp"}
    assert trace.seconds == pytest.approx(made.seconds, rel=1e-9)


def test_more_stages_start_the_next_step_sooner(hand_chip):
    one = machine(hand_chip())
    alone = simulate(two_layers(), one, model=one_unit)
    four = simulate(two_layers(), one, Shards(1, 4), model=one_unit)
    assert four.stage_s < alone.stage_s / 2


def test_stages_divide_whole_layers_evenly(hand_chip):
    def stages(task: Task) -> Program:
        assert task.stage_of() == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
        return Program(blocks=(), runs=(), note="")

    simulate(two_layers(9), machine(hand_chip()), Shards(1, 3), model=stages)


def test_a_family_without_a_model_says_so(hand_chip):
    with pytest.raises(UsageError, match="machine model"):
        simulate(two_layers(), machine(hand_chip(family="cpu")))
