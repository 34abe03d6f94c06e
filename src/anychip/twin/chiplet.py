"""Machine model of an HBM processor of several chiplets: each computes on the weights in its own
stack of memory, while the next weights are fetched.

Memory is not uniform: a chiplet reads its own stack at its own rate, and what another holds comes
over the die-to-die links. So weights are divided over chiplets as over cards, and every kernel ends
with an exchange of activations. docs/twins/chiplet.md has the page.
"""

from __future__ import annotations

from dataclasses import dataclass

from anychip.twin.collective import all_gather_s, all_reduce_s
from anychip.twin.engine import Block
from anychip.twin.formats import VECTOR
from anychip.twin.machine import Machine
from anychip.twin.program import Chain, Program, Task, cards

NOTE = (
    "chiplet machine model: the chiplets of a card work in step and are drawn as one, as are the "
    "cards of a tensor group; not modelled: refresh and bank conflicts of HBM, routing inside a "
    "chiplet's mesh"
)


@dataclass(frozen=True, kw_only=True)
class Package:
    """Chiplets of one card and what joins them. `buffer_bytes` is one chiplet's for weights."""

    chiplets: int
    d2d_bytes_per_s: float
    d2d_s: float
    buffer_bytes: float
    command_s: float

    @staticmethod
    def of(one: Machine) -> Package:
        chiplets = int(one.detail("chiplets_count"))
        is_one = chiplets == 1
        return Package(
            chiplets=chiplets,
            d2d_bytes_per_s=1.0 if is_one else one.detail("d2d_channel_bytes_per_s"),
            d2d_s=0.0 if is_one else one.detail("d2d_s"),
            buffer_bytes=one.detail("weight_buffer_bytes"),
            command_s=one.per_kernel_s,
        )


def program(task: Task) -> Program:
    """One step: weights are fetched ahead as far as the buffers reach, kernels follow the token."""
    card = Package.of(task.machine)
    names = task.places(cards)
    blocks, runs = task.staged(
        names,
        lambda rows: _block(task, card, rows),
        lambda stage: task.send_on(task.machine.link, "PCIe"),
    )
    return Program(
        blocks=blocks,
        runs=runs,
        note=NOTE,
        stands_for=dict.fromkeys(names, task.shards.tensor),
        before_s=task.machine.per_step_s,
        picture=task.occupancy(names),
    )


def _block(task: Task, card: Package, rows: range) -> Block:
    chain = Chain()
    for index, row in enumerate(rows):
        _kernel(chain, task, card, row, f"chip/buffer {index % 2}")
        _exchange(chain, task, card, row)
    return chain.block()


def _kernel(chain: Chain, task: Task, card: Package, row: int, buffer: str) -> None:
    """Two buffers take turns: what of a kernel's weights fits in one is fetched while the kernel
    before still computes, the rest while the kernel itself does."""
    kernel, part, one = task.table.kernels[row], task.part, task.machine
    how = task.formats[row]
    stored = float(part.weight_bytes[row] + part.state_bytes[row])
    # One chiplet's part at one chiplet's rate is the card's over the card's.
    memory_s = stored / one.levels[task.placement.level].bytes_per_s
    rate = one.vector_flops_per_s if how.format == VECTOR else one.matmul_flops_per_s[how.format]
    unpack = 0.0 if how.is_native else float(part.unpack_flops[row])
    work = float(part.vector_flops[row]) + unpack
    compute_s = float(part.flops[row]) * how.slowdown / rate
    activations = float(part.activation_bytes[row])
    chain.add("command", "chip/command processor", delay_s=card.command_s, kernel=row)
    start = [] if chain.tip is None else [chain.tip]
    early = min(1.0, card.buffer_bytes * card.chiplets / stored) if stored else 1.0
    for name, share in (("ahead", early), ("rest", 1.0 - early)):
        if share <= 0:
            continue
        is_ahead = name == "ahead"
        fetched: list[int] = []
        if stored:
            fetched = [
                chain.add(
                    f"fetch {kernel.name}" + (" ahead" if is_ahead else ""),
                    "chip/HBM",
                    seconds=memory_s * share,
                    after=None if is_ahead else start,
                    is_ahead=is_ahead,
                    reads=(buffer,) if is_ahead else (),
                    kernel=row,
                    read_bytes=stored * share,
                    bound="memory",
                )
            ]
        chain.add(
            kernel.name,
            "chip/neural engines" if part.flops[row] else "chip/vector units",
            seconds=compute_s * share if part.flops[row] else 0.0,
            after=[*start, *fetched],
            writes=(buffer,),
            kernel=row,
            flops=float(part.flops[row]) * share,
            bound="compute",
        )
    chain.add(
        f"vector part of {kernel.name}",
        "chip/vector units",
        seconds=work / one.vector_flops_per_s,
        kernel=row,
        flops=work,
        read_bytes=activations,
        bound="vector",
    )


def _exchange(chain: Chain, task: Task, card: Package, row: int) -> None:
    """Chiplets give each other their part of the result; then cards do, over PCI Express."""
    others = card.chiplets - 1
    size = float(task.part.activation_bytes[row])
    if others and task.table.kernels[row].unit in ("matmul", "collective"):
        chain.add(
            "exchange",
            "chip/UCIe",
            seconds=size * others / card.chiplets / card.d2d_bytes_per_s,
            delay_s=2 * card.d2d_s,  # at most two hops in a square of four
            kernel=row,
            bound="link",
        )
    ways, link = task.shards.tensor, task.machine.link
    if ways == 1 or link is None:
        return
    reduce = float(task.table.numbers["reduce_bytes"][row])
    gather = float(task.table.numbers["gather_bytes"][row])
    seconds = all_reduce_s(reduce, ways, link) + all_gather_s(gather, ways, link)
    if seconds:
        chain.add("all-reduce", "chip/PCIe", seconds=seconds, kernel=row, bound="link")
