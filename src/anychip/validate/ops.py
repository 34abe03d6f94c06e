"""Published times of single ops: a matmul of a tensor-parallel shard, an all-reduce."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from anychip.core import ChipSpec, Module, Registry, UsageError, discover
from anychip.twin import Machine, Table, lower, machine, step_cost
from anychip.twin.collective import all_reduce_s
from anychip.twin.simulate import simulate, untraced
from anychip.validate.names import CHIPS, LINKS, Build, lookup
from anychip.validate.rows import Published

PROJECTIONS = {"up": (8192, 2 * 28672), "down": (28672, 8192)}
"""Llama-2-70B's feed-forward matmuls, (contracted, result); gate and up are one."""


Turn = Callable[[ChipSpec], Mapping[str, float]]
"""Other values for some of a chip's facts, by their keys (twin.facts_of)."""


def op_seconds(
    row: Published,
    registry: Registry | None = None,
    turn: Turn | None = None,
    tables: dict[tuple[int, int, int], Table] | None = None,
    is_simulated: bool = False,
) -> tuple[str, float]:
    """(chip, seconds). Raises UsageError for an op or chip that is not known.

    A matmul is the closed form's or, simulated, the machine model's where the chip has one.
    `tables` keeps what was lowered, for callers that ask often.
    """
    registry = registry or discover()
    tables = {} if tables is None else tables

    def turned(chip: str) -> Machine:
        spec = registry.chip(chip).spec
        return machine(spec, turned=turn(spec) if turn else None)

    if row.model == "op: all_reduce":
        chip = lookup(LINKS, row.chip)
        size = re.search(r"(\d+) B\b", row.notes)
        if not isinstance(chip, str) or not size:
            raise UsageError(f"all-reduce on {row.chip!r} of {row.notes!r} is not known")
        link = turned(chip).link
        assert link is not None
        return chip, all_reduce_s(float(size[1]), int(float(row.chips)), link)
    build = lookup(CHIPS, row.chip)
    rows = int(float(row.batch or 0))
    sizes = _sizes(row)
    if not isinstance(build, Build) or build.changes or sizes is None or not rows:
        raise UsageError(f"{row.model!r} on {row.chip!r} is not known")
    key = (rows, *sizes)
    if key not in tables:
        tables[key] = Table.of(lower(_matmul(*key)))
    one = turned(build.chip)
    if is_simulated and not untraced(one):
        return build.chip, simulate(tables[key], one).scheduled.seconds
    cost = step_cost(tables[key], one)
    return build.chip, float(cost.kernel_s @ tables[key].counts)


def _sizes(row: Published) -> tuple[int, int] | None:
    """(contracted, result) of this row's shard."""
    if match := re.fullmatch(r"op: matmul Mx(\d+)x(\d+)", row.model):
        return int(match[1]), int(match[2])
    kind = re.fullmatch(r"op: Llama-2-70B mlp_(up|down)_proj", row.model)
    shard = re.match(r"TP(\d+) shard", row.notes)
    if not kind or not shard:
        return None
    k, n = PROJECTIONS[kind[1]]
    ways = int(shard[1])
    return (k, n // ways) if kind[1] == "up" else (k // ways, n)


def _matmul(m: int, k: int, n: int) -> Module:
    return Module.from_mlir(
        f"""func.func public @main(%x: tensor<{m}x{k}xf16>, %w: tensor<{k}x{n}xf16>)
            -> tensor<{m}x{n}xf16> {{
          %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
            : (tensor<{m}x{k}xf16>, tensor<{k}x{n}xf16>) -> tensor<{m}x{n}xf16>
          return %0 : tensor<{m}x{n}xf16>
        }}"""
    )
