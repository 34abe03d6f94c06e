"""Block formats taken apart and put into the tiles of kernels/layout.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from anychip.compilers.native.kernels.layout import COLUMNS, LAYOUTS, ROWS, BlockLayout


@dataclass(frozen=True)
class _Parts:
    """Quants u8[rows, depth]; scales u8[rows, groups, planes, bytes], minimums being the second
    plane; factors of nested scales u8[rows, 256 columns, 2, 2], else None."""

    quants: np.ndarray
    scales: np.ndarray
    factors: np.ndarray | None = None


def pack_blocks(blocks: np.ndarray, format: str, depth: int) -> np.ndarray:
    """u8[N, bytes of a row] → u8[tiles of 16 rows, bytes of a row of tiles].

    Rows and columns that are not there have scale and minimum 0.
    """
    layout, parts = LAYOUTS[format], _PARTS[format](blocks)
    rows, groups = parts.scales.shape[:2]
    tiles, columns = -(-rows // ROWS), -(-depth // COLUMNS)
    full = np.zeros((tiles * ROWS, columns * COLUMNS), np.uint8)
    full[:rows, :depth] = parts.quants
    quartets = full.reshape(tiles, ROWS, columns, 16, 4).transpose(0, 2, 3, 1, 4)
    quartets = quartets.reshape(tiles, columns, 16, 64)
    planes, size = parts.scales.shape[2:]
    scales = np.zeros((tiles * ROWS, columns * layout.groups, planes, size), np.uint8)
    scales[:rows, :groups] = parts.scales
    ordered = scales.reshape(tiles, ROWS, columns, layout.groups, planes, size)
    ordered = ordered.transpose(0, 2, 4, 3, 1, 5).reshape(tiles, columns, -1)
    whole = np.concatenate([_lines(quartets, layout), ordered], axis=-1)
    if parts.factors is None:
        return whole.reshape(tiles, -1)
    factors = np.zeros((tiles * ROWS, *parts.factors.shape[1:]), np.uint8)
    factors[:rows] = parts.factors
    heads = factors.reshape(tiles, ROWS, -1, 2, 2).transpose(0, 2, 3, 1, 4)
    heads = heads.reshape(tiles, heads.shape[1], -1)
    together = whole.reshape(tiles, heads.shape[1], -1)
    return np.concatenate([heads, together], axis=-1).reshape(tiles, -1)


def _lines(quartets: np.ndarray, layout: BlockLayout) -> np.ndarray:
    """u8[…, 16 quartets, 64] → u8[…, bytes of a tile's quants]."""
    lead = quartets.shape[:2]
    if layout.bits == 8:
        return quartets.reshape(*lead, -1)
    pairs = (quartets & 15).reshape(*lead, 8, 2, 64)
    low = (pairs[..., 0, :] | pairs[..., 1, :] << 4).reshape(*lead, -1)
    more = layout.bits - 4
    if not more:
        return low
    upper = (quartets >> 4).reshape(*lead, 2 * more, 8 // more, 64)
    shifts = (more * np.arange(8 // more, dtype=np.uint8))[:, None]
    high = np.bitwise_or.reduce(upper << shifts, axis=-2)
    return np.concatenate([low, high.reshape(*lead, -1)], axis=-1)


def _nibbles(raw: np.ndarray) -> np.ndarray:
    """Low halves of some bytes, then their high halves."""
    return np.concatenate([raw & 15, raw >> 4], axis=-1)


def _plain(lead: int, quants: Callable[[np.ndarray], np.ndarray]) -> Callable[..., _Parts]:
    """Blocks of 32 with one or two f16 before their quants."""

    def parts(blocks: np.ndarray, size: int) -> _Parts:
        rows = len(blocks)
        each = blocks.reshape(rows, -1, size)
        scales = each[..., :lead].reshape(rows, -1, lead // 2, 2)
        return _Parts(quants(each[..., lead:]).reshape(rows, -1), scales)

    return parts


def _q4_k(blocks: np.ndarray) -> _Parts:
    each = blocks.reshape(len(blocks), -1, 144)
    return _with_minimums(each, _pairs(each[..., 16:]))


def _q5_k(blocks: np.ndarray) -> _Parts:
    each = blocks.reshape(len(blocks), -1, 176)
    bits = np.arange(8, dtype=np.uint8)[:, None]
    fifth = (each[..., None, 16:48] >> bits & 1) << 4  # […, 8, 32]
    return _with_minimums(each, _pairs(each[..., 48:]) | fifth)


def _pairs(raw: np.ndarray) -> np.ndarray:
    """u8[…, 128] → u8[…, 8, 32]: 32 bytes hold 32 low halves, then 32 high halves."""
    return _nibbles(raw.reshape(*raw.shape[:-1], 4, 32)).reshape(*raw.shape[:-1], 8, 32)


def _with_minimums(each: np.ndarray, quants: np.ndarray) -> _Parts:
    """q4_K and q5_K: 6-bit scales and minimums, the latter to be subtracted."""
    rows = len(each)
    low, mid, high = each[..., 4:8], each[..., 8:12], each[..., 12:16]
    scale = np.concatenate([low & 63, (high & 15) | (low >> 2 & 48)], axis=-1)
    least = np.concatenate([mid & 63, (high >> 4) | (mid >> 2 & 48)], axis=-1)
    scales = np.stack([scale, least], axis=-1).reshape(rows, -1, 2, 1)
    factors = each[..., :4].reshape(rows, -1, 2, 2).copy()
    factors[..., 1, 1] ^= 0x80
    return _Parts(quants.reshape(rows, -1), scales, factors)


def _q6_k(blocks: np.ndarray) -> _Parts:
    rows = len(blocks)
    each = blocks.reshape(rows, -1, 210)
    low = each[..., :128].reshape(*each.shape[:2], 2, 64)
    low = _nibbles(low).reshape(*each.shape[:2], 2, 4, 32)
    twos = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = each[..., 128:192].reshape(*each.shape[:2], 2, 1, 32) >> twos & 3
    factors = np.zeros((rows, each.shape[1], 2, 2), np.uint8)
    factors[:, :, 0] = each[..., 208:]
    scales = each[..., 192:208].reshape(rows, -1, 1, 1)
    return _Parts((low | high << 4).reshape(rows, -1), scales, factors)


_Q4_0, _Q4_1 = _plain(2, _nibbles), _plain(4, _nibbles)
_Q8_0 = _plain(2, lambda raw: raw ^ 128)  # signed to unsigned, 128 more
_PARTS: dict[str, Callable[[np.ndarray], _Parts]] = {
    "q4_0": lambda blocks: _Q4_0(blocks, 18),
    "q4_1": lambda blocks: _Q4_1(blocks, 20),
    "q8_0": lambda blocks: _Q8_0(blocks, 34),
    "q4_K": _q4_k,
    "q5_K": _q5_k,
    "q6_K": _q6_k,
}
