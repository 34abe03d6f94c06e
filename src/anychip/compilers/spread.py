"""Spread a Module's arguments over a mesh of `data` × `tensor` devices; XLA's partitioner does the
rest and puts in the collectives.

Weights of a product split over `tensor` along what they produce, or along what they contract for
projections back into the residual stream (Shoeybi et al., Megatron-LM, arXiv:1909.08053, section
3); caches by key-value head; inputs and caches over `data` by sequence. What does not divide stays
whole on every device, and `Spread.axes` says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anychip.core import Argument, Module, UsageError, ir
from anychip.core.module import find_function
from anychip.ops.walk import walk

AXES = ("data", "tensor")
_BACK = (".o", ".down", "o_proj", "down_proj", "out_proj", "fc2", "w2", "dense_4h_to_h")
"""Endings of the names of weights that project back into the residual stream."""

Axes = tuple[str, ...]
"""One mesh axis a dimension; "" for one that is not split."""


@dataclass(frozen=True)
class Spread:
    """A mesh, and the axes of each argument by name."""

    mesh: tuple[int, int]
    axes: Mapping[str, Axes]

    @property
    def devices(self) -> int:
        return math.prod(self.mesh)

    def to_json(self) -> str:
        mesh = dict(zip(AXES, self.mesh, strict=True))
        return json.dumps({"mesh": mesh, "arguments": {n: list(a) for n, a in self.axes.items()}})


def spread(module: Module, shards: str, split: str = "") -> Spread:
    """The spread that `shards` asks for: "8" (tensor), "tensor=4" or "data=2,tensor=4".

    `split` names the dimension of weights it knows better: "w1=1,w2=0". Raises UsageError for text
    that says neither, unknown weights and dimensions that do not divide.
    """
    data, tensor = _mesh(shards)
    chosen = _pairs(split, "split")
    contracted = _contracted(module)
    axes: dict[str, Axes] = {}
    for argument in module.signature.arguments:
        plan = [""] * len(argument.shape)
        if argument.role == "weight":
            dim = chosen.pop(argument.name, None)
            must = dim is not None
            if dim is None:
                dim = _weight_dim(argument, contracted.get(argument.name))
            if dim is not None:
                _assign(plan, argument, dim, "tensor", tensor, must=must)
        else:
            _assign(plan, argument, 0, "data", data, must=False)
            if argument.role == "state" and len(argument.shape) > 1:
                _assign(plan, argument, 1, "tensor", tensor, must=False)
        axes[argument.name] = tuple(plan)
    if chosen:
        raise UsageError(f"split names {', '.join(chosen)}, which {module.name} has no weight of")
    return Spread((data, tensor), axes)


def annotated(bytecode: bytes, module: Module, spread: Spread) -> bytes:
    """The bytecode with a sharding on every argument, and on the results that update a state."""
    from jaxlib.mlir import ir as mlir

    with ir.opened(bytecode) as parsed:
        main = find_function(parsed, "main")
        updates = [r.updates for r in module.signature.results]
        names = {"arg_attrs": list(spread.axes), "res_attrs": updates}
        for key, owners in names.items():
            attributes: Any = main.operation.attributes
            empty: list[Any] = [mlir.DictAttr.get({})] * len(owners)
            given = list(mlir.ArrayAttr(attributes[key])) if key in attributes else empty
            rows: list[Any] = []
            for owner, row in zip(owners, given, strict=True):
                kept = {a.name: a.attr for a in mlir.DictAttr(row)}
                if owner is not None:
                    text = sharding(spread.axes[owner], spread.mesh)
                    kept["mhlo.sharding"] = mlir.StringAttr.get(text)
                rows.append(mlir.DictAttr.get(kept))
            attributes[key] = mlir.ArrayAttr.get(rows)
        return ir.to_bytecode(parsed)


def sharding(axes: Axes, mesh: tuple[int, int]) -> str:
    """HLO's text: tiles a dimension, then how often each tile is repeated."""
    sizes: dict[str, int] = dict(zip(AXES, mesh, strict=True))
    used = [axis for axis in axes if axis]
    if not used:
        return "{replicated}"
    order = used + [axis for axis in AXES if axis not in used]
    tiles = [sizes[axis] if axis else 1 for axis in axes]
    repeats = math.prod(sizes[axis] for axis in AXES if axis not in used)
    permutation = [AXES.index(axis) for axis in order]
    turn = "" if permutation == [0, 1] else f"T({','.join(map(str, permutation))})"
    last = " last_tile_dim_replicate" if repeats > 1 else ""
    listed = ",".join(map(str, tiles + ([repeats] if repeats > 1 else [])))
    return f"{{devices=[{listed}]<=[{mesh[0]},{mesh[1]}]{turn}{last}}}"


def _mesh(text: str) -> tuple[int, int]:
    found = {"tensor": int(text)} if text.isdigit() else _pairs(text, "shards")
    sizes = tuple(found.pop(axis, 1) for axis in AXES)
    if found or min(sizes) < 1:
        raise UsageError(f"shards={text!r} is no mesh; write 8, tensor=8 or data=2,tensor=4")
    return sizes[0], sizes[1]


def _pairs(text: str, option: str) -> dict[str, int]:
    pairs: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, equals, number = part.rpartition("=")
        if not equals or not number.isdigit():
            raise UsageError(f"{option}={text!r}: {part!r} is not name=number")
        pairs[name.strip()] = int(number)
    return pairs


def _weight_dim(argument: Argument, contracted: int | None) -> int | None:
    """The dimension of a weight to split; None for one that no product reads as it is."""
    if contracted is None or len(argument.shape) != 2:
        return None
    return contracted if argument.name.endswith(_BACK) else 1 - contracted


def _assign(
    plan: list[str], argument: Argument, dim: int, axis: str, count: int, *, must: bool
) -> None:
    size = argument.shape[dim] if dim < len(argument.shape) else None
    if isinstance(size, int) and count > 1 and size % count == 0:
        plan[dim] = axis
    elif must and count > 1:
        raise UsageError(
            f"split: dimension {dim} of {argument.name} {list(argument.shape)} does not divide "
            f"by {count}"
        )


def _contracted(module: Module) -> dict[str, int]:
    """Weight → the dimension that the products reading it sum over."""
    found: dict[str, int] = {}
    for step in walk(module):
        if step.op.name != "stablehlo.dot_general":
            continue
        numbers = step.op.attributes["dot_dimension_numbers"]
        for root, summed in zip(
            step.roots, (numbers.lhs_contract, numbers.rhs_contract), strict=True
        ):
            if root and root.role == "weight" and set(root.via) <= {"stablehlo.convert"}:
                found[root.argument.name] = summed[0]
    return found
