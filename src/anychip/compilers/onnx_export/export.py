"""Export a Module: walk `main`, ask each op's rule for nodes, drop what nothing reads."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from anychip.compilers.onnx_export.convolution import join_biases
from anychip.compilers.onnx_export.element import onnx_type
from anychip.compilers.onnx_export.graph import Graph, Tensor, read_by
from anychip.compilers.onnx_export.lacks import why
from anychip.compilers.onnx_export.pairs import is_complex, write
from anychip.compilers.onnx_export.table import COMPOSITE_RULES, rules
from anychip.core import Module, OpCoverage, Origin, UnsupportedError, Weight, dtype
from anychip.ops.composite import PREFIX
from anychip.ops.view import Block, OpView, Program, Value, program

OPSET = 23
"""The first with Attention and RMSNormalization."""


@dataclass(frozen=True)
class Exported:
    """`model` is an onnx.ModelProto whose initializers named in `weights` have no data.

    They are marked as external data of a file `weights`, which does not exist: give the runtime
    the arrays, or write them with `self_contained`. `origins` says where each node comes from.
    """

    model: Any = field(repr=False)
    weights: Mapping[str, Weight] = field(repr=False)
    origins: Mapping[str, Origin] = field(repr=False)

    def self_contained(self) -> Any:
        """A copy of the model with every weight inside (protobuf holds at most 2 GiB)."""
        import onnx
        from onnx import numpy_helper

        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        for one in copy.graph.initializer:
            if one.name in self.weights:
                one.CopyFrom(numpy_helper.from_array(self.weights[one.name].array(), one.name))
        return copy

    def save(self, folder: Path) -> Path:
        """Write `model.onnx` and, beside it, `weights`; returns the first's path."""
        import onnx

        copy = onnx.ModelProto()
        copy.CopyFrom(self.model)
        with open(folder / "weights", "wb") as file:
            for one in copy.graph.initializer:
                if one.name in self.weights:
                    file.seek(-(-file.tell() // _ALIGNED) * _ALIGNED)
                    for entry in one.external_data:
                        if entry.key == "offset":
                            entry.value = str(file.tell())
                    file.write(np.ascontiguousarray(self.weights[one.name].array()).tobytes())
        path = folder / "model.onnx"
        path.write_bytes(copy.SerializeToString())
        return path


_ALIGNED = 4096
"""Where each weight starts in the file, so that it can be mapped."""


DOORS: Mapping[str, str] = {
    "bf16": "f32",
    **{f"f8{kind}": "f32" for kind in ("E4M3FN", "E4M3FNUZ", "E5M2", "E5M2FNUZ")},
    "f4E2M1FN": "f32",
    "i4": "i8",
    "ui4": "ui8",
}
"""Element types that NumPy lacks, and a wider one that holds each of their values exactly."""


def export(
    module: Module,
    *,
    fused: bool | Collection[str] = True,
    doors: bool = False,
    gates: bool = False,
) -> Exported:
    """The module as ONNX, composites as ONNX's own ops or by their bodies.

    `fused` says which have an op: all, none, or those of these names.

    With `doors`, inputs, weights and results of types that NumPy lacks go in and out as DOORS
    says, and are converted inside. With `gates`, HardSigmoid is one node: ONNX Runtime's
    convolutions take that in, OpenVINO's take in an addition, a Clip and a division.
    Raises UnsupportedError that lists every kind of op ONNX cannot express, with its place.
    """
    import onnx
    from onnx import helper

    read = program(module)
    graph = Graph(module.name, gates=gates)
    walker = _Walker(read, graph, fused)
    arguments: list[Tensor] = []
    inputs: list[Any] = []
    weights: dict[str, Weight] = {}
    external: list[Any] = []
    for argument, value in zip(module.signature.arguments, read.main.arguments, strict=True):
        known = _small(argument, module.weights)
        if known is not None:
            name = graph.constant(known)
            arguments.append(Tensor(name, known.shape, known.shape, argument.dtype))
            continue
        name = graph.reserve(argument.name)
        graph.sizes[name] = value.spec.shape
        arguments.append(Tensor(name, value.spec.shape, value.spec.shape, value.spec.dtype))
        door = DOORS.get(argument.dtype, argument.dtype) if doors else argument.dtype
        if argument.role == "weight" and argument.name in module.weights:
            weights[name] = _widened(module.weights[argument.name], door)
            external.append(_by_name(name, replace(argument, dtype=door), weights[name].nbytes))
            graph.constants.add(name)
        else:
            kind = onnx_type(door, f"argument {argument.name}")
            inputs.append(helper.make_tensor_value_info(name, kind, argument.shape))
        if door != argument.dtype:
            arguments[-1] = replace(arguments[-1], name=graph.cast(name, argument.dtype))
    results = walker.block(read.main, dict(zip(read.main.arguments, arguments, strict=True)), "")
    if walker.refused:
        raise _unsupported(module.name, walker.refused)
    outputs: list[Any] = []
    taken: set[str] = {i.name for i in inputs} | set(weights)
    for result, tensor in zip(module.signature.results, results, strict=True):
        name = graph.whole(tensor)
        if doors and result.dtype in DOORS:
            result = replace(result, dtype=DOORS[result.dtype])
            name = graph.cast(name, result.dtype)
        name = graph.node("Identity", [name], origin=Origin())
        outputs.append((name, result))
    graph.drop_unread([name for name, _ in outputs])
    join_biases(graph, {name for name, _ in outputs})
    graph.skip_identities({name for name, _ in outputs}, taken)
    values = [
        helper.make_tensor_value_info(
            name, onnx_type(r.dtype, f"result {r.name}"), [_dim(d) for d in r.shape]
        )
        for name, r in outputs
    ]
    used = {name for node in graph.nodes for name in read_by(node)}
    kept = [e for e in external if e.name in used]
    proto = helper.make_graph(
        graph.nodes,
        module.name or "module",
        inputs,
        values,
        initializer=[c for c in graph.initializers if c.name in used] + kept,
    )
    model = helper.make_model(
        proto,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=11,
        producer_name="anychip",
    )
    assert isinstance(model, onnx.ModelProto)
    names = {e.name for e in kept}
    return Exported(model, {n: w for n, w in weights.items() if n in names}, graph.origins)


def _widened(weight: Weight, door: str) -> Weight:
    if door == weight.dtype or weight.read is None:
        return weight
    wide = dtype(door).numpy
    return replace(weight, dtype=door, read=lambda: weight.array().astype(wide))


_SMALL_BYTES = 1 << 14


def _small(argument: Any, weights: Any) -> np.ndarray | None:
    """A small weight's value: it goes into the model, and what it alone decides is computed."""
    if argument.role != "weight" or argument.name not in weights:
        return None
    weight = weights[argument.name]
    if weight.read is None or weight.nbytes > _SMALL_BYTES or weight.dtype not in _FOLDED:
        return None
    return weight.array()


_FOLDED = ("f32", "f64", "i32", "i64", "i1")


def _dim(dim: Any) -> Any:
    """A result's derived size (`2*batch`) has no name in ONNX that would help."""
    return dim if isinstance(dim, int) or str(dim).isidentifier() else None


def _by_name(name: str, argument: Any, size: int) -> Any:
    from onnx import TensorProto

    tensor = TensorProto(name=name, data_type=onnx_type(argument.dtype, f"weight {argument.name}"))
    tensor.dims.extend(argument.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights"), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _unsupported(name: str, refused: list[tuple[str, Origin, str]]) -> UnsupportedError:
    rows: dict[tuple[str, Origin, str], int] = {}
    for key in refused:
        rows[key] = rows.get(key, 0) + 1
    lines = [f"  {n} × {op}, at {origin}: {why}" for (op, origin, why), n in rows.items()]
    report = tuple(
        OpCoverage(op=op, fate="unsupported", count=n, origin=origin, why=why)
        for (op, origin, why), n in rows.items()
    )
    return UnsupportedError(
        f"{name} cannot be written as ONNX (opset {OPSET}):\n" + "\n".join(lines) + "\n"
        "Use a target that compiles StableHLO itself, such as cpu:xla.",
        report=report,
    )


class _Walker:
    """Asks the rules. Refusals are gathered, so that one error names them all."""

    def __init__(self, read: Program, graph: Graph, fused: bool | Collection[str]):
        self._read, self._graph = read, graph
        known = COMPOSITE_RULES if fused else {}
        if not isinstance(fused, bool):
            known = {n: r for n, r in known.items() if n.removeprefix(PREFIX) in fused}
        self._composites = known
        self._rules = rules()
        self.refused: list[tuple[str, Origin, str]] = []
        self._caller = Origin()

    def block(self, block: Block, env: dict[Value, Tensor], _: str = "") -> list[Tensor]:
        for op in block.ops:
            env.update(zip(op.results, self._op(op, env), strict=True))
        return [env[v] for v in block.results]

    def _op(self, op: OpView, env: dict[Value, Tensor]) -> list[Tensor]:
        operands = [env[v] for v in op.operands]
        origin = op.origin.inside(self._caller)
        self._graph.origin = origin
        name = op.attributes.get("name", "") if op.name == "stablehlo.composite" else op.name
        composite = self._composites.get(str(name))
        if composite is not None and (made := composite(self._graph, op, *operands)) is not None:
            return self._typed(op, made)
        if op.callee is not None:
            function = self._read.function(op.callee)
            outer, self._caller = self._caller, origin
            inside = dict(zip(function.arguments, operands, strict=True))
            results = self.block(function, inside)
            self._caller = outer
            return results
        rule = self._rules.get(op.name)
        try:
            if not op.regions and is_complex(op):
                return self._typed(op, write(self._graph, op, operands, rule))
            if rule is None:
                raise UnsupportedError(why(op.name))
            keywords: dict[str, Any] = {}
            if op.regions and getattr(rule, "takes_bodies", False):
                keywords["bodies"] = self._bodies(op, env)
            return self._typed(op, rule(self._graph, op, *operands, **keywords))
        except UnsupportedError as error:
            self.refused.append((op.name, origin, str(error)))
            return [
                Tensor(self._graph.fresh("refused"), s.shape, s.shape, s.dtype) for s in op.outputs
            ]

    def _typed(self, op: OpView, made: Any) -> list[Tensor]:
        results: list[Tensor] = list(made) if isinstance(made, list | tuple) else [made]
        assert len(results) == len(op.outputs), op
        tensors = [
            t if isinstance(t, Tensor) else Tensor(t, s.shape, s.shape, s.dtype)
            for t, s in zip(results, op.outputs, strict=True)
        ]
        self._graph.sizes.update((t.name, t.held) for t in tensors)
        return tensors

    def _bodies(self, op: OpView, env: dict[Value, Tensor]) -> list[Callable[..., list[Tensor]]]:
        def run(region: Block, arguments: list[Tensor]) -> list[Tensor]:
            inside = {**env, **dict(zip(region.arguments, arguments, strict=True))}
            return self.block(region, inside)

        return [lambda *a, region=region: run(region, list(a)) for region in op.regions]
