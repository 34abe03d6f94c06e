"""Named weights that are read only when touched: from memory, from a file map, or shape only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from anychip.core.dtypes import dtype, nbytes
from anychip.core.errors import InputError, unknown


@dataclass(frozen=True)
class Weight:
    """One named tensor.

    `read` returns it as a numpy array of exactly `shape` and `dtype`; it may map a file and
    should not keep a copy. A weight without `read` is shape only. `stored_bytes` is what it takes
    in its file, `stored_as` its format there (`q4_0`, `bf16`, …).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray] | None = None
    stored_as: str = ""
    stored_bytes: int = 0
    source: str = ""

    @property
    def nbytes(self) -> int:
        """Bytes as a dense array of `dtype`."""
        return nbytes(self.shape, self.dtype)

    def array(self) -> np.ndarray:
        """Read it. Raises InputError when it is shape only or the reader returns another shape."""
        if self.read is None:
            raise InputError(
                f"weight {self.name} {self.shape} is known by shape only; "
                "load a file that carries weights to run the model"
            )
        value = self.read()
        if value.shape != self.shape or value.dtype != dtype(self.dtype).numpy:
            raise InputError(
                f"weight {self.name} should be {self.dtype}{list(self.shape)}, "
                f"its reader gave {value.dtype}{list(value.shape)}",
                path=self.source,
            )
        return value


@dataclass(frozen=True)
class Weights(Mapping[str, Weight]):
    """An ordered, read-only mapping from name to Weight."""

    entries: tuple[Weight, ...] = ()

    def __post_init__(self) -> None:
        by_name = {w.name: w for w in self.entries}
        if len(by_name) < len(self.entries):
            names = [w.name for w in self.entries]
            doubled = sorted({n for n in names if names.count(n) > 1})
            raise InputError(f"weight names must differ; doubled: {', '.join(doubled)}")
        object.__setattr__(self, "_by_name", by_name)

    def __getitem__(self, name: str) -> Weight:
        by_name: dict[str, Weight] = object.__getattribute__(self, "_by_name")
        if name not in by_name:
            raise unknown("weight", name, by_name)
        return by_name[name]

    def get(self, key: str, default: Any = None) -> Any:
        """The weight, or `default` (Mapping's own `get` expects a KeyError)."""
        return self[key] if key in self else default

    def __contains__(self, name: object) -> bool:
        return name in object.__getattribute__(self, "_by_name")

    def __iter__(self) -> Iterator[str]:
        return (w.name for w in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def nbytes(self) -> int:
        """Bytes of all of them as dense arrays."""
        return sum(w.nbytes for w in self.entries)

    @property
    def is_shape_only(self) -> bool:
        """Whether any of them cannot be read."""
        return any(w.read is None for w in self.entries)

    @staticmethod
    def from_arrays(arrays: Mapping[str, np.ndarray]) -> Weights:
        """Weights held in memory."""
        return Weights(
            tuple(
                Weight(
                    name,
                    tuple(a.shape),
                    dtype(a.dtype).name,
                    read=lambda a=a: a,
                    stored_as=dtype(a.dtype).name,
                    stored_bytes=a.nbytes,
                )
                for name, a in arrays.items()
            )
        )
