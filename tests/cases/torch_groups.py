"""All groups of torch cases by name."""

from __future__ import annotations

import torch_layers as layers
import torch_numbers as numbers
import torch_places as places
import torch_signals as signals
from torch_tensors import Group

GROUPS: dict[str, Group] = {
    name.lower(): group
    for subject in (numbers, places, layers, signals)
    for name, group in vars(subject).items()
    if name.isupper() and isinstance(group, dict)
}
