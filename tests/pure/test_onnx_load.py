"""ONNX models to Modules: names, weights, origins, symbolic sizes, and what is refused and how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from anychip.core import Module
from anychip.core.errors import InputError, UnsupportedError, UsageError
from anychip.frontends.onnx import constant_inputs, load
from anychip.ops.interp import evaluate
from anychip.ops.walk import walk

HEAD = '<ir_version: 10, opset_import: ["" : 17]>\n'


def text(body: str) -> bytes:
    return parser.parse_model(HEAD + body).SerializeToString()


def with_weights(body: str, **weights: np.ndarray) -> ModelProto:
    model = parser.parse_model(HEAD + body)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return model


W = np.arange(512, dtype=np.float32).reshape(4, 128)
MATMUL = "g (float[N,4] x) => (float[N,128] y) { [mul] h = MatMul (x, w) [add] y = Add (h, b) }"


def matmul() -> ModelProto:
    return with_weights(MATMUL, w=W, b=np.ones(128, np.float32))


def ops(module: Module) -> list[str]:
    return [step.op.name for step in walk(module)]


def test_names_shapes_and_weights_are_the_models() -> None:
    module = load(matmul().SerializeToString())
    assert module.name == "g"
    x, *weights = module.signature.arguments
    assert (x.name, x.shape, x.dtype, x.role) == ("x", ("N", 4), "f32", "input")
    assert [(w.name, w.shape, w.role) for w in weights] == [
        ("w", (4, 128), "weight"),
        ("b", (128,), "weight"),
    ]
    (y,) = module.signature.results
    assert (y.name, y.shape) == ("y", ("N", 128))
    np.testing.assert_array_equal(module.weights["w"].array(), W)


def test_each_op_knows_its_node() -> None:
    module = load(matmul().SerializeToString(), dims={"N": 2}, name="m.onnx")
    found = {step.op.name: step.origin for step in walk(module)}
    assert found["stablehlo.dot_general"].layer == "mul"
    assert found["stablehlo.dot_general"].source == "m.onnx:mul(MatMul)"
    assert found["stablehlo.add"].source == "m.onnx:add(Add)"


def test_nodes_of_an_expanded_function_carry_its_name() -> None:
    body = "g (float[2] x) => (float[2] y) { [act] y = Mine.Twice (x) }"
    head = '<ir_version: 10, opset_import: ["" : 17, "Mine" : 1]>'
    function = (
        '<domain: "Mine", opset_import: ["" : 17]> Twice (a) => (b) { c = Add (a, a) b = Neg (c) }'
    )
    module = load(parser.parse_model(f"{head} {body} {function}").SerializeToString())
    layers = {step.op.name: step.origin.layer for step in walk(module)}
    assert layers == {"stablehlo.add": "act", "stablehlo.negate": "act"}


def test_weights_are_read_from_the_file_only_when_touched(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(matmul().SerializeToString())
    weight = load(path).weights["w"]
    assert weight.stored_bytes == W.nbytes
    array = weight.array()
    assert array.base is not None  # a view of the file's map, not a copy
    np.testing.assert_array_equal(array, W)


def test_weights_of_the_branch_not_taken_are_left_out() -> None:
    body = """g (float[2,4] x) => (float[2,128] y) {
        flag = Constant <value: tensor = bool {1}> ()
        y = If (flag) <then_branch = t () => (float[2,128] a) { a = MatMul (x, w) },
                       else_branch = e () => (float[2,128] c) { c = MatMul (x, v) }>
    }"""
    module = load(with_weights(body, w=W, v=W + 1).SerializeToString())
    assert list(module.weights) == ["w"]


def test_shape_chain_of_a_dynamic_batch_leaves_no_trace() -> None:
    body = """g (float[batch,6,4] x) => (float[b2,c] y) {
        s = Shape (x)
        zero = Constant <value: tensor = int64[1] {0}> ()
        n = Gather (s, zero)
        rest = Constant <value: tensor = int64[1] {-1}> ()
        shape = Concat <axis = 0> (n, rest)
        y = Reshape (x, shape)
    }"""
    module = load(text(body))
    assert module.signature.results[0].shape == ("batch", 24)
    static = load(text(body), dims={"batch": 3})
    assert ops(static) == ["stablehlo.reshape"]


def test_exporters_expand_idiom_is_folded() -> None:
    """As PyTorch exports it: one size taken out, and Expand guarded by Where(shape == -1, 1, …)."""
    body = """g (float[batch,1] x) => (float[a,b] y) {
        s = Shape (x)
        i = Constant <value: tensor = int64 {0}> ()
        n = Gather <axis = 0> (s, i)
        zero = Constant <value: tensor = int64[1] {0}> ()
        n1 = Unsqueeze (n, zero)
        four = Constant <value: tensor = int64[1] {4}> ()
        wanted = Concat <axis = 0> (n1, four)
        rank = Constant <value: tensor = int64[1] {2}> ()
        ones = ConstantOfShape <value: tensor = int64[1] {1}> (rank)
        minus = Constant <value: tensor = int64 {-1}> ()
        any = Mul (ones, minus)
        open = Equal (wanted, any)
        shape = Where (open, ones, wanted)
        y = Expand (x, shape)
    }"""
    assert load(text(body)).signature.results[0].shape == ("batch", 4)
    assert ops(load(text(body), dims={"batch": 3})) == ["stablehlo.broadcast_in_dim"]


def test_unnamed_dimensions_are_named_after_input_and_axis() -> None:
    proto = ModelProto.FromString(text("g (float[?,3] x) => (float[?,3] y) { y = Neg (x) }"))
    module = load(proto.SerializeToString())
    assert module.signature.arguments[0].shape == ("x_0", 3)


def test_guards_settle_what_depends_on_a_size() -> None:
    body = """g (float[seq,4] x) => (float[seq,4] y) {
        s = Shape <start = 0, end = 1> (x)
        zero = Constant <value: tensor = int64[1] {0}> ()
        part = Slice (w, zero, s, zero)
        y = Add (x, part)
    }"""
    model = with_weights(body, w=np.ones((16, 4), np.float32)).SerializeToString()
    with pytest.raises(UnsupportedError, match=r"min\(seq, 16\).*guards=\["):
        load(model)
    module = load(model, guards=["seq <= 16"])
    assert module.signature.results[0].shape == ("seq", 4)
    with pytest.raises(UsageError):
        module.specialise({"seq": 17})


def test_odd_dimension_names_become_identifiers_and_stay_apart() -> None:
    proto = ModelProto.FromString(text("g (float[a,b] x) => (float[a,b] y) { y = Neg (x) }"))
    first, second = proto.graph.input[0].type.tensor_type.shape.dim
    first.dim_param, second.dim_param = "batch*2", "batch/2"
    module = load(proto.SerializeToString())
    assert module.signature.arguments[0].shape == ("batch_2", "batch_2_2")
    fixed = load(proto.SerializeToString(), dims={"batch/2": 5})
    assert fixed.signature.arguments[0].shape == ("batch_2", 5)


def test_sixty_four_bit_types_are_kept() -> None:
    module = load(
        text("g (int64[2] i, double[2] d) => (int64[2] a, double[2] b) { a = Neg (i) b = Exp (d) }")
    )
    assert [r.dtype for r in module.signature.results] == ["i64", "f64"]


def test_results_keep_the_models_order() -> None:
    module = load(
        text(
            "g (float[2] x) => (float[2] z, int64[1] a, float[2] m) "
            "{ z = Neg (x) a = Shape (x) m = Exp (x) }"
        )
    )
    assert [r.name for r in module.signature.results] == ["z", "a", "m"]
    assert [r.dtype for r in module.signature.results] == ["f32", "i64", "f32"]


def test_sequences_become_numbered_arguments_and_results() -> None:
    body = "g (seq(float[n]) s, float[2] x) => (seq(float[n]) t) { t = SequenceInsert (s, x) }"
    module = load(text(body), shapes={"s": [(1,), (3,)]})
    assert [a.name for a in module.signature.arguments] == ["s.0", "s.1", "x"]
    assert [(r.name, r.shape) for r in module.signature.results] == [
        ("t.0", (1,)),
        ("t.1", (3,)),
        ("t.2", (2,)),
    ]


def test_sequence_of_unknown_length_says_how_to_give_it() -> None:
    body = "g (seq(float[n]) s) => (int64 l) { l = SequenceLength (s) }"
    with pytest.raises(UnsupportedError, match=r"shapes=\{'s': \[\(…\), \(…\)\]\}"):
        load(text(body))


def test_input_that_decides_a_shape_is_asked_for_by_name() -> None:
    body = """g (float[12] x, int64[2] shape, int64 k) => (float[a,b] y) {
        two = Mul (shape, k)
        [resh] y = Reshape (x, two)
    }"""
    model = text(body)
    assert constant_inputs(model) == ["shape", "k"]
    with pytest.raises(
        UnsupportedError, match=r"(?s)Reshape × 1 \(at resh\).*constants=\{'shape': …, 'k': …\}"
    ):
        load(model)
    module = load(model, constants={"shape": np.array([1, 3]), "k": np.array(2)})
    assert module.signature.results[0].shape == (2, 6)
    assert [a.name for a in module.signature.arguments] == ["x"]


def test_everything_that_cannot_be_expressed_is_listed_at_once() -> None:
    body = """g (float[4] x, string[2] s) => (int64[1,n] z, float[4] n, string[2] u) {
        [a] z = NonZero (x)
        [b] n = RandomNormalLike (x)
        [c] m = RandomNormalLike (x)
        [d] u = StringConcat (s, s)
    }"""
    model = ModelProto.FromString(text(body))
    model.opset_import[0].version = 20
    with pytest.raises(UnsupportedError) as caught:
        load(model.SerializeToString(), name="m.onnx")
    message = str(caught.value)
    assert "4 nodes of 3 kinds" in message
    assert "NonZero × 1 (at a)" in message
    assert "RandomNormalLike × 2 (at b, c)" in message
    assert "seed=…" in message
    assert "StringConcat × 1 (at d)" in message
    assert [str(row.origin) for row in caught.value.report if row.op == "RandomNormalLike"] == [
        "b (m.onnx:b(RandomNormalLike))",
        "c (m.onnx:c(RandomNormalLike))",
    ]


def test_ops_without_a_rule_are_found_in_branches_too() -> None:
    body = """g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = t () => (float[2] a) { a = corp.Frob (x) },
                    else_branch = e () => (float[2] b) { [q] b = corp.Quux (x) }>
    }"""
    head = '<ir_version: 10, opset_import: ["" : 17, "corp" : 1]>'
    with pytest.raises(UnsupportedError, match=r"(?s)corp\.Frob × 1.*corp\.Quux × 1 \(at q\)"):
        load(parser.parse_model(f"{head} {body}").SerializeToString())


def test_random_ops_want_a_seed_and_are_fixed_by_it() -> None:
    model = text("g (float[64] x) => (float[64] y) { y = RandomNormalLike (x) }")
    with pytest.raises(UnsupportedError, match="seed="):
        load(model)
    assert load(model, seed=1).bytecode == load(model, seed=1).bytecode
    assert load(model, seed=1).bytecode != load(model, seed=2).bytecode


def test_symbolic_choice_is_refused_not_guessed() -> None:
    body = """g (float[n,2] x) => (float[n,2] y) {
        s = Shape <start = 0, end = 1> (x)
        one = Constant <value: tensor = int64[1] {1}> ()
        flag = Equal (s, one)
        y = If (flag) <then_branch = t () => (float[n,2] a) { a = Neg (x) },
                       else_branch = e () => (float[n,2] b) { b = Exp (x) }>
    }"""
    assert "stablehlo.negate" in ops(load(text(body), dims={"n": 1}))
    assert "stablehlo.exponential" in ops(load(text(body), dims={"n": 2}))
    symbolic = load(text(body)).specialise({"n": 1})  # decided in the program
    assert {"stablehlo.negate", "stablehlo.exponential"} <= set(ops(symbolic))


def test_a_branch_that_does_not_fit_says_what_chooses_it() -> None:
    """As silero-vad, whose branches are for two sampling rates and two lengths of sound."""
    body = """g (float[N,4] x, int64 rate) => (float[N,2] y) {
      k = Constant <value: tensor = int64 {16}> () p = Equal (rate, k)
      y = If (p) <then_branch = t () => (float[N,2] a) { a = MatMul (x, w) },
                  else_branch = e () => (float[N,2] b) { b = MatMul (x, v) }> }"""
    weights = {"w": np.ones((4, 2), np.float32), "v": np.ones((3, 2), np.float32)}
    source = with_weights(body, **weights).SerializeToString()
    with pytest.raises(InputError, match=r"constants={'rate': …}") as caught:
        load(source, dims={"N": 1})
    assert str(caught.value).count("node ") == 1  # the one inside the branch
    assert ops(load(source, dims={"N": 1}, constants={"rate": np.int64(16)}))


def test_sizes_that_disagree_are_an_input_error_with_the_node() -> None:
    model = text("g (float[2] x, float[3] z) => (float[2] y) { [bad] y = Add (x, z) }")
    with pytest.raises(InputError, match=r"m\.onnx, node bad \(Add\).*float32\[2\], float32\[3\]"):
        load(model, name="m.onnx")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"dims": {"M": 2}}, "no symbolic dimension named 'M'"),
        ({"dims": {"N": -2}}, "cannot be -2"),
        ({"shapes": {"z": (1, 4)}}, "no input of m.onnx named 'z'"),
        ({"shapes": {"x": (1, 2, 4)}}, "has rank 2"),
        ({"shapes": {"x": None}}, "not optional"),
        ({"constants": {"x": np.ones((2, 4))}}, "should be f32, it is float64"),
    ],
)
def test_wrong_options_are_usage_errors(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        load(matmul().SerializeToString(), name="m.onnx", **options)


def external(location: str, *, offset: int = 0, length: int = 2048) -> bytes:
    model = matmul()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return model.SerializeToString()


def test_external_data_is_mapped(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 64 + W.tobytes())
    (tmp_path / "m.onnx").write_bytes(external("w.bin", offset=64))
    module = load(tmp_path / "m.onnx")
    np.testing.assert_array_equal(module.weights["w"].array(), W)
    assert module.weights["w"].source.endswith("w.bin")


@pytest.mark.parametrize("location", ["../w.bin", "/etc/passwd", "", "link/w.bin"])
def test_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    inside = tmp_path / "model"
    inside.mkdir()
    (tmp_path / "w.bin").write_bytes(W.tobytes())
    (inside / "link").symlink_to(tmp_path)
    (inside / "m.onnx").write_bytes(external(location))
    with pytest.raises(InputError, match="not inside the model's folder"):
        load(inside / "m.onnx")


def test_short_external_data_names_file_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(W.tobytes()[:1000])
    (tmp_path / "m.onnx").write_bytes(external("w.bin"))
    with pytest.raises(InputError, match=r"initializer w.*has 1000 bytes.*bytes 0 to 2048"):
        load(tmp_path / "m.onnx")


def test_missing_external_data_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(external("gone.bin"))
    with pytest.raises(InputError, match=r"'gone\.bin' cannot be read"):
        load(tmp_path / "m.onnx")


def test_tensor_of_the_wrong_length_is_an_input_error() -> None:
    model = matmul()
    model.graph.initializer[0].dims[0] = 5
    with pytest.raises(InputError, match=r"initializer w.*takes 2560 bytes, 2048 are there"):
        load(model.SerializeToString())


def test_no_file_empty_file_and_no_onnx_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "text.onnx").write_text("this is no protobuf at all")
    for name in ("gone.onnx", "empty.onnx", "text.onnx"):
        with pytest.raises(InputError, match=name):
            load(tmp_path / name)


def test_newer_opset_is_named() -> None:
    model = matmul()
    model.opset_import[0].version = 999
    with pytest.raises(UnsupportedError, match="opset 999"):
        load(model.SerializeToString())


def test_sub_byte_weights_keep_their_type() -> None:
    import ml_dtypes

    values = (np.arange(256) % 16 - 8).reshape(2, 128).astype(ml_dtypes.int4)
    model = with_weights(
        "g (float s) => (float[2,128] y) { y = DequantizeLinear (w, s) }", w=values
    )
    model.opset_import[0].version = 21
    module = load(model.SerializeToString())
    assert module.weights["w"].dtype == "i4"
    np.testing.assert_array_equal(module.weights["w"].array().astype(int), values.astype(int))


def test_sparse_initializer_becomes_a_dense_weight() -> None:
    model = with_weights(MATMUL, b=np.ones(128, np.float32))
    values = helper.make_tensor("w", TensorProto.FLOAT, [2], [3.0, 4.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [2], [0, 130])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 128]))
    got = load(model.SerializeToString()).weights["w"].array()
    assert got[0, 0] == 3
    assert got[1, 2] == 4
    assert np.count_nonzero(got) == 2


@pytest.mark.parametrize(
    ("start", "end", "size", "wanted"), [(-7, -5, 1, [0]), (-7, -7, 3, [0]), (9, -9, 3, [2, 1, 0])]
)
def test_slices_backwards_start_at_an_element(
    start: int, end: int, size: int, wanted: list[int]
) -> None:
    """Unlike NumPy's; ONNX clamps a start to [0, size - 1] (opset 13, Slice)."""
    body = f"""g (float[{size}] x) => (float[n] y) {{
      s = Constant <value: tensor = int64[1] {{{start}}}> ()
      e = Constant <value: tensor = int64[1] {{{end}}}> ()
      a = Constant <value: tensor = int64[1] {{0}}> ()
      t = Constant <value: tensor = int64[1] {{-1}}> ()
      y = Slice (x, s, e, a, t) }}"""
    (y,) = evaluate(load(text(body)), np.arange(size, dtype=np.float32))
    assert y.tolist() == wanted


def test_symmetric_resize_takes_whole_places_as_they_are() -> None:
    """7 to 3.5, rounded to 3: the places are 1, 3 and 5, which `ceil` must not move."""
    body = """g (float[7] x) => (float[n] y) {
      r = Constant <value: tensor = float[0] {}> ()
      s = Constant <value: tensor = float[1] {0.5}> ()
      y = Resize <mode = "nearest", nearest_mode = "ceil",
        coordinate_transformation_mode = "half_pixel_symmetric"> (x, r, s) }"""
    source = parser.parse_model(HEAD.replace("17", "19") + body).SerializeToString()
    (y,) = evaluate(load(source), np.arange(7, dtype=np.float32))
    assert y.tolist() == [1, 3, 5]
