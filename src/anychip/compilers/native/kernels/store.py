"""Writing sixteen rows of a product, the last ones of a matrix one by one."""

from __future__ import annotations

from typing import Any

from anychip.compilers.native.ir import F32, F32V, Function, Value


def await_tile(f: Function, kernel: Any, tile: Value, token: Value) -> None:
    """Ask for the lines that `store_tile` will touch: products of many tokens do not fit the nearer
    caches, and stores wait for their lines in order, before all others."""
    at = token * (4 * kernel.rows) + tile * 64
    f.prefetch(f.arguments["out"].at(at), writes=True)
    if kernel.has_residual:
        f.prefetch(f.arguments["residual"].at(at))


def store_tile(f: Function, kernel: Any, tile: Value, token: Value, sums: Value) -> None:
    """out[token, 16 tile …] = sums (+ residual) for a kernel with rows and has_residual."""
    at = token * (4 * kernel.rows) + tile * 64
    out = f.arguments["out"].at(at)
    residual = f.arguments["residual"].at(at) if kernel.has_residual else None

    def whole() -> None:
        out.store(sums if residual is None else sums + residual.load(F32V))

    ragged = kernel.rows % 16
    if not ragged:
        whole()
        return
    with f.either(tile.equals(kernel.rows // 16)) as (yes, no):
        with yes:
            for lane in range(ragged):
                value = sums.lane(lane)
                if residual is not None:
                    value = value + residual.at(4 * lane).load(F32)
                out.at(4 * lane).store(value)
        with no:
            whole()
