"""Recognise what a scalar region computes, so that rules can use XLA's own reductions."""

from __future__ import annotations

from anychip.ops.view import Block

_COMMUTATIVE = frozenset(
    f"stablehlo.{n}" for n in ("add", "multiply", "maximum", "minimum", "and", "or", "xor")
)


def monoid(block: Block) -> str | None:
    """The op a two-argument region applies to its arguments, "update" if it returns the second.

    None when it does anything else. Only for commutative ops, so argument order does not matter.
    """
    if len(block.arguments) != 2 or len(block.results) != 1:
        return None
    if not block.ops and block.results[0] is block.arguments[1]:
        return "update"
    if len(block.ops) != 1:
        return None
    op = block.ops[0]
    applies = set(op.operands) == set(block.arguments) and len(op.operands) == 2
    if op.name in _COMMUTATIVE and applies and block.results[0] is op.results[0]:
        return op.name
    return None
