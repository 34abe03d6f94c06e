"""Named texts and bytes as one cache entry: a zip, so that reading one never runs code."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping

from anychip.compilers.cache import Cache

Parts = Mapping[str, bytes]
NOT_KEPT = "text/not_kept"
"""The part that says why the others are not in the cache; in no entry, of course."""


def pack(parts: Parts) -> bytes:
    """One block of bytes; `unpack` gives the parts back."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return out.getvalue()


def unpack(stored: bytes) -> Parts:
    with zipfile.ZipFile(io.BytesIO(stored)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def stages(parts: Parts) -> dict[str, Callable[[], str | bytes]]:
    """What each part is as an artifact: text where its name begins with `text/`."""
    return {
        name.removeprefix("text/"): content.decode
        if name.startswith("text/")
        else content.__bytes__
        for name, content in parts.items()
    }


def not_kept(parts: Parts) -> dict[str, Callable[[], str | bytes]]:
    """That part's artifact, where there is one, for those that choose theirs one by one."""
    return stages({NOT_KEPT: parts[NOT_KEPT]} if NOT_KEPT in parts else {})


def cached(cache: Cache | None, key: str, timeout_s: float, make: Callable[[], Parts]) -> Parts:
    """The parts under a key, made where there are none; failures are raised and not kept.

    Where the disk is full they are made all the same, and `NOT_KEPT` is among them.
    Raises CompileError when another process makes them for longer than `timeout_s`.
    """
    if cache is None:
        return make()
    with cache.locked(key, timeout_s) as entry:
        stored = entry.read()
        if stored is not None:
            return unpack(stored)
        made = {name: part for name, part in make().items() if name != NOT_KEPT}
        if why := entry.write(pack(made)):
            return {**made, NOT_KEPT: why.encode()}
    cache.prune()
    return made
