"""How many chips a twin takes when nobody says: the fewest that hold the model, and of divisions
over as many, the one that is quickest."""

from __future__ import annotations

from collections.abc import Mapping

from anychip.core import UsageError
from anychip.twin.lowered import Table
from anychip.twin.machine import Machine
from anychip.twin.shard import Shards, place, share
from anychip.twin.simulate import simulate

TENSOR = (1, 2, 4, 8)
"""Chips that share a layer: no more than a node or a server has."""
OPTIONS = {
    "tensor": "chips that share each layer",
    "pipeline": "stages that follow one another",
}


def deployment(table: Table, machine: Machine, asked: Mapping[str, str]) -> Shards:
    """The Shards asked for by the options `tensor` and `pipeline`, or the smallest that hold the
    model. A model that no division holds is put on as many stages as it has layers."""
    if asked:
        return Shards(*(_number(name, asked.get(name, "1")) for name in OPTIONS))
    layers = max(table.layers, 1)
    widths = TENSOR if machine.link is not None else (1,)
    longest = layers if machine.link is not None else 1
    found: list[Shards] = []
    for tensor in widths:
        sizes = range(1, longest + 1)
        fit = (Shards(tensor, p) for p in sizes if _fits(table, machine, Shards(tensor, p)))
        found += [one for one in [next(fit, None)] if one is not None]
    if not found:
        return Shards(widths[-1], longest)
    fewest = min(one.chips for one in found)
    same = [one for one in found if one.chips == fewest]
    return min(same, key=lambda one: simulate(table, machine, one).seconds)


def _fits(table: Table, machine: Machine, shards: Shards) -> bool:
    return place(share(table, shards), machine).fits


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise UsageError(f"{name} is a number of chips or stages, at least 1, got {text!r}")
    return int(text)
