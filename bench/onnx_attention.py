"""Attention in ONNX: the op of opset 23, or the products and the softmax that runtimes fuse?

    python bench/onnx_attention.py [--json FILE]

Four layers of projections and attention as an encoder has them, written both ways, in f32, on ONNX
Runtime and OpenVINO in turns. ratio = spelled out ÷ op: above 1, the op is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from anychip.compilers.onnx_hosts.openvino import openvino
from anychip.core import machine_name

SHAPES = {"bert-base": (12, 128, 64), "vit-tiny": (3, 197, 64), "long": (8, 1024, 64)}
"""Heads, tokens, width of a head."""
LAYERS = 4


def model(heads: int, tokens: int, width: int, *, as_op: bool) -> Any:
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(0)
    size = heads * width
    nodes: list[Any] = []
    constants: dict[str, np.ndarray] = {
        "split": np.array([1, tokens, heads, width]),
        "join": np.array([1, tokens, size]),
        "scale": np.array(width**-0.5, np.float32),
    }

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    x = "x"
    for layer in range(LAYERS):
        parts: list[str] = []
        for part in "qkv":
            name = f"{part}{layer}"
            weight = random.standard_normal((size, size)) * size**-0.5
            constants[f"w{name}"] = weight.astype(np.float32)
            made = node("MatMul", [x, f"w{name}"], f"m{name}")
            made = node("Reshape", [made, "split"], f"s{name}")
            parts.append(node("Transpose", [made], name, perm=[0, 2, 1, 3]))
        q, k, v = parts
        if as_op:
            out = node("Attention", [q, k, v], f"a{layer}", scale=width**-0.5)
        else:
            turned = node("Transpose", [k], f"t{layer}", perm=[0, 1, 3, 2])
            scores = node("MatMul", [q, turned], f"l{layer}")
            scores = node("Mul", [scores, "scale"], f"c{layer}")
            out = node("MatMul", [node("Softmax", [scores], f"p{layer}"), v], f"a{layer}")
        out = node("Transpose", [out], f"b{layer}", perm=[0, 2, 1, 3])
        x = node("Add", [x, node("Reshape", [out, "join"], f"j{layer}")], f"x{layer}")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "attention",
        [value("x", TensorProto.FLOAT, [1, tokens, size])],
        [value(x, TensorProto.FLOAT, [1, tokens, size])],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def runs(x: np.ndarray, proto: Any) -> dict[str, Callable[[], np.ndarray]]:
    import onnxruntime as ort

    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    ov = openvino()
    read = ov.Core().read_model(proto.SerializeToString())
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(read, "CPU", hints).create_infer_request()
    return {
        "onnxruntime": lambda: session.run(None, {"x": x})[0],
        "openvino": lambda: request.infer([x], share_inputs=True)[0],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name, (heads, tokens, width) in SHAPES.items():
        x = np.random.default_rng(1).standard_normal((1, tokens, heads * width)).astype(np.float32)
        both = {as_op: runs(x, model(heads, tokens, width, as_op=as_op)) for as_op in (False, True)}
        for runtime in both[True]:
            op, spelled = both[True][runtime], both[False][runtime]
            apart = float(np.abs(op() - spelled()).max() / np.abs(spelled()).max())
            samples: dict[str, list[float]] = {"op": [], "spelled out": []}
            began = time.perf_counter()
            while len(samples["op"]) < 5 or time.perf_counter() - began < options.seconds:
                for how, run in (("op", op), ("spelled out", spelled)):
                    time.sleep(0.01)
                    run()
                    start = time.perf_counter()
                    run()
                    samples[how].append(time.perf_counter() - start)
            medians = {how: statistics.median(s) for how, s in samples.items()}
            ratio = statistics.median(
                s / o for s, o in zip(samples["spelled out"], samples["op"], strict=True)
            )
            row = {"shape": name, "runtime": runtime, "ratio": ratio, "apart": apart}
            rows.append({**row, "median_s": medians, "samples_s": samples})
            times = ", ".join(f"{how} {m * 1e3:.2f} ms" for how, m in medians.items())
            print(f"{name} on {runtime}: ratio {ratio:.3f}, {times}, {apart:.1e} apart")
    if options.json:
        packages = ("onnxruntime", "openvino", "onnx")
        document = {
            "machine": machine_name(),
            "versions": {p: version(p) for p in packages},
            "rows": rows,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
