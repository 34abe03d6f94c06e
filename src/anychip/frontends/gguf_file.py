"""GGUF files: typed metadata, and tensors as Weights read from a memory map only when touched.

Knows no architecture; `frontends/llm/llama.py` gives the names their meaning.
"""

from __future__ import annotations

import math
import mmap
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anychip.core.blocks import block_format
from anychip.core.dtypes import DTYPES, dtype
from anychip.core.errors import InputError
from anychip.core.weights import Weight, Weights
from anychip.frontends.gguf_header import Header, TensorEntry, Value, parse_header

_REQUIRED = object()
_ELEMENTS_AT_ONCE = 1 << 20  # dequantised at a time: 4 MiB of results, however big the tensor


@dataclass(frozen=True)
class GGUF:
    """An open file. The map lives as long as this object or any array read from it."""

    path: Path
    header: Header = field(repr=False)
    data: mmap.mmap = field(repr=False)

    @staticmethod
    def open(path: str | Path) -> GGUF:
        """Map the file and check its header. Raises InputError naming the file and the field."""
        path = Path(path)
        try:
            with open(path, "rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # mmap has no empty maps: ValueError
            why = error.strerror if isinstance(error, OSError) else "the file is empty"
            raise InputError(f"cannot be read: {why}", path=str(path)) from None
        return GGUF(path, parse_header(data, str(path)), data)

    def __contains__(self, key: str) -> bool:
        return key in self.header.metadata

    def fail(self, key: str, why: str) -> InputError:
        """The error for a metadata key or tensor that is there but of no use."""
        return InputError(why, path=str(self.path), field=key)

    def text(self, key: str, default: str | object = _REQUIRED) -> str:
        value = self._get(key, default)
        if not isinstance(value, str):
            raise self.fail(key, f"should be text, it is {_brief(value)}")
        return value

    def integer(
        self, key: str, default: int | object = _REQUIRED, *, low: int = 1, high: int = 1 << 24
    ) -> int:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(key, f"should be a whole number, it is {_brief(value)}")
        if not low <= value <= high:
            raise self.fail(key, f"{value} is out of range; it should be {low} to {high}")
        return value

    def number(
        self, key: str, default: float | object = _REQUIRED, *, low: float = 0.0, high: float = 1e12
    ) -> float:
        value = self._get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(key, f"should be a number, it is {_brief(value)}")
        if not (math.isfinite(value) and low <= value <= high):
            raise self.fail(key, f"{value} is out of range; it should be {low:g} to {high:g}")
        return float(value)

    def flag(self, key: str, default: bool | object = _REQUIRED) -> bool:
        value = self._get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, f"should be true or false, it is {_brief(value)}")
        return value

    def texts(self, key: str, default: tuple[str, ...] | object = _REQUIRED) -> tuple[str, ...]:
        value = self._get(key, default)
        texts = value if isinstance(value, tuple) else ()
        found = tuple(one for one in texts if isinstance(one, str))
        if not isinstance(value, tuple) or len(found) < len(value):
            raise self.fail(key, f"should be a list of texts, it is {_brief(value)}")
        return found

    def numbers(self, key: str, length: int) -> np.ndarray:
        """An array of `length` numbers, as stored."""
        value = self._get(key, _REQUIRED)
        if not isinstance(value, np.ndarray) or value.dtype == np.bool_:
            raise self.fail(key, f"should be a list of numbers, it is {_brief(value)}")
        if len(value) != length:
            raise self.fail(key, f"should have {length} numbers, it has {len(value)}")
        return value

    def _get(self, key: str, default: object) -> Value:
        if key in self.header.metadata:
            return self.header.metadata[key]
        if default is _REQUIRED:
            raise self.fail(key, "this key is missing; convert the model again")
        return default  # type: ignore[return-value]

    @property
    def entries(self) -> dict[str, TensorEntry]:
        """Tensors by name, in file order."""
        return {one.name: one for one in self.header.tensors}

    def stored(self, entry: TensorEntry) -> np.ndarray:
        """The tensor as stored, a read-only view of the map.

        Element types: an array of `entry.shape`. Block formats: u8[..., bytes of a row].
        """
        raw = np.frombuffer(self.data, np.uint8, entry.nbytes, entry.offset)
        if entry.format in DTYPES:
            return raw.view(dtype(entry.format).numpy).reshape(entry.shape)
        return raw.reshape(*entry.shape[:-1], -1)

    def array(self, entry: TensorEntry) -> np.ndarray:
        """The tensor's values: as stored for element types, f32 for block formats.

        Raises InputError when blocks stand for numbers that are not finite.
        """
        raw = self.stored(entry)
        if entry.format in DTYPES:
            return raw
        block = block_format(entry.format)
        rows = raw.reshape(-1, raw.shape[-1])
        values = np.empty((len(rows), entry.shape[-1]), np.float32)
        step = max(1, _ELEMENTS_AT_ONCE // entry.shape[-1])
        for at in range(0, len(rows), step):
            with np.errstate(all="ignore"):  # a damaged scale; what it makes is refused below
                part = block.dequantize(rows[at : at + step])
            if not np.isfinite(part).all():
                raise self.fail(
                    f"tensor {entry.name!r}",
                    "has numbers that are not finite: the file is damaged, fetch it again",
                )
            values[at : at + step] = part
        return values.reshape(entry.shape)

    def weight(self, entry: TensorEntry, *, name: str = "", element: str = "") -> Weight:
        """The tensor as a Weight called `name`, its values converted to `element` when touched.

        `element` defaults to the stored element type, or f32 for block formats.
        """
        element = element or (entry.format if entry.format in DTYPES else "f32")
        return Weight(
            name or entry.name,
            entry.shape,
            element,
            read=lambda: self.array(entry).astype(dtype(element).numpy, copy=False),
            stored_as=entry.format,
            stored_bytes=entry.nbytes,
            source=str(self.path),
        )

    def packed(self, entry: TensorEntry, *, name: str = "") -> Weight:
        """The raw blocks as a Weight ui8[..., bytes of a row], for quantised matmul."""
        return Weight(
            name or entry.name,
            (*entry.shape[:-1], block_format(entry.format).row_bytes(entry.shape[-1])),
            "ui8",
            read=lambda: self.stored(entry),
            stored_as=entry.format,
            stored_bytes=entry.nbytes,
            source=str(self.path),
        )

    @property
    def weights(self) -> Weights:
        """Every tensor under its own name."""
        return Weights(tuple(self.weight(entry) for entry in self.header.tensors))


def _brief(value: object) -> str:
    if isinstance(value, np.ndarray | tuple):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
