"""Weights that torch maps from files, read straight from the files instead.

A mapped page that is touched counts as memory of the process, and safetensors aligns to 8 bytes
where compilers want 64: binding such a view would hold every weight twice. So a tensor that lies
in a mapped file unchanged is read, when it is asked for, into aligned memory of its own.
"""

# Annotations of torch and transformers are partly missing or wrong:
# pyright: reportArgumentType=false

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core.dtypes import dtype
from anychip.core.weights import Weight, Weights

_ALIGNMENT = 64  # bytes; what XLA:CPU wants of a buffer it does not copy


@dataclass(frozen=True)
class Region:
    """A mapped range of addresses, and where it begins in its file."""

    begin: int
    end: int
    offset: int
    file: str


def mapped_regions() -> list[Region]:
    """The safetensors files this process has mapped; none where the system does not tell."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return []
    regions = []
    for line in maps.read_text().splitlines():
        fields = line.split(maxsplit=5)  # address perms offset dev inode path (proc(5))
        if len(fields) == 6 and fields[5].endswith(".safetensors"):
            begin, end = (int(part, 16) for part in fields[0].split("-"))
            regions.append(Region(begin, end, int(fields[2], 16), fields[5]))
    return regions


def from_files(weights: Weights, model: Any) -> Weights:
    """The same weights; those that lie in a mapped file as they are get a reader of that file."""
    regions = mapped_regions()
    tensors = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))

    def placed(weight: Weight) -> Weight:
        tensor = tensors.get(weight.name)
        if tensor is None or not tensor.is_contiguous():
            return weight
        begin, count = tensor.data_ptr(), tensor.numel() * tensor.element_size()
        for region in regions:
            if region.begin <= begin and begin + count <= region.end:
                return _from_file(weight, region.file, region.offset + begin - region.begin, count)
        return weight

    return Weights(tuple(placed(weight) for weight in weights.values()))


def _from_file(weight: Weight, file: str, offset: int, count: int) -> Weight:
    def read() -> np.ndarray:
        raw = np.empty(count + _ALIGNMENT, np.uint8)
        start = -raw.ctypes.data % _ALIGNMENT
        aligned = raw[start : start + count]
        with open(file, "rb") as stream:
            stream.seek(offset)
            _fill(stream.fileno(), offset, memoryview(aligned))
        return aligned.view(dtype(weight.dtype).numpy).reshape(weight.shape)

    return replace(weight, read=read, source=file)


def _fill(handle: int, offset: int, into: memoryview) -> None:
    done = 0
    while done < len(into):
        count = os.preadv(handle, [into[done:]], offset + done)
        if count == 0:
            raise EOFError(f"the file ends {len(into) - done} bytes early")
        done += count
