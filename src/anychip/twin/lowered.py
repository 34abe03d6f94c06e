"""Kernel, Lowered and Table: what a Module asks of any chip, after fusion and before cost.

A Kernel is what one launch does once. Lowered is the kernels of a Module in order, repeated layers
kept once. A Table is the same as columns of numbers, which cost equations work on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import numpy as np

from anychip.core import Origin

Unit = Literal["matmul", "vector", "move", "collective"]


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """The numbers of one kernel run once on one chip, before any sharding.

    `flops` are those of the matrix unit (2 per multiply-add), `vector_flops` all others;
    `unpack_flops` are vector operations that turn stored weights into numbers for the matrix
    unit, needed only where it does not take them as stored.
    `weight_bytes` are read from where weights live, for an expert kernel those of all experts;
    `state_*` is the KV cache; `read_bytes` and `written_bytes` are activations that cross the
    kernel's border. `reduce_bytes` must be all-reduced after the kernel when its weights are split
    over chips, `gather_bytes` all-gathered. `rows` are the rows routed to experts.
    """

    flops: float = 0.0
    vector_flops: float = 0.0
    unpack_flops: float = 0.0
    transcendentals: float = 0.0
    weight_bytes: float = 0.0
    state_read_bytes: float = 0.0
    state_written_bytes: float = 0.0
    read_bytes: float = 0.0
    written_bytes: float = 0.0
    reduce_bytes: float = 0.0
    gather_bytes: float = 0.0
    rows: float = 0.0


AMOUNTS = tuple(f.name for f in fields(Amounts))
OF_WEIGHTS = ("weight_bytes", "unpack_flops")
"""Amounts that do not grow with the batch."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One launch. `formats` are the matrix unit's formats that do it exactly, best first; `stored`
    is the format its weights lie in where that may be another. `is_split` says whether tensor
    parallelism divides it (otherwise every chip repeats it); `state_splits` is how many ways its
    state can be divided (KV heads). `experts` is the number of experts its weights hold (0: dense),
    `active` how many of them a token takes. `dots` are the (contracted,
    result) lengths of each matmul inside, in order; how many rows go through them is in `flops`
    (an attention is one: both its products, as the length of its result needs them). `ops` lists
    the ops inside, with repeats.
    """

    name: str
    unit: Unit
    amounts: Amounts
    formats: tuple[str, ...] = ()
    stored: str = ""
    is_split: bool = False
    state_splits: int = 1
    experts: int = 0
    active: int = 1
    dots: tuple[tuple[int, int], ...] = ()
    ops: tuple[str, ...] = ()
    origin: Origin = Origin()


@dataclass(frozen=True, kw_only=True)
class Lowered:
    """The kernels of one Module.

    `blocks` are runs of kernels; `schedule` says which block runs when and on whose behalf: a model
    of 80 equal layers has one block for the layer and 80 entries. `layers` counts repeated layers.
    `weight_bytes` and `state_bytes` are what the arguments occupy, used or not;
    `replicated_weight_bytes` is the part that tensor parallelism does not divide. `arguments` are
    all of a call's, weights included.
    """

    name: str
    blocks: tuple[tuple[Kernel, ...], ...]
    schedule: tuple[tuple[int, Origin], ...]
    layers: int
    weight_bytes: float
    state_bytes: float
    replicated_weight_bytes: float = 0.0
    arguments: int = 0

    def counted(self) -> list[tuple[Kernel, int]]:
        """Every kernel with how often it runs, in order of first run."""
        runs = Counter(block for block, _ in self.schedule)
        order = list(dict.fromkeys(block for block, _ in self.schedule))
        return [(kernel, runs[block]) for block in order for kernel in self.blocks[block]]

    def total(self, name: str) -> float:
        """The sum of one amount over the whole Module."""
        return sum(getattr(kernel.amounts, name) * count for kernel, count in self.counted())


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Properties of kernels, one entry a kernel; see Kernel."""

    is_split: np.ndarray
    state_splits: np.ndarray
    is_grouped: np.ndarray
    experts: np.ndarray
    active: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Table:
    """A Lowered as columns: `numbers[name]` has one entry a kernel, `counts` its runs.

    `order` says what runs when: the rows of a block of kernels, and on whose behalf.
    """

    kernels: tuple[Kernel, ...]
    counts: np.ndarray
    numbers: dict[str, np.ndarray]
    layers: int
    weight_bytes: float
    state_bytes: float
    replicated_weight_bytes: float
    order: tuple[tuple[range, Origin], ...]
    arguments: int = 0

    @staticmethod
    def of(lowered: Lowered) -> Table:
        rows = lowered.counted()
        places: dict[int, range] = {}
        for block in dict.fromkeys(block for block, _ in lowered.schedule):
            first = sum(map(len, places.values()))
            places[block] = range(first, first + len(lowered.blocks[block]))
        return Table(
            kernels=tuple(kernel for kernel, _ in rows),
            counts=np.array([count for _, count in rows], float),
            numbers={
                name: np.array([getattr(kernel.amounts, name) for kernel, _ in rows], float)
                for name in AMOUNTS
            },
            layers=lowered.layers,
            weight_bytes=lowered.weight_bytes,
            state_bytes=lowered.state_bytes,
            replicated_weight_bytes=lowered.replicated_weight_bytes,
            order=tuple((places[block], caller) for block, caller in lowered.schedule),
            arguments=lowered.arguments,
        )

    @cached_property
    def traits(self) -> Traits:
        """What of the kernels does not scale, as arrays."""
        each = self.kernels
        return Traits(
            is_split=np.array([k.is_split for k in each], bool),
            state_splits=np.array([k.state_splits for k in each], float),
            is_grouped=np.array([k.experts > 0 for k in each], bool),
            experts=np.array([max(k.experts, 1) for k in each], float),
            active=np.array([k.active for k in each], float),
        )

    def total(self, name: str) -> float:
        """The sum of one amount over all runs of all kernels."""
        return float(self.numbers[name] @ self.counts)

    def at_batch(self, times: float) -> Table:
        """This Table for `times` as many sequences: all but the weights grows with them."""
        if times == 1:
            return self
        return replace(
            self,
            numbers={
                name: mine if name in OF_WEIGHTS else mine * times
                for name, mine in self.numbers.items()
            },
            state_bytes=self.state_bytes * times,
        )

    def settled(self) -> Table:
        """This Table with kernels whose amounts are its numbers, as if it had been lowered so."""
        made = tuple(
            replace(
                kernel, amounts=Amounts(**{name: float(self.numbers[name][i]) for name in AMOUNTS})
            )
            for i, kernel in enumerate(self.kernels)
        )
        return replace(self, kernels=made)

    def blend(self, other: Table, share: float) -> Table:
        """The Table `share` of the way from this one to `other` (0 is this one; 2 is as far again).

        Exact where every amount is affine between the two, as in batch or in context.
        """
        return replace(
            self,
            numbers={
                name: np.maximum(mine + (other.numbers[name] - mine) * share, 0.0)
                for name, mine in self.numbers.items()
            },
            weight_bytes=self.weight_bytes,
            state_bytes=max(self.state_bytes + (other.state_bytes - self.state_bytes) * share, 0.0),
        )
