"""HLO text is read as XLA prints it: types, padding, memory spaces, schedules and what is moved."""

import pytest

from anychip.compilers import hlo
from anychip.compilers.hlo_bytes import moved

PROGRAM = """HloModule step, is_scheduled=true

%update (cache.1: bf16[8,128,128], row.1: bf16[8,1,128], at.1: s32[]) -> bf16[8,128,128] {
  %cache.1 = bf16[8,128,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %row.1 = bf16[8,1,128]{2,1,0:T(2,128)(2,1)S(1)} parameter(1)
  %at.1 = s32[]{:T(128)} parameter(2)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %dus = bf16[8,128,128]{2,1,0:T(8,128)(2,1)} dynamic-update-slice(%cache.1, %row.1, %zero, %at.1, /*index=4*/%zero)
}

%pick (table.1: f32[1000,128], at.2: s32[]) -> f32[1,128] {
  %table.1 = f32[1000,128]{1,0:T(8,128)} parameter(0)
  %at.2 = s32[]{:T(128)} parameter(1)
  %zero.1 = s32[]{:T(128)} constant(0)
  ROOT %row = f32[1,128]{1,0:T(1,128)} dynamic-slice(%table.1, %at.2, %zero.1), dynamic_slice_sizes={1,128}
}

ENTRY %main.1 (cache: bf16[8,128,128], table: f32[1000,128], at: s32[]) -> (bf16[8,128,128], f32[1,128]) {
  %cache = bf16[8,128,128]{2,1,0:T(8,128)(2,1)} parameter(0), metadata={op_name="cache"}
  %table = f32[1000,128]{1,0:T(8,128)} parameter(1), metadata={op_name="table"}
  %at = s32[]{:T(128)} parameter(2)
  %new = bf16[8,1,128]{2,1,0:T(2,128)(2,1)S(1)} constant({...})
  %fetched = (f32[1000,128]{1,0:T(8,128)S(1)}, f32[1000,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%table)
  %picked = f32[1,128]{1,0:T(1,128)} fusion(%table, %at), kind=kLoop, calls=%pick, metadata={op_name="layers.0/jit/gather"}
  %held = f32[1000,128]{1,0:T(8,128)S(1)} copy-done(%fetched)
  %written = bf16[8,128,128]{2,1,0:T(8,128)(2,1)} fusion(%cache, %new, %at), kind=kLoop, calls=%update
  %near = f32[1000,128]{1,0:T(8,128)S(1)} negate(%held)
  ROOT %both = (bf16[8,128,128]{2,1,0:T(8,128)(2,1)}, f32[1,128]{1,0:T(1,128)}) tuple(%written, %picked)
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def program() -> hlo.HloModule:
    return hlo.parse(PROGRAM)


def test_computations_keep_their_schedule_and_entry(program):
    assert set(program.computations) == {"update", "pick", "main.1"}
    assert program.entry.name == "main.1"
    assert program.entry.root.opcode == "tuple"
    names = list(program.entry.instructions)
    assert names.index("fetched") < names.index("picked") < names.index("held")


def test_an_instruction_has_operands_calls_and_the_models_name(program):
    picked = program.entry.instructions["picked"]
    assert picked.operands == ("table", "at")
    assert picked.called == {"calls": "pick"}
    assert picked.op_name == "layers.0/jit/gather"
    dus = program.computations["update"].instructions["dus"]
    assert dus.operands == ("cache.1", "row.1", "zero", "at.1", "zero")


@pytest.mark.parametrize(
    ("text", "nbytes", "space"),
    [
        ("f32[4,4]", 64, 0),
        ("f32[8,4]{1,0:T(8,128)}", 8 * 128 * 4, 0),
        ("f32[4,8]{0,1:T(8,128)}", 8 * 128 * 4, 0),
        ("bf16[3,100]{1,0:T(8,128)(2,1)S(1)}", 8 * 128 * 2, 1),
        ("f32[5]{0:T(1024)}", 4096, 0),
        ("s4[16]{0}", 8, 0),
        ("pred[]", 1, 0),
        ("token[]", 0, 0),
    ],
)
def test_arrays_take_their_padded_bytes(text, nbytes, space):
    (array,) = hlo.arrays(text)
    assert (array.nbytes, array.space) == (nbytes, space)


@pytest.mark.parametrize(
    ("name", "read", "written"),
    [
        ("picked", 512 + 512, 512),  # a row of the table and the padded index; not the table
        ("written", 512, 8 * 2 * 128 * 2),  # the rows that change, in place; not the cache
        ("fetched", 1000 * 128 * 4, 0),
        ("held", 0, 0),
        ("near", 0, 0),  # on the chip
        ("both", 0, 0),
    ],
)
def test_only_what_leaves_or_enters_main_memory_counts(program, name, read, written):
    assert moved(program, program.entry, program.entry.instructions[name]) == (read, written)


def test_loops_say_how_often_they_run_when_xla_knows():
    known = 'backend_config={"known_trip_count":{"n":"12"}}'
    line = f"  %w = (s32[]) while(%t), condition=%c, body=%b, {known}"
    text = f"ENTRY %m (p: s32[]) -> s32[] {{\n{line}\n  ROOT %r = s32[] parameter(0)\n}}\n"
    (loop, _) = hlo.parse(text).entry.instructions.values()
    assert loop.trips == 12
    assert loop.called == {"condition": "c", "body": "b"}
