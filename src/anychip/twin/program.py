"""The seam between a family and the engine: a Task goes in, a Program of jobs comes out.

To add a family, write one file with one function `program(task: Task) -> Program` and name it in
simulate.MODELS. What the function gets and owes:

- `task.table` is the model after lowering: rows of kernels with their numbers, and `table.order`,
  which rows run when. `task.part` has the same rows after sharding: what *one* chip of the tensor
  group does. `task.formats` says in which format each matmul runs. `task.machine` has the rates
  programs reach, the links, and `machine.detail(name)` for facts only this family has; every
  number comes from there, so that an interval can turn it. Do not add `machine.per_kernel_s`,
  `per_layer_s` or an overlap: the closed form has those in place of what you simulate.
- Make one Block for each distinct `range` of `table.order` (a layer), and one Run for each entry.
  Chips of a tensor group do the same at the same time: schedule one and say so in `stands_for`.
  Stages of a pipeline are different places: name resources `chip/unit` and let each Run say which
  chip (`at={"chip": "chips 8-15"}`); one block then serves all stages.
- Pass activations from block to block through ports (`writes=("token",)`, `reads=("token",)`).
  Work that may run ahead (a prefetch) does not read the token; bound it by a port that its consumer
  sets ("buffer is free"), as the hardware's buffers do.
- Durations must not shrink when the batch or the context grows, nor grow when a rate does: choose
  tile sizes from shapes and capacities, or take the fastest of several; never from a rate alone.
- Jobs carry the chip's flops and bytes, so that work is conserved: their sum over a run's jobs is
  `task.part`'s. Never let two resources both count them.
- The trace is drawn from the jobs; name resources as people of that chip do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from anychip.twin.engine import Block, Run
from anychip.twin.formats import Way
from anychip.twin.lowered import Table
from anychip.twin.machine import Machine
from anychip.twin.shard import Placement, Portion, Shards


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a family's machine model is asked to run: one step of one model copy."""

    table: Table
    machine: Machine
    shards: Shards
    placement: Placement
    part: Portion
    formats: tuple[Way, ...]

    def stage_of(self) -> list[int]:
        """The pipeline stage of each entry of `table.order`: whole entries, evenly by layers; what
        comes before the first layer is the first stage's, what comes after the last the last's."""
        layers = [bool(caller.layer) for _, caller in self.table.order]
        total = max(1, sum(layers))
        stages = min(self.shards.pipeline, total)
        each: list[int] = []
        seen = 0
        for is_layer in layers:
            each.append(min(stages - 1, seen * stages // total))
            seen += is_layer
        return each


@dataclass(frozen=True, kw_only=True)
class Program:
    """Jobs of one step. `stands_for` says how many chips a place in the resources' names stands
    for; `shared` are resources served by readiness (see engine); `note` what is not modelled."""

    blocks: tuple[Block, ...]
    runs: tuple[Run, ...]
    note: str
    shared: frozenset[str] = frozenset()
    stands_for: Mapping[str, int] = field(default_factory=dict[str, int])
    before_s: float = 0.0  # before the first job: the host starts a step
    picture: object = None  # what `anychip show` draws beside the schedule, the family's own type


Model = Callable[[Task], Program]
