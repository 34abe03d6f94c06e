"""Published times of single ops: a matmul of a tensor-parallel shard, an all-reduce."""

from __future__ import annotations

import re

from anychip.core import Module, Registry, UsageError, discover
from anychip.twin import Table, lower, machine, step_cost
from anychip.twin.collective import all_reduce_s
from anychip.validate.names import CHIPS, LINKS, Build, lookup
from anychip.validate.rows import Published

PROJECTIONS = {"up": (8192, 2 * 28672), "down": (28672, 8192)}
"""Llama-2-70B's feed-forward matmuls, (contracted, result); gate and up are one."""


def op_seconds(row: Published, registry: Registry | None = None) -> tuple[str, float]:
    """(chip, seconds). Raises UsageError for an op or chip that is not known."""
    registry = registry or discover()
    if row.model == "op: all_reduce":
        chip = lookup(LINKS, row.chip)
        size = re.search(r"(\d+) B\b", row.notes)
        if not isinstance(chip, str) or not size:
            raise UsageError(f"all-reduce on {row.chip!r} of {row.notes!r} is not known")
        link = machine(registry.chip(chip).spec).link
        assert link is not None
        return chip, all_reduce_s(float(size[1]), int(float(row.chips)), link)
    build = lookup(CHIPS, row.chip)
    rows = int(float(row.batch or 0))
    sizes = _sizes(row)
    if not isinstance(build, Build) or build.changes or sizes is None or not rows:
        raise UsageError(f"{row.model!r} on {row.chip!r} is not known")
    one = machine(registry.chip(build.chip).spec)
    table = Table.of(lower(_matmul(rows, *sizes)))
    cost = step_cost(table, one)
    return build.chip, float(cost.kernel_s @ table.counts)


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
