"""Builds a zoo entry: the model with its weights, and the inputs of each step it is run for."""

from __future__ import annotations

import inspect

import torch
import zoo_preload  # noqa: F401  # before timm and transformers: they import torchvision
import zoo_transformers
import zoo_weights
from zoo_built import Built

from anychip.zoo import Entry


def build(entry: Entry) -> Built:
    """The model an entry of zoo/*.toml names."""
    source = entry.values["of"] if entry.list == "compile" else entry.list
    builders = {
        "timm": _timm,
        "transformers": zoo_transformers.build,
        "decode": zoo_transformers.build_decode,
    }
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
