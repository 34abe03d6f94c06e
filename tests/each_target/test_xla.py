"""cpu:xla compiles, binds weights once, keeps state in place, and says what is wrong."""

import gc
import json
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from anychip.compilers.xla import XlaTarget
from anychip.core import (
    Argument,
    CompileError,
    CompileOptions,
    Executable,
    InputError,
    Module,
    Result,
    Signature,
    Target,
    UsageError,
    Weight,
    Weights,
)

OPTIONS = CompileOptions()


def _compile(text: str, **options) -> Executable:
    return XlaTarget().compile(Module.from_mlir(text), CompileOptions(**options))


ADD = """
module @add { func.func public @main(%a: tensor<4xf32>, %b: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.add %a, %b : tensor<4xf32> return %0 : tensor<4xf32> } }
"""


def test_target_and_executable_have_the_protocols_shape():
    target = XlaTarget()
    assert isinstance(target, Target)
    assert target.name == "cpu:xla"
    assert target.runs
    assert "jaxlib" in target.toolchain
    assert isinstance(_compile(ADD), Executable)


def test_numpy_and_jax_inputs_give_the_same():
    import jax.numpy as jnp

    add = _compile(ADD)
    a, b = np.arange(4, dtype=np.float32), np.ones(4, np.float32)
    np.testing.assert_array_equal(add.run(a, b)[0], a + b)
    np.testing.assert_array_equal(add.run(jnp.asarray(a), b)[0], a + b)


def test_changing_an_input_after_run_changes_nothing():
    text = ADD.replace("4x", "4194304x")
    add = _compile(text)
    a = np.ones(4194304, np.float32)
    result = add.run(a, a)[0]
    a[:] = 7
    assert np.all(np.asarray(result) == 2)


@pytest.mark.parametrize(
    ("element", "numpy"),
    [
        ("i1", np.bool_),
        ("i4", ml_dtypes.int4),
        ("i8", np.int8),
        ("ui16", np.uint16),
        ("i64", np.int64),
        ("f8E4M3FN", ml_dtypes.float8_e4m3fn),
        ("bf16", ml_dtypes.bfloat16),
        ("f16", np.float16),
        ("f64", np.float64),
        ("complex<f32>", np.complex64),
    ],
)
def test_element_type_goes_through_unchanged(element, numpy):
    text = f"module {{ func.func public @main(%a: tensor<3x{element}>) -> tensor<3x{element}> "
    echo = _compile(text + f"{{ return %a : tensor<3x{element}> }} }}")
    value = np.array([0, 1, 1]).astype(numpy)
    result = np.asarray(echo.run(value)[0])
    assert result.dtype == value.dtype
    np.testing.assert_array_equal(result, value)


def test_chlo_ops_are_legalised():
    echo = _compile(
        "module { func.func public @main(%a: tensor<3xf32>) -> tensor<3xf32> {"
        " %0 = chlo.erf %a : tensor<3xf32> -> tensor<3xf32> return %0 : tensor<3xf32> } }"
    )
    result = echo.run(np.array([-1, 0, 1], np.float32))[0]
    np.testing.assert_allclose(result, [-0.8427008, 0, 0.8427008], rtol=1e-6)


def test_composite_is_inlined_and_not_counted_as_an_op():
    executable = _compile("""
module { func.func public @main(%a: tensor<3xf32>) -> tensor<3xf32> {
  %0 = stablehlo.composite "toy.twice" %a {decomposition = @twice}
      : (tensor<3xf32>) -> tensor<3xf32>
  return %0 : tensor<3xf32> }
func.func private @twice(%a: tensor<3xf32>) -> tensor<3xf32> {
  %0 = stablehlo.add %a, %a : tensor<3xf32> return %0 : tensor<3xf32> } }""")
    np.testing.assert_array_equal(executable.run(np.ones(3, np.float32))[0], [2, 2, 2])
    assert executable.coverage.to_json() == {
        "total": 1,
        "native": 1,
        "emulated": 0,
        "fallback": 0,
        "unsupported": 0,
    }


def test_lapack_call_works_in_a_process_that_never_lowered_one(tmp_path):
    """Calling LAPACK through XLA before its kernels are loaded is a segmentation fault."""
    import jax
    import jax.numpy as jnp

    file = tmp_path / "cholesky.mlir"
    file.write_text(jax.jit(jnp.linalg.cholesky).lower(np.eye(2, dtype=np.float32)).as_text())
    script = f"""
import numpy as np
from anychip.compilers.xla import XlaTarget
from anychip.core import CompileOptions, Module
program = XlaTarget().compile(Module.from_mlir(open({str(file)!r}).read()), CompileOptions())
print(np.asarray(program.run(np.array([[4, 2], [2, 5]], np.float32))[0]).tolist())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[2, 0], [1, 2]]


# ---- weights ---------------------------------------------------------------------------------


def _scaled(weights: Weights) -> Module:
    text = """
module @scaled { func.func public @main(%x: tensor<64xf32>, %w: tensor<64xf32>) -> tensor<64xf32> {
  %0 = stablehlo.multiply %x, %w : tensor<64xf32> return %0 : tensor<64xf32> } }"""
    signature = Signature(
        (Argument("x", (64,), "f32"), Argument("w", (64,), "f32", "weight")),
        (Result("y", (64,), "f32"),),
    )
    return Module.from_mlir(text, signature=signature, weights=weights)


def _aligned(count: int) -> np.ndarray:
    raw = np.zeros(count * 4 + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + count * 4].view(np.float32)


def test_weights_are_read_once_and_not_before_the_first_run():
    reads = []

    def read() -> np.ndarray:
        reads.append(1)
        return np.full(64, 3, np.float32)

    weights = Weights((Weight("w", (64,), "f32", read=read),))
    executable = XlaTarget().compile(_scaled(weights), OPTIONS)
    assert reads == []
    x = np.ones(64, np.float32)
    for _ in range(3):
        assert np.all(np.asarray(executable.run(x)[0]) == 3)
    assert reads == [1]


def test_aligned_weights_are_used_where_they_lie():
    values = _aligned(64)
    values[:] = 3
    executable = XlaTarget().compile(_scaled(Weights.from_arrays({"w": values})), OPTIONS)
    x = np.ones(64, np.float32)
    assert np.asarray(executable.run(x)[0])[0] == 3
    values[:] = 5  # shows the sharing; a caller must not do this
    assert np.asarray(executable.run(x)[0])[0] == 5


def test_two_programs_of_a_target_share_equal_weights_until_both_are_gone():
    reads = []

    def read() -> np.ndarray:
        reads.append(1)
        return np.ones(64, np.float32)

    target, module = XlaTarget(), _scaled(Weights((Weight("w", (64,), "f32", read=read),)))
    x = np.ones(64, np.float32)
    first, second = target.compile(module, OPTIONS), target.compile(module, OPTIONS)
    first.run(x)
    second.run(x)
    assert reads == [1]
    del first, second
    gc.collect()
    target.compile(module, OPTIONS).run(x)
    assert reads == [1, 1]


def test_weights_known_by_shape_only_cannot_run():
    executable = XlaTarget().compile(_scaled(Weights((Weight("w", (64,), "f32"),))), OPTIONS)
    with pytest.raises(InputError, match=r"weight w .* known by shape only"):
        executable.run(np.ones(64, np.float32))


def test_missing_weights_cannot_run():
    executable = XlaTarget().compile(_scaled(Weights()), OPTIONS)
    with pytest.raises(InputError, match="no values for weight w"):
        executable.run(np.ones(64, np.float32))


# ---- state -----------------------------------------------------------------------------------

LAYERS, ROWS = 3, 512


def _cache_step() -> Module:
    """Writes one row of each layer's cache, then reads all of it."""
    layer = """
  %k{i}n = stablehlo.dynamic_update_slice %k{i}, %row, %at, %zero
      : (tensor<512x64xf32>, tensor<1x64xf32>, tensor<i32>, tensor<i32>) -> tensor<512x64xf32>
  %s{i} = stablehlo.reduce(%k{i}n init: %f0) applies stablehlo.add across dimensions = [0, 1]
      : (tensor<512x64xf32>, tensor<f32>) -> tensor<f32>"""
    text = (
        "module @step { func.func public @main(%at: tensor<i32>, %row: tensor<1x64xf32>, "
        + ", ".join(f"%k{i}: tensor<512x64xf32>" for i in range(LAYERS))
        + ") -> ("
        + ", ".join([*["tensor<f32>"] * LAYERS, *["tensor<512x64xf32>"] * LAYERS])
        + ") { %zero = stablehlo.constant dense<0> : tensor<i32>\n"
        " %f0 = stablehlo.constant dense<0.0> : tensor<f32>"
        + "".join(layer.format(i=i) for i in range(LAYERS))
        + "\n return "
        + ", ".join([*(f"%s{i}" for i in range(LAYERS)), *(f"%k{i}n" for i in range(LAYERS))])
        + " : "
        + ", ".join([*["tensor<f32>"] * LAYERS, *["tensor<512x64xf32>"] * LAYERS])
        + "} }"
    )
    signature = Signature(
        (
            Argument("at", (), "i32"),
            Argument("row", (1, 64), "f32"),
            *(Argument(f"k{i}", (ROWS, 64), "f32", "state") for i in range(LAYERS)),
        ),
        (
            *(Result(f"s{i}", (), "f32") for i in range(LAYERS)),
            *(Result(f"k{i}n", (ROWS, 64), "f32", f"k{i}") for i in range(LAYERS)),
        ),
    )
    return Module.from_mlir(text, signature=signature)


@pytest.fixture(scope="module")
def cache_step() -> Executable:
    return XlaTarget().compile(_cache_step(), OPTIONS)


def test_state_is_updated_in_place_with_no_copy_of_it(cache_step):
    """The signature alone asks for donation; the text above has no aliasing attribute."""
    memory = json.loads(cache_step.artifacts["memory"])
    state_bytes = LAYERS * ROWS * 64 * 4
    assert memory["aliased_bytes"] == state_bytes
    assert memory["temporary_bytes"] < ROWS * 64 * 4
    row = np.ones((1, 64), np.float32)
    states = [np.zeros((ROWS, 64), np.float32)] * LAYERS
    *sums, _, _, _ = results = cache_step.run(np.int32(0), row, *states)
    places = [state.unsafe_buffer_pointer() for state in results[LAYERS:]]
    for step in range(1, 5):
        results = cache_step.run(np.int32(step), row, *results[LAYERS:])
        sums = [float(s) for s in results[:LAYERS]]
        assert sums == [64.0 * (step + 1)] * LAYERS
        assert [s.unsafe_buffer_pointer() for s in results[LAYERS:]] == places


def test_numpy_state_is_not_written_to(cache_step):
    states = [_aligned(ROWS * 64).reshape(ROWS, 64) for _ in range(LAYERS)]
    cache_step.run(np.int32(0), np.ones((1, 64), np.float32), *states)[0].block_until_ready()
    assert not any(np.any(s) for s in states)


def test_state_used_twice_is_refused_by_name(cache_step):
    row, zeros = np.ones((1, 64), np.float32), np.zeros((ROWS, 64), np.float32)
    states = cache_step.run(np.int32(0), row, zeros, zeros, zeros)[LAYERS:]
    cache_step.run(np.int32(1), row, *states)
    with pytest.raises(UsageError, match="state k0 was donated"):
        cache_step.run(np.int32(2), row, *states)


def test_donation_that_the_text_asks_for_inputs_is_not_taken():
    """Only state is donated: an input the caller still holds must live on."""
    import jax.numpy as jnp

    add = _compile(ADD.replace("%a: tensor<4xf32>", "%a: tensor<4xf32> {tf.aliasing_output=0:i32}"))
    a = jnp.ones(4)
    add.run(a, a)
    np.testing.assert_array_equal(add.run(a, a)[0], [2, 2, 2, 2])


# ---- what is wrong ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((np.ones(4, np.float32),), r"add takes 2 arrays besides its weights \(a, b\), got 1"),
        ((np.ones(3, np.float32),) * 2, r"input a of add should be f32\[4\], got float32\[3\]"),
        ((np.ones(4),) * 2, r"input a of add should be f32\[4\], got float64\[4\]"),
    ],
)
def test_wrong_inputs_are_refused_by_name(inputs, message):
    text = ADD.replace("%a: tensor<4xf32>", '%a: tensor<4xf32> loc("a")')
    add = _compile(text.replace("%b: tensor<4xf32>", '%b: tensor<4xf32> loc("b")'))
    with pytest.raises(UsageError, match=message):
        add.run(*inputs)


def test_symbolic_dimensions_ask_to_specialise():
    module = Module.from_mlir(ADD.replace("4x", "?x"))
    with pytest.raises(UsageError, match=r"symbolic dimensions .* module\.specialise"):
        XlaTarget().compile(module, OPTIONS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"extra": {"fast": "yes"}}, "no option of cpu:xla named 'fast'"),
        ({"extra": {"isolate": "perhaps"}}, "must be yes or no"),
        ({"extra": {"xla_no_such_flag": "1"}}, "No such compile option"),
        ({"extra": {"xla_cpu_enable_fast_math": "perhaps"}}, "not a valid bool"),
        ({"threads": 0}, "at least 1"),
    ],
)
def test_unusable_option_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        _compile(ADD, **options)


def test_refusal_of_xla_says_where_in_the_model():
    text = """
module @m { func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.custom_call @nowhere(%a) : (tensor<4xf32>) -> tensor<4xf32>
      loc("model.layers.0#1/foo")
  return %0 : tensor<4xf32> } }"""
    module = Module.from_mlir(text, sources=("a.py:1", "a.py:2"))
    with pytest.raises(CompileError, match=r"nowhere.*at model\.layers\.0 \(a\.py:2\)") as caught:
        XlaTarget().compile(module, OPTIONS)
    assert "custom call" in caught.value.log


def test_compile_that_takes_too_long_is_a_compile_error():
    with pytest.raises(CompileError, match="compile of add took more than"):
        _compile(ADD, timeout_s=1e-5)


# ---- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_make_a_client_of_their_own_and_leave_the_environment(threads):
    before = dict(os.environ)
    add = _compile(ADD, threads=threads)
    assert dict(os.environ) == before
    a = np.ones(4, np.float32)
    first = add.run(a, a)[0]
    np.testing.assert_array_equal(add.run(first, a)[0], [3, 3, 3, 3])
    np.testing.assert_array_equal(_compile(ADD).run(first, a)[0], [3, 3, 3, 3])


def test_isolated_compile_gives_the_same_program():
    add = _compile(ADD, extra={"isolate": "yes"})
    a = np.ones(4, np.float32)
    np.testing.assert_array_equal(add.run(a, a)[0], [2, 2, 2, 2])


def test_xla_ending_its_process_is_a_compile_error_with_its_log(monkeypatch):
    _compile(ADD)  # this process has read XLA_FLAGS, so only the child meets the bad one
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    with pytest.raises(CompileError, match=r"compile of add (exited with|died by)") as caught:
        _compile(ADD, extra={"isolate": "yes"})
    assert "xla_no_such_flag" in caught.value.log


def test_artifacts_hold_each_stage():
    add = _compile(ADD, extra={"llvm_ir": "yes"})
    assert set(add.artifacts) == {
        "stablehlo",
        "hlo",
        "memory",
        "cache",
        "llvm_ir",
        "executable",
    }
    assert "stablehlo.add" in add.artifacts["stablehlo"]
    assert "HloModule" in add.artifacts["hlo"]
    assert "fadd" in add.artifacts["llvm_ir"]
    assert b"\x7fELF" in add.artifacts["executable"]
