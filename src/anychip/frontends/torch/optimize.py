"""optimize: a compiled model that is called like the original, torch tensors in and out."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from anychip.core.errors import UnsupportedError, UsageError
from anychip.core.registry import discover
from anychip.core.target import CompileOptions, Executable, Target
from anychip.frontends.torch.program import FOLLOWS, Lowered, lower, need_torch

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


def optimize(
    model: torch.nn.Module | Callable[..., Any],
    target: str | Target = "cpu:xla",
    *,
    dynamic_shapes: Any = None,
    cache_size: int = 8,
    options: CompileOptions | None = None,
    seed: int | None = None,
    follow_example: bool = False,
) -> Optimized:
    """`model` compiled for a target, called as before: tensors in, tensors out, none copied.

    It is compiled at the first call, and again for new input shapes, after `.train()`/`.eval()`
    and after a weight changed; the `cache_size` most recently used programs are kept. With
    `dynamic_shapes` (as torch.export takes them) it is captured once and only specialised for new
    sizes. Buffers and inputs that forward changes are changed. Results carry no gradient.
    `seed` and `follow_example` are as for `load`; with the latter a call whose data would take
    another branch raises UnsupportedError. Raises UsageError for a target that only compiles.
    """
    need_torch()
    chosen = discover().target(target) if isinstance(target, str) else target
    if not chosen.runs:
        raise UsageError(f"{chosen.name} compiles but does not run here; choose one that runs")
    if cache_size < 1:
        raise UsageError(f"cache_size must be at least 1, got {cache_size}")
    return Optimized(
        model, chosen, dynamic_shapes, cache_size, options or CompileOptions(), seed, follow_example
    )


class Optimized:
    """Stands for the model: other attributes (`.eval()`, `.state_dict()`, …) are the model's."""

    def __init__(
        self,
        model: torch.nn.Module | Callable[..., Any],
        target: Target,
        dynamic_shapes: Any,
        cache_size: int,
        options: CompileOptions,
        seed: int | None,
        follow_example: bool,
    ):
        from anychip.frontends.torch.export import as_module

        self._model, self._target = as_module(model), target
        self._dynamic_shapes, self._options = dynamic_shapes, options
        self._seed, self._follow_example = seed, follow_example
        self._programs: Recent[Program] = Recent(cache_size)
        self._captured: Recent[Lowered] = Recent(cache_size)
        self._states: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._model, name)
        if name in ("eval", "train", "requires_grad_"):  # they return the model: return this
            return lambda *args, **kwargs: (found(*args, **kwargs), self)[1]
        return found

    def __repr__(self) -> str:
        return f"Optimized({type(self._model).__name__}, target={self._target.name!r})"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch
        from torch.utils._pytree import tree_flatten

        self._warn_under_grad(torch)
        leaves, layout = tree_flatten((args, kwargs))
        call = _Call(str(layout), tuple(_key_of(leaf, torch) for leaf in leaves))
        program = self._programs.get((call, self._state_key()))
        if program is None:
            program = self._compiled(args, kwargs, call)
            self._programs.put((call, self._state_key()), program)
        return program(leaves)

    def _warn_under_grad(self, torch: Any) -> None:
        if torch.is_grad_enabled() and any(p.requires_grad for p in self._model.parameters()):
            warnings.warn(
                "an optimized model gives results without gradients; call it under "
                "torch.no_grad() or torch.inference_mode()",
                stacklevel=3,
            )

    def _state_key(self) -> Hashable:
        """Changes when a submodule changes mode, or a weight its value or memory."""
        modes = tuple(m.training for m in self._model.modules())
        stamps = tuple(
            # forward's own changes to a buffer are no reason to compile again
            (t.data_ptr(), -1 if t.is_inference() or name in self._states else t._version)
            for kind in (self._model.named_parameters(), self._model.named_buffers())
            for name, t in kind
        )
        return modes, stamps

    def _compiled(self, args: tuple[Any, ...], kwargs: dict[str, Any], call: _Call) -> Program:
        is_general = self._dynamic_shapes is not None
        key = lambda: (call.layout if is_general else call, self._state_key())  # noqa: E731
        lowered = self._captured.get(key())
        if lowered is None:
            lowered = lower(
                self._model,
                args,
                example_kwargs=kwargs,
                dynamic_shapes=self._dynamic_shapes,
                seed=self._seed,
                follow_example=self._follow_example,
            )
            self._states |= {a.name for a in lowered.module.signature.named("state")}
            self._captured.put(key(), lowered)
        module = lowered.module
        if module.signature.symbols:
            module = module.specialise(_sizes(lowered, call.shapes))
        executable = self._target.compile(module, self._options)
        held = dict(self._model.named_buffers(remove_duplicate=False))
        held |= dict(self._model.named_parameters(remove_duplicate=False))
        return Program(executable, lowered, held)


@dataclass(frozen=True)
class _Call:
    """What of a call decides which program serves it."""

    layout: str
    shapes: tuple[Any, ...]


def _key_of(leaf: Any, torch: Any) -> Hashable:
    if isinstance(leaf, torch.Tensor):
        return tuple(leaf.shape), leaf.dtype
    if not isinstance(leaf, Hashable):
        raise UsageError(
            f"an optimized model takes torch tensors and plain values, got a {type(leaf).__name__}"
        )
    return type(leaf).__name__, leaf


def _sizes(lowered: Lowered, shapes: tuple[Any, ...]) -> dict[str, int]:
    """The value of every symbolic dimension at these input shapes."""
    sizes: dict[str, int] = {}
    arguments = lowered.module.signature.arguments
    for (shape, _), slot in zip(shapes, lowered.binding.user_inputs, strict=True):
        if slot is None:
            continue
        for dim, size in zip(arguments[slot].shape, shape, strict=True):
            if isinstance(dim, str) and sizes.setdefault(dim, size) != size:
                raise UsageError(f"dimension {dim} is {sizes[dim]} and {size} in one call")
            if isinstance(dim, int) and dim != size:
                raise UsageError(
                    f"input {arguments[slot].name} has size {size} where it is fixed to {dim}"
                )
    return sizes


@dataclass(frozen=True)
class Program:
    """One compiled program, called with the flat list of forward's inputs."""

    executable: Executable
    lowered: Lowered
    held: dict[str, torch.Tensor]

    def __call__(self, leaves: list[Any]) -> Any:
        import jax
        from torch.utils._pytree import tree_unflatten

        from anychip.frontends.torch.bind import Slot
        from anychip.frontends.torch.tensors import to_jax, to_numpy, to_torch

        binding, signature = self.lowered.binding, self.executable.signature
        given = {
            slot: leaf
            for slot, leaf in zip(binding.user_inputs, leaves, strict=True)
            if slot is not None
        }
        arrays = [
            to_numpy(self.held[a.name]) if a.role == "state" else to_jax(given[index])
            for index, a in enumerate(signature.arguments)
            if a.role != "weight"
        ]
        results = jax.block_until_ready(list(self.executable.run(*arrays)))
        tensors = [to_torch(r) for r in results]
        for result, tensor in zip(signature.results, tensors, strict=True):
            if result.name == FOLLOWS and not bool(tensor):
                raise UnsupportedError(
                    "this data takes another branch, or gives other sizes, than the example the "
                    "model was captured with; capture it with such an example too"
                )
        for result, tensor in zip(signature.results, tensors, strict=True):
            if result.updates is not None:
                self.held[result.updates].copy_(tensor)
        for leaf, result in binding.mutated_inputs:
            leaves[leaf].copy_(tensors[result])
        outputs = [tensors[o.index] if isinstance(o, Slot) else o for o in binding.user_outputs]
        return tree_unflatten(outputs, self.lowered.out_spec)


class Recent(Generic[T]):
    """The last `size` things used, by key."""

    def __init__(self, size: int):
        self._size = size
        self._held: OrderedDict[Hashable, T] = OrderedDict()

    def get(self, key: Hashable) -> T | None:
        if key not in self._held:
            return None
        self._held.move_to_end(key)
        return self._held[key]

    def put(self, key: Hashable, value: T) -> None:
        self._held[key] = value
        if len(self._held) > self._size:
            self._held.popitem(last=False)
