"""A Module read into plain Python: attributes, constants of every type, types, regions, origins."""

import ml_dtypes
import numpy as np
import pytest

from anychip.core import DTYPES, InputError, Module
from anychip.ops import OpView, program
from anychip.ops.attributes import ConvDims, DotDims, Symbol, dense_text, parse_dense
from anychip.ops.view import Quantized, Spec, parse_spec


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("count", [0, 1, 3, 150])
def test_dense_text_is_read_back_bit_for_bit(name, count):
    element = DTYPES[name].numpy
    array = np.random.default_rng(0).integers(0, 2, (count, 1)).astype(element)
    back = parse_dense(dense_text(array))
    assert back.dtype == element
    assert back.shape == array.shape
    assert back.tobytes() == array.tobytes()


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("dense<[1.5, 0x7FC0]> : tensor<2xbf16>", np.array([1.5, np.nan], ml_dtypes.bfloat16)),
        ("dense<[-8, 7]> : tensor<2xi4>", np.array([-8, 7], ml_dtypes.int4)),
        ('dense<"0x0D02"> : tensor<2xi4>', np.array([-3, 2], ml_dtypes.int4)),
        ("dense<(1.0,-2.0)> : tensor<2xcomplex<f32>>", np.array([1 - 2j] * 2, np.complex64)),
        ("dense<2.0> : tensor<2x2xf8E4M3FN>", np.full((2, 2), 2, ml_dtypes.float8_e4m3fn)),
        ("dense<[true, false]> : tensor<2xi1>", np.array([True, False])),
        ("dense<> : tensor<0x3xf32>", np.zeros((0, 3), np.float32)),
    ],
)
def test_constants_are_read_in_all_three_spellings(text, want):
    got = parse_dense(text)
    assert got.dtype == want.dtype
    assert np.array_equal(got.astype(complex), want.astype(complex), equal_nan=True)


def test_constants_of_a_module_have_their_exact_type():
    texts = [
        dense_text(np.arange(120).reshape(4, 30).astype(DTYPES[name].numpy))
        for name in ("f32", "bf16", "f8E5M2", "i64", "ui8", "complex<f64>", "i1", "i4")
    ]
    lines = "\n".join(f"%{i} = stablehlo.constant {t}" for i, t in enumerate(texts))
    text = f"func.func @main() -> tensor<i1> {{\n{lines}\n%c = stablehlo.constant dense<true> : "
    read = program(Module.from_mlir(text + "tensor<i1>\nreturn %c : tensor<i1>}"))
    for op, want in zip(read.main.ops, texts, strict=False):
        assert dense_text(op.attributes["value"]) == want


def first(text: str) -> OpView:
    return program(Module.from_mlir(text)).main.ops[0]


def test_dimension_numbers_become_dataclasses():
    dot = first("""func.func @main(%a: tensor<2x3x4xf32>, %b: tensor<2x4x5xf32>)
        -> tensor<2x3x5xf32> {
      %r = stablehlo.dot_general %a, %b, batching_dims = [0] x [0], contracting_dims = [2] x [1]
        : (tensor<2x3x4xf32>, tensor<2x4x5xf32>) -> tensor<2x3x5xf32>
      return %r : tensor<2x3x5xf32>}""")
    assert dot.attributes["dot_dimension_numbers"] == DotDims((0,), (0,), (2,), (1,))
    assert dot.inputs == (Spec((2, 3, 4), "f32"), Spec((2, 4, 5), "f32"))
    conv = first("""func.func @main(%x: tensor<1x8x4xf32>, %w: tensor<3x4x6xf32>)
        -> tensor<1x6x6xf32> {
      %r = stablehlo.convolution(%x, %w) dim_numbers = [b, 0, f]x[0, i, o]->[b, 0, f], window = {}
        {batch_group_count = 1 : i64, feature_group_count = 1 : i64}
        : (tensor<1x8x4xf32>, tensor<3x4x6xf32>) -> tensor<1x6x6xf32>
      return %r : tensor<1x6x6xf32>}""")
    dims = conv.attributes["dimension_numbers"]
    assert isinstance(dims, ConvDims)
    assert (dims.input_feature, dims.kernel_spatial, dims.output_spatial) == (2, (0,), (1,))


def test_composite_attributes_and_callee_are_python_values():
    op = first("""func.func @main(%a: tensor<2xf32>) -> tensor<2xf32> {
      %r = stablehlo.composite "anychip.test" %a {composite_attributes = {axis = -1 : i64,
        eps = 5.0e-1 : f64, format = "q4_0", table = dense<[1, 2]> : tensor<2xi32>},
        decomposition = @body} : (tensor<2xf32>) -> tensor<2xf32>
      return %r : tensor<2xf32>}
    func.func private @body(%a: tensor<2xf32>) -> tensor<2xf32> {return %a : tensor<2xf32>}""")
    attributes = op.attributes["composite_attributes"]
    assert (attributes["axis"], attributes["eps"], attributes["format"]) == (-1, 0.5, "q4_0")
    assert attributes["table"].tolist() == [1, 2]
    assert op.attributes["decomposition"] == Symbol("body")
    assert op.callee == "body"


def test_regions_see_values_of_the_function_around_them():
    op = first("""func.func @main(%c: tensor<i1>, %x: tensor<f32>) -> tensor<f32> {
      %r = "stablehlo.if"(%c) ({ stablehlo.return %x : tensor<f32> },
        { %0 = stablehlo.negate %x : tensor<f32>
          stablehlo.return %0 : tensor<f32> }) : (tensor<i1>) -> tensor<f32>
      return %r : tensor<f32>}""")
    kept, negated = op.regions
    assert kept.results == negated.ops[0].operands
    assert [o.name for o in negated.ops] == ["stablehlo.negate"]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("tensor<2x?xbf16>", Spec((2, None), "bf16")),
        ("tensor<?xf32, #stablehlo.bounds<5>>", Spec((None,), "f32")),
        ("!stablehlo.token", Spec((), "token")),
        (
            "tuple<tensor<2xf32>, tuple<tensor<i1>>>",
            Spec(
                (),
                "tuple",
                parts=(Spec((2,), "f32"), Spec((), "tuple", parts=(Spec((), "i1"),))),
            ),
        ),
        (
            "!stablehlo.future<tensor<2xf32>>",
            Spec((), "future", parts=(Spec((2,), "f32"),)),
        ),
        (
            "tensor<4x!quant.uniform<i8:f32, 0.5:3>>",
            Spec((4,), "i8", quantized=Quantized("f32", (0.5,), (3,), -128, 127)),
        ),
        (
            "tensor<2x2x!quant.uniform<i8<-100:127>:f32:1, {0.5:3, 0.25}>>",
            Spec((2, 2), "i8", quantized=Quantized("f32", (0.5, 0.25), (3, 0), -100, 127, 1)),
        ),
    ],
)
def test_types_are_read(text, want):
    assert parse_spec(text) == want


def test_bytes_of_a_spec():
    assert Spec((3, 5), "i4").nbytes == 8
    assert parse_spec("tuple<tensor<2xf32>, tensor<i1>>").nbytes == 9
    assert Spec((), "token").nbytes == 0
    with pytest.raises(InputError, match="specialise"):
        _ = Spec((None, 2), "f32").nbytes


def test_unstructured_control_flow_is_refused():
    text = """func.func @main(%c: i1, %x: tensor<f32>) -> tensor<f32> {
      cf.br ^end(%x : tensor<f32>)
    ^end(%y: tensor<f32>):
      return %y : tensor<f32>}"""
    with pytest.raises(InputError):  # the front door has no dialect for it
        Module.from_mlir(text)


def test_resource_constants_are_refused_by_name():
    text = """func.func @main() -> tensor<1xf32> {
      %0 = stablehlo.constant dense_resource<weights> : tensor<1xf32>
      return %0 : tensor<1xf32>}
    {-# dialect_resources: { builtin: { weights: "0x040000000000803F" } } #-}"""
    with pytest.raises(InputError, match="pass weights as arguments"):
        program(Module.from_mlir(text))
