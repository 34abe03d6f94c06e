"""ONNX files as protobuf wire format: finds large tensors without copying or trusting their sizes.

The rest of the message, without those bytes, is small; the tensors stay in the file's memory map.
Field numbers are those of onnx.proto3. Knows nothing of what a model means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from anychip.core.errors import InputError

LARGE_BYTES = 1024
"""Tensors above this size stay in the file; smaller ones travel in the message."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_OUTPUT, _NODE_OP, _NODE_ATTRIBUTE, _NODE_DOMAIN = 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_TENSOR = 1, 5
_TENSOR_NAME, _TENSOR_RAW = 8, 9


@dataclass(frozen=True)
class Split:
    """A model message without its large tensors.

    `raw` maps the name of an initializer, or the output of a Constant node, to its (start, end) in
    the file; those tensors have no data in `message`.
    """

    message: bytes
    raw: dict[str, tuple[int, int]]


def split(data: memoryview, path: str) -> Split:
    """Take large raw tensors out of a ModelProto. Raises InputError at the first broken field."""
    raw: dict[str, tuple[int, int]] = {}
    out: list[bytes] = []
    for number, kind, start, end, head in _fields(data, 0, len(data), path, "model"):
        if number == _MODEL_GRAPH and kind == _BYTES:
            out.append(_message(_MODEL_GRAPH, _graph(data, start, end, path, raw)))
        else:
            out.append(bytes(data[head:end]))
    return Split(b"".join(out), raw)


def _graph(
    data: memoryview, start: int, end: int, path: str, raw: dict[str, tuple[int, int]]
) -> list[bytes]:
    out: list[bytes] = []
    for number, kind, low, high, head in _fields(data, start, end, path, "graph"):
        if kind == _BYTES and high - low > LARGE_BYTES:
            if number == _GRAPH_INITIALIZER:
                out.append(_message(number, _tensor(data, low, high, path, raw, None)))
                continue
            if number == _GRAPH_NODE and (name := _constant_name(data, low, high, path)):
                out.append(_message(number, _constant(data, low, high, path, raw, name)))
                continue
        out.append(bytes(data[head:high]))
    return out


def _tensor(
    data: memoryview,
    start: int,
    end: int,
    path: str,
    raw: dict[str, tuple[int, int]],
    name: str | None,
) -> list[bytes]:
    """A TensorProto without `raw_data` when that is large and the tensor has a name."""
    out: list[bytes] = []
    span: tuple[int, int] | None = None
    own_name = ""
    for number, kind, low, high, head in _fields(data, start, end, path, "initializer"):
        if number == _TENSOR_NAME and kind == _BYTES:
            own_name = bytes(data[low:high]).decode("utf-8", "replace")
        if number == _TENSOR_RAW and kind == _BYTES and high - low > LARGE_BYTES:
            span = (low, high)
        else:
            out.append(bytes(data[head:high]))
    key = own_name if name is None else name
    if span is None or not key:
        return [bytes(data[start:end])]
    if key in raw:
        raise InputError("two tensors have this name", path=path, field=f"initializer {key}")
    raw[key] = span
    return out


def _constant_name(data: memoryview, start: int, end: int, path: str) -> str:
    """The output of a Constant node of the standard domain, "" for any other node."""
    op = domain = name = b""
    for number, kind, low, high, _ in _fields(data, start, end, path, "node"):
        if kind != _BYTES or high - low > LARGE_BYTES:
            continue
        if number == _NODE_OP:
            op = bytes(data[low:high])
        elif number == _NODE_DOMAIN:
            domain = bytes(data[low:high])
        elif number == _NODE_OUTPUT:
            name = bytes(data[low:high])
    standard = op == b"Constant" and domain in (b"", b"ai.onnx")
    return name.decode("utf-8", "replace") if standard else ""


def _constant(
    data: memoryview, start: int, end: int, path: str, raw: dict[str, tuple[int, int]], name: str
) -> list[bytes]:
    out: list[bytes] = []
    for number, kind, low, high, head in _fields(data, start, end, path, f"node {name}"):
        if number == _NODE_ATTRIBUTE and kind == _BYTES and high - low > LARGE_BYTES:
            inner: list[bytes] = []
            for n, k, a, b, h in _fields(data, low, high, path, f"node {name}"):
                if n == _ATTRIBUTE_TENSOR and k == _BYTES:
                    inner.append(_message(n, _tensor(data, a, b, path, raw, name)))
                else:
                    inner.append(bytes(data[h:b]))
            out.append(_message(number, inner))
        else:
            out.append(bytes(data[head:high]))
    return out


def _message(number: int, pieces: list[bytes]) -> bytes:
    body = b"".join(pieces)
    return _encode(number << 3 | _BYTES) + _encode(len(body)) + body


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _fields(
    data: memoryview, start: int, end: int, path: str, where: str
) -> Iterator[tuple[int, int, int, int, int]]:
    """(field number, wire type, value start, value end, tag start) of each field of a message."""
    at = start
    while at < end:
        head = at
        tag, at = _varint(data, at, end, path, where)
        number, kind = tag >> 3, tag & 7
        low = at
        if kind == _VARINT:
            _, at = _varint(data, at, end, path, where)
        elif kind == _FIXED64:
            at += 8
        elif kind == _FIXED32:
            at += 4
        elif kind == _BYTES:
            length, low = _varint(data, at, end, path, where)
            at = low + length
        else:
            raise InputError(
                f"not an ONNX protobuf: wire type {kind} at byte {head}", path=path, field=where
            )
        if at > end or number == 0:
            raise InputError(
                f"truncated or corrupt: field {number} at byte {head} ends at byte {at}, "
                f"its message at byte {end}",
                path=path,
                field=where,
            )
        yield number, kind, low, at, head


def _varint(data: memoryview, at: int, end: int, path: str, where: str) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    raise InputError(f"truncated or corrupt at byte {at}", path=path, field=where)
