"""What the GGUF header parser refuses, byte by byte."""

from __future__ import annotations

import struct

import pytest

from anychip.core.errors import InputError
from anychip.frontends.gguf_header import READABLE, parse_header


def _text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def _pair(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _tensor(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return (
        _text(name)
        + struct.pack("<I", len(dims))
        + struct.pack(f"<{len(dims)}Q", *dims)
        + struct.pack("<IQ", kind, offset)
    )


def _file(
    pairs: list[bytes] | None = None,
    tensors: list[bytes] | None = None,
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 4096,
) -> bytes:
    pairs, tensors = pairs or [], tensors or []
    n_tensors, n_pairs = counts or (len(tensors), len(pairs))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs)
    body = head + b"".join(pairs) + b"".join(tensors)
    return body + bytes(-len(body) % 32) + bytes(data)


def test_versions_two_and_three_load():
    for version in (2, 3):
        header = parse_header(
            _file([_pair("a", 4, struct.pack("<I", 5))], [_tensor("w", (8, 4))], version=version),
            "f",
        )
        assert header.version == version
        assert header.metadata == {"a": 5}
        assert header.tensors[0].shape == (4, 8)
        assert header.tensors[0].nbytes == 128


def test_every_scalar_type_reads_back():
    scalars = {
        0: ("B", 200),
        1: ("b", -3),
        2: ("H", 60000),
        3: ("h", -300),
        4: ("I", 1 << 31),
        5: ("i", -(1 << 31)),
        6: ("f", 0.5),
        7: ("?", True),
        10: ("Q", 1 << 63),
        11: ("q", -(1 << 63)),
        12: ("d", 0.1),
    }
    pairs = [_pair(f"k{kind}", kind, struct.pack(f"<{c}", v)) for kind, (c, v) in scalars.items()]
    nested = struct.pack("<IQ", 9, 2) + 2 * (struct.pack("<IQ", 8, 1) + _text("né"))
    header = parse_header(_file([*pairs, _pair("nested", 9, nested)]), "f")
    for kind, (_, value) in scalars.items():
        read = header.metadata[f"k{kind}"]
        assert (read, type(read)) == (value, type(value))
    assert header.metadata["nested"] == (("né",), ("né",))


BIG = 1 << 62
REFUSED = {
    "magic": (b"PK\x03\x04" + bytes(40), "zip archive"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    "other magic": (b"\x89PNG" + bytes(40), "no GGUF file"),
    "too short": (b"GG", "no GGUF file"),
    "no version": (b"GGUF\x03", "needs 4 bytes"),
    "version 1": (_file(version=1), "GGUF version 1 is not known"),
    "version 9": (_file(version=9), "GGUF version 9 is not known"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64), "big-endian"),
    "tensor count": (_file(counts=(BIG, 0)), "tensor_count: claims"),
    "pair count": (_file(counts=(0, BIG)), "metadata_kv_count: claims"),
    "pair count in range": (_file(counts=(0, 1 << 15)), "metadata_kv_count: claims"),
    "key length": (_file([struct.pack("<Q", BIG)]), "claims 4611686018427387904 bytes of text"),
    "empty key": (_file([_pair("", 4, bytes(4))]), "the key '' is not plain text"),
    "odd key": (_file([_pair("a\nb", 4, bytes(4))]), "is not plain text"),
    "doubled key": (_file(2 * [_pair("a", 4, bytes(4))]), "the key 'a' occurs twice"),
    "value type": (_file([_pair("a", 77, bytes(4))]), "f, a: unknown value type 77"),
    "text length": (_file([_pair("a", 8, struct.pack("<Q", 1 << 23))]), "and 4"),
    "text encoding": (_file([_pair("a", 8, _text(b"\xff\xfe"))]), "not UTF-8"),
    "array of strings": (_file([_pair("a", 9, struct.pack("<IQ", 8, 1 << 23))]), "strings"),
    "array of numbers": (_file([_pair("a", 9, struct.pack("<IQ", 6, 1 << 23))]), "numbers"),
    "array type": (_file([_pair("a", 9, struct.pack("<IQ", 13, 1))]), "unknown value type 13"),
    "array depth": (_file([_pair("a", 9, struct.pack("<IQ", 9, 1) * 9)]), "nested deeper"),
    "truth value": (_file([_pair("a", 7, b"\x02")]), "a truth value of 2"),
    "alignment 0": (_file([_pair("general.alignment", 4, bytes(4))]), "power of two"),
    "alignment 48": (_file([_pair("general.alignment", 4, struct.pack("<I", 48))]), "power of two"),
    "alignment text": (_file([_pair("general.alignment", 8, _text("x"))]), "whole number"),
    "rank": (_file(tensors=[_tensor("w", (1,) * 5)]), "tensor 'w': has 5 dimensions"),
    "rank huge": (
        _file(tensors=[_text("w") + struct.pack("<I", 1 << 31) + bytes(32)]),
        "dimensions",
    ),
    "no elements": (_file(tensors=[_tensor("w", (8, 0))]), "empty dimension"),
    "huge dims": (_file(tensors=[_tensor("w", (BIG, BIG))]), "past the end of the file"),
    "type": (_file(tensors=[_tensor("w", (32,), kind=99)]), "tensor 'w': is stored as type 99"),
    "iq type": (_file(tensors=[_tensor("w", (256,), kind=16)]), "iq2_xxs, which anychip cannot"),
    "ragged blocks": (_file(tensors=[_tensor("w", (33,), kind=2)]), "q4_0 blocks of 32"),
    "ragged rows": (_file(tensors=[_tensor("w", (16, 2), kind=2)]), "rows of 16"),
    "offset": (_file(tensors=[_tensor("w", (8,), offset=BIG)]), "past the end of the file"),
    "odd offset": (_file(tensors=[_tensor("w", (8,), offset=8)]), "no multiple of the alignment"),
    "past the end": (_file(tensors=[_tensor("w", (8, 5))], data=128), "past the end of the file"),
    "doubled tensor": (
        _file(tensors=[_tensor("w", (8,)), _tensor("w", (8,), offset=32)]),
        "the name occurs twice",
    ),
    "overlap": (
        _file(tensors=[_tensor("a", (64,)), _tensor("b", (8,), offset=32)]),
        "tensor 'b': its data overlaps that of 'a'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_header_is_refused_by_name(case: str):
    raw, expected = REFUSED[case]
    with pytest.raises(InputError) as caught:
        parse_header(raw, "f")
    assert expected in str(caught.value)
    assert caught.value.path == "f"
    assert caught.value.field


def test_every_truncation_of_a_header_is_refused():
    whole = _file(
        [_pair("a", 9, struct.pack("<IQ", 8, 2) + _text("x") + _text("yy"))],
        [_tensor("w", (8,)), _tensor("v", (8,), offset=32)],
        data=64,
    )
    assert len(parse_header(whole, "f").tensors) == 2
    for length in range(len(whole)):
        with pytest.raises(InputError):
            parse_header(whole[:length], "f")


def test_the_formats_the_issue_names_are_readable():
    wanted = {"q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_K", "q6_K", "f16", "bf16", "f32"}
    assert wanted <= set(READABLE)
