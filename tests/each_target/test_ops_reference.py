"""Every case of the op table against its own expectation, the reference interpreter and upstream.

Set ANYCHIP_STABLEHLO_TESTDATA to a folder of upstream's conformance files to run those too.
"""

import numpy as np
import pytest

from anychip.core import InputError, Module, UnsupportedError, config
from anychip.ops import OPS
from anychip.ops.interp import evaluate
from anychip.ops.table import SUBJECTS, entries
from anychip.testing.cases import by_process, run_cases
from anychip.testing.judge import has_meaning, judge, unjudged
from anychip.testing.reference import case_program, reference_results, split_complex
from anychip.testing.tolerance import mismatch
from anychip.testing.upstream import REDUCED, UpstreamCase, upstream_cases


@pytest.mark.parametrize("subject", SUBJECTS)
def test_cases_agree_with_their_expectation_and_the_reference(subject):
    judgements = judge(entries(subject))
    assert [str(j) for j in judgements if "differs" in (j.own, j.reference)] == []


def test_every_op_with_a_meaning_is_judged_by_somebody():
    for name, entry in OPS.items():
        if has_meaning(entry):
            assert any(
                c.expect is not None or c.law is not None or not unjudged(entry, c)
                for c in entry.cases
            ), name


def undoable() -> list:
    """One case for each reason the table gives for not asking the reference.

    Grids are left out: how many processes it can run depends on the machine's cores.
    """
    found = {}
    for name, entry in OPS.items():
        for one in entry.cases:
            reason = unjudged(entry, one)
            if reason and has_meaning(entry) and not one.replicas:
                found.setdefault((name, reason), one)
    return [pytest.param(one, id=f"{name}: {reason}") for (name, reason), one in found.items()]


RANDOM = {"stablehlo.rng"}  # a result would prove nothing


def test_declared_gaps_of_the_reference_are_still_there():
    params = [p for p in undoable() if p.id.split(":")[0] not in RANDOM]
    assert len(params) > 20
    cases = [p.values[0] for p in params]
    inputs = [c.arrays() for c in cases]
    verdicts = reference_results([case_program(c) for c in cases])
    closed = []
    for param, one, results, verdict in zip(
        params, cases, run_cases(cases, inputs), verdicts, strict=True
    ):
        if verdict.results is None:
            continue
        got = split_complex(by_process(one, results))
        if mismatch(got, verdict.results, one.reduced) is None:
            closed.append(param.id)
    assert closed == []


def test_a_program_that_kills_the_reference_does_not_hide_the_others():
    fine = case_program(OPS["stablehlo.abs"].cases[0])
    deadly = case_program(OPS["stablehlo.cholesky"].cases[0])
    first, dead, last = reference_results([fine, deadly, fine])
    assert first.results is not None
    assert dead.results is None
    assert "SIGABRT" in dead.why
    assert last.results is not None


def test_a_wrong_rule_is_found():
    from dataclasses import replace

    entry = replace(OPS["stablehlo.subtract"], name="stablehlo.add")
    wrong = [
        replace(c, text=c.text.replace("stablehlo.subtract", "stablehlo.add"))
        for c in entry.cases[:1]
    ]
    (found,) = judge([replace(entry, cases=tuple(wrong))])
    assert found.own == "differs"
    assert "elements differ" in found.own_why


@pytest.mark.timeout(3600)  # thousands of files
def test_upstream_conformance_files_agree(capsys):
    folder = config.read("stablehlo_testdata")
    if folder is None:
        pytest.skip("ANYCHIP_STABLEHLO_TESTDATA names no folder of upstream files")
    agreed, failed, passed_over = 0, [], []
    for one in upstream_cases(folder):
        if isinstance(one, InputError):
            passed_over.append(str(one))
            continue
        failure = judge_upstream(one)
        if failure is None:
            agreed += 1
        elif isinstance(failure, InputError | UnsupportedError):
            passed_over.append(f"{one.name}: {failure}")
        else:
            failed.append(f"{one.name}: {failure}")
    with capsys.disabled():
        print(f"\nupstream: {agreed} agree, {len(failed)} differ, {len(passed_over)} not run")
    assert failed == []
    assert agreed > 0


def judge_upstream(one: UpstreamCase):
    """None when the program's checks hold, else why not; an error when it cannot be run here."""
    try:
        results = [np.asarray(r) for r in evaluate(Module.from_mlir(one.text))]
    except (InputError, UnsupportedError) as error:
        return error
    return mismatch(results[: one.checks], results[one.checks :], REDUCED)
