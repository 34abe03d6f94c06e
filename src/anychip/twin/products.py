"""The shape of a kernel's matrix product from the bytes it moves: Kernel keeps no shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from anychip.core import DTYPES
from anychip.core.blocks import BLOCK_FORMATS
from anychip.twin.lowered import Kernel


@dataclass(frozen=True)
class Product:
    """`count` products of [m, k] by [k, n], which do as many flops as the kernel's."""

    m: float
    k: float
    n: float
    count: float = 1.0


def product(kernel: Kernel) -> Product:
    """The product a matmul kernel is built around.

    With weights, k · n is their number, m the flops by it, and k comes from the activations read.
    Without, both operands are activations (or state): m n is what is written and m k + k n what is
    read, which together with 2 m k n flops fixes the three, m being the smaller of m and n. A
    fused kernel reads more than the product does, so k errs upwards; a batch of small products
    (attention's heads) looks like one long one.
    """
    amounts = kernel.amounts
    macs = max(amounts.flops / 2, 1.0)
    element = bytes_of(kernel.formats[-1] if kernel.formats else "f32")
    if amounts.weight_bytes:
        weights = amounts.weight_bytes / bytes_of(kernel.stored or kernel.formats[0], element)
        m = max(macs / weights, 1.0)
        k = min(max(amounts.read_bytes / element / m, 1.0), weights)
        return Product(m, k, max(weights / k, 1.0))
    read = (amounts.read_bytes + amounts.state_read_bytes) / element
    written = max(amounts.written_bytes / element, 1.0)
    k = max(macs / written, 1.0)
    half = read / k / 2  # (m + n) / 2, whose product is `written`
    root = math.sqrt(max(half * half - written, 0.0))
    m = max(half - root, 1.0)
    return Product(m, k, max(written / m, 1.0))


def bytes_of(name: str, other: float = 4.0) -> float:
    """Bytes of one number of a format, a block's share of its scale included."""
    if name in BLOCK_FORMATS:
        return BLOCK_FORMATS[name].bits_per_element / 8
    return DTYPES[name].bits / 8 if name in DTYPES else other
