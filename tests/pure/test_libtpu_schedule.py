"""The replayed schedule: nothing beats its bytes, copies overlap, and every figure is named."""

import pytest

from anychip.compilers import hlo
from anychip.compilers.libtpu.schedule import Clockwork, group_size, replay

CLOCK_HZ, BYTES_PER_S = 1e9, 1e12
MEGABYTE = 1024 * 1024


def _replay(body: str, computations: str = ""):
    text = f"{computations}\nENTRY %main (a: f32[512,512]) -> f32[512,512] {{\n{body}\n}}\n"
    clockwork = Clockwork(CLOCK_HZ, BYTES_PER_S, lambda kind, size, chips: size * chips * 1e-12)
    return replay(hlo.parse(text), clockwork, {})


def _cycles(llo: int | None = None, estimate: int | None = None) -> str:
    parts = []
    if estimate is not None:
        parts.append(f'"window_config":{{"estimated_cycles":"{estimate}"}}')
    if llo is not None:
        parts.append(f'"bundle_analysis_data":{{"estimated_cycles":"{llo}"}}')
    return f", backend_config={{{','.join(parts)}}}"


FAR, NEAR = "f32[512,512]{1,0:T(8,128)}", "f32[512,512]{1,0:T(8,128)S(1)}"
A = f"  %a = {FAR} parameter(0)\n"


def _end(spans) -> float:
    return max(s.end_s for s in spans)


def test_an_op_takes_the_longer_of_its_cycles_and_its_bytes():
    slow, note = _replay(A + f"  ROOT %b = {FAR} negate(%a){_cycles(llo=50_000)}")
    assert _end(slow) == pytest.approx(50e-6)
    assert "1 by the static schedule" in note
    quick, _ = _replay(A + f"  ROOT %b = {FAR} negate(%a){_cycles(llo=1)}")
    assert _end(quick) == pytest.approx(2 * MEGABYTE / BYTES_PER_S)
    assert [s.bound for s in (*slow, *quick)] == ["compute", "memory"]


def test_the_static_schedule_goes_before_the_estimate():
    spans, _ = _replay(A + f"  ROOT %b = {NEAR} negate(%a){_cycles(llo=20_000, estimate=90_000)}")
    assert _end(spans) == pytest.approx(20e-6)


def test_without_it_the_estimate_serves_products_and_on_chip_ops_only():
    product = f"  ROOT %b = {FAR} convolution(%a, %a){_cycles(estimate=30_000)}"
    stream = f"  ROOT %b = {FAR} negate(%a){_cycles(estimate=30_000)}"
    assert _end(_replay(A + product)[0]) == pytest.approx(30e-6)
    assert _end(_replay(A + stream)[0]) == pytest.approx(2 * MEGABYTE / BYTES_PER_S)


def test_a_copy_overlaps_work_and_shares_the_bandwidth():
    pair = f"({NEAR}, {FAR}, u32[]{{:S(2)}})"
    body = (
        A
        + f"  %s = {pair} copy-start(%a)\n"
        + f"  %b = {NEAR} iota(){_cycles(llo=30_000)}\n"
        + f"  %d = {NEAR} copy-done(%s)\n"
        + f"  ROOT %c = {FAR} add(%d, %a){_cycles(llo=0)}"
    )
    spans, _ = _replay(body)
    assert _end(spans) == pytest.approx(30e-6 + 2 * MEGABYTE / BYTES_PER_S)
    moved = sum((s.read_bytes or 0) + (s.written_bytes or 0) for s in spans)
    assert moved == 3 * MEGABYTE
    assert _end(spans) >= moved / BYTES_PER_S


def test_a_prefetch_of_arguments_belongs_to_the_run_before_but_its_bytes_count():
    pair = f"({NEAR}, {FAR}, u32[]{{:S(2)}})"
    body = (
        A
        + f"  %s = {pair} copy-start(%a), cross_program_prefetch_index=0\n"
        + f"  %d = {NEAR} copy-done(%s)\n"
        + f"  ROOT %b = {NEAR} negate(%d){_cycles(llo=100)}"
    )
    spans, note = _replay(body)
    assert _end(spans) == pytest.approx(MEGABYTE / BYTES_PER_S)
    assert "steady state" in note


def test_loops_count_as_often_as_they_run_and_branches_by_the_longest():
    bodies = f"""
%body (p: {NEAR}) -> {NEAR} {{
  %p = {NEAR} parameter(0)
  ROOT %n = {NEAR} negate(%p){_cycles(llo=1000)}
}}
%test (q: {NEAR}) -> pred[] {{
  %q = {NEAR} parameter(0)
  ROOT %f = pred[] constant(false)
}}
%small (r: {NEAR}) -> {NEAR} {{
  ROOT %r = {NEAR} parameter(0)
}}"""
    loop = "condition=%test, body=%body"
    known = (
        f'  ROOT %w = {NEAR} while(%a), {loop}, backend_config={{"known_trip_count":{{"n":"7"}}}}'
    )
    assert _end(_replay(A + known, bodies)[0]) == pytest.approx(7e-6)
    spans, note = _replay(A + f"  ROOT %w = {NEAR} while(%a), {loop}", bodies)
    assert _end(spans) == pytest.approx(1e-6)
    assert "unknown length" in note
    branches = "branch_computations={%small, %body}"
    spans, note = _replay(A + f"  ROOT %w = {NEAR} conditional(%a, %a, %a), {branches}", bodies)
    assert _end(spans) == pytest.approx(1e-6)
    assert "longest" in note


def test_a_collective_is_costed_by_the_link_model():
    reduce = f"  ROOT %r = {FAR} all-reduce(%a), replica_groups=[1,8]<=[8], to_apply=%add"
    spans, note = _replay(A + reduce)
    assert [s.resource for s in spans] == ["link"]
    assert _end(spans) == pytest.approx(MEGABYTE * 8 * 1e-12)
    assert "1 collectives by the link model" in note


@pytest.mark.parametrize(
    ("tail", "size"),
    [
        (", replica_groups=[2,4]<=[8]", 4),
        (", replica_groups={{0,1,2},{3,4,5}}", 3),
        (", source_target_pairs={{0,1},{1,0}}", 2),
    ],
)
def test_group_sizes_are_read_in_both_spellings(tail, size):
    assert group_size(tail) == size
