"""A JAX-traceable function to a Module: the one place where frontends meet jax.jit and jax.export.

Nothing is compiled or run here. Inner `jax.jit` functions stay functions of the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from anychip.core import ir
from anychip.core.dtypes import dtype
from anychip.core.errors import UsageError, unknown
from anychip.core.module import Module, find_function
from anychip.core.signature import Argument, Dim, Result, Signature
from anychip.core.weights import Weights


def to_module(
    fn: Callable[..., Any],
    arguments: Sequence[Argument],
    *,
    name: str,
    result_names: Sequence[str] | Callable[[int], Sequence[str]],
    updates: Mapping[str, str] | None = None,
    weights: Weights = Weights(),
    sources: Sequence[str] = (),
    guards: Sequence[str] = (),
    x64: bool = False,
    call_sites: bool = False,
) -> Module:
    """Trace `fn(*arrays)`, one array an argument, and wrap its StableHLO.

    `fn` returns an array or a tree of arrays, flattened in JAX's order; `result_names` names the
    leaves (or is a function from their count to names). `updates` maps a result's name to the
    state argument whose next value it is: that argument is donated (`tf.aliasing_output`), and
    every state argument must have one such result of its own shape and element type.

    A `str` in an argument's shape is a symbolic dimension, at least 1, shared by all arguments
    that use the name; a result's shape may then hold expressions (`"2*batch"`). Composites become
    plain ops under symbolic dimensions. `guards` are what the tracing may take as given about
    symbolic dimensions (`Signature.guards`). `x64` traces with 64-bit types on (Python numbers stay
    weak); it must be set when an argument has one. `call_sites` keeps the Python call stack in op
    locations, for code whose files are the user's; without it only `jax.named_scope` names stay,
    and the module's bytes do not depend on who called.

    Raises UsageError when names, counts, updates or element types do not fit.
    """
    import jax
    from jax._src.config import traceback_in_locations_limit

    signature_of = _plan(arguments, result_names, dict(updates or {}), tuple(guards))
    symbolic = any(isinstance(d, str) for a in arguments for d in a.shape)
    with (
        jax.enable_x64(x64),
        traceback_in_locations_limit(10 if call_sites else 0),
    ):
        specs = _specs(arguments, guards)
        jitted = jax.jit(_named(fn, name), keep_unused=True)
        lower = _export if symbolic else _lower
        parsed, shapes = lower(jitted, specs)
    signature = signature_of(shapes)
    with parsed.context:
        if symbolic:
            _drop_shape_assertions(parsed)
        _alias(parsed, signature)
        return Module.from_mlir(
            ir.to_bytecode(parsed),
            name=name,
            signature=signature,
            weights=weights,
            sources=tuple(sources),
        )


def _plan(
    arguments: Sequence[Argument],
    result_names: Sequence[str] | Callable[[int], Sequence[str]],
    updates: dict[str, str],
    guards: tuple[str, ...],
) -> Callable[[list[Any]], Signature]:
    by_name = {a.name: a for a in arguments}
    states = {a.name for a in arguments if a.role == "state"}
    for argument in arguments:
        for dim in argument.shape:
            if isinstance(dim, str) and not dim.isidentifier():
                raise UsageError(
                    f"argument {argument.name} has dimension {dim!r}; only a name can be symbolic"
                )
    for state in updates.values():
        if state not in states:
            raise unknown("state argument", state, states)
    if len(set(updates.values())) < len(updates):
        raise UsageError(f"two results update one state argument: {updates}")
    if stale := sorted(states - set(updates.values())):
        raise UsageError(
            f"no result updates the state argument {stale[0]!r}; give it role 'input' or 'weight' "
            "if it never changes"
        )

    def signature_of(shapes: list[Any]) -> Signature:
        names = list(result_names(len(shapes)) if callable(result_names) else result_names)
        if len(names) != len(shapes):
            raise UsageError(f"the function returns {len(shapes)} arrays, {len(names)} are named")
        for result in updates:
            if result not in names:
                raise unknown("result", result, names)
        results = tuple(
            Result(n, _dims(s.shape), dtype(s.dtype).name, updates.get(n))
            for n, s in zip(names, shapes, strict=True)
        )
        for result in results:
            state = by_name[result.updates] if result.updates else None
            if state and (state.shape, state.dtype) != (result.shape, result.dtype):
                raise UsageError(
                    f"result {result.name} is {result.dtype}{list(result.shape)} and cannot update "
                    f"{state.name}, which is {state.dtype}{list(state.shape)}"
                )
        return Signature(tuple(arguments), results, guards)

    return signature_of


def _dims(shape: Sequence[Any]) -> tuple[Dim, ...]:
    return tuple(d if isinstance(d, int) else str(d) for d in shape)


def _named(fn: Callable[..., Any], name: str) -> Callable[..., Any]:
    """`fn` under a stable symbol name; lambdas and partials have none of their own."""

    def call(*arrays: Any) -> Any:
        return fn(*arrays)

    call.__name__ = call.__qualname__ = "".join(c if c.isalnum() else "_" for c in name) or "main"
    return call


def _specs(arguments: Sequence[Argument], guards: Sequence[str]) -> list[Any]:
    import jax
    from jax import export

    scope = export.SymbolicScope(guards)
    specs: list[Any] = []
    for argument in arguments:
        element = dtype(argument.dtype).numpy
        if jax.dtypes.canonicalize_dtype(element) != element:
            raise UsageError(
                f"argument {argument.name} is {argument.dtype}; pass x64=True to keep 64-bit types"
            )
        text = ",".join(str(d) for d in argument.shape)
        shape = export.symbolic_shape(text, scope=scope) if text else ()
        specs.append(jax.ShapeDtypeStruct(shape, element))
    return specs


def _lower(jitted: Any, specs: list[Any]) -> tuple[Any, list[Any]]:
    import jax

    traced = jitted.trace(*specs)
    lowered = traced.lower(lowering_platforms=("cpu",))
    return lowered.compiler_ir("stablehlo"), jax.tree.leaves(lowered.out_info)


def _export(jitted: Any, specs: list[Any]) -> tuple[Any, list[Any]]:
    from jax import export
    from jaxlib.mlir.dialects import stablehlo

    exported = export.export(jitted, platforms=["cpu"])(*specs)
    parsed = stablehlo.deserialize_portable_artifact(ir.context(), exported.mlir_module_serialized)
    return parsed, list(exported.out_avals)


def _drop_shape_assertions(parsed: Any) -> None:
    """The signature says which dimensions agree; no back end need know JAX's custom call for it."""
    from jaxlib.mlir import ir as mlir

    body = find_function(parsed, "main").operation.regions[0].blocks[0]
    for op in list(body.operations):
        if op.operation.name != "stablehlo.custom_call":
            continue
        if mlir.StringAttr(op.attributes["call_target_name"]).value == "shape_assertion":
            op.operation.erase()


def _alias(parsed: Any, signature: Signature) -> None:
    """Mark each state argument of `main` as sharing its buffer with the result that updates it."""
    from jaxlib.mlir import ir as mlir

    owner = {r.updates: i for i, r in enumerate(signature.results) if r.updates is not None}
    if not owner:
        return
    main = find_function(parsed, "main")
    attributes = [mlir.DictAttr(a) for a in mlir.ArrayAttr(main.arg_attrs)]
    for index, argument in enumerate(signature.arguments):
        if argument.name in owner:
            entries = {named.name: named.attr for named in attributes[index]}
            i32 = mlir.IntegerType.get_signless(32)
            entries["tf.aliasing_output"] = mlir.IntegerAttr.get(i32, owner[argument.name])
            attributes[index] = mlir.DictAttr.get(entries)
    main.arg_attrs = mlir.ArrayAttr.get(attributes)
