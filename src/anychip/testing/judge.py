"""Judge the op table: every case against its own expectation and the reference interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from anychip.ops.case import Case
from anychip.ops.table import Op
from anychip.testing.cases import Arrays, by_process, expected, run_cases
from anychip.testing.reference import case_program, reference_results, split_complex
from anychip.testing.tolerance import mismatch

Outcome = Literal["agrees", "differs", "not judged"]


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """One case of one op. `own_why` and `reference_why` explain any outcome but "agrees"."""

    op: str
    index: int
    own: Outcome
    own_why: str = ""
    reference: Outcome
    reference_why: str = ""

    def __str__(self) -> str:
        parts = [
            f"{who} {outcome}{f' ({why})' if why else ''}"
            for who, outcome, why in (
                ("own expectation", self.own, self.own_why),
                ("reference", self.reference, self.reference_why),
            )
        ]
        return f"{self.op} case {self.index}: {', '.join(parts)}"


def judge(entries: Sequence[Op], seed: int = 0) -> list[Judgement]:
    """A judgement for each case of these ops that the interpreter has a meaning for.

    Refused and inexpressible ops have none. Cases the reference cannot run are "not judged" by it,
    with the declared reason.
    """
    able = [entry for entry in entries if has_meaning(entry)]
    owned = [(entry, index, case) for entry in able for index, case in enumerate(entry.cases)]
    if not owned:
        return []
    inputs = [case.arrays(seed) for _, _, case in owned]
    results = run_cases([case for _, _, case in owned], inputs)
    asked = [i for i, (entry, _, case) in enumerate(owned) if not unjudged(entry, case)]
    programs = [case_program(owned[i][2], seed) for i in asked]
    verdicts = dict(zip(asked, reference_results(programs), strict=True))
    judgements: list[Judgement] = []
    for i, (entry, index, case) in enumerate(owned):
        own, own_why = _own(case, inputs[i], results[i])
        verdict = verdicts.get(i)
        if verdict is None:
            reference, why = "not judged", unjudged(entry, case)
        elif verdict.results is None:
            # Processes of a grid each take a thread of a pool as large as the machine has cores.
            is_starved = "rendezvous timed out" in verdict.why
            reference, why = "not judged" if is_starved else "differs", verdict.why
        else:
            got = split_complex(by_process(case, results[i]))
            found = mismatch(got, verdict.results, case.reduced)
            reference, why = ("agrees", "") if found is None else ("differs", str(found))
        judgements.append(
            Judgement(
                op=entry.name,
                index=index,
                own=own,
                own_why=own_why,
                reference=reference,
                reference_why=why,
            )
        )
    return judgements


def has_meaning(entry: Op) -> bool:
    """Whether the op's cases can be evaluated: it parses, and its first case is not refused."""
    from anychip.core.module import Module
    from anychip.ops.view import program

    if entry.inexpressible or not entry.cases:
        return False
    read = program(Module.from_mlir(entry.cases[0].text))
    ops = [op for block in read.functions.values() for op in block.ops if op.name == entry.name]
    return not any(entry.refusal(op) for op in ops)


def unjudged(entry: Op, case: Case) -> str:
    """Why the reference interpreter is not asked; "" when it is."""
    return entry.reference or case.skip_reference


def _own(case: Case, inputs: Arrays, results: Arrays) -> tuple[Outcome, str]:
    if case.law is not None:
        with np.errstate(all="ignore"):
            holds = case.law(*inputs, *results)
        return ("agrees", "") if holds else ("differs", f"the law does not hold for {results}")
    want = expected(case, inputs, results)
    if want is None:
        return "not judged", "the case states no expectation"
    found = mismatch(results, want, case.reduced)
    return ("agrees", "") if found is None else ("differs", str(found))
