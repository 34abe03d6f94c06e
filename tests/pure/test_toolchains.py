"""Toolchains that JAX must not see are found in their own folder, and missed with a remedy."""

import pytest

from anychip.compilers.cache import Cache
from anychip.compilers.store import cached, pack, unpack
from anychip.compilers.toolchains import CUDA, LIBTPU, Toolchain
from anychip.core import CompileError, SetupError

NOWHERE = Toolchain("nothing", "no-such-package", "no/such.so", ("no-such-package==1.0",))


def test_a_missing_toolchain_says_what_to_type():
    assert NOWHERE.installed is None
    with pytest.raises(SetupError, match=r"pip install --no-deps --target .*no-such-package==1\.0"):
        NOWHERE.need("tpu-v5e:xla")


@pytest.mark.parametrize("one", [LIBTPU, CUDA])
def test_a_toolchain_that_is_there_has_its_library(one):
    if one.installed is None:
        pytest.skip(f"{one.distribution} is not in {one.folder}")
    assert one.installed.library.is_file()
    assert one.installed.library == one.installed.root / one.library


def test_parts_survive_packing():
    parts = {"hlo": b"ENTRY", "text/ptx": b"", "spirv/0.spv": bytes(range(256))}
    assert unpack(pack(parts)) == parts


def test_what_was_made_is_kept_and_failures_are_not(tmp_path):
    made: list[str] = []

    def fail() -> dict[str, bytes]:
        raise CompileError("no")

    def make() -> dict[str, bytes]:
        made.append("once")
        return {"hlo": b"x"}

    cache = Cache(tmp_path)
    with pytest.raises(CompileError):
        cached(cache, "aa01", 5.0, fail)
    assert cached(cache, "aa01", 5.0, make) == {"hlo": b"x"}
    assert cached(cache, "aa01", 5.0, make) == {"hlo": b"x"}
    assert made == ["once"]
