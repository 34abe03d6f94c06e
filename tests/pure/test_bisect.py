"""The bisector finds a planted culprit, for any predicate, in as many trials as it must."""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from anychip.core import Coverage, Module, OpCoverage, UnsupportedError, UsageError, discover
from anychip.debug import bisect, does_not_compile, is_wrong, prefix
from anychip.fallback import compiler
from anychip.ops.interp import evaluate

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


@jax.jit
def layer(x):
    with jax.named_scope("act"):
        y = jnp.tanh(x)
    with jax.named_scope("shift"):
        return y * 0.5 + x


def model(x):
    for i in range(6):
        with jax.named_scope(f"layers.{i}"):
            x = layer(x)
    return x


def module() -> Module:
    return Module.from_mlir(jax.jit(model).lower(X).compiler_ir(), name="six")


@dataclass(frozen=True)
class Interp:
    """Evaluates; `refuses` a kind of op, or has the n-th of its ops `wrong` by so much."""

    name: str = "plain:interp"
    runs: bool = True
    toolchain: str = "test"
    refuses: str = ""
    wrong: str = ""

    def compile(self, module, options):
        if self.refuses and self.refuses in module.text():
            row = OpCoverage(op=self.refuses, fate="unsupported", why="not here")
            raise UnsupportedError(f"no {self.refuses} here", report=(row,))
        return Evaluated(module, self.wrong)


class Evaluated:
    artifacts = {}
    coverage = Coverage()

    def __init__(self, module, wrong):
        self.signature, self._module, self._wrong = module.signature, module, wrong

    def run(self, *inputs):
        def after(op, origin, operands, results):
            if op.name == "stablehlo.tanh" and origin.layer == self._wrong:
                return (results[0] + np.float32(0.1),)
            return None

        return evaluate(self._module, *inputs, after=after)

    def trace(self, *inputs):
        raise AssertionError("a search runs its targets; it asks for no trace")


def test_a_prefix_gives_what_its_last_op_gives():
    short = prefix(module(), 1)
    (value,) = evaluate(short, X)
    np.testing.assert_allclose(value, np.tanh(X), rtol=1e-6)
    with pytest.raises(UsageError, match="ops, not 999"):
        prefix(module(), 999)


@pytest.mark.parametrize("layer", [0, 3, 5])
def test_the_first_wrong_op_is_found(layer):
    target = Interp("bad:interp", wrong=f"layers.{layer}/act")
    found = bisect(module(), is_wrong(Interp(), target, [X]))
    assert found is not None
    assert (found.op, found.origin.layer) == ("stablehlo.tanh", f"layers.{layer}/act")
    assert "relative error" in found.why
    assert found.trials <= 1 + math.ceil(math.log2(found.of))


def test_what_is_wrong_is_found_behind_ops_that_run_on_a_fallback():
    doubted = Interp("cpu:interp", refuses="stablehlo.multiply", wrong="layers.2/act")
    with pytest.raises(UnsupportedError, match="multiply"):
        bisect(module(), is_wrong(Interp(), doubted, [X]))
    compile = compiler(discover(), "cpu:xla")
    found = bisect(module(), is_wrong(Interp("cpu:plain"), doubted, [X], compile=compile))
    assert found is not None
    assert (found.op, found.origin.layer) == ("stablehlo.tanh", "layers.2/act")


def test_the_first_op_that_does_not_compile_is_found():
    found = bisect(module(), does_not_compile(Interp(refuses="stablehlo.multiply")))
    assert found is not None
    assert found.op == "stablehlo.multiply"
    assert found.origin.layer == "layers.0/shift"
    assert found.why == "no stablehlo.multiply here"


def test_nothing_is_found_where_nothing_is_wrong():
    said = []
    assert bisect(module(), is_wrong(Interp(), Interp("b:interp"), [X]), said.append) is None
    assert len(said) == 1


def test_a_target_that_does_not_run_cannot_be_wrong():
    with pytest.raises(UsageError, match="does not run here"):
        is_wrong(Interp(), Interp("c:interp", runs=False), [X])
