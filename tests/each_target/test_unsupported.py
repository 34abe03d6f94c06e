"""What fails says so completely, through the command line: every op with its layer, line, count and
remedy, in a run folder, exit code 1. One planted model a frontend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TORCH = """
import torch
from torch import nn

@torch.library.custom_op("acme::spin", mutates_args=())
def spin(x: torch.Tensor) -> torch.Tensor:
    return x.flip(-1)

@spin.register_fake
def _(x):
    return torch.empty_like(x)

class Head(nn.Module):
    def forward(self, x):
        return spin(x) + 1  # line 15

@torch.library.custom_op("acme::parts", mutates_args=())
def parts(x: torch.Tensor, sizes: list[int]) -> list[torch.Tensor]:
    return [x[:, :1], x[:, 1:]]

@parts.register_fake
def _(x, sizes):
    return [x.new_empty(x.shape[0], 1), x.new_empty(x.shape[0], x.shape[1] - 1)]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = Head(), Head()
    def forward(self, x):
        found = torch.argwhere(x > 0)  # line 30, made of other ops
        y = self.a(x) + self.b(x)
        left, right = parts(y, [1, 7])  # line 32
        kept = right[right > 0].sum()  # line 33, a rule that refuses
        last = torch.cond(y.sum() > 0, lambda v: spin(v), lambda v: v + 1, (y,))  # line 34
        return y, found.float().sum(), torch.rand_like(x), kept, left, last  # line 35

shapes = ({0: torch.export.Dim("batch", max=64)},)
program = torch.export.export(Net().eval(), (torch.randn(8, 8),), dynamic_shapes=shapes)
torch.export.save(program, "net.pt2")
"""

ONNX = """
from onnx import parser, save

model = parser.parse_model('''<ir_version: 10, opset_import: ["" : 18, "acme" : 1]>
g (float[2,4] x) => (float[2,4] y, int64[a,b] z) {
 [first] h = acme.Spin (x)
 [second] k = acme.Spin (h)
 [found] z = NonZero (k)
 [text] s = Cast <to = 8> (x)
 y = Relu (k)
}''')
note = model.graph.node[1].metadata_props.add()
note.key, note.value = "pkg.torch.onnx.stack_trace", 'File "user/net.py", line 7, in forward'
save(model, "net.onnx")
"""

TENSORFLOW = """
import tensorflow as tf

@tf.function(input_signature=[tf.TensorSpec([1, 4], tf.float32, name="x")])
def f(x):
    with tf.name_scope("head"):
        u, _ = tf.unique(tf.reshape(x, [-1]))  # line 7
        n = tf.strings.length(tf.strings.as_string(x))  # line 8
        p = tf.py_function(lambda a: a, [x], tf.float32)  # line 9
    return tf.reduce_sum(u) + tf.cast(n, tf.float32) + p

module = tf.Module()
module.f = f
options = tf.saved_model.SaveOptions(save_debug_info=True)
tf.saved_model.save(module, "net", signatures=f, options=options)
"""


def refused(folder: Path, script: str, model: str) -> tuple[dict[str, Any], list[tuple[Any, ...]]]:
    """Make the model in one process, compile it in another; the document and its rows."""
    environment = {**os.environ, "ANYCHIP_RUNS": str(folder / "runs"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    (folder / "make.py").write_text(script)
    verb = ["compile", model, "-t", "cpu:xla", "-f", "json"]
    for command in (["make.py"], ["-c", "from anychip.cli import main; main()", *verb]):
        done = subprocess.run(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == (0 if command == ["make.py"] else 1), done.stderr
    document = json.loads(done.stdout)
    assert "Traceback" not in done.stderr
    (written,) = (folder / "runs").glob("*/unsupported.json")
    assert json.loads(written.read_text())["unsupported"] == document["unsupported"]
    (verdict,) = document["verdicts"]
    assert (verdict["target"], verdict["compiled"]) == ("cpu:xla", False)
    report = written.with_suffix(".md").read_text()
    rows = document["unsupported"]
    assert all(row["why"].replace("|", "/") in report for row in rows)
    short = [
        (row["op"], row["count"], row["layer"], row["source"].rpartition("/")[2]) for row in rows
    ]
    return document, short


def test_torch_names_everything_of_an_archive(tmp_path):
    document, rows = refused(tmp_path, TORCH, "net.pt2")
    assert rows == [
        ("acme.spin.default", 2, "a", "make.py:15"),
        ("acme.parts.default", 1, "", "make.py:32"),
        ("acme.spin.default", 1, "", "make.py:34"),
        ("aten.nonzero.default", 1, "", "make.py:30"),
        ("aten.rand_like.default", 1, "", "make.py:35"),
        ("aten.index.Tensor", 1, "", "make.py:33"),
    ]
    remedies = [row["why"] for row in document["unsupported"]]
    where = "torch.where"
    texts = (*["not registered"] * 3, where, "seed=0", where)
    for text, remedy in zip(texts, remedies, strict=True):
        assert text in remedy


def test_onnx_names_what_stands_behind_a_failure_too(tmp_path):
    document, rows = refused(tmp_path, ONNX, "net.onnx")
    assert sorted(rows) == [
        ("Cast", 1, "text", "net.onnx:text(Cast)"),
        ("NonZero", 1, "found", "net.onnx:found(NonZero)"),
        ("acme.Spin", 1, "first", "net.onnx:first(Spin)"),
        ("acme.Spin", 1, "second", "net.py:7"),
    ]
    assert any("constants={'x'" in row["why"] for row in document["unsupported"])


def test_tensorflow_names_more_than_the_first(tmp_path):
    pytest.importorskip("tensorflow")
    document, rows = refused(tmp_path, TENSORFLOW, "net")
    assert rows == [
        ("Unique", 1, "head", "make.py:7"),
        ("AsString", 1, "head", "make.py:8"),
        ("StringLength", 1, "head", "make.py:8"),
        ("EagerPyFunc", 1, "head", "make.py:9"),
    ]
    remedies = [row["why"] for row in document["unsupported"]]
    for text, remedy in zip(("fixed size", "text", "text", "Python"), remedies, strict=True):
        assert text in remedy
