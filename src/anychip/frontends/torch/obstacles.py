"""Everything of a program that cannot be expressed, found in one go; nothing is lowered here."""

from __future__ import annotations

from typing import Any

import jax
from torch.export import ExportedProgram

from anychip.core.dtypes import dtype
from anychip.core.errors import UnsupportedError
from anychip.core.target import OpCoverage
from anychip.frontends.torch.bind import bind
from anychip.frontends.torch.graph import Evaluation, evaluate, hint
from anychip.frontends.torch.symbols import input_sizes, symbols
from anychip.frontends.torch.table import table
from anychip.frontends.torch.unsupported import missing


def in_the_way(program: ExportedProgram, seed: int | None) -> list[OpCoverage]:
    """Rows for the ops of a decomposed program that have no rule, and for those whose rule refuses
    what it is given. Symbolic sizes are those of the example here, so that what stands behind a
    failed op can be looked at with zeros in its place."""
    rules = table()
    rows = missing(program.graph_module, rules, seed)
    named = {row.op for row in rows}
    names, _ = symbols(program, {})
    binding = bind(program, names, "")
    sizes = {names[str(size)]: hint(size) for size in input_sizes(program)}
    inputs = [
        jax.ShapeDtypeStruct(
            [d if isinstance(d, int) else sizes[d] for d in one.shape], dtype(one.dtype).numpy
        )
        for one in binding.arguments
    ]
    state = Evaluation(rules, seed, at_example=True)

    def look(*arrays: Any) -> None:
        evaluate(state, program.graph_module, binding.fed(arrays))

    try:
        with jax.enable_x64(True):
            jax.eval_shape(look, *inputs)
    except UnsupportedError as error:
        rows += [row for row in error.report if row.op not in named]
    return rows
