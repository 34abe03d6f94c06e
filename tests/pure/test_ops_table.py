"""The op table is complete: every op of the dialects has an entry, every entry says everything."""

import importlib
import re

import pytest

from anychip.core import InputError, Module, UnsupportedError
from anychip.ops import OPS, Op, OpView, Work, case, op, program
from anychip.ops.table import SUBJECTS, entries
from anychip.testing.judge import has_meaning

NOT_IN_TABLE = {
    "stablehlo.return": "it ends a region: its operands are the region's results",
    "chlo._asin_acos_kernel": "upstream's own helper between two lowerings; no frontend emits it",
}


@pytest.mark.parametrize("dialect", ["stablehlo", "chlo"])
def test_every_op_of_the_dialect_has_an_entry(dialect):
    generated = importlib.import_module(f"jaxlib.mlir.dialects._{dialect}_ops_gen")
    with open(generated.__file__, encoding="utf-8") as source:
        names = set(re.findall(r'OPERATION_NAME = "(.*?)"', source.read()))
    assert len(names) > 50
    assert names - set(OPS) == {n for n in NOT_IN_TABLE if n.startswith(f"{dialect}.")}


def lacks(entry: Op) -> list[str]:
    """What an entry does not say."""
    missing = []
    if not entry.cases:
        missing.append("cases")
    if not callable(entry.work):
        missing.append("work")
    if not callable(entry.meaning):
        missing.append("meaning")
    if entry.unit not in ("matmul", "vector", "move", "control", "collective"):
        missing.append("unit")
    return missing


@pytest.mark.parametrize("name", OPS)
def test_entry_has_cases_work_meaning_and_unit(name):
    assert lacks(OPS[name]) == []


def test_an_entry_without_cases_is_noticed():
    @op("test.nothing", unit="vector", work=lambda view: Work())
    def nothing(view, x):
        return x

    assert lacks(nothing) == ["cases"]


@pytest.mark.parametrize("name", OPS)
def test_cases_parse_contain_their_op_and_have_work(name):
    entry = OPS[name]
    for one in entry.cases:
        if entry.inexpressible:
            with pytest.raises(InputError):
                Module.from_mlir(one.text)
            continue
        inside = views(one.text, name)
        assert inside, one.text
        for view in inside:
            work = entry.work(view)
            assert min(work.flops, work.read_bytes, work.written_bytes, work.transcendentals) >= 0
            assert all(isinstance(n, int) for n in vars(work).values())


def views(text: str, name: str) -> list[OpView]:
    """The ops of this name in a program, at any depth."""
    found: list[OpView] = []

    def visit(block) -> None:
        for one in block.ops:
            found.extend([one] if one.name == name else [])
            for region in one.regions:
                visit(region)

    for function in program(Module.from_mlir(text)).functions.values():
        visit(function)
    return found


def test_subject_files_hold_all_entries_once():
    counts = [len(entries(subject)) for subject in SUBJECTS]
    assert min(counts) > 0
    assert sum(counts) == len(OPS)


def test_unknown_op_is_explained():
    with pytest.raises(Exception, match=r"no op named 'stablehlo.ad'.*stablehlo.add"):
        OPS["stablehlo.ad"]


def test_ops_without_meaning_on_one_chip_are_exactly_these():
    assert {name for name, entry in OPS.items() if not has_meaning(entry)} == {
        "stablehlo.infeed",
        "stablehlo.outfeed",
        "stablehlo.send",
        "stablehlo.recv",
        "stablehlo.uniform_quantize",
        "stablehlo.uniform_dequantize",
    }


def test_refused_op_says_why():
    entry = OPS["stablehlo.send"]
    (view,) = views(entry.cases[0].text, "stablehlo.send")
    with pytest.raises(UnsupportedError, match="another program"):
        entry(view, None, ())


def test_case_inputs_are_equal_for_equal_seeds():
    made = case("f32[3]", "i8[2]", draw=("any", "bits"))("stablehlo.add")
    again = made.arrays(3)
    assert all(
        (a == b).all() or a.dtype.kind == "f" for a, b in zip(made.arrays(3), again, strict=True)
    )
    assert any((a != b).any() for a, b in zip(made.arrays(3), made.arrays(4), strict=True))
