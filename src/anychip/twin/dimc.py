"""Machine model of digital in-memory compute: weights stay in the arrays that multiply them.

A card is chiplets of arrays; each array multiplies the weights it stores with the vector it is
given. So a weight is never moved in a step: the vector is, to every chiplet and back, and from
card to card. Weights that do not fit in the arrays wait in capacity memory and are loaded first.
docs/twins/dimc.md has the page.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from anychip.twin.collective import all_gather_s, all_reduce_s
from anychip.twin.engine import Block
from anychip.twin.formats import VECTOR
from anychip.twin.machine import Link, Machine
from anychip.twin.program import Chain, Program, Task, cards

NOTE = (
    "in-memory machine model: one card of each group is shown, its chiplets in step; not modelled: "
    "writing weights into arrays at start, contention on the bridge, the host's part of a step"
)


@dataclass(frozen=True, kw_only=True)
class Card:
    """One card: chiplets joined by die-to-die links, and arrays of `side` x `side` elements."""

    chiplets: int
    arrays: int
    side: int
    d2d_bytes_per_s: float
    d2d_s: float

    @staticmethod
    def of(one: Machine) -> Card:
        return Card(
            chiplets=int(one.detail("chiplets_count")),
            arrays=int(one.detail("dimc_cores_count")),
            side=int(one.detail("array_side_count")),
            d2d_bytes_per_s=one.detail("chiplet_link_bytes_per_s"),
            d2d_s=one.detail("chiplet_hop_s"),
        )


def program(task: Task) -> Program:
    """One step on the cards: the vector's way through arrays, chiplets and cards."""
    card = Card.of(task.machine)
    names = task.places(cards)
    blocks, runs = task.staged(
        names, lambda rows: _block(task, card, rows), lambda stage: _hop(task, stage)
    )
    return Program(
        blocks=blocks,
        runs=runs,
        note=NOTE,
        stands_for=dict.fromkeys(names, task.shards.tensor),
        before_s=task.machine.per_step_s,
        picture=task.occupancy(names),
    )


def _between(task: Task, cards: int) -> Link | None:
    one = task.machine
    return one.link if cards <= one.scale_up_count else one.scale_out or one.link


def _hop(task: Task, stage: int) -> Block:
    """To the next group of cards: by the server's bridge, or by the network between servers."""
    one, tensor = task.machine, task.shards.tensor
    is_far = (
        one.scale_out is not None
        and stage * tensor // one.scale_up_count != (stage * tensor - 1) // one.scale_up_count
    )
    return task.send_on(
        (one.scale_out if is_far else None) or one.link, "network" if is_far else "bridge"
    )


def _block(task: Task, card: Card, rows: range) -> Block:
    chain = Chain()
    for row in rows:
        kernel = task.table.kernels[row]
        if kernel.unit == "matmul":
            _matmul(chain, task, card, row)
        else:
            _vector(chain, task, card, row)
        _combine(chain, task, row)
    return chain.block()


def _matmul(chain: Chain, task: Task, card: Card, row: int) -> None:
    """Vector to all chiplets, multiply where the weights are, partial sums back over the links."""
    kernel, part, one = task.table.kernels[row], task.part, task.machine
    how = task.formats[row]
    stored = float(part.weight_bytes[row] + part.state_bytes[row])
    near = one.levels[-1]
    if task.placement.level < len(one.levels) - 1 and part.weight_bytes[row]:
        level = one.levels[task.placement.level]
        load = float(part.weight_bytes[row]) / level.bytes_per_s
        chain.add(f"load {kernel.name}", "chip/capacity memory", seconds=load, is_ahead=True)
        loaded = [len(chain.jobs) - 1]
    else:
        loaded = []
    _spread(chain, "to chiplets", float(part.activation_bytes[row]), card, row)
    rate = one.vector_flops_per_s if how.format == VECTOR else one.matmul_flops_per_s[how.format]
    flops = float(part.flops[row]) * how.slowdown * _padding(task, card, row)
    tip = [] if chain.tip is None else [chain.tip]
    is_attention = not part.weight_bytes[row]
    halves = ("scores", "values") if is_attention else (kernel.name,)
    for index, name in enumerate(halves):
        chain.add(
            name,
            "chip/arrays",
            seconds=max(stored / near.bytes_per_s, flops / rate) / len(halves),
            after=[*tip, *loaded] if not index and loaded else None,
            kernel=row,
            flops=float(part.flops[row]) / len(halves),
            read_bytes=stored / len(halves),
            bound="memory" if stored / near.bytes_per_s > flops / rate else "compute",
        )
        last = index == len(halves) - 1
        unpack = 0.0 if how.is_native else float(part.unpack_flops[row])
        work = float(part.vector_flops[row]) + unpack
        if is_attention and not last:
            _simd(chain, task, card, row, "softmax", work, trips=2)
        elif not is_attention:
            _simd(chain, task, card, row, "finish", work, trips=0)
    _spread(chain, "sum of chiplets", float(part.activation_bytes[row]), card, row)


def _spread(chain: Chain, name: str, size: float, card: Card, row: int) -> None:
    """A vector to every chiplet of the card, or every chiplet's part to one: the way across."""
    chain.add(
        *(name, "chip/die-to-die"),
        seconds=size / card.d2d_bytes_per_s,
        delay_s=math.ceil(math.log2(max(card.chiplets, 2))) * card.d2d_s,
        kernel=row,
        bound="link",
    )


def _simd(
    chain: Chain, task: Task, card: Card, row: int, name: str, work: float, trips: int
) -> None:
    """Elementwise work beside the arrays; each reduction over the whole vector is a trip over the
    die-to-die links and back."""
    chain.add(
        name,
        "chip/SIMD",
        seconds=work / task.machine.vector_flops_per_s,
        delay_s=2 * trips * math.ceil(math.log2(max(card.chiplets, 2))) * card.d2d_s,
        kernel=row,
        flops=float(work),
        bound="vector",
    )


def _vector(chain: Chain, task: Task, card: Card, row: int) -> None:
    kernel, part = task.table.kernels[row], task.part
    trips = sum(
        op.rpartition(".")[2] in ("rms_norm", "layer_norm", "softmax", "reduce", "sort", "top_k")
        for op in kernel.ops
    )
    moved = float(part.activation_bytes[row] + part.state_bytes[row])
    _spread(chain, f"move for {kernel.name}", moved, card, row)
    work = float(part.vector_flops[row] + part.flops[row])
    _simd(chain, task, card, row, kernel.name, work, trips)


def _combine(chain: Chain, task: Task, row: int) -> None:
    ways = task.shards.tensor
    link = _between(task, ways)
    if ways == 1 or link is None:
        return
    reduce = float(task.table.numbers["reduce_bytes"][row])
    gather = float(task.table.numbers["gather_bytes"][row])
    seconds = all_reduce_s(reduce, ways, link) + all_gather_s(gather, ways, link)
    one = task.machine
    unit = "bridge" if ways <= one.scale_up_count or one.scale_out is None else "network"
    if seconds:
        chain.add("all-reduce", f"chip/{unit}", seconds=seconds, kernel=row, bound="link")


def _padding(task: Task, card: Card, row: int) -> float:
    """Arithmetic that arrays do over what is asked: a block is multiplied whole."""
    kernel = task.table.kernels[row]
    if not kernel.dots or not task.part.weight_bytes[row]:
        return 1.0
    ways = task.shards.tensor if kernel.is_split and not kernel.experts else 1
    ways *= card.chiplets
    side = card.side
    exact = padded = 0.0
    for inner, cols in kernel.dots:
        exact += inner * cols / ways
        padded += math.ceil(inner / side) * side * math.ceil(cols / ways / side) * side
    return padded / exact
