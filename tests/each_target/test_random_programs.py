"""Random programs mean on each host target what their ops mean, and the passes keep the meaning."""

import numpy as np
import pytest

from anychip.core import CompileOptions, discover
from anychip.fallback import compiler
from anychip.passes.fold import fold
from anychip.passes.lift import lift
from anychip.testing.agree import disagreement
from anychip.testing.programs import random_program

SEEDS = {
    "cpu:native": (0, 3, 5, 9, 24, 32),
    "cpu:onnxruntime": (1, 2, 87),
    "cpu:openvino": (4, 6, 30),
    "cpu:iree": (8,),
}
"""Of each target, programs that once went wrong there, and others."""


@pytest.mark.parametrize(("target", "seed"), [(t, s) for t, seeds in SEEDS.items() for s in seeds])
def test_a_random_program_means_what_its_ops_mean(target, seed):
    registry, program = discover(), random_program(seed)
    compile = compiler(registry, "cpu:xla")
    executable = compile(registry.target(target), program.module, CompileOptions())
    assert disagreement(program, executable.run(*program.inputs)) == ""


def test_a_program_is_made_the_same_way_each_time():
    one, other = random_program(11), random_program(11)
    assert one.module.text() == other.module.text()
    np.testing.assert_array_equal(one.inputs[0], other.inputs[0])
    assert one.module.text() != random_program(12).module.text()


def test_a_wrong_result_is_told_by_its_place():
    program = random_program(2)
    executable = discover().target("cpu:xla").compile(program.module, CompileOptions())
    results = [np.array(r) for r in executable.run(*program.inputs)]
    assert disagreement(program, results) == ""
    results[-1].reshape(-1)[-1] += 1
    assert "1 of" in disagreement(program, results)
    assert "results, should be" in disagreement(program, results[:-1])


@pytest.mark.parametrize("seed", range(20, 24))
def test_folding_and_lifting_keep_what_a_random_program_means(seed):
    program, xla = random_program(seed), discover().target("cpu:xla")
    rewritten, _ = lift(fold(program.module))
    executable = xla.compile(rewritten, CompileOptions())
    assert disagreement(program, executable.run(*program.inputs)) == ""
