"""The backend of torch.compile(model, backend="anychip", options={"target": …}).

Dynamo hands over one graph for each stretch between graph breaks, with sizes as symbols where it
met several; each set of sizes is compiled once, and the most recent ones are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from functorch.compile import make_boxed_func  # pyright: ignore[reportPrivateImportUsage]
from torch import fx
from torch._dynamo.backends.common import aot_autograd

from anychip.core.errors import UnsupportedError, UsageError, unknown
from anychip.core.registry import discover
from anychip.core.signature import Argument
from anychip.core.target import CompileOptions, Executable, Target
from anychip.frontends.torch.export import decompositions
from anychip.frontends.torch.graph import Evaluation, evaluate, hint
from anychip.frontends.torch.optimize import Recent
from anychip.frontends.torch.promote import is_array
from anychip.frontends.torch.table import table
from anychip.frontends.torch.tensors import element_name, to_jax, to_torch
from anychip.frontends.torch.unsupported import missing, unsupported
from anychip.frontends.trace import to_module

_OPTIONS: Mapping[str, Any] = {"target": "cpu:xla", "cache_size": 8, "seed": None}


def backend(
    graph: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """What Dynamo calls. `options`: `target`, `cache_size` (programs kept a graph), `seed`."""
    if mode is not None:
        raise UsageError(f"the anychip backend has no mode {mode!r}; it takes options={{…}} only")
    given = dict(options or {})
    for name in given:
        if name not in _OPTIONS:
            raise unknown("option of the anychip backend", name, _OPTIONS)
    settings = {**_OPTIONS, **given}
    chosen = settings["target"]
    target = discover().target(chosen) if isinstance(chosen, str) else chosen
    if not target.runs:
        raise UsageError(f"{target.name} compiles but does not run here; choose one that runs")
    compiler = lambda lowered, inputs: _compiled(lowered, target, settings)  # noqa: E731
    return aot_autograd(
        fw_compiler=_no_gradient,
        inference_compiler=compiler,
        decompositions=dict(decompositions()),
        keep_inference_input_mutations=False,
    )(graph, example_inputs)


def _no_gradient(graph: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
    raise UnsupportedError(
        "the anychip backend compiles inference only; call the model under torch.no_grad() or "
        "torch.inference_mode(), or freeze its parameters with requires_grad_(False)"
    )


def _compiled(
    graph: fx.GraphModule, target: Target, settings: Mapping[str, Any]
) -> Callable[..., Any]:
    rules = table()
    if rows := missing(graph, rules, settings["seed"]):
        raise unsupported(rows)
    state = Evaluation(rules, settings["seed"])
    return make_boxed_func(Stretch(graph, target, state, Recent(settings["cache_size"])))


@dataclass
class Stretch:
    """One graph between graph breaks: tensors and sizes in, tensors and sizes out."""

    graph: fx.GraphModule
    target: Target
    state: Evaluation
    programs: Recent[tuple[Executable, list[Any]]] = field(repr=False)

    def __call__(self, *inputs: Any) -> list[Any]:
        import jax

        tensors = [i for i in inputs if isinstance(i, torch.Tensor)]
        key = tuple((tuple(i.shape), i.dtype) if isinstance(i, torch.Tensor) else i for i in inputs)
        program = self.programs.get(key)
        if program is None:
            program = self._compile(inputs)
            self.programs.put(key, program)
        executable, layout = program
        arrays = [to_jax(t) for t in tensors]
        results = iter(jax.block_until_ready(list(executable.run(*arrays))))
        return [o.tensor(next(results)) if isinstance(o, Strided) else o for o in layout]

    @property
    def graph_outputs(self) -> list[Any]:
        (output,) = self.graph.graph.find_nodes(op="output")
        return list(output.args[0])

    def _compile(self, inputs: Sequence[Any]) -> tuple[Executable, list[Any]]:
        placeholders = [n for n in self.graph.graph.nodes if n.op == "placeholder"]
        arguments = tuple(
            Argument(node.name, tuple(value.shape), element_name(value.dtype))
            for node, value in zip(placeholders, inputs, strict=True)
            if isinstance(value, torch.Tensor)
        )
        layout: list[Any] = []

        def forward(*arrays: Any) -> list[Any]:
            given = iter(arrays)
            values = [next(given) if isinstance(i, torch.Tensor) else i for i in inputs]
            outputs = evaluate(self.state, self.graph, values)
            metas = [getattr(n, "meta", {}).get("val") for n in self.graph_outputs]
            layout[:] = [
                Strided.like(meta) if is_array(o) else o
                for o, meta in zip(outputs, metas, strict=True)
            ]
            return [
                one.laid_out(o)
                for one, o in zip(layout, outputs, strict=True)
                if isinstance(one, Strided)
            ]

        module = to_module(
            forward,
            arguments,
            name="stretch",
            result_names=lambda count: [f"result{i}" for i in range(count)],
            sources=self.state.sources,
            x64=True,
        )
        return self.target.compile(module, CompileOptions()), layout


@dataclass(frozen=True)
class Strided:
    """How torch expects a result to lie in memory: what follows a graph was traced for that."""

    order: tuple[int, ...]

    @staticmethod
    def like(meta: Any) -> Strided:
        if not isinstance(meta, torch.Tensor):  # a number that is an array here
            return Strided(())
        strides = [hint(n) for n in meta.stride()]
        return Strided(tuple(sorted(range(meta.ndim), key=lambda axis: (-strides[axis], axis))))

    def laid_out(self, array: Any) -> Any:
        """The array with its axes in memory order."""
        return array.transpose(self.order) if self.order else array

    def tensor(self, array: Any) -> torch.Tensor:
        """A tensor over the array's memory, its axes in their own order again."""
        back = [self.order.index(axis) for axis in range(len(self.order))]
        made = to_torch(array)
        return made.permute(back) if back else made
