"""Traces of cpu:xla: one span an op, with layer and source line, leaf ops only."""

import json

import numpy as np
import pytest

from anychip.compilers import pjrt
from anychip.compilers.xla import XlaTarget
from anychip.compilers.xla_trace import covered_seconds, hlo_ops, hlo_origins
from anychip.core import Argument, CompileOptions, Module, Origin, Result, Signature, Span, Trace

STEP = """
module @step {
func.func public @main(%x: tensor<256x256xf32>, %w: tensor<256x256xf32>, %k: tensor<64x256xf32>)
    -> (tensor<256x256xf32>, tensor<64x256xf32>) {
  %0 = func.call @layer(%x, %w) : (tensor<256x256xf32>, tensor<256x256xf32>) -> tensor<256x256xf32>
      loc("layers.0#0/jit")
  %1 = func.call @layer(%0, %w) : (tensor<256x256xf32>, tensor<256x256xf32>) -> tensor<256x256xf32>
      loc("layers.1#0/jit")
  %2 = stablehlo.slice %1 [0:1, 0:256] : (tensor<256x256xf32>) -> tensor<1x256xf32>
  %3 = stablehlo.constant dense<3> : tensor<i32>
  %4 = stablehlo.constant dense<0> : tensor<i32>
  %5 = stablehlo.dynamic_update_slice %k, %2, %3, %4
      : (tensor<64x256xf32>, tensor<1x256xf32>, tensor<i32>, tensor<i32>) -> tensor<64x256xf32>
      loc("cache/write")
  return %1, %5 : tensor<256x256xf32>, tensor<64x256xf32> }
func.func private @layer(%x: tensor<256x256xf32>, %w: tensor<256x256xf32>) -> tensor<256x256xf32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
      : (tensor<256x256xf32>, tensor<256x256xf32>) -> tensor<256x256xf32> loc("mlp#1/dot_general")
  %1 = stablehlo.tanh %0 : tensor<256x256xf32> loc("mlp#1/tanh")
  return %1 : tensor<256x256xf32> } }
"""


@pytest.fixture(scope="module")
def traced() -> Trace:
    square = (256, 256)
    signature = Signature(
        (
            Argument("x", square, "f32"),
            Argument("w", square, "f32"),
            Argument("k", (64, 256), "f32", "state"),
        ),
        (Result("y", square, "f32"), Result("k_next", (64, 256), "f32", "k")),
    )
    module = Module.from_mlir(STEP, signature=signature, sources=("model.py:10", "model.py:3"))
    program = XlaTarget().compile(module, CompileOptions())
    import jax.numpy as jnp

    x, k = np.ones(square, np.float32), jnp.ones((64, 256))
    trace = program.trace(x, x, k)
    assert not k.is_deleted()  # tracing works on copies of the state
    return trace


def test_trace_is_measured_and_says_what_it_covers(traced):
    assert traced.kind == "measured"
    assert traced.target == "cpu:xla"
    assert "ops" in traced.note
    assert "profiled run took" in traced.note


def test_ops_carry_layer_and_source_line_through_calls_and_fusion(traced):
    origins = {span.origin for span in traced.spans}
    assert Origin("layers.0/mlp", "model.py:3") in origins
    assert Origin("layers.1/mlp", "model.py:3") in origins
    assert Origin("cache", "") in origins


def test_spans_of_one_lane_do_not_overlap(traced):
    for lane in {span.resource for span in traced.spans}:
        ends = 0.0
        for span in (s for s in traced.spans if s.resource == lane):
            assert span.start_s >= ends
            ends = span.end_s


def test_spans_sum_to_no_more_than_lanes_times_length(traced):
    lanes = len({span.resource for span in traced.spans})
    assert 0 < sum(s.seconds for s in traced.spans) <= traced.seconds * lanes * (1 + 1e-9)
    assert covered_seconds(traced.spans) <= traced.seconds * (1 + 1e-9)


def test_trace_opens_in_perfetto(traced):
    events = json.loads(traced.to_perfetto())["traceEvents"]
    assert len([e for e in events if e["ph"] == "X"]) == len(traced.spans)


def test_loop_is_shown_by_the_ops_of_its_body():
    text = """
module @loop { func.func public @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> {
  %zero = stablehlo.constant dense<0> : tensor<i32>
  %i, %y = stablehlo.while(%a = %zero, %b = %x) : tensor<i32>, tensor<64x64xf32>
    cond { %n = stablehlo.constant dense<5> : tensor<i32>
      %c = stablehlo.compare LT, %a, %n : (tensor<i32>, tensor<i32>) -> tensor<i1>
      stablehlo.return %c : tensor<i1> }
    do { %one = stablehlo.constant dense<1> : tensor<i32>
      %j = stablehlo.add %a, %one : tensor<i32>
      %d = stablehlo.dot_general %b, %b, contracting_dims = [1] x [0]
        : (tensor<64x64xf32>, tensor<64x64xf32>) -> tensor<64x64xf32>
      stablehlo.return %j, %d : tensor<i32>, tensor<64x64xf32> }
  return %y : tensor<64x64xf32> } }"""
    program = XlaTarget().compile(Module.from_mlir(text), CompileOptions())
    trace = program.trace(np.zeros((64, 64), np.float32))
    opcodes = {name: op.opcode for name, op in hlo_ops(program.artifacts["hlo"]).items()}
    assert "while" in opcodes.values()
    assert "while" not in {opcodes[span.op] for span in trace.spans}
    assert len(trace.spans) >= 10


def test_whole_run_is_one_span_when_another_profile_is_open(tmp_path):
    import jax

    text = "module { func.func public @main(%x: tensor<2xf32>) -> tensor<2xf32> { "
    text += "%0 = stablehlo.sine %x : tensor<2xf32> return %0 : tensor<2xf32> } }"
    program = XlaTarget().compile(Module.from_mlir(text, name="waves"), CompileOptions())
    with jax.profiler.trace(str(tmp_path)):
        trace = program.trace(np.zeros(2, np.float32))
    (span,) = trace.spans
    assert span.op == "waves"
    assert trace.note.startswith("whole run only: ")


def test_a_profile_that_would_crash_this_process_is_taken_in_a_child(monkeypatch):
    monkeypatch.setattr(pjrt, "profiler_crashes", lambda: True)
    text = "module { func.func public @main(%x: tensor<64x64xf32>) -> tensor<64x64xf32> { "
    text += "%0 = stablehlo.dot %x, %x : (tensor<64x64xf32>, tensor<64x64xf32>) -> "
    text += "tensor<64x64xf32> return %0 : tensor<64x64xf32> } }"
    program = XlaTarget().compile(Module.from_mlir(text), CompileOptions())
    trace = program.trace(np.zeros((64, 64), np.float32))
    assert {span.op for span in trace.spans} <= set(hlo_ops(program.artifacts["hlo"]))
    assert "in a child process" in trace.note


HLO = """
ENTRY %main.9 (x.1: f32[4,4], k.1: f32[4]) -> (f32[4,4], f32[4]) {
  %x.1 = f32[4,4]{1,0} parameter(0), metadata={op_name="x"}
  %dot.3 = f32[4,4]{1,0} dot(%x.1, %x.1), lhs_contracting_dims={1}
  %copy.1 = f32[4,4]{1,0:T(8,128)} copy(%dot.3)
  %tuple = (s32[], f32[4,4]{1,0}) tuple(%x.1, %copy.1)
  %while.5 = (s32[], f32[4,4]{1,0}) while(%tuple), condition=%c, body=%b, metadata={op_name="l.0/while"}
  ROOT %tanh_fusion = f32[4,4]{1,0} fusion(%copy.1), kind=kLoop, calls=%f, metadata={op_name="l.1#0/tanh"}
}
"""  # noqa: E501


def test_hlo_text_is_read_into_ops():
    ops = hlo_ops(HLO)
    assert {name: op.opcode for name, op in ops.items()} == {
        "x.1": "parameter",
        "dot.3": "dot",
        "copy.1": "copy",
        "tuple": "tuple",
        "while.5": "while",
        "tanh_fusion": "fusion",
    }
    assert ops["dot.3"].operands == ("x.1", "x.1")


def test_op_that_lost_its_name_takes_that_of_what_it_feeds():
    origins = hlo_origins(hlo_ops(HLO), ("m.py:7",))
    assert origins["copy.1"] == origins["dot.3"] == Origin("l.1", "m.py:7")
    assert origins["while.5"] == Origin("l.0")


def test_covered_time_counts_overlap_once():
    spans = [(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)]
    made = tuple(
        Span(resource=str(i), op="x", start_s=a, end_s=b) for i, (a, b) in enumerate(spans)
    )
    assert covered_seconds(made) == 4.0
