"""Key-value caches of transformers as trees of tensors, so that models may take and give them.

transformers' own registration rebuilds a cache by computing with it, which torch.export cannot
follow twice; here a cache is taken apart and put together as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode

_REBUILT = "_sliding_window_tensor"  # a constant beside the number it is made from


def register() -> None:
    """Make torch know DynamicCache and EncoderDecoderCache, unless someone already did."""
    from transformers.cache_utils import DynamicCache, EncoderDecoderCache

    for kind, apart, together in (
        (DynamicCache, _layers_apart, _layers_together),
        (EncoderDecoderCache, _halves_apart, _halves_together),
    ):
        if kind in pytree.SUPPORTED_NODES:
            continue
        pytree.register_pytree_node(
            kind,
            apart,
            together,
            serialized_type_name=f"{kind.__module__}.{kind.__name__}",
            flatten_with_keys_fn=lambda cache, apart=apart: _with_keys(*apart(cache)),
        )


def _with_keys(values: list[Any], context: list[str]) -> tuple[list[Any], list[str]]:
    keys = [pytree.MappingKey(name) for name in context[: len(values)]]
    return list(zip(keys, values, strict=True)), context


class _Names(list[str]):
    """Names of a cache's tensors, and what else its layers are made of."""

    def __init__(self, names: list[str], rest: Any):
        super().__init__(names)
        self.rest = rest

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Names) and list(self) == list(other) and self.rest == other.rest

    def __repr__(self) -> str:
        return f"{super().__repr__()} of {self.rest!r}"

    __hash__ = None  # type: ignore[assignment]


def _layers_apart(cache: Any) -> tuple[list[Any], _Names]:
    values: list[Any] = []
    names: list[str] = []
    rest = []
    for index, layer in enumerate(cache.layers):
        own = vars(layer)
        tensors = sorted(k for k, v in own.items() if _is_state(k, v))
        values += [own[k] for k in tensors]
        names += [f"{index}.{k}" for k in tensors]
        rest.append((type(layer), {k: v for k, v in own.items() if not _is_tensor(v)}))
    outer = {k: v for k, v in vars(cache).items() if k != "layers"}
    return values, _Names(names, (type(cache), outer, rest))


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _is_state(name: str, value: Any) -> bool:
    return _is_tensor(value) and name != _REBUILT


def _layers_together(values: Any, context: _Names) -> Any:
    kind, outer, rest = context.rest
    cache = object.__new__(kind)
    vars(cache).update(outer, layers=[])
    for layer_kind, attributes in rest:
        layer = object.__new__(layer_kind)
        vars(layer).update(attributes)
        window = attributes.get("sliding_window")
        if window is not None and _get_current_dispatch_mode() is None:  # not while tracing
            setattr(layer, _REBUILT, torch.tensor(window))
        cache.layers.append(layer)
    for name, value in zip(context, values, strict=True):
        index, _, attribute = name.partition(".")
        setattr(cache.layers[int(index)], attribute, value)
    return cache


def _halves_apart(cache: Any) -> tuple[list[Any], _Names]:
    outer = {k: v for k, v in vars(cache).items() if not k.endswith("_attention_cache")}
    halves = [cache.self_attention_cache, cache.cross_attention_cache]
    return halves, _Names(["self", "cross"], (type(cache), outer))


def _halves_together(values: Any, context: _Names) -> Any:
    kind, outer = context.rest
    cache = object.__new__(kind)
    vars(cache).update(outer)
    cache.self_attention_cache, cache.cross_attention_cache = values
    return cache
