"""Whole numbers that a module keeps as buffers without dimensions, as audio codecs keep strides and
paddings. torch.export takes a size computed from one for data; from a constant it computes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class _Number:
    """A constant standing before a buffer of the same name."""

    owner: torch.nn.Module
    name: str
    buffer: Any
    constant: torch.Tensor
    version: int

    def is_untouched(self) -> bool:
        return (
            self.owner._buffers[self.name] is self.buffer and self.constant._version == self.version
        )


@contextmanager
def as_constants(model: torch.nn.Module) -> Iterator[Callable[[], bool]]:
    """While the context lasts, `model` reads its numbers as constants, made anew in every call.

    Gives whether the last call left all of them as they were; one that it changes is state, which
    a constant must not stand for.
    """
    values = {
        (owner, name): int(buffer)
        for owner in model.modules()
        for name, buffer in owner._buffers.items()
        if buffer is not None and _is_number(buffer)
    }
    placed: list[_Number] = []
    kept = False

    def before(*_: Any) -> None:
        placed.clear()
        for (owner, name), value in values.items():
            buffer = owner._buffers[name]
            assert buffer is not None
            constant = torch.tensor(value, dtype=buffer.dtype)
            owner.__dict__[name] = constant  # is found before what is in _buffers
            placed.append(_Number(owner, name, buffer, constant, constant._version))

    def after(*_: Any) -> None:
        nonlocal kept
        kept = all(number.is_untouched() for number in placed)

    hooks = (model.register_forward_pre_hook(before), model.register_forward_hook(after))
    try:
        yield lambda: kept
    finally:
        for hook in hooks:
            hook.remove()
        for owner, name in values:
            owner.__dict__.pop(name, None)


def _is_number(buffer: torch.Tensor) -> bool:
    is_whole = buffer.dtype in (torch.int32, torch.int64)
    return is_whole and buffer.ndim == 0 and not buffer.is_meta
