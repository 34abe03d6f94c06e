"""Fold: what weights and constants decide alone is computed once, here, instead of at every run.

First the factors of batch norms go into the kernels of the convolutions before them; then every
value that depends on weights and constants only becomes a weight of its own (small constants become
constants). Sums are made in another order than before: results agree to rounding, not to the bit.
"""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from anychip.core import Argument, Module, Signature, Weights, ir
from anychip.core.inline import copy_op
from anychip.core.module import find_function
from anychip.ops.interp import evaluate
from anychip.ops.view import Block, OpView, Value, program
from anychip.passes.expression import Expressions, Mismatch

_SPREADING = ("stablehlo.broadcast_in_dim", "stablehlo.iota", "stablehlo.constant")
_COMPUTED = frozenset(
    f"stablehlo.{name}"
    for name in """abs add broadcast_in_dim cbrt clamp compare concatenate constant convert
    convolution divide dot_general exponential iota log maximum minimum multiply negate pad power
    reduce reshape reverse rsqrt select sqrt slice subtract tanh transpose""".split()
)
"""Pure, of static sizes, and cheap enough to be done while compiling."""
_MOST_CONSTANT = 64
"""Elements of a constant that is written into the program; larger ones stay computed."""


def fold(module: Module) -> Module:
    """The folded module. Weights without values, symbolic sizes and calls are left as they are."""
    if not program(module).is_static:
        return module
    return _weights_only(_into_kernels(module))


def _known(module: Module, block: Block) -> dict[Value, bool]:
    """Values that weights and constants decide; True where weights take part."""
    known: dict[Value, bool] = {}
    for argument, value in zip(module.signature.arguments, block.arguments, strict=True):
        weight = module.weights.get(argument.name) if argument.role == "weight" else None
        if weight is not None and weight.read is not None:
            known[value] = True
    for op in block.ops:
        if op.name in _COMPUTED and all(v in known for v in op.operands):
            known.update((r, any(known[v] for v in op.operands)) for r in op.results)
    return known


# Batch norms into kernels


@dataclass(frozen=True)
class _Scaled:
    """(convolution [- mean]) * scale, by place in the block."""

    root: int
    convolution: int
    scale: Value
    mean: Value | None
    subtract: int | None


def _into_kernels(module: Module) -> Module:
    read = program(module)
    found = _scaled(module, read.main)
    if not found:
        return module
    with module.opened() as parsed:
        block = _main(parsed)
        ops = [op.operation for op in block.operations]
        values = dict(zip(read.main.arguments, block.arguments, strict=True))
        for view, op in zip(read.main.ops, ops, strict=False):
            values.update(zip(view.results, op.results, strict=True))
        for one in found:
            _rescale(read.main, ops, values, one)
        bytecode = ir.to_bytecode(parsed)
    return Module.from_mlir(
        bytecode, signature=module.signature, weights=module.weights, sources=module.sources
    )


def _scaled(module: Module, block: Block) -> list[_Scaled]:
    known, e = _known(module, block), Expressions(block)
    uses: dict[Value, int] = {}
    for value in [v for op in block.ops for v in op.operands] + list(block.results):
        uses[value] = uses.get(value, 0) + 1
    found: list[_Scaled] = []
    for root, op in enumerate(block.ops):
        if op.name != "stablehlo.multiply":
            continue
        for inner, factor in (op.operands, op.operands[::-1]):
            try:
                found.append(_scale_of(e, known, uses, root, inner, factor))
                break
            except Mismatch:
                continue
    return found


def _scale_of(
    e: Expressions,
    known: dict[Value, bool],
    uses: dict[Value, int],
    root: int,
    inner: Value,
    factor: Value,
) -> _Scaled:
    mean = subtract = None
    made = e.op(inner, "convolution", "subtract")
    if made.name == "stablehlo.subtract":
        subtract = e.makers[inner]
        result, spread = made.operands
        if uses[inner] != 1:
            raise Mismatch
        inner, made = result, e.op(result, "convolution")
        mean = _vector(e, known, spread, made)
    kernel = made.operands[1]
    if uses[inner] != 1 or not known.get(kernel) or made.inputs[1].dtype not in ("f32", "f64"):
        raise Mismatch
    scale = _vector(e, known, factor, made)
    return _Scaled(root, e.makers[inner], scale, mean, subtract)


def _vector(e: Expressions, known: dict[Value, bool], value: Value, conv: OpView) -> Value:
    """The known vector over the convolution's features that was spread to `value`."""
    feature = conv.attributes["dimension_numbers"].output_feature
    source = e.spread(value, [feature])
    if source not in known or source.spec.shape != (conv.outputs[0].sizes[feature],):
        raise Mismatch
    return source


def _rescale(block: Block, ops: list[Any], values: dict[Value, Any], one: _Scaled) -> None:
    from jaxlib.mlir import ir as mlir

    view, conv, root = block.ops[one.convolution], ops[one.convolution], ops[one.root]
    place = mlir.InsertionPoint(root)
    dims = view.attributes["dimension_numbers"]
    kernel, scale = conv.operands[1], values[one.scale]

    def make(name: str, kind: Any, *operands: Any, **attributes: Any) -> Any:
        made = mlir.Operation.create(
            f"stablehlo.{name}",
            results=[kind],
            operands=list(operands),
            attributes=attributes,
            loc=root.location,
            ip=place,
        )
        return made.results[0]

    def spread(vector: Any, kind: Any, dim: int) -> Any:
        return make(
            "broadcast_in_dim",
            kind,
            vector,
            broadcast_dimensions=mlir.DenseI64ArrayAttr.get([dim]),
        )

    wide = spread(scale, kernel.type, dims.kernel_output_feature)
    folded = make("multiply", kernel.type, kernel, wide)
    copies = {conv.operands[1]: folded}
    copy_op(conv, place, copies)
    result = copies[conv.results[0]]
    if one.mean is not None:
        shift = make("multiply", scale.type, values[one.mean], scale)
        kind = root.results[0].type
        result = make("subtract", kind, result, spread(shift, kind, dims.output_feature))
    root.results[0].replace_all_uses_with(result)
    values[block.ops[one.root].results[0]] = result
    for index in (one.root, one.subtract, one.convolution):
        if index is not None:
            ops[index].erase()


# What weights decide alone


def _weights_only(module: Module) -> Module:
    read = program(module)
    block = read.main
    known = _known(module, block)
    frontier = _frontier(block, known)
    if not frontier:
        return module
    with module.opened() as parsed:
        main = find_function(parsed, "main").operation
        body = main.regions[0].blocks[0]
        ops = [op.operation for op in body.operations]
        values = dict(zip(block.arguments, body.arguments, strict=True))
        for view, op in zip(block.ops, ops, strict=False):
            values.update(zip(view.results, op.results, strict=True))
        arrays = _computed(module, parsed, ops, block, values, frontier)
        signature, weights = _replace(module, body, values, known, frontier, arrays)
        _drop_dead(ops)
        signature = _drop_unread(body, signature)
        _retype(main, body)
        bytecode = ir.to_bytecode(parsed)
    names = {a.name for a in signature.named("weight")}
    kept = Weights(tuple(w for w in weights if w.name in names))
    return Module.from_mlir(bytecode, signature=signature, weights=kept, sources=module.sources)


def _frontier(block: Block, known: dict[Value, bool]) -> list[Value]:
    """Known values that others read. A value that was only spread is read where it came from."""
    makers = {v: op for op in block.ops for v in op.results}
    read = [v for op in block.ops if not all(r in known for r in op.results) for v in op.operands]
    for op in block.ops:
        if not all(r in known for r in op.results):
            read += [v for region in op.regions for v in _outside(region)]
    found: dict[Value, None] = {}
    for value in [*read, *block.results]:
        while value in known and (made := makers.get(value)) is not None:
            if made.name in _SPREADING:
                if not made.operands:
                    break
                (value,) = made.operands
                continue
            if known[value] or value.spec.size <= _MOST_CONSTANT:
                found[value] = None
            break
    return [*found]


def _outside(region: Block) -> list[Value]:
    return [v for op in region.ops for v in op.operands] + [
        v for op in region.ops for inner in op.regions for v in _outside(inner)
    ]


def _computed(
    module: Module,
    parsed: Any,
    ops: list[Any],
    block: Block,
    values: dict[Value, Any],
    frontier: Sequence[Value],
) -> list[np.ndarray]:
    """The frontier's values, by the op table's meanings."""
    from jaxlib.mlir import ir as mlir

    makers = {v: i for i, op in enumerate(block.ops) for v in op.results}
    needed: set[int] = set()
    waiting = list(frontier)
    taken: dict[Value, None] = {}
    while waiting:
        value = waiting.pop()
        index = makers.get(value)
        if index is None:
            taken[value] = None
        elif index not in needed:
            needed.add(index)
            waiting += block.ops[index].operands
    names = dict(zip(block.arguments, module.signature.arguments, strict=True))
    made = mlir.Module.create(mlir.Location.unknown())
    kinds = [values[v].type for v in taken]
    results = [values[v].type for v in frontier]
    function = mlir.Operation.create(
        "func.func",
        attributes={
            "sym_name": mlir.StringAttr.get("main"),
            "function_type": mlir.TypeAttr.get(mlir.FunctionType.get(kinds, results)),
        },
        regions=1,
        loc=mlir.Location.unknown(),
        ip=mlir.InsertionPoint(made.body),
    )
    body = function.regions[0].blocks.append(
        *kinds, arg_locs=[mlir.Location.unknown()] * len(kinds)
    )
    inside = {values[v]: a for v, a in zip(taken, body.arguments, strict=True)}
    at = mlir.InsertionPoint(body)
    for index in sorted(needed):
        copy_op(ops[index], at, inside)
    mlir.Operation.create(
        "func.return",
        operands=[inside[values[v]] for v in frontier],
        loc=mlir.Location.unknown(),
        ip=at,
    )
    arrays = [module.weights[names[v].name].array() for v in taken]
    return [np.asarray(r) for r in evaluate(Module.from_mlir(made), *arrays)]


def _replace(
    module: Module,
    body: Any,
    values: dict[Value, Any],
    known: dict[Value, bool],
    frontier: Sequence[Value],
    arrays: Sequence[np.ndarray],
) -> tuple[Signature, list[Any]]:
    """Put arguments and constants in the frontier's place; the signature and weights with them."""
    from jaxlib.mlir import ir as mlir

    arguments, weights = list(module.signature.arguments), list(module.weights.values())
    taken = {a.name for a in arguments}
    for index, (value, array) in enumerate(zip(frontier, arrays, strict=True)):
        old, spec = values[value], value.spec
        if not known[value]:
            held: Any = np.ascontiguousarray(array).reshape(array.shape)  # it makes scalars vectors
            attribute = mlir.DenseElementsAttr.get(held, type=_element(old))
            made = mlir.Operation.create(
                "stablehlo.constant",
                results=[old.type],
                attributes={"value": attribute},
                loc=mlir.Location.unknown(),
                ip=mlir.InsertionPoint.at_block_begin(body),
            )
            old.replace_all_uses_with(made.results[0])
            continue
        name = f"folded_{index}"
        while name in taken:
            name += "_"
        taken.add(name)
        new = body.add_argument(old.type, mlir.Location.name(name))
        old.replace_all_uses_with(new)
        arguments.append(Argument(name, spec.sizes, spec.dtype, "weight"))
        weights += Weights.from_arrays({name: array}).entries
    return replace(module.signature, arguments=tuple(arguments)), weights


def _element(value: Any) -> Any:
    from jaxlib.mlir import ir as mlir

    return mlir.RankedTensorType(value.type).element_type


def _drop_dead(ops: list[Any]) -> None:
    for op in reversed(ops[:-1]):
        pure = op.name in _COMPUTED
        if pure and not any(len(list(r.uses)) for r in op.results):
            op.erase()


def _drop_unread(body: Any, signature: Signature) -> Signature:
    kept: list[Argument] = []
    gone: list[int] = []
    for index, (argument, value) in enumerate(
        zip(signature.arguments, body.arguments, strict=True)
    ):
        if argument.role == "weight" and not len(list(value.uses)):
            gone.append(index)
        else:
            kept.append(argument)
    for index in reversed(gone):
        body.erase_argument(index)
    return replace(signature, arguments=tuple(kept))


def _retype(main: Any, body: Any) -> None:
    """The function's type from its block; attributes of single arguments no longer fit."""
    from jaxlib.mlir import ir as mlir

    kind = mlir.FunctionType(mlir.TypeAttr(main.attributes["function_type"]).value)
    inputs = [a.type for a in body.arguments]
    main.attributes["function_type"] = mlir.TypeAttr.get(
        mlir.FunctionType.get(inputs, list(kind.results))
    )
    if "arg_attrs" in main.attributes:
        del main.attributes["arg_attrs"]


def _main(parsed: Any) -> Any:
    return find_function(parsed, "main").operation.regions[0].blocks[0]
