"""Builds a zoo entry: the model with its weights, and the inputs of each step it is run for."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
import zoo_preload  # noqa: F401  # before timm and transformers: they import torchvision
import zoo_weights

from anychip.zoo import Entry


@dataclass(frozen=True)
class Built:
    """A model in eval mode and the keyword arguments of each step, in order."""

    model: torch.nn.Module
    steps: tuple[dict[str, Any], ...]
    strict: bool | None = None
    seed: int | None = None
    follow_example: bool = False


def build(entry: Entry) -> Built:
    """The model an entry of zoo/*.toml names."""
    source = entry.values["of"] if entry.list == "compile" else entry.list
    builders = {"timm": _timm, "transformers": _transformers, "decode": _decode}
    return builders[source](entry)


def _timm(entry: Entry) -> Built:
    import timm

    options = dict(entry.values.get("options", {}))
    size = entry.values["size"]
    torch.manual_seed(0)
    model = timm.create_model(entry.name, pretrained=False, **options).eval()
    zoo_weights.fill(model)
    (parameter, *_) = inspect.signature(model.forward).parameters
    zoo_weights.settle(model, {parameter: torch.randn(4, 3, size, size)})
    return Built(model, ({parameter: torch.randn(1, 3, size, size)},))


def _transformers(entry: Entry) -> Built:
    import zoo_transformers

    return zoo_transformers.build(entry)


def _decode(entry: Entry) -> Built:
    import zoo_transformers

    return zoo_transformers.build_decode(entry)
