"""Fixtures of tests that compile and run: an ONNX model through us and through ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from anychip.core import LanguageModel, Precision, Weights

Arrays = Mapping[str, np.ndarray]


@pytest.fixture(scope="session")
def run_onnx() -> Callable[..., list[np.ndarray]]:
    """`run_onnx(model, feeds, **load_options)` loads with our frontend and runs on cpu:xla.

    The module is specialised to the sizes of `feeds`. Returns the results in order.
    """
    from anychip.compilers.xla import XlaTarget
    from anychip.core import CompileOptions
    from anychip.frontends.onnx import load

    target = XlaTarget()

    def run(model: Any, feeds: Arrays, **options: Any) -> list[np.ndarray]:
        module = load(model, **options)
        inputs = module.signature.named("input")
        sizes: dict[str, int] = {}
        for argument in inputs:
            for dim, size in zip(argument.shape, feeds[argument.name].shape, strict=True):
                if isinstance(dim, str):
                    sizes[dim] = size
        executable = target.compile(module.specialise(sizes), CompileOptions())
        return [np.asarray(r) for r in executable.run(*(feeds[a.name] for a in inputs))]

    return run


@pytest.fixture(scope="session")
def run_onnxruntime() -> Callable[..., list[np.ndarray]]:
    """`run_onnxruntime(model, feeds)` gives ONNX Runtime's results."""
    onnxruntime = pytest.importorskip("onnxruntime")

    def run(model: Any, feeds: Arrays) -> list[np.ndarray]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            model if isinstance(model, bytes) else str(model),
            options,
            providers=["CPUExecutionProvider"],
        )
        return session.run(None, dict(feeds))

    return run


@pytest.fixture(scope="session")
def one_node() -> Callable[..., bytes]:
    """`one_node(op, arrays, outputs, attributes, domain=…, opset=…, weights=(…))` is a model.

    Arrays are the node's inputs in order, None for one that is left out; those named in `weights`
    become initializers, the others graph inputs. `types` gives outputs their element types.
    """

    def make(
        op: str,
        arrays: Mapping[str, np.ndarray | None],
        outputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        opset: int = 17,
        weights: Sequence[str] = (),
        types: Mapping[str, np.dtype] | None = None,
    ) -> bytes:
        from onnx import ValueInfoProto, helper, numpy_helper

        node = helper.make_node(
            op,
            [n if a is not None else "" for n, a in arrays.items()],
            list(outputs),
            name=f"the_{op.lower()}",
            domain=domain,
            **(attributes or {}),
        )
        given = {n: a for n, a in arrays.items() if a is not None}
        inputs = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in given.items()
            if n not in weights
        ]
        graph = helper.make_graph(
            [node],
            f"one_{op.lower()}",
            inputs,
            [
                helper.make_tensor_value_info(o, helper.np_dtype_to_tensor_dtype(types[o]), None)
                if types
                else ValueInfoProto(name=o)
                for o in outputs
                if o
            ],
            [numpy_helper.from_array(given[n], n) for n in weights],
        )
        imports = [helper.make_opsetid("", opset)]
        if domain:
            imports.append(helper.make_opsetid(domain, 3 if domain == "ai.onnx.ml" else 1))
        return helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString()

    return make


@pytest.fixture(scope="session")
def tiny() -> Callable[..., LanguageModel]:
    """`tiny(seed=0, tokenizer=None, **changes)`: a random two-layer LanguageModel, alike for equal
    seeds whatever the precision; `changes` are fields of its TransformerConfig. Equal calls without
    a tokenizer give the same object."""
    from anychip.frontends.llm import PRECISIONS, Rope, TransformerConfig, language_model
    from anychip.frontends.llm.encode import encode
    from anychip.frontends.llm.weights import weight_specs

    sizes: dict[str, Any] = {
        **{"layers": 2, "hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 96},
        **{"vocabulary": 97, "context": 64, "norm_eps": 1e-6, "rope": Rope(theta=10000.0)},
    }

    def make(seed: int = 0, tokenizer: Any = None, **changes: Any) -> LanguageModel:
        config = TransformerConfig(family="tiny", **{**sizes, **changes})

        def bind(precision: Precision) -> Weights:
            dice = np.random.default_rng(seed)
            arrays: dict[str, np.ndarray] = {}
            for spec in weight_specs(config, precision):
                scale = 1.0 if spec.name.endswith("norm") else 0.2
                values = scale * dice.standard_normal(spec.shape).astype(np.float32)
                made = encode(spec, values)
                arrays.update({a.name: m for a, m in zip(spec.arguments, made, strict=True)})
            return Weights.from_arrays(arrays)

        return language_model(
            config,
            name="tiny",
            source="made up",
            bind=bind,
            native=PRECISIONS["f32"],
            tokenizer=tokenizer,
        )

    made: dict[str, LanguageModel] = {}

    def shared(tokenizer: Any = None, **options: Any) -> LanguageModel:
        if tokenizer is not None:
            return make(tokenizer=tokenizer, **options)
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = make(**options)
        return made[key]

    return shared
