"""JAX models: a function (or an object with Flax's `apply`) traced to a Module.

A pytree of parameters becomes named weights; every op knows the user's file and line.
"""

from __future__ import annotations

import functools
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core.dtypes import dtype
from anychip.core.errors import UnsupportedError, UsageError, unknown
from anychip.core.module import Module
from anychip.core.origin import Origin
from anychip.core.signature import Argument, Role
from anychip.core.target import OpCoverage
from anychip.core.weights import Weight, Weights
from anychip.frontends.custom_calls import check_custom_calls
from anychip.frontends.stablehlo import hoist_constants
from anychip.frontends.trace import to_module

Shape = Sequence[int | str | None]


def load(
    model: Any,
    example_inputs: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    params: Any = None,
    shapes: Mapping[str, Shape] | None = None,
    guards: Sequence[str] = (),
    updates: Mapping[str, str] | None = None,
    name: str = "",
) -> Module:
    """Trace `model(*example_inputs)`, or `model(params, *example_inputs)` when `params` is given.

    `model` is a function, an object with a Flax-like `apply`, a `flax.nnx` module (which has its
    parameters in it), or a `jax.export.Exported` (which needs no inputs).
    `example_inputs` holds arrays, `jax.ShapeDtypeStruct`s or pytrees of them, in
    a sequence or by keyword; only shapes and types are used. `params` is a pytree of arrays, or of
    ShapeDtypeStructs for a module without values.

    Arguments are named after the function's parameters and the path inside them (`batch.tokens`),
    weights after the path in `params` (`Dense_0.kernel`), results `result` and their path.
    `shapes` makes dimensions symbolic: `{"tokens": ("batch", None)}`, None keeping the example's
    size; `guards` are facts about them. `updates` maps a result to the argument whose next value
    it is (a KV cache): that argument is state. Arrays the function closes over become weights.
    64-bit types are kept when `jax_enable_x64` is on, as in JAX.

    Raises UsageError for names and shapes that do not fit, UnsupportedError listing custom calls
    without a meaning (callbacks, kernels for one chip).
    """
    import jax

    if isinstance(model, jax.export.Exported):
        if example_inputs is not None or params is not None or shapes or updates:
            raise UsageError("an Exported carries its own shapes; it takes no other options")
        return _exported(model, name)
    function = model
    if _is_nnx(model):
        if params is not None:
            raise UsageError(f"{_title(model)} has its parameters in it; it takes no params")
        function, params = _split(model)
    elif not inspect.isroutine(model) and hasattr(model, "apply"):
        if params is None:
            raise UsageError(
                f"{_title(model)}.apply takes parameters first; give params=model.init(…), or {{}}"
            )
        function = model.apply
    if not callable(function):
        raise UsageError(f"cannot trace a {type(model).__name__}; it is not callable")
    leaves, rebuild = _flatten(function, example_inputs, params)
    arguments = _arguments(leaves, shapes or {}, set((updates or {}).values()))
    weights = [leaf.weight() for leaf in leaves if leaf.role == "weight"]
    titles: list[str] = []

    def run(*arrays: Any) -> list[Any]:
        args, kwargs = rebuild(arrays)
        found, _ = jax.tree_util.tree_flatten_with_path(function(*args, **kwargs))
        titles[:] = [_result_name(path) for path, _ in found]
        return [value for _, value in found]

    try:
        module = to_module(
            run,
            arguments,
            name=name or _title(model),
            result_names=lambda count: titles,
            updates=updates,
            weights=Weights(tuple(weights)),
            guards=guards,
            x64=bool(jax.config.jax_enable_x64),  # type: ignore[attr-defined]
            call_sites=True,
        )
    except jax.errors.InconclusiveDimensionOperation as error:
        text = " ".join(str(error).split("\n")[0].split())
        raise UnsupportedError(
            f"{_title(model)} depends on a symbolic size: {text} "
            "Say what holds with guards=[…], or give the size in shapes."
        ) from None
    except _about_data() as error:
        raise _explained(error, _title(model)) from error
    module = hoist_constants(module)
    check_custom_calls(module)
    return module


def _is_nnx(model: Any) -> bool:
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(model, nnx.Module)


def _split(model: Any) -> tuple[Callable[..., Any], Any]:
    """An nnx module as a function of its variables and inputs, and the variables by name. The
    state of its random numbers stays in the function."""
    from flax import errors, nnx  # pyright: ignore[reportMissingImports]

    is_variable = lambda _, value: not isinstance(value, nnx.RngState)  # noqa: E731
    graph, state, random = nnx.split(model, is_variable, ...)

    @functools.wraps(type(model).__call__)
    def call(params: Any, *args: Any, **kwargs: Any) -> Any:
        import jax

        nnx.replace_by_pure_dict(state, params)
        merged = nnx.merge(graph, state, random)
        try:
            result = merged(*args, **kwargs)
        except errors.TraceContextError as error:
            raise UsageError(_IN_TRAINING.format(_title(model), "its random numbers")) from error
        after = nnx.to_pure_dict(nnx.state(merged, is_variable))
        kept = jax.tree.leaves(params)
        named = zip(jax.tree_util.tree_flatten_with_path(after)[0], kept, strict=True)
        if changed := [_joined("", path) for (path, new), old in named if new is not old]:
            raise UsageError(_IN_TRAINING.format(_title(model), ", ".join(changed)))
        return result

    return call, nnx.to_pure_dict(state)


_IN_TRAINING = "{} changes {} while it runs; call .eval() on it first"


def _about_data() -> tuple[type[Exception], ...]:
    """What JAX raises where Python asks a traced array for its value."""
    from jax import errors

    return (
        errors.ConcretizationTypeError,
        errors.NonConcreteBooleanIndexError,
        errors.TracerArrayConversionError,
        errors.TracerIntegerConversionError,
    )


def _explained(error: Exception, title: str) -> UnsupportedError:
    import jax

    inside = (str(Path(jax.__file__).parent), str(Path(__file__).parents[1]))
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{f.filename}:{f.lineno}" for f in frames if not f.filename.startswith(inside)]
    place = Origin("", own[-1] if own else "")
    why = (
        f"{str(error).splitlines()[0].rstrip('.')}; a branch, an index or a size depends on the "
        "data: use jnp.where or jax.lax.cond, or close over the number"
    )
    row = OpCoverage(op="jax.jit", fate="unsupported", origin=place, why=why)
    return UnsupportedError(f"JAX cannot trace {title} (at {place}): {why}", report=[row])


@dataclass(frozen=True)
class _Leaf:
    """One array of the inputs or parameters."""

    name: str
    value: Any
    role: Role = "input"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(np.shape(self.value)) if not hasattr(self.value, "shape") else self.value.shape

    @property
    def dtype(self) -> str:
        """JAX's type for the value: 64-bit ones narrowed unless x64 is on."""
        import jax

        given = getattr(self.value, "dtype", None) or np.result_type(self.value)
        if jax.numpy.issubdtype(given, jax.dtypes.extended):
            raise UsageError(f"{self.name} has type {given}; pass jax.random.key_data(key) instead")
        return dtype(jax.dtypes.canonicalize_dtype(given)).name

    def weight(self) -> Weight:
        import jax

        element = self.dtype
        if isinstance(self.value, jax.ShapeDtypeStruct):
            return Weight(self.name, self.shape, element)
        kind, value = dtype(element).numpy, self.value
        size = int(np.prod(self.shape)) * kind.itemsize
        return Weight(
            self.name, self.shape, element, lambda: np.asarray(value, kind), element, size
        )


Rebuild = Callable[[Sequence[Any]], tuple[list[Any], dict[str, Any]]]


def _flatten(function: Any, example_inputs: Any, params: Any) -> tuple[list[_Leaf], Rebuild]:
    """The arrays of all inputs with names, and how to put traced ones back in their places."""
    import jax

    if example_inputs is None:
        raise UsageError("a JAX function needs example_inputs: arrays or jax.ShapeDtypeStructs")
    by_name = isinstance(example_inputs, Mapping)
    trees = list(example_inputs.values() if by_name else _sequence(example_inputs))
    labels = list(example_inputs) if by_name else _parameter_names(function, len(trees), params)
    leaves: list[_Leaf] = []
    parts: list[tuple[int, Any]] = []
    entries: list[tuple[str, Any, Role]] = []
    if params is not None:
        entries.append(("", params, "weight"))
    for label, tree in zip(labels, trees, strict=True):
        entries.append((label, tree, "input"))
    for label, tree, role in entries:
        found, shape = jax.tree_util.tree_flatten_with_path(tree)
        leaves += [_Leaf(_joined(label, path), value, role) for path, value in found]
        parts.append((len(found), shape))

    def rebuild(arrays: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
        rest = list(arrays)
        made = []
        for count, shape in parts:
            made.append(jax.tree_util.tree_unflatten(shape, rest[:count]))
            rest = rest[count:]
        if not by_name:
            return made, {}
        first = 0 if params is None else 1
        return made[:first], dict(zip(labels, made[first:], strict=True))

    return leaves, rebuild


def _sequence(example_inputs: Any) -> Sequence[Any]:
    if isinstance(example_inputs, list | tuple):
        return example_inputs
    return (example_inputs,)  # one array


def _parameter_names(function: Any, count: int, params: Any) -> list[str]:
    names = _declared(function)[0 if params is None else 1 :]
    owner = getattr(function, "__self__", None)
    if not names and callable(owner):  # Flax's apply(variables, *args) hands them to __call__
        names = _declared(owner)
    return [names[i] if i < len(names) else f"arg{i}" for i in range(count)]


def _declared(function: Any) -> list[str]:
    """The names of a function's positional parameters."""
    try:
        declared = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # builtins tell nothing
        return []
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in declared if p.kind in kinds]


def _joined(label: str, path: Any) -> str:
    import jax

    inner = jax.tree_util.keystr(path, simple=True, separator=".")
    return ".".join(part for part in (label, inner) if part) or "value"


def _result_name(path: Any) -> str:
    inner = _joined("", path) if path else ""
    if not inner:
        return "result"
    return f"result{inner}" if inner[0].isdigit() else inner


def _arguments(
    leaves: Sequence[_Leaf], shapes: Mapping[str, Shape], states: set[str]
) -> list[Argument]:
    inputs = {leaf.name for leaf in leaves if leaf.role == "input"}
    for one in (*shapes, *states):
        if one not in inputs:
            raise unknown("input", one, inputs)
    made = []
    for leaf in leaves:
        shape = tuple(leaf.shape)
        if leaf.name in shapes and leaf.role == "input":
            given = shapes[leaf.name]
            if len(given) != len(shape):
                raise UsageError(f"input {leaf.name} has shape {shape}, shapes gives {list(given)}")
            shape = tuple(s if g is None else g for s, g in zip(shape, given, strict=True))
        role: Role = "state" if leaf.name in states and leaf.role == "input" else leaf.role
        made.append(Argument(leaf.name, shape, leaf.dtype, role))
    return made


def _title(model: Any) -> str:
    name = getattr(model, "__name__", "") or type(model).__name__
    return "jax" if name in ("<lambda>", "partial", "PjitFunction") else name


def _exported(exported: Any, name: str) -> Module:
    """A Module of what `jax.export` made, its symbolic dimensions under their own names."""
    import jax

    if exported.nr_devices != 1:
        raise UnsupportedError(
            f"{exported.fun_name} was exported for {exported.nr_devices} devices; export it for one"
        )
    places = jax.tree_util.tree_unflatten(exported.in_tree, range(exported.in_tree.num_leaves))
    paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(places)[0]]
    arguments = [
        Argument(
            _exported_name(path),
            tuple(d if isinstance(d, int) else str(d) for d in aval.shape),
            dtype(aval.dtype).name,
        )
        for path, aval in zip(paths, exported.in_avals, strict=True)
    ]
    titles: list[str] = []

    def run(*arrays: Any) -> list[Any]:
        args, kwargs = jax.tree_util.tree_unflatten(exported.in_tree, arrays)
        found, _ = jax.tree_util.tree_flatten_with_path(exported.call(*args, **kwargs))
        titles[:] = [_result_name(path) for path, _ in found]
        return [value for _, value in found]

    wide = {dtype(t).numpy for t in ("i64", "ui64", "f64", "complex<f64>")}
    module = to_module(
        run,
        arguments,
        name=name or exported.fun_name,
        result_names=lambda count: titles,
        x64=any(a.dtype in wide for a in (*exported.in_avals, *exported.out_avals)),
    )
    module = hoist_constants(module)
    check_custom_calls(module)
    return module


def _exported_name(path: Any) -> str:
    """The path is (0, position, …) for positional arguments and (1, keyword, …) for the others."""
    kind, first, *rest = path
    return _joined("", path[1:]) if kind.idx == 1 else _joined(f"arg{first.idx}", rest)
