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


LOOP = """
%test (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]) parameter(0)
  %end = s32[] constant(12)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %end), direction=LT
}

%body (q: (s32[], f32[4])) -> (s32[], f32[4]) {
  %q = (s32[], f32[4]) parameter(0)
  %by = s32[] constant(STEP)
  %j = s32[] get-tuple-element(%q), index=0
  %next = s32[] add(%j, %by), metadata={op_name="while"}
  %x = f32[4] get-tuple-element(%q), index=1
  ROOT %r = (s32[], f32[4]) tuple(%next, %x)
}

ENTRY %main (n: s32[], a: f32[4]) -> (s32[], f32[4]) {
  %n = s32[] parameter(0)
  %a = f32[4] parameter(1)
  %zero = s32[] constant(2)
  %start = s32[] copy(%zero)
  %t = (s32[], f32[4]) tuple(START, %a)
  ROOT %w = (s32[], f32[4]) while(%t), condition=%test, body=%bodyNOTE
}
"""


@pytest.mark.parametrize(
    ("step", "start", "note", "trips"),
    [
        ("1", "%start", "", 10),
        ("2", "%start", "", None),
        ("1", "%n", "", None),
        ("2", "%n", ', backend_config={"known_trip_count":{"n":"7"}}', 7),
    ],
)
def test_loops_run_as_often_as_xla_notes_or_as_is_evident(step, start, note, trips):
    text = LOOP.replace("STEP", step).replace("START", start).replace("NOTE", note)
    program = hlo.parse(text)
    assert hlo.trip_count(program, program.entry, program.entry.root) == trips
