"""The header of a GGUF file (versions 2 and 3, little-endian), checked field by field.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Every count and length is held
against the bytes that are left before anything is made from it. Tensor data is not touched here.
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NoReturn

import numpy as np

from anychip.core.blocks import BLOCK_FORMATS
from anychip.core.dtypes import DTYPES
from anychip.core.errors import InputError

Value = int | float | bool | str | tuple["Value", ...] | np.ndarray
"""A metadata value. Arrays of numbers are numpy arrays, arrays of strings or arrays are tuples."""


@dataclass(frozen=True, kw_only=True)
class TensorEntry:
    """Where one tensor lies. `shape` is row-major (the file lists the fastest dimension first);
    `offset` counts from the start of the file; `format` is ggml's name in lower case (`q4_K`)."""

    name: str
    shape: tuple[int, ...]
    format: str
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[TensorEntry, ...]


_NAMES: dict[int, str] = {
    0: "f32",
    1: "f16",
    2: "q4_0",
    3: "q4_1",
    6: "q5_0",
    7: "q5_1",
    8: "q8_0",
    9: "q8_1",
    10: "q2_K",
    11: "q3_K",
    12: "q4_K",
    13: "q5_K",
    14: "q6_K",
    15: "q8_K",
    16: "iq2_xxs",
    17: "iq2_xs",
    18: "iq3_xxs",
    19: "iq1_s",
    20: "iq4_nl",
    21: "iq3_s",
    22: "iq2_s",
    23: "iq4_xs",
    24: "i8",
    25: "i16",
    26: "i32",
    27: "i64",
    28: "f64",
    29: "iq1_m",
    30: "bf16",
    34: "tq1_0",
    35: "tq2_0",
    39: "mxfp4",
    40: "nvfp4",
    41: "q1_0",
}
"""ggml's type number → name (ggml.h, `enum ggml_type`)."""

# nvfp4 files keep a second scale in a tensor of its own, which nothing here applies.
_BLOCKS = {name: form for name, form in BLOCK_FORMATS.items() if not form.has_outer_scale}
READABLE = tuple(name for name in _NAMES.values() if name in _BLOCKS or name in DTYPES)
"""The formats of tensors that can be loaded."""

# Far above any real file, far below what would hurt: the largest vocabularies have 2^18 tokens.
_MOST_PAIRS = 1 << 16
_MOST_TENSORS = 1 << 20
_LONGEST_ARRAY = 1 << 24
_LONGEST_STRING = 1 << 24
_LONGEST_KEY = (1 << 16) - 1  # gguf.md: "at most 2^16-1 bytes long"
_MOST_DIMS = 4  # GGML_MAX_DIMS
_DEEPEST = 4
_LARGEST_ALIGNMENT = 1 << 20

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS: dict[int, np.dtype] = {
    0: np.dtype("<u1"),
    1: np.dtype("<i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}


def parse_header(data: mmap.mmap | bytes, path: str) -> Header:
    """The header of the file whose bytes are `data`; `path` is for messages.

    Raises InputError naming the file and the field for anything that is not exactly a GGUF file
    whose tensors all lie inside it.
    """
    cursor = _Cursor(data, path)
    version = _version(cursor)
    tensor_count = cursor.count("tensor_count", most=_MOST_TENSORS, each=24)
    pair_count = cursor.count("metadata_kv_count", most=_MOST_PAIRS, each=13)
    metadata: dict[str, Value] = {}
    for index in range(pair_count):
        cursor.field = f"metadata key {index}"
        key = cursor.string(_LONGEST_KEY)
        if not key or not (key.isascii() and key.isprintable()):
            cursor.fail(f"the key {key[:80]!r} is not plain text")
        if key in metadata:
            cursor.fail(f"the key {key!r} occurs twice")
        cursor.field = key
        metadata[key] = cursor.value(cursor.u32())
    alignment = _alignment(cursor, metadata)
    raw = [_tensor(cursor, index) for index in range(tensor_count)]
    start = -(-cursor.offset // alignment) * alignment
    return Header(version, metadata, _placed(cursor, raw, start, alignment))


class _Cursor:
    """A place in the bytes, and the name of the field being read there."""

    def __init__(self, data: mmap.mmap | bytes, path: str):
        self.data, self.path = data, path
        self.offset, self.field = 0, "header"

    def fail(self, why: str) -> NoReturn:
        raise InputError(
            f"{why} (byte {self.offset} of {len(self.data)}). "
            "The file is damaged or incomplete: fetch or convert it again",
            path=self.path,
            field=self.field,
        )

    def need(self, nbytes: int) -> int:
        """Step over `nbytes` and return where they start."""
        here = self.offset
        if nbytes > len(self.data) - here:
            self.fail(f"needs {nbytes} bytes where {len(self.data) - here} are left")
        self.offset = here + nbytes
        return here

    def u32(self) -> int:
        return _U32.unpack_from(self.data, self.need(4))[0]

    def u64(self) -> int:
        return _U64.unpack_from(self.data, self.need(8))[0]

    def count(self, field: str, *, most: int, each: int) -> int:
        """A u64 count of things of at least `each` bytes that must still fit in the file."""
        self.field = field
        value = self.u64()
        self.limit(value, most, each, "entries")
        return value

    def limit(self, value: int, most: int, each: int, what: str) -> None:
        left = len(self.data) - self.offset
        if value > most:
            self.fail(f"claims {value} {what}; no sound file has more than {most}")
        if value * each > left:
            self.fail(f"claims {value} {what}, at least {value * each} bytes, and {left} are left")

    def string(self, longest: int = _LONGEST_STRING) -> str:
        length = self.u64()
        self.limit(length, longest, 1, "bytes of text")
        here = self.need(length)
        try:
            return self.data[here : here + length].decode("utf-8")
        except UnicodeDecodeError as error:
            self.fail(f"text that is not UTF-8 ({error.reason})")

    def strings(self, count: int) -> tuple[str, ...]:
        """So many in a row: a vocabulary has a hundred thousand, so this loop calls nothing."""
        data, at, end, found = self.data, self.offset, len(self.data), list[str]()
        try:
            for _ in range(count):
                start = at + 8
                size = _U64.unpack_from(data, at)[0] if start <= end else 0
                stop = start + size
                if stop > end or size > _LONGEST_STRING:
                    break
                found.append(str(data[start:stop], "utf-8"))
                at = stop
        except UnicodeDecodeError as error:
            self.offset = at
            self.fail(f"text that is not UTF-8 ({error.reason})")
        self.offset = at
        if len(found) < count:
            self.string()  # says what is wrong with it
        return tuple(found)

    def value(self, kind: int, depth: int = 0) -> Value:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(depth)
        return self.numbers(kind, 1)[0].item()

    def array(self, depth: int) -> Value:
        kind, length = self.u32(), self.u64()
        if kind == _STRING:
            self.limit(length, _LONGEST_ARRAY, 8, "strings")
            return self.strings(length)
        if kind == _ARRAY:
            if depth + 1 >= _DEEPEST:
                self.fail(f"arrays nested deeper than {_DEEPEST}")
            self.limit(length, _LONGEST_ARRAY, 12, "arrays")
            return tuple(self.array(depth + 1) for _ in range(length))
        return self.numbers(kind, length)

    def numbers(self, kind: int, length: int) -> np.ndarray:
        if kind not in _NUMBERS:
            self.fail(f"unknown value type {kind}")
        dtype = _NUMBERS[kind]
        self.limit(length, _LONGEST_ARRAY, dtype.itemsize, "numbers")
        here = self.need(length * dtype.itemsize)
        if kind == _BOOL:
            raw = np.frombuffer(self.data, np.uint8, length, here)
            if raw.size and raw.max() > 1:
                self.fail(f"a truth value of {raw.max()}; 0 and 1 are the only ones")
        return np.frombuffer(self.data, dtype, length, here).copy()


def _version(cursor: _Cursor) -> int:
    magic = bytes(cursor.data[:4])
    if magic != b"GGUF":
        known = {
            b"PK\x03\x04": "a zip archive; unpack it first",
            b"vers": "a Git LFS pointer, not the model; fetch it with: git lfs pull",
            b"<!DO": "a web page; the download went wrong",
            b"ggjt": "GGML's format before GGUF; convert it again",
            b"lmgg": "GGML's format before GGUF; convert it again",
        }
        what = known.get(magic, "no GGUF file; anychip loads GGUF versions 2 and 3")
        raise InputError(f"starts with {magic!r}: {what}", path=cursor.path, field="magic")
    cursor.offset, cursor.field = 4, "version"
    version = cursor.u32()
    if version and version & 0xFFFF == 0:
        raise InputError(
            f"a big-endian file (version {version >> 24} read backwards); "
            "convert it for little-endian machines",
            path=cursor.path,
            field="version",
        )
    if version not in (2, 3):
        raise InputError(
            f"GGUF version {version} is not known; anychip loads versions 2 and 3. "
            "Convert the model again with a current converter",
            path=cursor.path,
            field="version",
        )
    return version


def _alignment(cursor: _Cursor, metadata: Mapping[str, Value]) -> int:
    cursor.field = "general.alignment"
    value = metadata.get("general.alignment", 32)
    if isinstance(value, bool) or not isinstance(value, int):
        cursor.fail(f"the alignment must be a whole number, it is {value!r}")
    if not 0 < value <= _LARGEST_ALIGNMENT or value & (value - 1):
        cursor.fail(
            f"the alignment must be a power of two up to {_LARGEST_ALIGNMENT}, it is {value!r}"
        )
    return value


def _tensor(cursor: _Cursor, index: int) -> TensorEntry:
    """One tensor's entry, its offset still counted from the start of the data."""
    cursor.field = f"tensor {index}"
    name = cursor.string(_LONGEST_KEY)
    cursor.field = f"tensor {name!r}"
    rank = cursor.u32()
    if rank > _MOST_DIMS:
        cursor.fail(f"has {rank} dimensions; {_MOST_DIMS} is the most there are")
    shape = tuple(reversed([cursor.u64() for _ in range(rank)]))
    kind, offset = cursor.u32(), cursor.u64()
    format = _NAMES.get(kind, f"type {kind}")
    if format not in READABLE:
        raise InputError(
            f"is stored as {format}, which anychip cannot read. "
            f"Quantise the model again, to one of {', '.join(READABLE)}",
            path=cursor.path,
            field=cursor.field,
        )
    if 0 in shape:
        cursor.fail(f"has an empty dimension: {list(shape)}")
    count, row = math.prod(shape), shape[-1] if shape else 1
    if format in DTYPES:
        return TensorEntry(
            name=name,
            shape=shape,
            format=format,
            offset=offset,
            nbytes=count * DTYPES[format].bits // 8,
        )
    block = _BLOCKS[format]
    if row % block.elements:
        cursor.fail(f"rows of {row} do not divide into {format} blocks of {block.elements}")
    nbytes = count // block.elements * block.nbytes
    return TensorEntry(name=name, shape=shape, format=format, offset=offset, nbytes=nbytes)


def _placed(
    cursor: _Cursor, raw: list[TensorEntry], start: int, alignment: int
) -> tuple[TensorEntry, ...]:
    """The entries with offsets from the start of the file: inside it, aligned, apart."""
    names: set[str] = set()
    placed: list[TensorEntry] = []
    for one in raw:
        cursor.field, cursor.offset = f"tensor {one.name!r}", min(start, len(cursor.data))
        if one.name in names:
            cursor.fail("the name occurs twice")
        names.add(one.name)
        if one.offset % alignment:
            cursor.fail(f"its offset {one.offset} is no multiple of the alignment {alignment}")
        if start + one.offset + one.nbytes > len(cursor.data):
            cursor.fail(
                f"{one.format}{list(one.shape)} should fill bytes {start + one.offset} to "
                f"{start + one.offset + one.nbytes}, past the end of the file"
            )
        placed.append(replace(one, offset=start + one.offset))
    ordered = sorted(placed, key=lambda one: (one.offset, one.name))
    for one, after in itertools.pairwise(ordered):
        if one.offset + one.nbytes > after.offset:
            cursor.field = f"tensor {after.name!r}"
            cursor.fail(f"its data overlaps that of {one.name!r}")
    return tuple(placed)
