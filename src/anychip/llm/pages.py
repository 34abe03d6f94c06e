"""Which sequence uses which page of the KV cache, and which pages hold a prefix worth keeping.

Numbers only: no memory is touched here. A full page is known by a key chained over all tokens
before its end, so equal keys mean equal content. Pages nobody uses stay findable until they are
needed, the longest unused first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np


@dataclass(frozen=True)
class Entry:
    """What a kept page holds: `tokens` after the prefix known as `parent`."""

    key: bytes
    parent: bytes
    tokens: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Pages:
    """All pages at one moment. Every page is in exactly one of `free`, `idle` and `users`.

    `users` counts the sequences that use a page; `idle` are pages of no user, oldest first, whose
    content is kept; `entries` say what kept pages hold, `found` is the way back from a key, and
    `children` the pages that follow a key.
    """

    count: int
    size: int
    free: tuple[int, ...]
    users: Mapping[int, int] = field(default_factory=dict[int, int])
    idle: Mapping[int, None] = field(default_factory=dict[int, None])
    entries: Mapping[int, Entry] = field(default_factory=dict[int, Entry])
    found: Mapping[bytes, int] = field(default_factory=dict[bytes, int])
    children: Mapping[bytes, tuple[int, ...]] = field(default_factory=dict[bytes, tuple[int, ...]])

    @property
    def available(self) -> int:
        """How many pages a new user could get."""
        return len(self.free) + len(self.idle)


def empty(count: int, size: int) -> Pages:
    """`count` free pages for `size` tokens each."""
    return Pages(count=count, size=size, free=tuple(range(count - 1, -1, -1)))


def chain(parent: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a page that holds `tokens` after the prefix known as `parent`."""
    content = np.asarray(tokens, np.int64).tobytes()
    return hashlib.blake2b(parent + content, digest_size=16).digest()


def root(salt: str) -> bytes:
    """The key before the first page. Pages are found only under the salt they were kept under."""
    return hashlib.blake2b(salt.encode(), digest_size=16).digest()


class Ledger:
    """A working copy of Pages: opened from one, changed, closed to the next. Nothing is copied
    before the first change."""

    def __init__(self, pages: Pages):
        self._before, self._is_own = pages, False
        self._free, self._users = cast("list[int]", pages.free), cast("dict[int, int]", pages.users)
        self._idle = cast("dict[int, None]", pages.idle)
        self._entries = cast("dict[int, Entry]", pages.entries)
        self._found = cast("dict[bytes, int]", pages.found)
        self._children = cast("dict[bytes, tuple[int, ...]]", pages.children)

    def close(self) -> Pages:
        if not self._is_own:
            return self._before
        return Pages(
            count=self._before.count,
            size=self._before.size,
            free=tuple(self._free),
            users=self._users,
            idle=self._idle,
            entries=self._entries,
            found=self._found,
            children=self._children,
        )

    def _open(self) -> None:
        if self._is_own:
            return
        before, self._is_own = self._before, True
        self._free = list(before.free)
        self._users, self._idle = dict(before.users), dict(before.idle)
        self._entries, self._found = dict(before.entries), dict(before.found)
        self._children = dict(before.children)

    @property
    def available(self) -> int:
        return len(self._free) + len(self._idle)

    def is_idle(self, page: int) -> bool:
        return page in self._idle

    def take(self) -> int:
        """A page for one user alone. The caller has seen that one is available."""
        self._open()
        if self._free:
            page = self._free.pop()
        else:
            page = next(iter(self._idle))
            del self._idle[page]
            self._forget(page)
        self._users[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more user of a kept page."""
        self._open()
        self._idle.pop(page, None)
        self._users[page] = self._users.get(page, 0) + 1

    def release(self, pages: Iterable[int]) -> None:
        """One user less of each. Give the last page first: a beginning stays longest."""
        self._open()
        for page in pages:
            self._users[page] -= 1
            if self._users[page]:
                continue
            del self._users[page]
            if page in self._entries:
                self._idle[page] = None
            else:
                self._free.append(page)

    def keep(self, page: int, parent: bytes, tokens: tuple[int, ...]) -> bytes:
        """Remember a full page by its content; of equal pages the first is remembered."""
        key = chain(parent, tokens)
        if key not in self._found:
            self._open()
            self._entries[page] = Entry(key, parent, tokens)
            self._found[key] = page
            self._children[parent] = (*self._children.get(parent, ()), page)
        return key

    def find(self, parent: bytes, tokens: Sequence[int]) -> tuple[list[int], bytes]:
        """The kept full pages that `tokens` begin with, and the key behind the last of them."""
        pages: list[int] = []
        size = self._before.size
        for start in range(0, len(tokens) - size + 1, size):
            key = chain(parent, tokens[start : start + size])
            if key not in self._found:
                break
            pages.append(self._found[key])
            parent = key
        return pages, parent

    def find_beginning(self, parent: bytes, tokens: Sequence[int]) -> tuple[int, int]:
        """The kept page after `parent` that shares most tokens with these: (page, how many)."""
        best = (-1, 0)
        for page in self._children.get(parent, ()):
            own = self._entries[page].tokens
            alike = next(
                (i for i, (a, b) in enumerate(zip(own, tokens, strict=False)) if a != b),
                min(len(own), len(tokens)),
            )
            if alike > best[1]:
                best = (page, alike)
        return best

    def _forget(self, page: int) -> None:
        entry = self._entries.pop(page)
        del self._found[entry.key]
        rest = tuple(p for p in self._children[entry.parent] if p != page)
        if rest:
            self._children[entry.parent] = rest
        else:
            del self._children[entry.parent]
