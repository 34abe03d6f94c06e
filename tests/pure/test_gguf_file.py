"""GGUF files against the independent `gguf` package, and under damage."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from anychip.core.errors import InputError, UsageError
from anychip.frontends.gguf import load_gguf
from anychip.frontends.gguf_file import GGUF

FORMATS = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_K", "q6_K", "f16", "bf16", "f32")


@pytest.mark.parametrize("format", FORMATS)
def test_tensors_equal_what_the_gguf_package_reads(tiny_gguf, format: str):
    import gguf

    path = tiny_gguf(format=format)
    ours, theirs = GGUF.open(path), gguf.GGUFReader(path)
    assert [e.name for e in ours.header.tensors] == [t.name for t in theirs.tensors]
    for tensor in theirs.tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        weight = ours.weights[tensor.name]
        assert weight.stored_as == tensor.tensor_type.name.lower().replace("_k", "_K")
        assert weight.stored_bytes == tensor.n_bytes
        np.testing.assert_array_equal(weight.array().astype(np.float32), expected)
        as_f32 = ours.weight(ours.entries[tensor.name], element="f32").array()
        np.testing.assert_array_equal(as_f32, expected)


@pytest.mark.parametrize("format", [f for f in FORMATS if f.startswith("q")])
def test_packed_blocks_are_the_files_bytes(tiny_gguf, format: str):
    import gguf

    path = tiny_gguf(format=format)
    ours, theirs = GGUF.open(path), gguf.GGUFReader(path)
    for tensor in theirs.tensors:
        if tensor.name.endswith("ffn_up.weight"):
            weight = ours.packed(ours.entries[tensor.name], name="w")
            assert weight.dtype == "ui8"
            np.testing.assert_array_equal(weight.array(), tensor.data)


def test_metadata_equals_what_the_gguf_package_reads(tiny_gguf):
    import gguf

    path = tiny_gguf(set={"x.bytes": ("int8", -5), "x.list": [1.5, 2.5], "x.flag": True})
    ours, theirs = GGUF.open(path), gguf.GGUFReader(path)
    for key, field in theirs.fields.items():
        if key.startswith("GGUF."):
            continue
        value = ours.header.metadata[key]
        found = list(value) if isinstance(value, tuple | np.ndarray) else value
        assert found == field.contents()


def test_reading_touches_only_the_tensor_asked_for(tiny_gguf):
    file = GGUF.open(tiny_gguf(format="f32"))
    view = file.stored(file.entries["output_norm.weight"])
    assert not view.flags.writeable
    assert not view.flags.owndata


def test_wrong_metadata_types_name_the_key(tiny_gguf):
    file = GGUF.open(tiny_gguf(set={"a": "text", "n": float("nan"), "b": True, "l": [1, 2]}))
    wrong = {
        "should be a whole number, it is 'text'": lambda: file.integer("a"),
        "should be a whole number, it is True": lambda: file.integer("b"),
        "should be true or false": lambda: file.flag("a"),
        "should be text, it is a list of 2": lambda: file.text("l"),
        "should be a list of texts": lambda: file.texts("l"),
        "should be a list of numbers": lambda: file.numbers("a", 1),
        "should have 3 numbers, it has 2": lambda: file.numbers("l", 3),
        "nan is out of range": lambda: file.number("n"),
        "0 to 1": lambda: file.integer("llama.block_count", low=0, high=1),
        "zz: this key is missing": lambda: file.text("zz"),
    }
    for expected, read in wrong.items():
        with pytest.raises(InputError, match=expected):
            read()


def test_a_missing_empty_or_odd_file_is_an_input_error(tmp_path):
    (tmp_path / "empty.gguf").touch()
    for name, expected in (("none.gguf", "No such file"), ("empty.gguf", "empty"), ("", "direct")):
        with pytest.raises(InputError, match=expected):
            GGUF.open(tmp_path / name)


def _damaged(raw: bytes, wounds: list[tuple[str, int, int]]) -> bytes:
    out = bytearray(raw)
    for kind, at, value in wounds:
        if kind == "flip" and at < len(out):
            out[at] ^= value & 255 or 1
        elif kind == "cut":
            del out[at:]
        elif kind == "drop":
            del out[at : at + 1 + value % 64]
        elif kind == "insert":
            out[at:at] = bytes([value & 255]) * (1 + value % 64)
        elif kind == "number":
            out[at : at + 8] = struct.pack("<Q", value)
    return bytes(out)


# Most of the damage lands in the header, of some 8 KiB; the data is some 800 KiB.
_WHERE = st.one_of(st.integers(0, 1 << 13), st.integers(1 << 10, 1 << 13), st.integers(0, 1 << 20))
_NUMBER = st.one_of(
    st.integers(0, 300), st.sampled_from([2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1])
)
_KINDS = ("flip", "flip", "number", "cut", "drop", "insert")
_WOUNDS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "flip", "number", "cut", "drop", "insert"]), _WHERE, _NUMBER
    ),
    min_size=1,
    max_size=3,
)


@settings(
    max_examples=500,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(wounds=_WOUNDS)
def test_a_damaged_file_loads_or_is_refused(tiny_gguf, tmp_path, wounds):
    """Never another exception, never memory out of proportion to the file."""
    sound = tmp_path / "tiny.gguf"
    raw = sound.read_bytes() if sound.exists() else tiny_gguf(format="q4_1").read_bytes()
    path = tmp_path / "damaged.gguf"
    path.write_bytes(_damaged(raw, wounds))
    tracemalloc.start()
    refused = None
    try:
        _load_everything(path)
    except InputError as error:
        refused = error
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 64 * len(raw)
    assert refused is None or "damaged.gguf" in str(refused)
    assert refused is None or refused.field or "cannot be read" in str(refused)


def _load_everything(path) -> None:
    model = load_gguf(path)
    for weight in model.bind(model.native_precision).values():
        weight.array()
    for weight in GGUF.open(path).weights.values():
        weight.array()
    with contextlib.suppress(UsageError):  # a vocabulary that lost a letter
        model.tokenizer.decode(model.tokenizer.encode("hello world"))
    if model.chat is not None:
        model.chat.render([{"role": "user", "content": "hi"}])
