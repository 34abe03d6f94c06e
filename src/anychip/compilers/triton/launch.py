"""Which kernel an op becomes: its constants, its grid, or why there is none. Triton stays out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

from anychip.ops.composite import attributes_of
from anychip.ops.view import OpView, Spec

TYPES = {"bf16": "*bf16", "f16": "*fp16", "f32": "*fp32"}
_ROW_LIMIT = 16384
"""Numbers of a row that one program holds in registers."""


@dataclass(frozen=True)
class Launch:
    """A kernel by name with its pointers' types in order (operands, result) and its constants."""

    kernel: str
    pointers: tuple[str, ...]
    constants: tuple[tuple[str, float | int | bool], ...]
    grid: tuple[int, int, int]


def launch(op: OpView) -> Launch | str:
    """The kernel for an op, or why there is none."""
    specs = (*op.inputs, *op.outputs)
    if wrong := sorted({s.dtype for s in specs if s.dtype not in TYPES}):
        return f"the kernels take bf16, f16 and f32, not {', '.join(wrong)}"
    title = str(op.attributes["name"]) if op.name == "stablehlo.composite" else op.name
    makers = {
        "stablehlo.dot_general": _matmul,
        "anychip.softmax": _softmax,
        "anychip.rms_norm": _rms_norm,
        "anychip.layer_norm": _layer_norm,
        "anychip.attention": _attention,
    }
    if title not in makers:
        return "there is a kernel for products, softmax, norms and attention only"
    return makers[title](op)


def _made(
    kernel: str,
    op: OpView,
    constants: Mapping[str, float | int | bool],
    grid: tuple[int, int, int],
) -> Launch:
    pointers = tuple(TYPES[s.dtype] for s in (*op.inputs, *op.outputs))
    return Launch(kernel, pointers, tuple(constants.items()), grid)


def _matmul(op: OpView) -> Launch | str:
    numbers = op.attributes["dot_dimension_numbers"]
    left, right = op.inputs
    if left.dtype != right.dtype:
        return "a product of two types"
    if len(numbers.lhs_contract) != 1:
        return f"a product summed over {len(numbers.lhs_contract)} dimensions"
    sides = [
        _side(spec, tuple(batch), tuple(contract))
        for spec, batch, contract in (
            (left, numbers.lhs_batch, numbers.lhs_contract),
            (right, numbers.rhs_batch, numbers.rhs_contract),
        )
    ]
    a, b = sides
    if a is None or b is None:
        return "the dimensions of a product's operand are not in an order that one stride covers"
    m, n, k = a.free, b.free, a.summed
    tile_m, tile_n = _tile(m), _tile(n)
    constants = {
        **{"M": m, "N": n, "K": k},
        **{"ABATCH": a.batch_stride, "AM": a.free_stride, "AK": a.summed_stride},
        **{"BBATCH": b.batch_stride, "BK": b.summed_stride, "BN": b.free_stride},
        **{"TM": tile_m, "TN": tile_n, "TK": 32 if left.dtype == "f32" else 64},
    }
    return _made("matmul", op, constants, (-(-m // tile_m), -(-n // tile_n), a.batch))


@dataclass(frozen=True)
class _Side:
    """An operand of a product as [batch, free, summed] with strides in elements."""

    batch: int
    free: int
    summed: int
    batch_stride: int
    free_stride: int
    summed_stride: int


def _side(spec: Spec, batch: tuple[int, ...], contract: tuple[int, ...]) -> _Side | None:
    sizes = spec.sizes
    strides = [math.prod(sizes[i + 1 :]) for i in range(len(sizes))]
    free = tuple(i for i in range(len(sizes)) if i not in batch and i not in contract)
    if not (_joined(batch) and _joined(free)):
        return None
    (summed,) = contract
    return _Side(
        batch=math.prod(sizes[i] for i in batch),
        free=math.prod(sizes[i] for i in free),
        summed=sizes[summed],
        batch_stride=strides[batch[-1]] if batch else 0,
        free_stride=strides[free[-1]] if free else 0,
        summed_stride=strides[summed],
    )


def _joined(dims: tuple[int, ...]) -> bool:
    """Whether these dimensions stand side by side in memory, so that one index walks them all."""
    return all(after == before + 1 for before, after in pairwise(dims))


def _tile(size: int) -> int:
    return 16 if size <= 16 else 32 if size <= 32 else 64 if size <= 64 else 128


def _rows(op: OpView) -> tuple[int, int, int] | str:
    """(rows, length, block) of the last dimension of the first operand."""
    sizes = op.inputs[0].sizes
    if sizes[-1] > _ROW_LIMIT:
        return f"rows of {sizes[-1]} are longer than the {_ROW_LIMIT} that one program holds"
    return math.prod(sizes[:-1]), sizes[-1], max(16, 1 << (sizes[-1] - 1).bit_length())


def _softmax(op: OpView) -> Launch | str:
    axis = int(attributes_of(op)["axis"])
    if axis not in (-1, len(op.inputs[0].sizes) - 1):
        return f"softmax along dimension {axis}, which is not the last"
    found = _rows(op)
    if isinstance(found, str):
        return found
    count, length, block = found
    return _made("softmax", op, {"N": length, "BLOCK": block}, (count, 1, 1))


def _rms_norm(op: OpView) -> Launch | str:
    found = _rows(op)
    if isinstance(found, str):
        return found
    if len(op.inputs) != 2:
        return "rms_norm without a scale"
    count, length, block = found
    given = attributes_of(op)
    constants = {"N": length, "EPS": float(given["eps"]), "OFFSET": float(given["offset"])}
    return _made("rms_norm", op, {**constants, "BLOCK": block}, (count, 1, 1))


def _layer_norm(op: OpView) -> Launch | str:
    found = _rows(op)
    if isinstance(found, str):
        return found
    if len(op.inputs) != 3:
        return "layer_norm without scale and bias"
    count, length, block = found
    constants = {"N": length, "EPS": float(attributes_of(op)["eps"]), "BLOCK": block}
    return _made("layer_norm", op, constants, (count, 1, 1))


def _attention(op: OpView) -> Launch | str:
    given = attributes_of(op)
    if len(op.inputs) != 3 or given["window"] or given["softcap"]:
        return "attention with a mask, a window or a cap on its logits"
    (b, heads, queries, d), (_, keys, slots, _) = op.inputs[0].sizes, op.inputs[1].sizes
    if d != op.inputs[2].sizes[-1] or d not in (16, 32, 64, 128, 256):
        return f"attention with heads of {d}: 16, 32, 64, 128 or 256 for keys and values alike"
    tile_q, tile_s = (64, 64) if d <= 64 else (64, 32)
    tile_q = min(tile_q, max(16, 1 << (queries - 1).bit_length()))
    constants = {
        **{"HEADS": heads, "KEYS": keys, "Q": queries, "S": slots, "D": d},
        **{"SCALE": float(given["scale"]), "CAUSAL": bool(given["causal"])},
        **{"TQ": tile_q, "TS": tile_s},
    }
    return _made("attention", op, constants, (-(-queries // tile_q), b * heads, 1))
