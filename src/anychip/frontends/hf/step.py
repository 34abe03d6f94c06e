"""One step of a decoder over a cache that is state: what prefill and decode Modules are made of."""

# Annotations of torch and transformers are partly missing or wrong:
# pyright: reportArgumentType=false
# pyright: reportAttributeAccessIssue=false
# pyright: reportIndexIssue=false
# pyright: reportOptionalMemberAccess=false
# pyright: reportOptionalSubscript=false

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers.cache_utils import Cache, StaticLayer

from anychip.core.errors import UnsupportedError


class RowsLayer(StaticLayer):
    """A layer's keys and values for `context` positions; each sequence writes at its own place."""

    def __init__(self, held: _Held, positions: torch.Tensor):
        super().__init__(held.k.shape[2])
        self.keys, self.values, self.is_initialized = held.k, held.v, True
        self._positions = positions
        self._rows = torch.arange(positions.shape[0])[:, None]

    def update(self, key_states: Any, value_states: Any, *_args: Any, **_kwargs: Any) -> Any:
        # index tensors on both sides of a slice bring their axes to the front: [B, Q, H, D]
        at = (self._rows, slice(None), self._positions)
        self.keys[at] = key_states.transpose(1, 2).to(self.keys.dtype)
        self.values[at] = value_states.transpose(1, 2).to(self.values.dtype)
        return self.keys.to(key_states.dtype), self.values.to(value_states.dtype)


class _Held(torch.nn.Module):
    """The state of one layer."""

    def __init__(self, k: torch.Tensor, v: torch.Tensor):
        super().__init__()
        self.register_buffer("k", k, persistent=False)
        self.register_buffer("v", v, persistent=False)


class Step(torch.nn.Module):
    """tokens i32[batch, length], start i32[batch] → logits f32[batch, vocabulary] of the last.

    Has the model's own children, so that weights keep their names; `layers.{i}.k` and `.v` are
    state.
    """

    def __init__(self, model: Any, batch: int, context: int, cache: torch.dtype):
        super().__init__()
        for name, child in model.named_children():
            self.add_module(name, child)
        self._model = (model,)  # in a tuple, or its weights would have two names
        held = [
            _Held(
                torch.zeros(batch, heads, context, k, dtype=cache),
                torch.zeros(batch, heads, context, v, dtype=cache),
            )
            for heads, k, v in cache_shapes(model)
        ]
        self._held = tuple(held)
        name = "cache" if "layers" in self._modules else "layers"
        self.add_module(name, torch.nn.ModuleList(held))
        self._context, self._float = context, model.dtype
        parameters = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"
        self._keeps_last = "logits_to_keep" in parameters
        self._takes_positions = "position_ids" in parameters

    def forward(self, tokens: torch.Tensor, start: torch.Tensor) -> dict[str, torch.Tensor]:
        (model,) = self._model
        length = tokens.shape[1]
        positions = start[:, None].long() + torch.arange(length)
        given: dict[str, Any] = {
            "attention_mask": self._masks(model.config, positions),
            self._cache_argument: Cache(layers=[RowsLayer(one, positions) for one in self._held]),
            "use_cache": True,
        }
        if self._takes_positions:
            given["position_ids"] = positions
        if self._keeps_last:
            given["logits_to_keep"] = 1
        out = model(input_ids=tokens.long(), **given)
        return {"logits": out.logits[:, -1].float()}

    def _masks(self, config: Any, positions: torch.Tensor) -> Any:
        """Which cache slots each query sees, for each kind of layer the model has."""
        slots = torch.arange(self._context)
        full = slots <= positions[:, None, :, None]
        text = config.get_text_config()
        kinds = set(getattr(text, "layer_types", None) or ())
        window = getattr(text, "sliding_window", None)
        near = full if not window else full & (slots > positions[:, None, :, None] - window)
        if text._attn_implementation == "eager":  # its code adds the mask to the logits
            full, near = _added(full, self._float), _added(near, self._float)
        masks = {"full_attention": full, "sliding_attention": near}
        if unknown := kinds - set(masks):
            raise UnsupportedError(
                f"layers of kind {', '.join(sorted(unknown))} have no key-value cache of the usual "
                "form; give example_inputs to load the model as one Module"
            )
        if kinds:
            return masks if len(kinds) > 1 or _wants_mapping(config) else masks[next(iter(kinds))]
        return near


def _added(visible: torch.Tensor, element: torch.dtype) -> torch.Tensor:
    """0 where a query sees, the lowest number where it does not."""
    lowest = torch.finfo(element).min
    return torch.zeros(visible.shape, dtype=element).masked_fill(~visible, lowest)


def _wants_mapping(config: Any) -> bool:
    """Whether the model's code looks masks up by layer kind."""
    return "sliding_attention" in (getattr(config.get_text_config(), "layer_types", None) or ())


def cache_shapes(model: Any) -> list[tuple[int, int, int]]:
    """(heads, key width, value width) of each layer's cache, seen by running one token.

    On fake tensors: no weight is touched.
    """
    from torch._export.utils import _compiling_state_context  # models ask whether they are traced
    from torch._subclasses import FakeTensorMode
    from transformers import DynamicCache

    seen = DynamicCache(config=model.config)
    parameters = inspect.signature(model.forward).parameters
    argument = "cache" if "cache" in parameters else "past_key_values"
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), fake, _compiling_state_context():
        model(input_ids=torch.ones(1, 1, dtype=torch.int64), use_cache=True, **{argument: seen})
    shapes = []
    for layer in seen.layers:
        keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
        if keys is None or values is None or keys.ndim != 4:
            raise UnsupportedError(
                f"{type(model).__name__} keeps a {type(layer).__name__}, which is no cache of keys "
                "and values; give example_inputs to load the model as one Module"
            )
        shapes.append((keys.shape[1], keys.shape[3], values.shape[3]))
    return shapes
