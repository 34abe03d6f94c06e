"""Plan: which piece of a model runs on which target, with which shards, batch and precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from anychip.core import Precision
from anychip.mapper.objective import Objective
from anychip.mapper.workload import Workload
from anychip.twin import Shards


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One copy of the whole model on `shards.chips` chips of a system.

    `micro_batches` is into how many parts the batch is cut to keep pipeline stages busy.
    """

    target: str
    chip: str
    system: str
    shards: Shards
    batch: int
    micro_batches: int
    precision: Precision

    @property
    def chips(self) -> int:
        return self.shards.chips


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The answer of a search; `why` says how it was chosen, in one line."""

    model: str
    workload: Workload
    objective: Objective | None
    pieces: tuple[Piece, ...]
    why: str

    def to_json(self) -> dict[str, object]:
        return {
            "model": self.model,
            "workload": self.workload.to_json(),
            "objective": self.objective,
            "why": self.why,
            "pieces": [{**asdict(piece), "chips": piece.chips} for piece in self.pieces],
        }
