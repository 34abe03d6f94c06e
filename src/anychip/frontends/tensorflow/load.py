"""SavedModel folders, `.keras` files, Keras models and `tf.function`s → Module.

TensorFlow's own XLA bridge does the lowering, in a child process. Sizes are fixed at load time; for
a symbolic batch use Keras on its JAX backend.
"""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core import (
    Argument,
    InputError,
    Module,
    OpCoverage,
    Origin,
    Result,
    Signature,
    UnsupportedError,
    UsageError,
    Weight,
    Weights,
    dtype,
    ir,
    missing_extra,
)
from anychip.core.child import run_module
from anychip.frontends.tensorflow.child import OPEN, output_names, with_dims

Shapes = Mapping[str, Sequence[int]]


def load_tensorflow(
    model: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    shapes: Shapes | None = None,
    dims: Mapping[str, int] | None = None,
    signature: str = "",
    timeout_s: float = 300.0,
) -> Module:
    """A Module of one signature at fixed sizes.

    `model` is a SavedModel folder, a `.keras` file, a Keras model, or a `tf.function`. Open
    dimensions are settled by `example_inputs` (one array, arrays in input order, or by name), by
    `shapes`, or one by one by `dims`: `{"x_0": 2}` is the first of the input x.
    Variables become named weights; variables the model assigns become state.
    Raises UsageError for open dimensions, UnsupportedError for what XLA cannot express (its own
    message is in the error), CompileError when TensorFlow dies.
    """
    _require_tensorflow()
    if example_inputs is not None and not isinstance(example_inputs, Mapping | list | tuple):
        example_inputs = (example_inputs,)  # one array, not a sequence of its rows
    with tempfile.TemporaryDirectory(prefix="anychip-tf-") as folder:
        work = Path(folder)
        path, names, titles = _on_disk(model, example_inputs, shapes, dims or {}, work)
        job = {
            "path": str(path),
            "signature": signature,
            "shapes": {} if names else _shapes(example_inputs, shapes),
            "dims": {} if names else dict(dims or {}),
        }
        (work / "job.json").write_text(json.dumps(job))
        run_module(
            "anychip.frontends.tensorflow.child",
            [str(work / "job.json")],
            timeout_s=timeout_s,
            what=f"TensorFlow's XLA bridge on {path.name}",
            environment={"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"},
        )
        result = json.loads((work / "result.json").read_text())
        if "error" in result:
            raise _error(result, Path(path.name) if names else path)
        result["inputs"] = names or result["inputs"]
        result["outputs"] = titles or result["outputs"]
        return _module(result, work, path.stem)


def _require_tensorflow() -> None:
    from importlib.util import find_spec

    if find_spec("tensorflow") is None:
        raise missing_extra("tensorflow-cpu", "tensorflow", "reading TensorFlow and Keras models")


def _on_disk(
    model: Any, example_inputs: Any, shapes: Shapes | None, dims: Mapping[str, int], work: Path
) -> tuple[Path, list[str], list[str]]:
    """The model as a folder or file; names of inputs and outputs when it was a live object."""
    if isinstance(model, str | Path):
        path = Path(model)
        is_saved_model = path.is_dir() and (path / "saved_model.pb").is_file()
        if not is_saved_model and not (path.suffix == ".keras" and path.is_file()):
            raise InputError("neither a SavedModel folder nor a .keras file", path=str(path))
        return path, [], []
    import tensorflow as tf

    names, specs, call = _live(model, example_inputs, shapes, dims, tf)

    titles: list[str] = []

    @tf.function(input_signature=specs, autograph=False)
    def flat(*inputs: Any) -> dict[str, Any]:
        outputs = call(*inputs)
        titles[:] = output_names(outputs, tf)
        return {f"output_{i:03}": t for i, t in enumerate(tf.nest.flatten(outputs))}

    holder: Any = tf.Module()
    holder.flat = flat
    holder.kept = list(flat.get_concrete_function().graph.variables)  # or saving refuses them
    target = work / (getattr(model, "name", "") or type(model).__name__)
    options = tf.saved_model.SaveOptions(save_debug_info=True)  # lines for the list of what fails
    tf.saved_model.save(holder, str(target), signatures=flat, options=options)
    return target, names, titles


def _live(
    model: Any, example_inputs: Any, shapes: Shapes | None, dims: Mapping[str, int], tf: Any
) -> tuple[list[str], list[Any], Any]:
    """Input names, static TensorSpecs named by position, and a callable over tensors."""
    is_keras, title = hasattr(model, "stateless_call"), type(model).__name__
    if not is_keras and not hasattr(model, "get_concrete_function"):
        raise UsageError(
            f"{title} is no Keras model and no tf.function; pass one of its tf.functions, or the "
            "folder that tf.saved_model.save makes of it"
        )
    says_inputs = is_keras and bool(getattr(model, "inputs", None))  # a subclass says none
    if says_inputs:
        names = [i.name for i in model.inputs]
        declared = [(list(i.shape), i.dtype) for i in model.inputs]
    elif example_inputs is None:
        raise UsageError(
            f"a {title} needs example_inputs: arrays in its parameters' order, or by name"
        )
    else:
        is_named = isinstance(example_inputs, Mapping)
        arrays = [np.asarray(a) for a in (example_inputs.values() if is_named else example_inputs)]
        names = list(example_inputs) if is_named else [f"input_{i}" for i in range(len(arrays))]
        declared = [(list(a.shape), a.dtype) for a in arrays]
    wanted = _shapes(example_inputs, shapes)
    sized: list[Any] = []
    rest = dict(dims)
    for index, (name, (shape, element)) in enumerate(zip(names, declared, strict=True)):
        shape = with_dims(name, wanted.pop(name, wanted.pop(f"#{index}", shape)), rest)
        if None in shape:
            raise UsageError(f"input {name} has open dimensions {shape}. {OPEN}")
        sized.append(tf.TensorSpec(shape, element, name=f"input_{index:03}"))
    if wanted:
        raise UsageError(f"shapes given for {sorted(wanted)}, but the inputs are {names}")
    if rest:
        raise UsageError(f"no open dimensions are called {', '.join(rest)}")

    def call(*tensors: Any) -> Any:
        if not says_inputs and isinstance(example_inputs, Mapping):
            named = dict(zip(names, tensors, strict=True))
            return model(named, training=False) if is_keras else model(**named)
        if not is_keras:
            return model(*tensors)
        if len(tensors) == 1 or (not says_inputs and _positional(model.call) >= len(tensors)):
            return model(*tensors, training=False)
        return model(list(tensors), training=False)

    if is_keras and not model.built:
        call(*(tf.zeros(one.shape, one.dtype) for one in sized))  # it makes its weights now
    return names, sized, call


def _positional(function: Any) -> int:
    """How many tensors a layer's `call` takes one by one."""
    parameters = inspect.signature(function).parameters.values()
    return sum(
        p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("training", "mask") for p in parameters
    )


def _shapes(example_inputs: Any, shapes: Shapes | None) -> dict[str, list[int]]:
    if shapes is not None and example_inputs is not None:
        raise UsageError("give example_inputs or shapes, not both")
    if shapes is not None:
        for name, shape in shapes.items():
            if not all(isinstance(d, int | np.integer) for d in shape):
                raise UsageError(
                    f"shapes gives {name} as {list(shape)}; TensorFlow's bridge takes numbers only "
                    "(a Keras model on its JAX backend, KERAS_BACKEND=jax, takes names, too)"
                )
        return {name: [int(d) for d in shape] for name, shape in shapes.items()}
    if example_inputs is None:
        return {}
    if isinstance(example_inputs, Mapping):
        return {name: list(np.shape(a)) for name, a in example_inputs.items()}
    return {f"#{i}": list(np.shape(a)) for i, a in enumerate(example_inputs)}


def _error(result: Mapping[str, Any], path: Path) -> Exception:
    if result["kind"] == "usage":
        return UsageError(f"{path}: {result['error']}")
    if result["kind"] == "input":
        return InputError(f"TensorFlow cannot read it: {result['error']}", path=str(path))
    if rows := result.get("missing"):
        return _listed(path, rows)
    return UnsupportedError(
        f"TensorFlow's XLA bridge cannot compile {path}: {result['error']}\n"
        "Ops on text, files, or with data-dependent sizes must stay outside the exported function."
    )


def _module(result: Mapping[str, Any], work: Path, name: str) -> Module:
    parsed = ir.parse((work / "module.mlirbc").read_bytes(), foreign=["mhlo.copy"])
    with parsed.context:
        _strip_copies(parsed)
        _reject_bounded(parsed, Path(name), result["sized_by_data"])
        aliases = _aliases(parsed)
        attributes = parsed.operation.attributes
        for key in [key for key in attributes if key.startswith("mhlo.")]:
            del attributes[key]
        base = Module.from_mlir(parsed, name=name)
    names = [*result["inputs"], *_unique(c["name"] for c in result["captured"])]
    weights: list[Weight] = []
    arguments: list[Argument] = []
    for index, (argument, label) in enumerate(zip(base.signature.arguments, names, strict=True)):
        position = index - len(result["inputs"])
        is_state = index in aliases
        role = "input" if position < 0 else ("state" if is_state else "weight")
        arguments.append(replace(argument, name=label, role=role))
        if position >= 0:
            array = np.load(work / "weights" / f"{position}.npy", allow_pickle=False)
            weights.append(_weight(label, array, argument))
    updated = {output: names[argument] for argument, output in aliases.items()}
    labels = iter(result["outputs"])
    results: list[Result] = []
    for index, one in enumerate(base.signature.results):
        if index in updated:
            results.append(replace(one, name=f"{updated[index]}.next", updates=updated[index]))
        else:
            results.append(replace(one, name=next(labels)))
    return Module.from_mlir(
        base.bytecode,
        name=name,
        signature=Signature(tuple(arguments), tuple(results)),
        weights=Weights(tuple(weights)),
    )


def _weight(name: str, array: np.ndarray, argument: Argument) -> Weight:
    expected = dtype(argument.dtype).numpy
    if array.dtype != expected:  # numpy files store bfloat16 and friends as raw bytes
        array = array.view(expected)
    return Weight(
        name, tuple(array.shape), argument.dtype, read=lambda: array, stored_as=argument.dtype
    )


def _unique(names: Any) -> list[str]:
    seen: dict[str, int] = {}
    out: list[str] = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return out


def _strip_copies(parsed: Any) -> None:
    """`mhlo.copy` is a no-op on values; StableHLO has no such op."""
    for operation in list(_walk(parsed.operation)):
        if operation.name == "mhlo.copy":
            operation.results[0].replace_all_uses_with(operation.operands[0])
            operation.erase()


def _reject_bounded(parsed: Any, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """XLA would pad a result whose size depends on the data, in silence."""
    bounded = [
        operation.name
        for operation in _walk(parsed.operation)
        if any("#stablehlo.bounds" in str(value.type) for value in operation.results)
    ]
    if bounded:
        why = "its size depends on the data; use a form with a fixed size"
        other = {"op": bounded[0], "count": len(bounded), "layer": "", "source": "", "why": why}
        raise _listed(path, rows or [other])


def _listed(path: Path, rows: Sequence[Mapping[str, Any]]) -> UnsupportedError:
    report = [
        OpCoverage(
            op=row["op"],
            fate="unsupported",
            count=row["count"],
            origin=Origin(row["layer"], row["source"]),
            why=row["why"],
        )
        for row in rows
    ]
    lines = [f"  {r.op} × {r.count} at {r.origin}: {r.why}" for r in report]
    return UnsupportedError(
        f"{path}: {len(rows)} thing(s) cannot be compiled by XLA:\n" + "\n".join(lines),
        report=report,
    )


def _aliases(parsed: Any) -> dict[int, int]:
    """Argument index → result index of the variables that the function assigns."""
    import re

    attributes = parsed.operation.attributes
    if "mhlo.input_output_alias" not in attributes:
        return {}
    text = str(attributes["mhlo.input_output_alias"])
    pairs = re.findall(
        r"parameter_number = (\d+) : i64\}, output_index = array<i64(?:: (\d+))?>", text
    )
    return {int(argument): int(result or 0) for argument, result in pairs}


def _walk(operation: Any):
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield from _walk(inner.operation)
                yield inner.operation
