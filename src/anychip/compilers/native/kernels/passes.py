"""Tokens of a vector product, in as few passes over a row of tiles as registers allow."""

from __future__ import annotations

from collections.abc import Callable

from anychip.compilers.native.ir import Function, Value

_TOGETHER = 8
"""Tokens that share one read of a tile: what fits in 32 registers."""


def in_passes(f: Function, tokens: int, some: Callable[[Value, int, bool], None]) -> None:
    """`some(first token, how many, whether nobody has read the weights before)` for all of them."""
    step = min(tokens, _TOGETHER)
    whole = tokens // step * step
    if whole == step:
        some(f.i64(0), step, True)
    else:
        with f.loop(0, whole, step) as token:
            some(token, step, False)
    if tokens > whole:
        some(f.i64(whole), tokens - whole, False)
