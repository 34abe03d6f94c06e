"""A Module as an int8 TFLite file, by TensorFlow's converter in a child process.

The weights become constants. Ranges are calibrated on samples: the user's, else standard normals,
which say little of a real model's accuracy. The quantised file is run on the samples by the TFLite
interpreter, so that its distance from the module is known.

API of TensorFlow used, seen in 2.21: the op `xla_call_module` (its module is a portable StableHLO
artifact, its version 9), and `lite.TFLiteConverter` and `lite.Interpreter`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from anychip.core import Argument, Module, UnsupportedError, UsageError, ir

ENVIRONMENT = {"TF_CPP_MIN_LOG_LEVEL": "2", "CUDA_VISIBLE_DEVICES": "-1"}


@dataclass(frozen=True)
class Converted:
    """`sqnr_db` is each result's signal over the distance from f32, on the samples.

    `refusal` is the converter's message when it said no; the rest is then empty.
    """

    file: bytes = b""
    sqnr_db: tuple[float, ...] = ()
    refusal: str = ""


def portable(module: Module, bytecode: bytes) -> bytes:
    """The module as TensorFlow reads it: a portable artifact of a version 12 weeks back.

    Raises UnsupportedError for arguments or results that a quantised graph has no place for.
    """
    for one in (*module.signature.arguments, *module.signature.results):
        if one.dtype not in ("f32", "i32", "i64", "i1"):
            raise UnsupportedError(
                f"{module.name} cannot be quantised to int8: {one.name} is {one.dtype}; load the "
                "model in f32"
            )
    flat = ir.run_passes(
        bytecode, "builtin.module(func.func(stablehlo-legalize-composite-to-call))"
    )
    return ir.to_portable(flat, weeks_back=True)


def samples(module: Module, given: str, count: int = 8) -> list[list[np.ndarray]]:
    """Inputs to calibrate on: from an .npz of [samples, …] arrays by input name, or made up.

    Raises UsageError for a file that does not have them.
    """
    wanted = [a for a in module.signature.arguments if a.role != "weight"]
    if not given:
        rng = np.random.default_rng(0)
        return [
            [
                rng.standard_normal(_sizes(a)).astype(np.float32)
                if a.dtype == "f32"
                else np.zeros(_sizes(a), {"i1": np.bool_, "i32": np.int32}.get(a.dtype, np.int64))
                for a in wanted
            ]
            for _ in range(count)
        ]
    try:
        stored = dict(np.load(given, allow_pickle=False))
        return [
            [stored[a.name][i].astype(stored[a.name].dtype) for a in wanted]
            for i in range(min(len(stored[a.name]) for a in wanted))
        ]
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(
            f"calibration={given!r} should be an .npz with an array [samples, …] for each of "
            f"{', '.join(a.name for a in wanted)}: {error}"
        ) from None


def _sizes(argument: Argument) -> tuple[int, ...]:
    return tuple(int(d) for d in argument.shape)


def convert(
    artifact: bytes,
    roles: Sequence[np.ndarray | None],
    kinds: Sequence[tuple[tuple[int, ...], str]],
    results: Sequence[tuple[tuple[int, ...], str]],
    calibration: Sequence[Sequence[np.ndarray]],
) -> Converted:
    """In the child. `roles` has each argument's weight, None for inputs; `kinds` are theirs."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    warnings.simplefilter("ignore")  # the converter's own: TFLite moves to another package
    tf: Any = import_module("tensorflow")
    xla: Any = import_module("tensorflow.compiler.tf2xla.ops.gen_xla_ops")

    types: dict[str, Any] = {"f32": tf.float32, "i32": tf.int32, "i64": tf.int64, "i1": tf.bool}

    model = tf.Module()
    model.held = [None if w is None else tf.Variable(w) for w in roles]

    def call(*inputs: Any) -> Any:
        given = iter(inputs)
        return xla.xla_call_module(
            args=[next(given) if held is None else held for held in model.held],
            version=9,
            module=artifact,
            Tout=[types[kind] for _, kind in results],
            Sout=[shape for shape, _ in results],
            platforms=["CPU"],
            dim_args_spec=[],
            function_list=[],
            has_token_input_output=False,
            disabled_checks=[],
        )

    traced = tf.function(call, autograph=False).get_concrete_function(
        *(tf.TensorSpec(shape, types[kind]) for shape, kind in kinds)
    )
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: iter(calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        file = converter.convert()
    except Exception as error:  # the converter raises what its passes raise
        return Converted(refusal=str(error))
    exact = [[np.asarray(r) for r in traced(*map(tf.constant, sample))] for sample in calibration]
    return Converted(file, _distances(tf, file, calibration, exact))


def _distances(
    tf: Any,
    file: bytes,
    calibration: Sequence[Sequence[np.ndarray]],
    exact: Sequence[Sequence[np.ndarray]],
) -> tuple[float, ...]:
    """10 log10 of signal over error, a result at a time, over all samples."""
    plain = tf.lite.experimental.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = tf.lite.Interpreter(model_content=file, experimental_op_resolver_type=plain)
    interpreter.allocate_tensors()
    ins, outs = interpreter.get_input_details(), interpreter.get_output_details()
    ins = sorted(ins, key=lambda one: one["name"])  # serving_default_inputs_0:0, …_1:0
    signal, error = np.zeros(len(outs)), np.zeros(len(outs))
    for sample, wanted in zip(calibration, exact, strict=True):
        for one, array in zip(ins, sample, strict=True):
            scale, zero = one["quantization"]
            stored = np.round(array / scale) + zero if scale else array
            if scale:
                stored = np.clip(stored, -128, 127)
            interpreter.set_tensor(one["index"], stored.astype(one["dtype"]))
        interpreter.invoke()
        for index, (one, exactly) in enumerate(zip(outs, wanted, strict=True)):
            scale, zero = one["quantization"]
            got = interpreter.get_tensor(one["index"]).astype(np.float64)
            got = (got - zero) * scale if scale else got
            signal[index] += float(np.sum(exactly.astype(np.float64) ** 2))
            error[index] += float(np.sum((got - exactly) ** 2))
    with np.errstate(divide="ignore"):
        return tuple(float(x) for x in 10 * np.log10(signal / np.maximum(error, 1e-300)))
