"""Damaged ONNX files, in a child process with limits: each loads or ends in one of our errors."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest

EXAMPLES = 500
MOST_BYTES = 2 << 30

CHILD = """
import json, signal, sys, warnings
from collections import Counter

warnings.simplefilter("ignore")
from hypothesis import HealthCheck, Phase, given, seed, settings, strategies as st
from onnx import ModelProto, numpy_helper, parser
import numpy as np

from anychip.core.errors import InputError, UnsupportedError
from anychip.frontends.onnx import load

HEAD = '<ir_version: 10, opset_import: ["" : 18]>'
BODIES = [
    "g (float[N,4] x) => (float[N,8] y) { h = MatMul (x, w) y = Relu (h) }",
    'g (float[1,2,6,6] x) => (float[a,b,c,d] y) {'
    ' k = Conv <pads = [1,1,1,1], strides = [2,2]> (x, f) y = MaxPool <kernel_shape = [2,2]> (k) }',
    "g (float[3,1,4] x) => (float[a,b,c,d] y) { y = LSTM <hidden_size = 2> (x, lw, lr) }",
    'g (float[2,6] x) => (float[a,b] y) { s = Shape (x)'
    ' r = Constant <value: tensor = int64[2] {3,-1}> () z = Slice (s, i0, i1) y = Reshape (x, r) }',
    'g (float[4] x) => (float[4] y) { t = Constant <value: tensor = int64 {3}> ()'
    ' c = Constant <value: tensor = bool {1}> () y = Loop (t, c, x)'
    ' <body = b (int64 i, bool k, float[4] s) => (bool k2, float[4] s2)'
    ' { k2 = Identity (k) s2 = Add (s, s) }> }',
    'g (bool p, float[2] x) => (float[2] y) { y = If (p) <then_branch = t () => (float[2] a)'
    ' { a = Neg (x) }, else_branch = e () => (float[2] b) { b = Exp (x) }> }',
    'g (float[1,1,3,3] x) => (float[a,b,c,d] y) { y = Resize <mode = "cubic"> (x, , sc) }',
]
WEIGHTS = {
    "w": np.ones((4, 8), np.float32), "f": np.ones((3, 2, 3, 3), np.float32),
    "lw": np.ones((1, 8, 4), np.float32), "lr": np.ones((1, 8, 2), np.float32),
    "i0": np.array([0]), "i1": np.array([1]), "sc": np.array([1, 1, 2, 2], np.float32),
}
SEEDS = []
for body in BODIES:
    model = parser.parse_model(HEAD + body)
    used = {n for node in model.graph.node for n in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(a, n) for n, a in WEIGHTS.items() if n in used)
    SEEDS.append(model.SerializeToString())
    load(SEEDS[-1])  # undamaged, each loads

outcomes = Counter()
edit = st.tuples(st.sampled_from(["set", "flip", "cut", "add", "huge"]),
                 st.integers(0, 1 << 30), st.binary(min_size=1, max_size=8))

def damaged(data, edits):
    data = bytearray(data)
    for kind, at, fill in edits:
        at %= len(data) or 1
        if kind == "flip":
            data[at] ^= 1 << fill[0] % 8
        elif kind == "cut":
            del data[at : at + len(fill)]
        elif kind == "add":
            data[at:at] = fill
        elif kind == "huge":
            data[at : at + 1] = b"\\xff\\xff\\xff\\xff\\x7f"
        else:
            data[at] = fill[0]
        if not data:
            break
    return bytes(data)

def messages(message):
    yield message
    for field, value in message.ListFields():
        if field.message_type:
            for one in value if field.is_repeated else [value]:
                yield from messages(one)

NUMBERS = [0, 1, -1, 2, 7, 16, 100000, 2**31 - 1, 2**31, 2**40, 2**62, -(2**62)]

def edited(data, edits):
    model = ModelProto.FromString(data)
    for which, how, value in edits:
        every = list(messages(model))
        message = every[which % len(every)]
        fields = message.ListFields()
        if not fields:
            continue
        field, old = fields[how % len(fields)]
        number = NUMBERS[value % len(NUMBERS)]
        if field.message_type and field.is_repeated:
            old.add().CopyFrom(old[0]) if value % 2 else old.__delitem__(value % len(old))
        elif field.message_type:
            message.ClearField(field.name)
        elif field.is_repeated and field.type == field.TYPE_INT64:
            old.append(number) if value % 3 else old.__setitem__(value % len(old), number)
        elif field.is_repeated and field.type == field.TYPE_STRING:
            old[value % len(old)] = ["", "x", "y", "Loop"][value % 4]
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, ["", "x", "y", "Loop"][value % 4])
        elif field.type == field.TYPE_INT64:
            setattr(message, field.name, number)
        elif field.type == field.TYPE_INT32:
            setattr(message, field.name, value % 30)
        elif field.type == field.TYPE_ENUM:
            setattr(message, field.name, field.enum_type.values[value % 5].number)
    return model.SerializeToString()

def judge(data):
    signal.alarm(30)  # a hang ends the process
    try:
        load(data)
        outcomes["loaded"] += 1
    except (InputError, UnsupportedError) as error:
        outcomes[type(error).__name__] += 1
        assert str(error)
    signal.alarm(0)

def examples(count):
    return settings(max_examples=count, deadline=None, database=None,
                    phases=[Phase.generate], suppress_health_check=list(HealthCheck))

count = int(sys.argv[1])
place = st.integers(0, 1 << 30)

@seed(20)
@examples(count)
@given(st.sampled_from(SEEDS), st.lists(edit, min_size=1, max_size=4))
def check_bytes(data, edits):
    judge(damaged(data, edits))

@seed(21)
@examples(count)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(place, place, place), min_size=1, max_size=3))
def check_fields(data, edits):
    judge(edited(data, edits))

check_bytes()
check_fields()
# Not ru_maxrss: Linux carries the parent's into a child, and the parent is a large test process.
status = open("/proc/self/status").read()
peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
print(json.dumps({"outcomes": outcomes, "peak_bytes": peak}))
"""


@pytest.mark.timeout(300)
def test_damaged_files_load_or_end_in_our_errors() -> None:
    """500 edits of the bytes and 500 of the fields of seven small models: no crash, no hang (30 s
    end the child), no other exception, under 2 GiB."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), str(EXAMPLES)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    outcomes = report["outcomes"]
    assert sum(outcomes.values()) >= 2 * EXAMPLES
    assert outcomes["InputError"] > 50
    assert outcomes["loaded"] > 50
    assert report["peak_bytes"] < MOST_BYTES
