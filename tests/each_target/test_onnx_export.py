"""StableHLO → ONNX → ONNX Runtime and OpenVINO: the op table's cases, models, refusals."""

import importlib.util
from collections import Counter

import numpy as np
import pytest

from anychip.compilers.onnx_export import export
from anychip.core import (
    CompileError,
    CompileOptions,
    Module,
    UnsupportedError,
    UsageError,
    Weights,
    discover,
)
from anychip.ops import OPS
from anychip.testing.cases import run_cases
from anychip.testing.tolerance import mismatch

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime") is None or importlib.util.find_spec("openvino") is None,
    reason="the extras onnxruntime and openvino are not installed",
)
SETTING = {"cpu:onnxruntime": "spinning", "cpu:openvino": "precision"}

TARGETS = ("cpu:onnxruntime", "cpu:openvino")

WHOLE = """abs negate ceil floor exponential log logistic sqrt rsqrt tanh add subtract multiply
divide maximum minimum compare select clamp reshape transpose broadcast_in_dim concatenate slice pad
reverse iota dot_general convolution gather dynamic_slice dynamic_update_slice reduce""".split()


WRITTEN = {
    "scatter": 9,
    "sort": 8,
    "popcnt": 5,
    "count_leading_zeros": 5,
    "power": 16,
    "not": 12,
    "shift_left": 10,
    "shift_right_arithmetic": 10,
    "reduce_window": 3,
    "batch_norm_training": 1,
    "bitcast_convert": 3,
}
"""Ops that ONNX has no op of its own for, and how many of their cases are written all the same."""


@pytest.mark.parametrize("name", WRITTEN)
def test_every_case_agrees_or_is_refused(name):
    cases = [c for c in OPS[f"stablehlo.{name}"].cases if not c.replicas and not c.is_concrete]
    inputs = [c.arrays() for c in cases]
    target = discover().target("cpu:onnxruntime")
    ran = 0
    for case, arrays, want in zip(cases, inputs, run_cases(cases, inputs), strict=True):
        try:
            executable = target.compile(Module.from_mlir(case.text), CompileOptions())
        except (UnsupportedError, CompileError):
            continue
        got = [np.asarray(r) for r in executable.run(*arrays)]
        ran += 1
        if case.law is not None:
            assert case.law(*arrays, *got), case.text
        else:
            assert not mismatch(got, want, case.reduced), case.text
    assert ran >= WRITTEN[name]


def f32_cases(name):
    """The op's cases in f32 and i32, which every runtime has kernels for."""
    known = {"f32", "i32", "i1"}
    return [
        c
        for c in OPS[f"stablehlo.{name}"].cases
        if not c.replicas
        and not c.is_concrete
        and c.law is None
        and {s.partition("[")[0] for s in c.inputs} <= known
        and not any(s in c.text for s in ("f64", "f16", "i8", "complex", "tensor<0x", "x0x"))
    ]


@pytest.mark.parametrize("name", WHOLE)
def test_cases_agree_with_the_interpreter(name):
    cases = f32_cases(name)
    assert cases
    inputs = [c.arrays() for c in cases]
    target = discover().target("cpu:onnxruntime")
    fates = Counter()
    wrong = []
    for case, arrays, want in zip(cases, inputs, run_cases(cases, inputs), strict=True):
        try:
            executable = target.compile(Module.from_mlir(case.text), CompileOptions())
        except (UnsupportedError, CompileError) as error:
            fates[type(error).__name__] += 1
            continue
        got = [np.asarray(r) for r in executable.run(*arrays)]
        fates["ran"] += 1
        if found := mismatch(got, want, case.reduced):
            wrong.append(f"{case.inputs}: {found}")
    assert wrong == []
    assert fates["ran"] > fates["UnsupportedError"] + fates["CompileError"], fates


def net():
    """A convolution with batch norm and ReLU, a pool, a mean and a linear layer, in JAX."""
    import jax
    import jax.numpy as jnp
    from jax import lax

    from anychip.frontends.load import load_any
    from anychip.ops.composites import attention, gelu, layer_norm

    random = np.random.default_rng(0)
    kernel, scale, shift = (
        random.standard_normal(s).astype(np.float32) for s in ((8, 3, 3, 3), (8,), (8,))
    )
    dense = random.standard_normal((8, 8)).astype(np.float32)

    def model(x):
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME")
        y = jax.nn.relu(y * scale[:, None, None] + shift[:, None, None])
        y = lax.reduce_window(y, -jnp.inf, lax.max, (1, 1, 2, 2), (1, 1, 2, 2), "VALID")
        y = y.reshape(1, 8, 64).transpose(0, 2, 1)
        y = layer_norm(y, scale, shift, eps=1e-5)
        q = (y @ dense.T).reshape(1, 64, 2, 4).transpose(0, 2, 1, 3)
        mask = np.tril(np.ones((1, 1, 64, 64), bool), -1)  # the first row sees nothing
        y = attention(q, q, q, jnp.asarray(mask), scale=0.5)
        return jnp.mean(gelu(y, approximate=False), axis=2)

    example = random.standard_normal((1, 3, 16, 16)).astype(np.float32)
    return load_any(model, (example,), home=None, options={}), example


@pytest.mark.parametrize("target", TARGETS)
def test_a_model_runs_and_its_profile_names_its_ops(target):
    from anychip.ops.interp import evaluate

    module, example = net()
    executable = discover().target(target).compile(module, CompileOptions(threads=1))
    weights = [module.weights[a.name].array() for a in module.signature.named("weight")]
    want = [np.asarray(r) for r in evaluate(module, *weights, example)]
    assert mismatch(list(executable.run(example)), want, 64) is None
    trace = executable.trace(example)
    assert trace.kind == "measured"
    assert len(trace.spans) > 3
    assert executable.coverage.total == executable.coverage.count("native") > 10


def test_the_graph_keeps_what_runtimes_fuse():
    module, _ = net()
    kinds = Counter(n.op_type for n in export(module).model.graph.node)
    for kind in ("Conv", "Relu", "MaxPool", "LayerNormalization", "Softmax", "Gelu", "ReduceMean"):
        assert kinds[kind] == 1, kinds
    assert kinds["Expand"] == 0, kinds


def test_hard_swish_is_recognised_however_it_is_written():
    three, zero, six = (f"dense<{v}> : tensor<4xf32>" for v in ("3.0", "0.0", "6.0"))
    head = f"""func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {{
      %t = stablehlo.constant {three}
      %z = stablehlo.constant {zero}
      %s = stablehlo.constant {six}
      %a = stablehlo.add %x, %t : tensor<4xf32>
      %b = stablehlo.maximum %a, %z : tensor<4xf32>
      %c = stablehlo.minimum %b, %s : tensor<4xf32>"""
    tails = (
        "%d = stablehlo.divide %c, %s : tensor<4xf32> %e = stablehlo.multiply %x, %d",
        "%d = stablehlo.multiply %c, %x : tensor<4xf32> %e = stablehlo.divide %d, %s",
    )
    x = np.array([-4, -1, 1, 4], np.float32)
    for tail in tails:
        module = Module.from_mlir(f"{head}\n{tail} : tensor<4xf32> return %e : tensor<4xf32> }}")
        for gates in (False, True):
            nodes = export(module, gates=gates).model.graph.node
            assert [n.op_type for n in nodes] == ["HardSwish"]
        (got,) = discover().target("cpu:onnxruntime").compile(module, CompileOptions()).run(x)
        np.testing.assert_allclose(got, x * np.clip(x + 3, 0, 6) / 6, rtol=1e-6)


def test_hard_sigmoid_is_one_node_that_a_convolution_can_take_in():
    one = "dense<{}> : tensor<4xf32>"
    bodies = {
        (1 / 6, 0.5, "3.0", "6.0"): "%d = stablehlo.divide %c, %top : tensor<4xf32>",
        (0.2, 0.5, "0.5", "1.0"): "%d = stablehlo.add %c, %z : tensor<4xf32>",
    }
    x = np.array([-4, -1, 1, 4], np.float32)
    for (slope, shift, added, top), tail in bodies.items():
        scaled = "%x" if top == "6.0" else "%m"
        module = Module.from_mlir(f"""func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {{
          %s = stablehlo.constant {one.format("0.2")}
          %m = stablehlo.multiply %x, %s : tensor<4xf32>
          %b = stablehlo.constant {one.format(added)}
          %z = stablehlo.constant {one.format("0.0")}
          %top = stablehlo.constant {one.format(top)}
          %a = stablehlo.add {scaled}, %b : tensor<4xf32>
          %c = stablehlo.clamp %z, %a, %top : tensor<4xf32>
          {tail}
          return %d : tensor<4xf32> }}""")
        kinds = [n.op_type for n in export(module, gates=True).model.graph.node]
        assert "HardSigmoid" in kinds
        assert "Clip" not in kinds
        assert "Clip" in [n.op_type for n in export(module).model.graph.node]
        (got,) = discover().target("cpu:onnxruntime").compile(module, CompileOptions()).run(x)
        np.testing.assert_allclose(got, np.clip(slope * x + shift, 0, 1), rtol=1e-6, atol=1e-7)


def test_large_weights_are_by_name_only():
    text = """func.func @main(%w: tensor<256x64xf32> loc("w"), %x: tensor<2x64xf32> loc("x"))
      -> tensor<2x256xf32> {
      %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [1]
        : (tensor<2x64xf32>, tensor<256x64xf32>) -> tensor<2x256xf32>
      return %0 : tensor<2x256xf32>
    }"""
    plain = Module.from_mlir(text)
    from dataclasses import replace

    first, *rest = plain.signature.arguments
    signature = replace(plain.signature, arguments=(replace(first, role="weight"), *rest))
    w = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    weights = Weights.from_arrays({first.name: w})
    module = Module.from_mlir(text, signature=signature, weights=weights)
    exported = export(module)
    assert len(exported.model.SerializeToString()) < 4096
    assert [*exported.weights] == [first.name]
    x = np.ones((2, 64), np.float32)
    for target in TARGETS:
        (got,) = discover().target(target).compile(module, CompileOptions()).run(x)
        np.testing.assert_allclose(got, x @ w.T, rtol=1e-4, atol=1e-4)


def test_what_onnx_cannot_say_is_refused_with_its_place():
    text = """func.func @main(%x: tensor<4x4xf32>) -> tensor<4x4xf32> {
      %0 = "stablehlo.cholesky"(%x) <{lower = true}> : (tensor<4x4xf32>) -> tensor<4x4xf32>
      return %0 : tensor<4x4xf32>
    }"""
    with pytest.raises(UnsupportedError, match=r"(?s)stablehlo\.cholesky, at .*cpu:xla") as caught:
        export(Module.from_mlir(text.replace("\n", " ")))
    assert caught.value.report[0].op == "stablehlo.cholesky"


@pytest.mark.parametrize("name", ["divide", "remainder"])
def test_dividing_by_nothing_does_not_end_the_process(name):
    from anychip.ops.interp import evaluate

    module = Module.from_mlir(
        f"""func.func @main(%x: tensor<5xi32>, %y: tensor<5xi32>) -> tensor<5xi32> {{
          %0 = stablehlo.{name} %x, %y : tensor<5xi32>
          return %0 : tensor<5xi32>
        }}"""
    )
    x = np.array([7, 7, -(2**31), -7, 0], np.int32)
    y = np.array([0, -1, -1, 2, 0], np.int32)
    (got,) = discover().target("cpu:onnxruntime").compile(module, CompileOptions()).run(x, y)
    np.testing.assert_array_equal(got, np.asarray(evaluate(module, x, y)[0]))


@pytest.mark.parametrize("target", TARGETS)
def test_unknown_options_are_refused(target):
    module = Module.from_mlir(
        "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> { return %x : tensor<2xf32> }"
    )
    made = discover().target(target)
    with pytest.raises(UsageError, match="option of"):
        made.compile(module, CompileOptions(extra={"precison": "bf16"}))
    with pytest.raises(UsageError, match=r"must be one of|none of"):
        made.compile(module, CompileOptions(extra={SETTING[target]: "int8"}))
    (got,) = made.compile(module, CompileOptions()).run(np.ones(2, np.float32))
    np.testing.assert_array_equal(got, [1, 1])


def runs_alike(module, *inputs, targets=TARGETS):
    """Both runtimes give the interpreter's numbers; returns the kinds of nodes."""
    from anychip.ops.interp import evaluate

    want = [np.asarray(r) for r in evaluate(module, *inputs)]
    for target in targets:
        got = [
            np.asarray(r)
            for r in discover().target(target).compile(module, CompileOptions()).run(*inputs)
        ]
        assert mismatch(got, want, 64) is None, target
    return Counter(n.op_type for n in export(module).model.graph.node)


def traced(function, *examples):
    from anychip.frontends.load import load_any

    return load_any(function, examples, home=None, options={})


def test_images_enlarged_by_repeating_are_one_resize():
    import jax.numpy as jnp

    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(np.float32)

    def by_broadcast(x):
        wide = jnp.broadcast_to(x[:, :, :, None], (1, 2, 3, 2, 4)).reshape(1, 2, 6, 4)
        return jnp.broadcast_to(wide[..., None], (1, 2, 6, 4, 3)).reshape(1, 2, 6, 12)

    def by_rows(x):
        return jnp.take(jnp.take(x, np.arange(6) // 2, 2), np.arange(12) // 3, 3)

    assert runs_alike(traced(by_broadcast, x), x) == {"Resize": 1}
    kinds = runs_alike(traced(by_rows, x), x)
    assert kinds["Resize"] == 1, kinds
    assert kinds["Gather"] == 0, kinds


def test_a_batch_of_one_does_not_hide_the_heads_of_attention():
    import jax.numpy as jnp

    from anychip.ops.composites import softmax

    x = np.random.default_rng(0).standard_normal((1, 2, 5, 4)).astype(np.float32)

    def attend(x):
        return jnp.matmul(softmax(jnp.matmul(x, x.transpose(0, 1, 3, 2)), axis=-1), x)

    kinds = runs_alike(traced(attend, x), x)
    assert kinds["MatMul"] == 2
    assert kinds["Reshape"] == 0, kinds


def test_a_mean_that_leaves_out_the_padding_is_one_pool():
    import jax.numpy as jnp
    from jax import lax

    x = np.random.default_rng(0).standard_normal((1, 2, 6, 6)).astype(np.float32)

    def total(x):
        edge = ((0, 0), (0, 0), (1, 1), (1, 1))
        return lax.reduce_window(x, 0.0, lax.add, (1, 1, 3, 3), (1, 1, 2, 2), edge)

    mean = traced(lambda x: total(x) / total(jnp.ones_like(x)), x)
    assert runs_alike(mean, x) == {"AveragePool": 1}


def test_clamps_and_factors_of_one_leave_nothing_behind():
    import jax.numpy as jnp
    from jax import lax

    x = np.array([[-1.0, 0.5, 2.0]], np.float32)
    low, high = jnp.zeros((1, 3)), jnp.ones((1, 3))
    assert runs_alike(traced(lambda x: lax.clamp(low, x * low + x * high, high), x), x)["Clip"] == 1
    assert runs_alike(traced(lambda x: x * high + 1, x), x) == {"Add": 1}


def test_what_is_spelled_out_is_lifted_before_export():
    import jax
    import jax.numpy as jnp
    import onnx

    x = np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)

    def model(x):
        y = x - x.mean(-1, keepdims=True)
        y = y / jnp.sqrt((y * y).mean(-1, keepdims=True) + 1e-5)
        return jax.nn.softmax(jax.nn.gelu(y, approximate=False), -1)

    executable = discover().target("cpu:onnxruntime").compile(traced(model, x), CompileOptions())
    nodes = onnx.load_from_string(executable.artifacts["onnx"]).graph.node
    assert [n.op_type for n in nodes] == ["LayerNormalization", "Gelu", "Softmax"]
    lifted = executable.artifacts["lifted"].splitlines()
    assert [line.partition(":")[0] for line in lifted] == ["layer_norm", "gelu", "softmax"]
    assert all("test_onnx_export.py" in line for line in lifted)


@pytest.mark.parametrize("target", TARGETS)
def test_a_symbolic_batch_goes_through_and_serves_every_size(target, tmp_path):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from anychip.api import load

    random = np.random.default_rng(0)
    weights = {
        "k": random.standard_normal((4, 3, 3, 3)),
        "w": random.standard_normal((4, 5)),
        **{name: random.random(4) + 0.5 for name in ("s", "b", "m", "v")},
    }
    node = helper.make_node
    graph = helper.make_graph(
        [
            node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
            node("BatchNormalization", ["c", "s", "b", "m", "v"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
            node("GlobalAveragePool", ["p"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("MatMul", ["f", "w"], ["l"]),
            node("Softmax", ["l"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()],
    )
    path = tmp_path / "net.onnx"
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    module = load(path)
    assert module.signature.symbols
    executable = discover().target(target).compile(module, CompileOptions())
    for batch in (1, 3):
        x = random.standard_normal((batch, 3, 8, 8)).astype(np.float32)
        fixed = module.specialise(dict.fromkeys(module.signature.symbols, batch))
        (want,) = discover().target("cpu:xla").compile(fixed, CompileOptions()).run(x)
        (got,) = executable.run(x)
        np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("element", ["bf16", "f8E4M3FN", "f8E5M2", "i4"])
def test_types_numpy_lacks_go_through_a_wider_door(element):
    """As input, weight and result; the numbers are those of the narrow type."""
    from anychip.core import dtype

    text = """func.func @main(%w: tensor<8xELEMENT> loc("w"), %x: tensor<8xELEMENT> loc("x"))
      -> tensor<8xELEMENT> {
      %0 = stablehlo.add %x, %w : tensor<8xELEMENT>
      return %0 : tensor<8xELEMENT>
    }""".replace("ELEMENT", element)
    from dataclasses import replace

    plain = Module.from_mlir(text)
    first, second = plain.signature.arguments
    signature = replace(plain.signature, arguments=(replace(first, role="weight"), second))
    w, x = np.random.default_rng(0).integers(-3, 4, (2, 8)).astype(dtype(element).numpy)
    module = Module.from_mlir(
        text, signature=signature, weights=Weights.from_arrays({first.name: w})
    )
    runs_narrow = discover().target("cpu:onnxruntime").compile(module, CompileOptions())
    (got,) = runs_narrow.run(x)
    assert got.dtype == dtype(element).numpy
    np.testing.assert_array_equal(got.astype(np.float32), (x + w).astype(np.float32))


def test_a_bias_joins_its_convolution_unless_others_read_it():
    from jax import lax

    x = np.random.default_rng(0).standard_normal((1, 2, 5, 5)).astype(np.float32)
    kernel = np.random.default_rng(1).standard_normal((3, 2, 3, 3)).astype(np.float32)
    bias = np.arange(3, dtype=np.float32)[:, None, None]

    def biased(x):
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME") + bias

    def read_twice(x):
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME")
        return y + bias, y

    assert runs_alike(traced(biased, x), x) == {"Conv": 1}
    kinds = runs_alike(traced(read_twice, x), x)
    assert kinds["Add"] == 1, kinds


@pytest.mark.parametrize("reverse", [False, True])
def test_running_products_are_a_few_steps(reverse):
    import jax

    from anychip.frontends.load import load_any

    x = np.random.default_rng(0).uniform(0.5, 1.5, (3, 13)).astype(np.float32)
    module = load_any(lambda x: jax.lax.cumprod(x, 1, reverse), (x,), home=None, options={})
    made = export(module)
    assert [n.op_type for n in made.model.graph.node].count("Mul") == 4  # 2, 4, 8, 16 neighbours
    (got,) = discover().target("cpu:onnxruntime").compile(module, CompileOptions()).run(x)
    want = np.flip(np.cumprod(np.flip(x, 1), 1), 1) if reverse else np.cumprod(x, 1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


@pytest.mark.parametrize(("rows", "sizes"), [(3, [0, 1, 0, 1]), (7, [2, 0, 4, 0])])
def test_rows_in_groups_meet_their_own_matrix_and_none_beyond_the_last(rows, sizes):
    random = np.random.default_rng(0)
    x = random.standard_normal((rows, 8)).astype(np.float32)
    w = random.standard_normal((4, 8, 5)).astype(np.float32)
    held = np.array(sizes, np.int32)
    text = f"""func.func @main(%x: tensor<{rows}x8xf32>, %w: tensor<4x8x5xf32>, %s: tensor<4xi32>)
        -> tensor<{rows}x5xf32> {{
      %0 = "chlo.ragged_dot"(%x, %w, %s) {{ragged_dot_dimension_numbers = #chlo.ragged_dot<
        lhs_contracting_dimensions = [1], rhs_contracting_dimensions = [1],
        lhs_ragged_dimensions = [0], rhs_group_dimensions = [0]>}} : (tensor<{rows}x8xf32>,
        tensor<4x8x5xf32>, tensor<4xi32>) -> tensor<{rows}x5xf32>
      return %0 : tensor<{rows}x5xf32> }}"""
    kinds = runs_alike(Module.from_mlir(text.replace("\n", " ")), x, w, held)
    assert kinds["MatMul"] == (1 if rows <= 4 else 4)


def test_every_op_has_a_rule_or_a_reason_of_its_own():
    from anychip.compilers.onnx_export.lacks import WHY
    from anychip.compilers.onnx_export.pairs import WRITTEN
    from anychip.compilers.onnx_export.table import rules

    written = {*rules(), *WRITTEN}
    assert not written & {*WHY}
    entered = {"func.call", "stablehlo.composite"}
    assert {*OPS} - written - entered == {*WHY}


@pytest.mark.parametrize("target", TARGETS)
def test_arrays_that_may_not_be_written_are_inputs_too(target):
    text = """func.func @main(%x: tensor<f32>, %y: tensor<4xf32>) -> tensor<4xf32> {
      %0 = stablehlo.broadcast_in_dim %x, dims = [] : (tensor<f32>) -> tensor<4xf32>
      %1 = stablehlo.multiply %0, %y : tensor<4xf32>
      return %1 : tensor<4xf32> }"""
    x, y = np.array(3, np.float32), np.arange(4, dtype=np.float32)
    for array in (x, y):
        array.flags.writeable = False
    made = discover().target(target).compile(Module.from_mlir(text), CompileOptions())
    np.testing.assert_array_equal(made.run(x, y)[0], 3 * y)
    np.testing.assert_array_equal(y, np.arange(4))


def test_fourier_transforms_inside_a_program_go_out_as_pairs_of_reals():
    import jax.numpy as jnp

    def net(x):
        spectrum = jnp.fft.rfft(x)
        filtered = jnp.fft.irfft(spectrum * spectrum, 12)
        odd = jnp.fft.irfft2(jnp.fft.rfft2(x[..., :9]), (4, 9))
        mixed = jnp.fft.fft2(x.astype(jnp.complex64)).real + jnp.fft.ifft(spectrum).imag.sum()
        turned = jnp.conj(spectrum).imag
        return jnp.abs(spectrum), filtered, odd, mixed, turned

    x = np.random.default_rng(0).standard_normal((2, 4, 12)).astype(np.float32)
    kinds = runs_alike(traced(net, x), x)
    assert kinds["DFT"] >= 6, kinds
