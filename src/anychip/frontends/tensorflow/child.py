"""Runs in a child process: one SavedModel or Keras file → StableHLO, weights and names in a folder.

Imports TensorFlow and no other framework, since TensorFlow may abort the process. The parent reads
`result.json`: either {"error": …, "kind": …} or the fields that `export` returns.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anychip.frontends.tensorflow.missing import missing, sized_by_data


def main(job_path: str) -> None:
    """Do the job described in this JSON file and leave `result.json` beside it."""
    job = json.loads(Path(job_path).read_text())
    out = Path(job_path).parent
    try:
        result = export(job, out)
    except Refused as error:
        result = {"error": str(error), "kind": error.kind, "missing": error.missing}
    except Exception as error:  # TensorFlow raises anything; the parent turns it into our error
        result = {"error": f"{type(error).__name__}: {error}", "kind": "tensorflow"}
    (out / "result.json").write_text(json.dumps(result))


class Refused(Exception):
    """The user's input is at fault. `kind` is "usage", "input" (a file that cannot be read) or
    "unsupported"; `missing` are the ops that XLA does not have."""

    def __init__(
        self, message: str, kind: str = "usage", missing: list[dict[str, Any]] | None = None
    ):
        self.kind, self.missing = kind, missing or []
        super().__init__(message)


def export(job: dict[str, Any], out: Path) -> dict[str, Any]:
    """Compile one signature for static shapes; weights go to `weights/<n>.npy`."""
    import numpy as np
    import tensorflow as tf

    function, specs, structure = _entry(job, tf)
    compiled = tf.function(function, jit_compile=True, autograph=False)
    concrete = compiled.get_concrete_function(*specs)
    stablehlo = _lowered(compiled, concrete, specs, Path(job["path"]))
    (out / "module.mlirbc").write_bytes(stablehlo)
    captured = [_captured(c, concrete.graph.variables, tf) for c in concrete.captured_inputs]
    (out / "weights").mkdir(exist_ok=True)
    for index, (_, _, value) in enumerate(captured):
        np.save(out / "weights" / f"{index}.npy", value, allow_pickle=False)
    outputs = concrete.structured_outputs
    return {
        "inputs": [s.name for s in specs],
        "outputs": output_names(outputs, tf),
        "captured": [{"name": name, "variable": variable} for name, variable, _ in captured],
        "signature": structure,
        "sized_by_data": sized_by_data(concrete, Path(job["path"])),
    }


def _lowered(compiled: Any, concrete: Any, specs: list[Any], path: Path) -> bytes:
    try:
        return compiled.experimental_get_compiler_ir(*specs)(stage="stablehlo_serialized")
    except Exception as error:  # a message of another kind says more than a list of ops
        rows = missing(concrete, path) if "unsupported operations" in str(error) else []
        raise Refused(f"{type(error).__name__}: {error}", "unsupported", rows) from error


def _entry(job: dict[str, Any], tf: Any) -> tuple[Any, list[Any], str]:
    """The function to compile, its static TensorSpecs in order, and the signature's name."""
    path = job["path"]
    if path.endswith(".keras"):
        import keras

        model: Any = _read(lambda: keras.models.load_model(path, compile=False))
        names: list[str] = [i.name for i in model.inputs]
        given = [tf.TensorSpec(i.shape, i.dtype, name=i.name) for i in model.inputs]

        def call(*tensors: Any) -> Any:
            return model(tensors[0] if len(tensors) == 1 else list(tensors), training=False)

        return call, _sized(given, job, names), "keras"
    loaded = _read(lambda: tf.saved_model.load(path))
    signatures = dict(loaded.signatures)
    name = job["signature"] or ("serving_default" if "serving_default" in signatures else None)
    if name is None and len(signatures) == 1:
        name = next(iter(signatures))
    if name is None or name not in signatures:
        raise Refused(f"the SavedModel has signatures {sorted(signatures)}, not {name!r}")
    function = signatures[name]
    keywords = function.structured_input_signature[1]
    names = sorted(keywords)
    given = [tf.TensorSpec(keywords[n].shape, keywords[n].dtype, name=n) for n in names]
    specs = _sized(given, job, names)

    def call_signature(*tensors: Any) -> Any:
        return function(**dict(zip(names, tensors, strict=True)))

    call_signature.kept = loaded  # type: ignore[attr-defined]  # variables die with their module
    return call_signature, specs, name


def _read(load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # TensorFlow raises anything for a damaged file
        raise Refused(f"{type(error).__name__}: {error}", "input") from error


def _sized(given: list[Any], job: dict[str, Any], names: list[str]) -> list[Any]:
    import tensorflow as tf

    by_position: dict[str, Any] = {f"#{i}": name for i, name in enumerate(names)}
    wanted: dict[str, Any] = {
        by_position.get(name, name): shape for name, shape in job["shapes"].items()
    }
    extra = sorted(set(wanted) - set(names))
    if extra:
        raise Refused(f"shapes given for {extra}, but the inputs are {names}")
    dims = dict(job.get("dims", {}))
    specs: list[Any] = []
    unknown: list[str] = []
    for spec, name in zip(given, names, strict=True):
        shape = wanted.get(name)
        if spec.dtype == tf.string:
            raise Refused(
                f"input {name} is text; do the text processing before the model", "unsupported"
            )
        if shape is None and spec.shape.rank is not None:
            shape = with_dims(name, spec.shape.as_list(), dims)
        if shape is None or None in shape:
            unknown.append(f"{name} {spec.shape}")
            continue
        if not tf.TensorShape(shape).is_compatible_with(spec.shape):
            raise Refused(f"input {name} has shape {spec.shape}, which {shape} does not fit")
        specs.append(tf.TensorSpec(shape, spec.dtype, name=name))
    if unknown:
        raise Refused(f"these inputs have open dimensions: {', '.join(unknown)}. {OPEN}")
    if dims:
        raise Refused(f"no open dimensions are called {', '.join(dims)}")
    return specs


OPEN = (
    "Give example inputs, their shapes, or dims by input and axis: the first of x is x_0 "
    "(--dim x_0=1 on the command line)"
)


def with_dims(name: str, shape: Sequence[int | None], dims: dict[str, int]) -> list[int | None]:
    """The shape with open dimensions filled from `dims`, which loses what is used."""
    return [dims.pop(f"{name}_{i}", None) if d is None else d for i, d in enumerate(shape)]


def _captured(captured: Any, variables: Any, tf: Any) -> tuple[str, bool, Any]:
    if captured.dtype != tf.resource:
        return "constant", False, captured.numpy()
    for variable in variables:
        if variable.handle is captured:
            return getattr(variable, "path", variable.name).split(":")[0], True, variable.numpy()
    raise Refused(
        "the model uses a lookup table or another resource that is no variable", "unsupported"
    )


def output_names(outputs: Any, tf: Any) -> list[str]:
    if isinstance(outputs, dict):
        return [
            f"{key}" if not isinstance(value, list | tuple | dict) else f"{key}.{i}"
            for key in sorted(outputs)
            for value in [outputs[key]]
            for i, _ in enumerate(tf.nest.flatten(value))
        ]
    return [f"output_{i}" for i, _ in enumerate(tf.nest.flatten(outputs))]


if __name__ == "__main__":
    main(sys.argv[1])
