"""StableHLO files of every form: text, bytecode, portable artifacts, and damaged or newer ones."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from anychip.core import ir
from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.stablehlo import from_source, load
from anychip.ops.walk import walk

NEGATE = """func.func @main(%x: tensor<2xf32> loc("x")) -> tensor<2xf32> {
  %0 = stablehlo.negate %x : tensor<2xf32> loc("enc/neg")
  return %0 : tensor<2xf32>
}"""


def large(element: str = "f32") -> str:
    """A function whose constant has 512 different values."""
    values = ", ".join(str(float(i)) if element[0] != "i" else str(i % 100) for i in range(512))
    return f"""func.func @main(%x: tensor<512x{element}>) -> tensor<512x{element}> {{
  %w = stablehlo.constant dense<[{values}]> : tensor<512x{element}> loc("table")
  %0 = stablehlo.add %x, %w : tensor<512x{element}>
  return %0 : tensor<512x{element}>
}}"""


def bytecode(text: str) -> bytes:
    return ir.to_bytecode(ir.parse(text))


@pytest.mark.parametrize("form", ["text", "bytecode", "portable"])
def test_all_three_forms_give_one_program(form: str, tmp_path: Path) -> None:
    path = tmp_path / "neg.stablehlo"
    if form == "text":
        path.write_text(NEGATE)
    elif form == "bytecode":
        path.write_bytes(bytecode(NEGATE))
    else:
        path.write_bytes(ir.to_portable(bytecode(NEGATE)))
    module = load(path)
    assert module.name == "neg"
    assert "stablehlo.negate" in module.text()
    assert module.signature.arguments[0].name == "x"


def test_ops_and_errors_of_a_text_know_their_line_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "neg.mlir"
    path.write_text(NEGATE.replace(' loc("enc/neg")', ""))
    (step,) = [s for s in walk(load(path)) if s.op.name == "stablehlo.negate"]
    assert step.origin.source == f"{path}:2"
    path.write_text(NEGATE.replace("negate", "negat"))
    with pytest.raises(InputError, match=r"neg\.mlir\":2:\d+: custom op"):
        load(path)


def test_saved_modules_come_back_as_they_were(tmp_path: Path) -> None:
    module = from_source(NEGATE, name="n")
    module.save(tmp_path / "n.mlirbc")
    again = load(tmp_path / "n.mlirbc", name="n")
    assert again.signature == module.signature


def test_dynamic_sizes_become_symbols() -> None:
    text = NEGATE.replace("tensor<2xf32>", "tensor<?xf32>")
    assert from_source(text).signature.arguments[0].shape == ("x_0",)


def test_the_only_public_function_is_the_entry() -> None:
    text = (
        NEGATE.replace("@main", "@forward")
        + """
func.func private @unused(%x: tensor<2xf32>) -> tensor<2xf32> {
  %0 = func.call @forward(%x) : (tensor<2xf32>) -> tensor<2xf32>
  return %0 : tensor<2xf32>
}"""
    )
    module = from_source(text)
    assert "@forward" not in module.text()


def test_two_public_functions_and_no_main_are_named() -> None:
    text = NEGATE.replace("@main", "@f") + NEGATE.replace("@main", "@g")
    with pytest.raises(InputError, match=r"2 public ones \(f, g\)"):
        from_source(text)


@pytest.mark.parametrize("element", ["f32", "bf16", "i32"])
def test_large_constants_become_weights(element: str) -> None:
    module = from_source(large(element), path="m.mlir")
    x, w = module.signature.arguments
    assert (w.name, w.shape, w.dtype, w.role) == ("table", (512,), element, "weight")
    assert module.weights["table"].array().astype(np.float64)[7] == 7
    assert module.weights["table"].source == "m.mlir"
    assert "stablehlo.constant" not in module.text()
    assert x.role == "input"


def test_small_and_uniform_constants_stay() -> None:
    text = large().replace(large()[large().index("[0.0") : large().index("]>") + 1], "1.0")
    assert not from_source(text).weights


@pytest.mark.parametrize("count", [3, 4096])
def test_complex_constants_stay_and_are_read(count: int) -> None:
    numbers = ", ".join(f"({i}.0, {2 * i}.0)" for i in range(count))
    kind = f"tensor<{count}xcomplex<f32>>"
    module = from_source(f"""
func.func @main() -> {kind} {{
  %c = stablehlo.constant dense<[{numbers}]> : {kind}
  return %c : {kind}
}}""")
    assert not module.weights
    (constant,) = walk(module)
    want = (1 + 2j) * np.arange(count)
    np.testing.assert_array_equal(constant.op.attributes["value"], want.astype(np.complex64))


@pytest.mark.parametrize(
    ("version", "says"), [("9.9.9", "reads up to"), ("0.1.0", "reads 0.9.0 to")]
)
def test_versions_out_of_reach_are_named(version: str, says: str) -> None:
    source = ir.to_portable(bytecode(NEGATE))
    changed = re.sub(rb"StableHLO_v[\d.]+", f"StableHLO_v{version}".encode(), source)
    with pytest.raises(UnsupportedError, match=rf"StableHLO {re.escape(version)}.*{says}"):
        from_source(changed, path="m.mlirbc")


@pytest.mark.parametrize("version", ["0.9.0", "0.14.0", "0.15.0", "1.0.0"])
def test_older_artifacts_are_upgraded(version: str) -> None:
    from jaxlib.mlir.dialects import stablehlo

    with ir.opened(bytecode(NEGATE)) as parsed:
        old = stablehlo.serialize_portable_artifact(parsed, version)
    assert f"StableHLO_v{version}".encode() in old
    assert "stablehlo.negate" in from_source(old).text()


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_truncated_bytecode_is_an_input_error(cut: int) -> None:
    with pytest.raises(InputError, match=r"m\.mlirbc: damaged MLIR bytecode"):
        from_source(bytecode(NEGATE)[:-cut], path="m.mlirbc")


def test_bytecode_that_kills_the_reader_is_an_input_error() -> None:
    """Flipping each byte in turn includes some on which MLIR's reader dies by a signal."""
    source = bytecode(NEGATE)
    deadly = _deadly(source)
    with pytest.raises(InputError, match=r"damaged MLIR bytecode: .*died by SIG"):
        from_source(deadly, path="m.mlirbc")


def _deadly(source: bytes) -> bytes:
    """A damaged copy that makes the reader abort, found by trying in children."""
    import subprocess
    import sys

    probe = (
        "import sys; from anychip.core import ir\n"
        "from anychip.core.errors import InputError\n"
        "source = bytearray(bytes.fromhex(sys.argv[1]))\n"
        "for at in range(int(sys.argv[2]), len(source)):\n"
        "    for value in (255, 128):\n"
        "        print(at, value, flush=True)\n"
        "        damaged = bytes(source[:at]) + bytes([value]) + bytes(source[at + 1:])\n"
        "        try:\n"
        "            ir.parse(damaged)\n"
        "        except InputError:\n"
        "            pass\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, source.hex(), "14"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode >= 0:
        pytest.skip("this jaxlib's reader survives every single-byte change")
    at, value = map(int, done.stdout.splitlines()[-1].split())
    return source[:at] + bytes([value]) + source[at + 1 :]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("func.func @main(", "not valid StableHLO"),
        (b"\xff\xfe\x00binary", "neither StableHLO text nor MLIR bytecode"),
        ("module {}", "no function @main, and 0 public ones"),
        ('func.func @main() { "tosa.abs"() : () -> () return }', "tosa.abs"),
    ],
)
def test_what_is_no_stablehlo_is_an_input_error(source: str | bytes, says: str) -> None:
    with pytest.raises(InputError, match=says):
        from_source(source, path="m.mlir")


def test_custom_calls_without_a_meaning_are_all_listed() -> None:
    text = """func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
  %0 = stablehlo.custom_call @vendor_a(%x) : (tensor<2xf32>) -> tensor<2xf32> loc("enc/a")
  %1 = stablehlo.custom_call @Sharding(%0) : (tensor<2xf32>) -> tensor<2xf32>
  %2 = stablehlo.custom_call @tpu_custom_call(%1) : (tensor<2xf32>) -> tensor<2xf32>
  return %2 : tensor<2xf32>
}"""
    with pytest.raises(
        UnsupportedError, match=r"(?s)vendor_a.*tpu_custom_call.*one chip"
    ) as caught:
        from_source(text)
    assert [row.op for row in caught.value.report] == [
        "custom call @vendor_a",
        "custom call @tpu_custom_call",
    ]


def test_missing_file_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.mlir"):
        load(tmp_path / "gone.mlir")
