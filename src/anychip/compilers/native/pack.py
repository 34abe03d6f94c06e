"""Weights in the order kernels read them, packed once and kept in a file that is read afterwards.

The file's key is everything its bytes depend on: the weights' identities (file, size, time of last
change), their formats, the layout's version, and the instruction set it was made for.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from anychip.compilers import hugepages
from anychip.compilers.cache import cpu_features, no_room
from anychip.compilers.native import numa
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels.layout import LAYOUTS
from anychip.compilers.native.pack_blocks import pack_blocks
from anychip.compilers.native.plan import Constant, PackedWeight
from anychip.core import InputError, Weights, dtype, is_full, require_memory

VERSION = 3
"""Counts changes of any layout."""

Entry = PackedWeight | Constant
_ALIGNED = 64


@dataclass(frozen=True, eq=False)
class Image:
    """Packed weights in memory: `offsets` of entries from `address`. `note` says where from,
    `not_kept` why they are in no file where the disk is full."""

    offsets: Mapping[Entry, int]
    memory: Any
    note: str
    not_kept: str = ""

    @property
    def address(self) -> int:
        return np.frombuffer(self.memory, np.uint8).ctypes.data

    def pages(self) -> str:
        """How much of it the system put into huge pages."""
        size = len(memoryview(self.memory))
        found = hugepages.share(self.address, size)
        told = "not known" if found is None else f"{found:.0%}"
        return f"{size / 1e6:.1f} MB of weights, in huge pages: {told}"


def offsets(entries: Iterable[Entry]) -> tuple[dict[Entry, int], int]:
    """(where each entry starts, bytes of all)."""
    found: dict[Entry, int] = {}
    end = 0
    for entry in entries:
        found[entry] = end
        end += -(-entry.nbytes // _ALIGNED) * _ALIGNED
    return found, end


def identity(entries: Sequence[Entry], weights: Weights, isa: Isa) -> str | None:
    """The key of an image, or None when some weight has no file to tell it by."""
    digest = hashlib.sha256(f"{VERSION} {isa.name} {cpu_features()}".encode())
    for entry in entries:
        if isinstance(entry, Constant):
            digest.update(entry.data)
            continue
        weight = weights[entry.argument]
        try:
            stat = os.stat(weight.source)
        except OSError:
            return None
        where = (os.path.abspath(weight.source), stat.st_size, stat.st_mtime_ns)
        kind = (weight.name, weight.shape, weight.dtype, weight.stored_as, entry.format)
        digest.update(json.dumps([where, kind, entry.rows, entry.depth]).encode())
    return digest.hexdigest()


def load(
    entries: Sequence[Entry],
    weights: Weights,
    isa: Isa,
    folder: Path | None,
    nodes: numa.Nodes | None = None,
) -> Image:
    """The image, from its file in `folder` when there is a sound one, else packed now and stored.
    Read from a file, each of the memory's `nodes` gets the share that its threads will read.

    Raises InputError when a weight has no values.
    """
    places, size = offsets(entries)
    key = identity(entries, weights, isa) if folder is not None else None
    if folder is None or key is None:
        note = "packed in memory: no cache folder, or weights without a file"
        return Image(places, _in_memory(places, size, weights), note)
    path = folder / f"{key}.packed"
    nodes = nodes or numa.nodes()
    note, image = "found", _read(path, size, places, nodes)
    if image is None:
        note = "packed and stored" if not path.exists() else "found damaged, packed again"
        try:
            _write(path, places, size, weights)
        except OSError as error:
            if not is_full(error):
                raise
            memory = _in_memory(places, size, weights)
            return Image(places, memory, "packed in memory", no_room(folder, size, error))
        image = _read(path, size, places, nodes)
        if image is None:
            raise InputError("the packed weights are not what was just written", path=str(path))
    return Image(places, image, note)


def _room(size: int) -> Any:
    require_memory(size, "packed weights", "a smaller model, or fewer bits a weight (--quantize)")
    return hugepages.buffer(size)


def _in_memory(places: Mapping[Entry, int], size: int, weights: Weights) -> Any:
    memory = _room(size)
    _fill(np.frombuffer(memory, np.uint8), places, weights)
    return memory


_TAIL = b"anychip-packed-2"
_PIECE = 1 << 17
"""Words of eight bytes that share a sum."""


def _tail_bytes(size: int) -> int:
    return len(_TAIL) + 8 * (size // 8 // _PIECE + 1)


def _sums(memory: Any) -> bytes:
    """Of each megabyte, the sum of its words: it finds what disks do, not what attackers do."""
    words = np.frombuffer(memory, np.uint64)
    whole = len(words) // _PIECE * _PIECE
    sums = words[:whole].reshape(-1, _PIECE).sum(axis=1, dtype=np.uint64)
    return np.append(sums, words[whole:].sum(dtype=np.uint64)).tobytes()


def _read(path: Path, size: int, places: Mapping[Entry, int], nodes: numa.Nodes) -> Any:
    """The file's weights in memory; None when it is not whole or not what was written."""
    try:
        with open(path, "rb") as file:
            file.seek(size)
            tail = file.read()
    except OSError:
        return None
    if not tail.startswith(_TAIL) or len(tail) != _tail_bytes(size):
        return None
    memory = _loaded(path, size, places, nodes)
    return memory if tail == _TAIL + _sums(memoryview(memory)[:size]) else None


def _write(path: Path, places: Mapping[Entry, int], size: int, weights: Weights) -> None:
    """Under a temporary name first, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "r+b") as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk ends the process at a write
                os.posix_fallocate(file.fileno(), 0, size + _tail_bytes(size))
            file.truncate(size + _tail_bytes(size))
            # Closed with its last view, which an error's traceback may hold for a while.
            memory = mmap.mmap(file.fileno(), size)
            _fill(np.frombuffer(memory, np.uint8), places, weights)
            file.seek(size)
            file.write(_TAIL + _sums(memory))
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _loaded(path: Path, size: int, places: Mapping[Entry, int], nodes: numa.Nodes) -> Any:
    memory = _room(size)
    view = memoryview(memory)
    every = [(0, size)] if len(nodes) == 1 else [(at, e.nbytes) for e, at in places.items()]
    shares = numa.spans(every, nodes)

    def read(node: int) -> None:
        with open(path, "rb", buffering=0) as file:
            for at, end in shares[node]:
                file.seek(at)
                while at < end:
                    count = file.readinto(view[at:end])
                    if not count:
                        raise InputError("the packed weights end early", path=str(path))
                    at += count

    numa.on_each(nodes, read)
    return memory


def _fill(memory: np.ndarray, places: Mapping[Entry, int], weights: Weights) -> None:
    for entry, start in places.items():
        if isinstance(entry, Constant):
            data = np.frombuffer(entry.data, np.uint8)
        else:
            data = packed(entry, weights[entry.argument].array())
        memory[start : start + entry.nbytes] = data.reshape(-1)


def packed(entry: PackedWeight, array: np.ndarray) -> np.ndarray:
    """A weight's bytes in the entry's order."""
    if entry.format.startswith("plain:"):
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    if entry.format in LAYOUTS:
        return pack_blocks(array, entry.format, entry.depth)
    return pack_dense(array)


def pack_dense(array: np.ndarray) -> np.ndarray:
    """[N, K] → bytes of [tiles of 16 rows, K, 16], rows that are not there zero."""
    rows, depth = array.shape
    tiles = -(-rows // 16)
    size = dtype(array.dtype).bits // 8
    full = np.zeros((tiles * 16, depth, size), np.uint8)
    full[:rows] = np.ascontiguousarray(array).view(np.uint8).reshape(rows, depth, size)
    return np.ascontiguousarray(full.reshape(tiles, 16, depth, size).transpose(0, 2, 1, 3))
