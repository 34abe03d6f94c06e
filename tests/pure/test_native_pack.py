"""Packed images: found again, rebuilt when what they depend on changed, never half read."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest

from anychip.compilers.native import pack
from anychip.compilers.native.isa import Isa, choose
from anychip.compilers.native.kernels.layout import LAYOUTS
from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.compilers.native.plan import Constant, PackedWeight
from anychip.core import InputError, Weight, Weights
from anychip.core.blocks import block_format


@pytest.fixture
def stored(tmp_path):
    """(entries, weights read from a file, the file)."""
    values = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    blocks = block_format("q4_0").quantize(values)
    path = tmp_path / "w.bin"
    path.write_bytes(blocks.tobytes())

    def read() -> np.ndarray:
        return np.frombuffer(path.read_bytes(), np.uint8).reshape(blocks.shape)

    weight = Weight("w", blocks.shape, "ui8", read, "q4_0", blocks.nbytes, str(path))
    size = BlockMatmul("q4_0", 20, 64, 1).packed_bytes
    entries = [
        PackedWeight("w", "q4_0", 20, 64, size),
        Constant(np.arange(5, dtype=np.float32).tobytes(), "five"),
    ]
    return entries, Weights((weight,)), path


def content(image: pack.Image, entry) -> bytes:
    start = image.offsets[entry]
    return np.frombuffer(image.memory, np.uint8)[start : start + entry.nbytes].tobytes()


def test_an_image_is_stored_once_and_found_again(stored, tmp_path):
    entries, weights, _ = stored
    folder = tmp_path / "packed"
    first = pack.load(entries, weights, choose(), folder)
    again = pack.load(entries, weights, choose(), folder)
    assert (first.note, again.note) == ("packed and stored", "found")
    for entry in entries:
        assert content(first, entry) == content(again, entry)
        assert first.offsets[entry] % 64 == 0
    assert content(first, entries[1]) == entries[1].data
    assert not [p for p in folder.iterdir() if p.suffix != ".packed"]


def test_changed_weights_another_cpu_or_layout_make_another_file(stored, monkeypatch):
    entries, weights, path = stored
    isa = choose()
    key = pack.identity(entries, weights, isa)
    assert key == pack.identity(entries, weights, isa)
    others = [pack.identity(entries, weights, replace(isa, name="other"))]
    others.append(pack.identity(entries[:1], weights, isa))
    os.utime(path, ns=(1, 1))
    others.append(pack.identity(entries, weights, isa))
    monkeypatch.setattr(pack, "VERSION", pack.VERSION + 1)
    others.append(pack.identity(entries, weights, isa))
    monkeypatch.setattr(pack, "cpu_features", lambda: "another machine")
    others.append(pack.identity(entries, weights, isa))
    assert len({key, *others}) == 6


@pytest.mark.parametrize("damage", ["short", "tail", "empty", "middle"])
def test_a_damaged_file_is_packed_again(stored, tmp_path, damage):
    entries, weights, _ = stored
    folder = tmp_path / "packed"
    good = content(pack.load(entries, weights, choose(), folder), entries[0])
    (file,) = folder.iterdir()
    raw = file.read_bytes()
    middle = raw[:40] + bytes([raw[40] ^ 1]) + raw[41:]
    damaged = {"short": raw[:-40], "tail": raw[:-1] + b"x", "empty": b"", "middle": middle}
    file.write_bytes(damaged[damage])
    image = pack.load(entries, weights, choose(), folder)
    assert image.note.startswith("found damaged")
    assert content(image, entries[0]) == good


def test_weights_without_a_file_are_packed_in_memory(stored, tmp_path):
    entries, weights, _ = stored
    loose = Weights((replace(weights["w"], source=""),))
    folder = tmp_path / "packed"
    image = pack.load(entries, loose, choose(), folder)
    assert image.note.startswith("packed in memory")
    assert not folder.exists()


def test_on_a_full_disk_weights_are_packed_in_memory_and_that_is_said(
    stored, tmp_path, monkeypatch
):
    """Writing to a mapped file that the disk has no room for would end the process (SIGBUS)."""

    def full(file: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    entries, weights, _ = stored
    sound = pack.load(entries, weights, choose(), tmp_path / "sound")
    monkeypatch.setattr(os, "posix_fallocate", full)
    image = pack.load(entries, weights, choose(), tmp_path / "full")
    assert image.note == "packed in memory"
    assert "could not be kept in" in image.not_kept
    assert not list((tmp_path / "full").iterdir())
    assert [content(image, e) for e in entries] == [content(sound, e) for e in entries]
    assert not sound.not_kept


@pytest.mark.parametrize("form", ["q4_0", "q4_1", "q8_0"])
def test_packing_loses_no_bit(form):
    """Undone by hand, tile by tile."""
    rows, depth = 21, 96
    values = np.random.default_rng(1).standard_normal((rows, depth)).astype(np.float32)
    blocks = block_format(form).quantize(values)
    layout = LAYOUTS[form]
    tiles = pack.pack_blocks(blocks, form, depth).reshape(-1, 2, layout.tile_bytes)
    dense = block_format(form).dequantize(blocks)
    for row, column in np.ndindex(rows, depth):
        tile = tiles[row // 16, column // 64]
        quartet, byte = divmod(column % 64, 4)
        if layout.bits == 8:
            quant = int(tile[quartet * 64 + row % 16 * 4 + byte])
        else:
            pair = int(tile[quartet // 2 * 64 + row % 16 * 4 + byte])
            quant = pair >> 4 if quartet % 2 else pair & 15
        at = layout.quant_bytes + (column % 64 // 32 * 16 + row % 16) * 2
        number = float(tile[at : at + 2].view(np.float16)[0]) * (quant - layout.zero)
        if layout.has_minimum:
            number += float(tile[at + 64 : at + 66].view(np.float16)[0])
        assert number == pytest.approx(float(dense[row, column]), rel=1e-6)
    assert isinstance(choose(), Isa)


def test_an_unreadable_weight_is_its_own_error_and_leaves_no_file(stored, tmp_path):
    def broken():
        raise InputError("the disk is gone")

    entries, weights, _ = stored
    loose = Weights((replace(weights["w"], read=broken),))
    with pytest.raises(InputError, match="disk is gone"):
        pack.load(entries, loose, choose(), tmp_path / "packed")
    assert not list((tmp_path / "packed").iterdir())
