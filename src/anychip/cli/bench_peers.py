"""The runtimes that `anychip bench` sets beside ours: those that read the user's own file."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core import Module

Run = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class Peers:
    """`makers` open a peer by its name; `absent` says why another has no row."""

    makers: Mapping[str, Callable[[], Run]] = field(default_factory=dict[str, Callable[[], Run]])
    absent: Mapping[str, str] = field(default_factory=dict[str, str])


def peers(model: str, module: Module, inputs: Sequence[np.ndarray]) -> Peers:
    """Whoever reads this file itself, with default settings, in f32."""
    names = [a.name for a in module.signature.arguments if a.role != "weight"]
    suffix = Path(model).suffix
    if suffix == ".onnx":
        found = {
            "onnxruntime": lambda: _ort(model, names),
            "openvino": lambda: _ov(model, names, inputs),
        }
        return _installed(found, {"torch": "PyTorch does not run ONNX files"})
    if suffix == ".pt2":
        torch: dict[str, Callable[[], Run]] = {
            "torch": lambda: _torch(model, compiled=False),
            "torch.compile": lambda: _torch(model, compiled=True),
        }
        return _installed(torch, {})
    return Peers({}, {"peers": f"no runtime besides ours reads {Path(model).name} here"})


def _installed(found: Mapping[str, Callable[[], Run]], absent: Mapping[str, str]) -> Peers:
    makers: dict[str, Callable[[], Run]] = {}
    gone = dict(absent)
    for name, make in found.items():
        package, _, rest = name.partition(".")
        if importlib.util.find_spec(package) is None:
            gone[name] = f"{package} is not installed"
            continue
        makers[f"{package} {version(package)}{f' {rest}' * bool(rest)} on the file"] = make
    return Peers(makers, gone)


def _ort(model: str, names: Sequence[str]) -> Run:
    import onnxruntime as ort

    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def _ov(model: str, names: Sequence[str], inputs: Sequence[np.ndarray]) -> Run:
    from anychip.compilers.onnx_hosts.openvino import openvino

    core = openvino().Core()
    read_model = core.read_model(str(Path(model)))
    read_model.reshape({n: list(a.shape) for n, a in zip(names, inputs, strict=True)})
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(read_model, "CPU", config).create_infer_request()

    def run(*arrays: np.ndarray) -> Sequence[Any]:
        results = request.infer(dict(zip(names, arrays, strict=True)), share_inputs=True)
        return [results[i] for i in range(len(results))]

    return run


def _torch(model: str, *, compiled: bool) -> Run:
    """The exported program as PyTorch itself runs it, eagerly or through torch.compile."""
    import torch
    from torch.utils import _pytree as pytree

    program = torch.export.load(model)
    called: Any = program.module()
    if compiled:
        called = torch.compile(called)
    example = program.example_inputs
    spec = pytree.tree_structure(example) if example is not None else None

    def run(*arrays: np.ndarray) -> Sequence[Any]:
        tensors = [torch.from_numpy(np.ascontiguousarray(a)) for a in arrays]
        args, kwargs = pytree.tree_unflatten(tensors, spec) if spec else (tensors, {})
        with torch.inference_mode():
            return [t.numpy() for t in pytree.tree_leaves(called(*args, **kwargs))]

    return run
