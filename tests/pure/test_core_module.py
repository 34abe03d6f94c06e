"""core/module.py: verified, immutable, the same after a trip through text or a portable file."""

from pathlib import Path

import numpy as np
import pytest

from anychip.core import (
    Argument,
    InputError,
    Module,
    Result,
    Signature,
    UnsupportedError,
    UsageError,
    Weights,
    ir,
)

ADD = """
module @adder { func.func public @main(%a: tensor<4xf32> loc("a"), %b: tensor<4xf32>)
    -> tensor<4xf32> {
  %0 = stablehlo.add %a, %b : tensor<4xf32> loc("layers.0#1/add")
  return %0 : tensor<4xf32> } }
"""
CALLS = """
module { func.func public @main(%a: tensor<2xbf16>) -> (tensor<2xbf16>, tensor<2xi1>) {
  %0 = func.call @twice(%a) : (tensor<2xbf16>) -> tensor<2xbf16>
  %1 = stablehlo.composite "toy.twice" %0 {decomposition = @twice} : (tensor<2xbf16>) -> tensor<2xbf16>
  %2 = stablehlo.compare LT, %0, %1 : (tensor<2xbf16>, tensor<2xbf16>) -> tensor<2xi1>
  return %1, %2 : tensor<2xbf16>, tensor<2xi1> }
func.func private @twice(%a: tensor<2xbf16>) -> tensor<2xbf16> {
  %0 = stablehlo.add %a, %a : tensor<2xbf16> return %0 : tensor<2xbf16> } }
"""  # noqa: E501
REGIONS = """
module { func.func public @main(%a: tensor<3x5xf32>, %n: tensor<i32>) -> tensor<3xf32> {
  %f = stablehlo.constant dense<[[1.0, 2.5, -3.0, 0x7FC00000, 0.1]]> : tensor<1x5xf32>
  %z = stablehlo.constant dense<0.0> : tensor<f32>
  %0 = stablehlo.reduce(%a init: %z) applies stablehlo.maximum across dimensions = [1]
      : (tensor<3x5xf32>, tensor<f32>) -> tensor<3xf32>
  %1 = "stablehlo.sort"(%0) ({ ^bb0(%x: tensor<f32>, %y: tensor<f32>):
      %c = stablehlo.compare LT, %x, %y : (tensor<f32>, tensor<f32>) -> tensor<i1>
      stablehlo.return %c : tensor<i1> }) : (tensor<3xf32>) -> tensor<3xf32>
  %2 = chlo.erf %1 : tensor<3xf32> -> tensor<3xf32>
  return %2 : tensor<3xf32> } }
"""
NARROW = """
module { func.func public @main(%a: tensor<3xi4>, %b: tensor<2xf8E4M3FN>, %c: tensor<complex<f32>>)
    -> (tensor<3xi4>, tensor<2xf8E4M3FN>, tensor<complex<f32>>) {
  return %a, %b, %c : tensor<3xi4>, tensor<2xf8E4M3FN>, tensor<complex<f32>> } }
"""
DYNAMIC = """
module { func.func public @main(%a: tensor<?x4xf32> loc("x"), %b: tensor<4x3xf32>)
    -> tensor<?x3xf32> {
  %0 = stablehlo.dot_general %a, %b, contracting_dims = [1] x [0]
      : (tensor<?x4xf32>, tensor<4x3xf32>) -> tensor<?x3xf32>
  return %0 : tensor<?x3xf32> } }
"""
SEVERAL = {"add": ADD, "calls": CALLS, "regions": REGIONS, "narrow": NARROW, "dynamic": DYNAMIC}


@pytest.fixture(params=SEVERAL)
def module(request) -> Module:
    return Module.from_mlir(
        SEVERAL[request.param], name=f"my {request.param}", sources=("a.py:1", "b.py:2")
    )


def test_text_round_trip_is_the_identity(module):
    again = Module.from_mlir(module.text(locations=True))
    assert again == module
    assert again.text(locations=True) == module.text(locations=True)


def test_text_without_locations_is_the_same_program(module):
    assert Module.from_mlir(module.text()).text() == module.text()


def test_portable_artifact_round_trip_keeps_program_signature_and_sources(module, tmp_path):
    before = module.bytecode
    path = tmp_path / "m.mlirbc"
    module.save(path)
    assert module.bytecode == before
    again = Module.from_mlir(path.read_bytes(), path=str(path))
    assert again.signature == module.signature
    assert again.sources == module.sources
    assert again.name == module.name
    if "chlo." not in module.text():
        assert again.text() == module.text()


def test_chlo_ops_are_saved_as_the_stablehlo_they_stand_for(tmp_path):
    Module.from_mlir(REGIONS).save(tmp_path / "m")
    again = Module.from_mlir((tmp_path / "m").read_bytes())
    assert "chlo." not in again.text()
    assert "stablehlo.clamp" in again.text()


def test_what_a_portable_file_cannot_hold_is_unsupported_and_writes_nothing(tmp_path, capfd):
    text = """
module { sdy.mesh @mesh = <["a"=1]>
func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> {
  %0 = sdy.sharding_constraint %a <@mesh, [{}]> : tensor<4xf32> loc("layers.0/constraint")
  return %0 : tensor<4xf32> } }"""
    with pytest.raises(UnsupportedError, match=r"portable artifact: .* at loc"):
        Module.from_mlir(text).save(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert capfd.readouterr().err == ""


def test_saving_twice_writes_the_same_bytes(module, tmp_path):
    module.save(tmp_path / "1")
    module.save(tmp_path / "2")
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


def test_opening_gives_a_private_copy(module):
    before = module.text(locations=True)
    with module.opened() as parsed:
        for op in list(parsed.body.operations):
            op.operation.erase()
    assert module.text(locations=True) == before


def test_parsed_module_is_copied():
    parsed = ir.parse(ADD)
    module = Module.from_mlir(parsed, name="other")
    assert "anychip.signature" not in ir.to_text(parsed)
    assert "@adder" in ir.to_text(parsed)
    assert module.name == "other"


def test_name_is_the_symbol_unless_given():
    assert Module.from_mlir(ADD).name == "adder"
    assert Module.from_mlir(CALLS).name == "module"
    assert Module.from_mlir(ADD, name="mine").name == "mine"


def test_signature_is_made_from_main_with_the_names_it_has():
    signature = Module.from_mlir(ADD).signature
    assert [a.name for a in signature.arguments] == ["a", "arg1"]
    assert [(r.name, r.shape, r.dtype) for r in signature.results] == [("result0", (4,), "f32")]
    (x, _) = Module.from_mlir(DYNAMIC).signature.arguments
    assert x.shape == ("x_0", 4)


def test_names_that_would_double_are_told_apart():
    text = ADD.replace('loc("a")', 'loc("arg1")')
    assert [a.name for a in Module.from_mlir(text).signature.arguments] == ["arg1", "arg1_"]


def test_long_constants_can_be_hidden_in_text():
    text = REGIONS.replace(
        "[[1.0, 2.5, -3.0, 0x7FC00000, 0.1]]", f"[[{', '.join(['1.5', '2.5'] * 50)}]]"
    )
    module = Module.from_mlir(text.replace("1x5xf32", "1x100xf32"))
    assert "2.500000e+00" in module.text()
    assert "2.500000e+00" not in module.text(elide_over=10)


# ---- what is refused ---------------------------------------------------------------------------


_OP = "stablehlo.add %a, %b : tensor<4xf32>"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ADD.replace(_OP, "stablehlo.add %a, %b : tensor<5xf32>"), ":4:"),
        (ADD.replace("stablehlo.add", "stablehlo.ad"), ":4:"),
        (ADD.replace(_OP, '"toy.op"(%a) : (tensor<4xf32>) -> tensor<4xf32>'), "toy.op at loc"),
        (ADD.replace("@main", "@other"), "no function @main"),
        ("", "no function @main"),
        ("not MLIR", ":1:"),
        (b"ML\xefR\rStableHLO_v1.0.0\x00nonsense", "deserialize"),
        (b"\x00\x01", "not valid StableHLO"),
    ],
    ids=range(8),
)
def test_text_that_does_not_verify_names_file_and_line(text, message):
    with pytest.raises(InputError) as caught:
        Module.from_mlir(text, path="model.mlir")
    assert str(caught.value).startswith("model.mlir: ")
    assert message in str(caught.value)


def test_truncated_portable_file_is_an_input_error(tmp_path: Path, capfd):
    path = tmp_path / "m.mlirbc"
    Module.from_mlir(ADD).save(path)
    whole = path.read_bytes()
    for length in (30, len(whole) // 2, len(whole) - 1):
        with pytest.raises(InputError, match="not valid StableHLO"):
            Module.from_mlir(whole[:length])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("attribute", "field"),
    [
        ('anychip.signature = "{}"', "anychip.signature"),
        ('anychip.signature = "["', "anychip.signature"),
        ("anychip.signature = 3 : i32", "anychip.signature"),
        ('anychip.sources = "["', "anychip.sources"),
        ('anychip.sources = "[3]"', "anychip.sources"),
    ],
)
def test_own_attributes_that_are_not_ours_are_input_errors(attribute, field):
    text = ADD.replace("module @adder", f"module @adder attributes {{{attribute}}}")
    with pytest.raises(InputError, match=f"m.mlir, {field}: not what anychip writes"):
        Module.from_mlir(text, path="m.mlir")


def _signature(**changes) -> Signature:
    a = {"name": "a", "shape": (4,), "dtype": "f32"} | changes
    return Signature((Argument(**a), Argument("b", (4,), "f32")), (Result("y", (4,), "f32"),))


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        (_signature(shape=(5,)), r"argument a is tensor<4xf32> in main but f32\[5\] in the sig"),
        (_signature(shape=(4, 1)), "argument a"),
        (_signature(shape=("n",)), "argument a"),
        (_signature(dtype="f16"), r"argument a is .* but f16\[4\]"),
        (Signature((), ()), "main has 2 arguments, the signature names 0"),
        (Signature(_signature().arguments, ()), "main has 1 results, the signature names 0"),
        (
            Signature(_signature().arguments, (Result("y", (3,), "f32"),)),
            r"result y is tensor<4xf32> in main but f32\[3\]",
        ),
    ],
)  # fmt: skip
def test_signature_that_does_not_match_main_is_refused(signature, message):
    with pytest.raises(InputError, match=message):
        Module.from_mlir(ADD, signature=signature)


def test_wrong_pipelines_are_refused():
    module = Module.from_mlir(ADD)
    with pytest.raises(UsageError, match="no such pass pipeline"):
        module.run_passes("builtin.module(no-such-pass)")
    with pytest.raises(UsageError, match="no such pass pipeline"):
        module.run_passes("no-such-pass(")


def test_passes_make_another_module():
    module = Module.from_mlir(REGIONS, sources=("a.py:1",))
    lowered = module.run_passes("builtin.module(func.func(chlo-legalize-to-stablehlo))")
    assert (lowered.signature, lowered.sources) == (module.signature, module.sources)
    assert ("chlo.erf" in module.text(), "chlo.erf" in lowered.text()) == (True, False)


# ---- weights and dimensions --------------------------------------------------------------------


def _weighted() -> Module:
    arguments = (Argument("a", (4,), "f32"), Argument("b", (4,), "f32", "weight"))
    return Module.from_mlir(ADD, signature=Signature(arguments, (Result("y", (4,), "f32"),)))


def test_weights_are_bound_by_name():
    weights = Weights.from_arrays({"other": np.ones(3), "b": np.ones(4, np.float32)})
    bound = _weighted().with_weights(weights)
    assert bound.weights is weights
    assert bound.bytecode == _weighted().bytecode


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"b": np.ones(3, np.float32)}, r"weight b should be f32\[4\], it is f32\[3\]"),
        ({"b": np.ones(4)}, r"weight b should be f32\[4\], it is f64\[4\]"),
        ({"c": np.ones(4)}, "no weight named 'b'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(arrays, message):
    with pytest.raises(UsageError, match=message):
        _weighted().with_weights(Weights.from_arrays(arrays))


def test_specialised_module_has_sizes_everywhere():
    fixed = Module.from_mlir(DYNAMIC, sources=("a.py:1",)).specialise({"x_0": 7})
    assert fixed.signature.symbols == ()
    assert fixed.signature.arguments[0].shape == (7, 4)
    assert fixed.signature.results[0].shape == (7, 3)
    assert "?" not in fixed.text()
    assert fixed.sources == ("a.py:1",)


@pytest.mark.parametrize(
    ("dims", "message"),
    [
        ({}, r"has symbolic dimensions \['x_0'\], got \[\]"),
        ({"x_0": 1, "y": 2}, r"got \['x_0', 'y'\]"),
        ({"x_0": 0}, "sizes must be at least 1"),
        ({"x_0": -3}, "sizes must be at least 1"),
    ],
)
def test_dimensions_that_do_not_fit_are_refused(dims, message):
    with pytest.raises(UsageError, match=message):
        Module.from_mlir(DYNAMIC).specialise(dims)


def test_nothing_to_specialise_gives_the_same_module():
    module = Module.from_mlir(ADD)
    assert module.specialise({}) is module
