"""What tools/fuzz.py damages: for each format a small good model, and how a damaged one is read."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HANG_S = 10.0


@dataclass(frozen=True)
class Format:
    """`make` writes good models into a folder and gives their paths; `read` loads a path and
    touches every weight. A model that is a folder is damaged in one of its `files`."""

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    files: tuple[str, ...] = ()


def make_onnx(folder: Path) -> list[Path]:
    from onnx import numpy_helper, parser, save

    head = '<ir_version: 10, opset_import: ["" : 18]>'
    bodies = [
        "g (float[N,4] x) => (float[N,8] y) { h = MatMul (x, w) y = Relu (h) }",
        "g (float[1,2,6,6] x) => (float[a,b,c,d] y) { k = Conv <pads = [1,1,1,1]> (x, f)"
        " y = MaxPool <kernel_shape = [2,2]> (k) }",
        "g (float[3,1,4] x) => (float[a,b,c,d] y) { y = LSTM <hidden_size = 2> (x, lw, lr) }",
        "g (bool p, float[2] x) => (float[2] y) { y = If (p) <then_branch = t () => (float[2] a)"
        " { a = Neg (x) }, else_branch = e () => (float[2] b) { b = Exp (x) }> }",
        "g (float[2,6] x) => (float[a,b] y) { s = Shape (x) r = Constant <value: tensor ="
        " int64[2] {3,-1}> () y = Reshape (x, r) }",
    ]
    shapes = {"w": (4, 8), "f": (3, 2, 3, 3), "lw": (1, 8, 4), "lr": (1, 8, 2)}
    paths: list[Path] = []
    for index, body in enumerate(bodies):
        model = parser.parse_model(head + body)
        used = {name for node in model.graph.node for name in node.input}
        model.graph.initializer.extend(
            numpy_helper.from_array(np.ones(shape, np.float32), name)
            for name, shape in shapes.items()
            if name in used
        )
        paths.append(folder / f"{index}.onnx")
        save(model, paths[-1])
    return paths


def read_onnx(path: Path) -> object:
    from anychip.frontends.onnx import load

    return _touched(load(path).weights)


def make_gguf(folder: Path) -> list[Path]:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import conftest  # the tests' writer of small models

    shapes = conftest._shapes("llama", 0)
    return [
        conftest._write(folder / f"{kind}.gguf", kind, "llama", {}, shapes, {})
        for kind in ("q8_0", "q4_0")
    ]


def read_gguf(path: Path) -> object:
    from anychip.frontends.gguf import load_gguf

    model = load_gguf(path)
    return _touched(model.bind(model.native_precision))


def make_hf(folder: Path) -> list[Path]:
    from anychip.frontends.hf.folder import import_transformers

    import_transformers()
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 96}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = AutoConfig.for_model("llama", **sizes, **heads)
    model: Any = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder / "llama")
    return [folder / "llama"]


def read_hf(path: Path) -> object:
    from anychip.core import LanguageModel
    from anychip.frontends.hf import load_hf

    model = load_hf(path)
    if isinstance(model, LanguageModel):
        return _touched(model.bind(model.native_precision))
    return _touched(model.weights)


STABLEHLO = """func.func @main(%x: tensor<2x3xf32>, %w: tensor<3x4xf32>) -> tensor<2x4xf32> {
  %0 = stablehlo.dot_general %x, %w, contracting_dims = [1] x [0]
    : (tensor<2x3xf32>, tensor<3x4xf32>) -> tensor<2x4xf32>
  %1 = stablehlo.tanh %0 : tensor<2x4xf32>
  %c = stablehlo.constant dense<[[1.0, 2.0, 3.0, 4.0]]> : tensor<1x4xf32>
  %2 = stablehlo.broadcast_in_dim %c, dims = [0, 1] : (tensor<1x4xf32>) -> tensor<2x4xf32>
  %3 = stablehlo.add %1, %2 : tensor<2x4xf32>
  return %3 : tensor<2x4xf32>
}"""


def make_stablehlo(folder: Path) -> list[Path]:
    from anychip.core import ir

    bytecode = ir.to_bytecode(ir.parse(STABLEHLO))
    contents = {
        "a.mlir": STABLEHLO.encode(),
        "b.mlir": STABLEHLO.encode(),  # text three times: bytes cost a child process each
        "c.mlir": STABLEHLO.encode(),
        "d.mlirbc": bytecode,
        "e.stablehlo": ir.to_portable(bytecode),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


def read_stablehlo(path: Path) -> object:
    from anychip.frontends.stablehlo import load

    return load(path)


def make_saved_model(folder: Path) -> list[Path]:
    import tensorflow as tf

    module: Any = tf.Module()
    module.w = tf.Variable(np.arange(12, dtype=np.float32).reshape(4, 3))

    @tf.function(input_signature=[tf.TensorSpec([2, 4], tf.float32, name="x")])
    def call(x: Any) -> Any:
        for _ in tf.range(3):
            x = tf.tanh(x)
        return tf.nn.softmax(x @ module.w)

    module.call = call
    tf.saved_model.save(module, str(folder / "net"), signatures=call)
    return [folder / "net"]


def read_saved_model(path: Path) -> object:
    """`load_tensorflow`, its child forked from a process that has TensorFlow in memory already:
    a fresh one needs five seconds for the import alone."""
    from anychip.frontends.tensorflow import load

    load.run_module = _forked
    return _touched(load.load_tensorflow(path, timeout_s=HANG_S - 1).weights)


def _forked(
    module: str,
    arguments: list[str],
    *,
    timeout_s: float,
    what: str,
    environment: Mapping[str, str],
) -> str:
    """As core.child.run_module: death and lateness are CompileErrors."""
    import tensorflow  # noqa: F401  # before the fork

    from anychip.core import CompileError
    from anychip.frontends.tensorflow import child

    pid = os.fork()
    if pid == 0:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        code = 1
        try:
            child.main(*arguments)
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + timeout_s
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done and status == 0:
            return ""
        if done:
            raise CompileError(f"{what} died with status {status}")
        if time.monotonic() > end:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            raise CompileError(f"{what} took more than {timeout_s:g} s and was stopped")
        time.sleep(0.01)


def _touched(weights: Any) -> int:
    return sum(int(np.asarray(weights[name].array()).size) for name in weights)


FORMATS: Mapping[str, Format] = {
    "onnx": Format(make_onnx, read_onnx),
    "gguf": Format(make_gguf, read_gguf),
    "safetensors": Format(
        make_hf, read_hf, ("model.safetensors", "model.safetensors", "config.json")
    ),
    "stablehlo": Format(make_stablehlo, read_stablehlo),
    "saved_model": Format(
        make_saved_model,
        read_saved_model,
        (*["saved_model.pb"] * 3, "variables/variables.index"),
    ),
}
SHARES = {"onnx": 35, "gguf": 35, "safetensors": 15, "stablehlo": 10, "saved_model": 5}
"""Per cent of all cases: those that need a child process each are the fewest."""


def damaged(data: bytes, others: list[bytes], seed: int) -> bytes:
    """One to four edits: bytes set, flipped, cut, put in, doubled, made huge, or taken from another
    file; often near the start, where the headers are. Text gets numbers and brackets."""
    random = np.random.default_rng(seed)
    raw = bytearray(data)
    is_text = data[:1] in (b"{", b"f")
    for _ in range(int(random.choice([1, 1, 1, 2, 4]))):
        if not raw:
            break
        reach = min(len(raw), int(random.choice([16, 400, 1 << 30, 1 << 30, 1 << 30])))
        at = int(random.integers(reach))
        length = int(random.choice([1, 2, 4, 8, 50]))
        kind = int(random.integers(9))
        if kind == 0:
            raw[at] = int(random.integers(256))
        elif kind == 1:
            raw[at] ^= 1 << int(random.integers(8))
        elif kind == 2:
            del raw[at : at + length]
        elif kind == 3:
            raw[at:at] = random.bytes(length)
        elif kind == 4:
            raw[at:at] = raw[at : at + length]
        elif kind == 5:
            huge = [
                b"\xff\xff\xff\xff\x7f",
                b"\xff" * 8,
                (1 << 40).to_bytes(8, "little"),
                b"\0" * 8,
            ]
            raw[at : at + len(huge[0])] = huge[int(random.integers(len(huge)))]
        elif kind == 6 and random.random() < 0.2:
            del raw[at:]
        elif kind == 7:
            other = others[int(random.integers(len(others)))]
            start = int(random.integers(max(len(other), 1)))
            raw[at : at + length] = other[start : start + length]
        elif is_text:
            words = [b"9", b"-", b"{", b"null", b"99999999999", b"0", b"x", b'"', b"[]", b"1e999"]
            raw[at : at + 1] = words[int(random.integers(len(words)))]
    return bytes(raw)


def write_case(name: str, number: int, good: list[Path], folder: Path) -> Path:
    """Case `number` of a format, as a path to read. Equal numbers give equal files."""
    seed = [sum(name.encode()), number]
    random = np.random.default_rng(seed)
    chosen = good[int(random.integers(len(good)))]
    files = FORMATS[name].files
    place = folder / f"case{chosen.suffix}"
    edit = int(random.integers(1 << 62))
    if not files:
        others = [p.read_bytes() for p in good]
        place.write_bytes(damaged(chosen.read_bytes(), others, edit))
        return place
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(chosen, place)
    file = files[int(random.integers(len(files)))]
    others = [(chosen / other).read_bytes() for other in dict.fromkeys(files)]
    (place / file).write_bytes(damaged((chosen / file).read_bytes(), others, edit))
    return place


def work(name: str, folder: Path, start: int, stop: int) -> None:
    """In a child: read cases [start, stop), a line of JSON before and after each."""
    import warnings

    from anychip.core import AnychipError

    warnings.simplefilter("ignore")
    output = os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    good = [Path(p) for p in json.loads((folder / "good.json").read_text())]
    for path in good:  # imports, before any clock runs
        FORMATS[name].read(path)
    os.dup2(null, 2)  # what libraries say of damaged files
    for number in range(start, stop):
        path = write_case(name, number, good, folder)
        print(json.dumps({"start": number}), file=output, flush=True)
        try:
            FORMATS[name].read(path)
            outcome = "loaded"
        except AnychipError as error:
            outcome = type(error).__name__
        except Exception as error:  # what nobody made ours
            outcome = f"escaped {type(error).__name__}: {str(error)[:200]}"
        print(json.dumps({"end": number, "outcome": outcome}), file=output, flush=True)


if __name__ == "__main__":
    work(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
