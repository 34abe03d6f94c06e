"""The stages of a torch model: build, torch's own numbers, export, lower, compile, compare."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import zoo_build
import zoo_check

from anychip.zoo import Entry, Row


def stages(entry: Entry, targets: Sequence[str], row: Row) -> Iterator[str]:
    """Names each stage before it begins, and fills the row as stages succeed."""
    row.frontend = "torch"
    torch.set_num_threads(2)
    built = zoo_build.build(entry)
    yield "reference"
    expected = zoo_check.reference(built)
    if entry.list == "compile":
        yield "torch.compile"
        for target in targets:
            error = zoo_check.compare_dynamo(built, target)
            row.imported = row.lowered = True
            row.compiled(target)
            row.judge(target, error)
        return
    yield "export"
    program = zoo_check.export_program(built)
    row.imported = True
    yield "lower"
    lowered = zoo_check.lower(program, built)
    row.lowered, row.ops = True, lowered.module.text(elide_over=16).count("stablehlo.")
    for target in targets:
        yield f"compile for {target}"
        executable = zoo_check.compile_for(target, lowered)
        row.compiled(target)
        yield f"run on {target}"
        row.judge(target, zoo_check.compare(built, executable, lowered, expected))
