"""Products with weights, and rows gathered from them: which kernel, how the weight is packed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from anychip.compilers.native.kernels.embed import Embed
from anychip.compilers.native.kernels.layout import LAYOUTS
from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.compilers.native.kernels.matmul_dense import DenseMatmul
from anychip.compilers.native.plan import Operand, PackedWeight
from anychip.compilers.native.recognise import dequantised
from anychip.compilers.native.view import FLOATS, NoKernel, Raw, View
from anychip.core.blocks import block_format
from anychip.ops.view import Block, OpView, Value


@dataclass(frozen=True)
class Rows:
    """Gathered rows: the value they are, as a view, and the ops that became part of the kernel."""

    value: Value
    view: View
    ops: tuple[OpView, ...]


def gathered(reader: Any, op: OpView, inputs: list[Any], block: Block) -> Rows:
    """Rows of a weight by index."""
    table, index = inputs
    dims, (*lead, width) = op.attributes["dimension_numbers"], op.outputs[0].sizes
    expected = ((len(lead),), (0,), (), (0,), len(lead))
    got = (dims.offset, dims.collapsed, dims.operand_batch, dims.start_index_map, dims.index_vector)
    place = table.place if isinstance(table, View) else None
    if not isinstance(place, Raw) or table.shape != place.shape or not table.is_dense:
        raise NoKernel("not a gather from a whole weight")
    if got != expected or op.attributes["slice_sizes"] != (1, width) or len(table.shape) != 2:
        raise NoKernel("not a gather of whole rows of a weight")
    tokens = reader.view(index)
    if tokens.element != "i32" or not tokens.is_dense:
        raise NoKernel("row numbers that are not i32 in a row")
    count, vocabulary = math.prod(lead), table.shape[0]
    value, ops, form, depth = op.results[0], (), table.element, width
    if form == "ui8":
        found = dequantised(block, op)
        if found is None or found.format not in LAYOUTS:
            kind = found.format if found else "bytes"
            raise NoKernel(f"rows of {kind}; there are kernels for {', '.join(LAYOUTS)}")
        value, ops, form = found.value, found.ops, found.format
        depth = found.value.spec.sizes[-1]
    elif form not in FLOATS:
        raise NoKernel(f"rows of {form}")
    kernel = Embed(form, vocabulary, depth, count)
    out = reader.buffer("embedded", (*lead, depth), kernel)
    reader.add(kernel, Operand(packed(place, form, depth)), tokens, out)
    return Rows(value, out, ops)


def packed(place: Raw, form: str, depth: int) -> PackedWeight:
    """A matrix in the tiles of its product's kernel."""
    rows = place.shape[0]
    kernel = (
        BlockMatmul(form, rows, depth, 1)
        if form in LAYOUTS
        else DenseMatmul(form, rows, depth, 1, depth)
    )
    return PackedWeight(place.argument, form, rows, depth, kernel.packed_bytes)


def _matrix(known: Any) -> Raw:
    """The weight a whole, untransposed matrix operand is."""
    place = known.place if isinstance(known, View) else None
    if not isinstance(place, Raw) or known.shape != place.shape or not known.is_dense:
        raise NoKernel("the right-hand side is no whole weight")
    if len(known.shape) != 2:
        raise NoKernel("the weight is no matrix")
    return place


def quantized_matmul(reader: Any, op: OpView, inputs: list[Any]) -> View:
    attributes = op.attributes["composite_attributes"]
    form = attributes["format"]
    if form not in LAYOUTS:
        raise NoKernel(f"weights in {form}; there are kernels for {', '.join(LAYOUTS)}")
    if attributes["activation"]:
        raise NoKernel(f"activations rounded to {attributes['activation']}")
    if block_format(form).has_outer_scale:
        raise NoKernel("an outer scale")
    # Constants of the composite's own body, as JAX hands them over, stand before the operands.
    (left, size), (right, _) = (
        (one, spec.sizes)
        for one, spec in zip(inputs, op.inputs, strict=True)
        if not isinstance(one, np.ndarray)
    )
    weight, depth = _matrix(right), size[-1]
    assert block_format(form).row_bytes(depth) == weight.shape[1]
    x, tokens = reader.quantized(left)
    kernel = BlockMatmul(form, weight.shape[0], depth, tokens)
    out = reader.buffer("product", op.outputs[0].sizes, kernel)
    reader.add(kernel, Operand(packed(weight, form, depth)), x, out)
    return out


def dot_general(reader: Any, op: OpView, inputs: list[Any]) -> View:
    dims = op.attributes["dot_dimension_numbers"]
    rank = len(op.inputs[0].sizes)
    contracted = (dims.lhs_contract, dims.rhs_contract)
    if contracted != ((rank - 1,), (1,)) or dims.lhs_batch or dims.rhs_batch:
        raise NoKernel("not x[…, K] times a weight [N, K]")
    weight = _matrix(inputs[1])
    if weight.element not in FLOATS:
        raise NoKernel(f"a weight of {weight.element}")
    x, tokens, stride = reader.row_view(inputs[0])
    rows, depth = weight.shape
    kernel = DenseMatmul(weight.element, rows, depth, tokens, stride)
    out = reader.buffer("product", op.outputs[0].sizes, kernel)
    reader.add(kernel, Operand(packed(weight, weight.element, depth)), x, out)
    return out
