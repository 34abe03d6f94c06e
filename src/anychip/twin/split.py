"""A traced program in two: what follows from its weights alone, done once, and the rest.

Only marked calls are moved (functions jitted under a given name) and what leads to them, so that a
broadcast of a small weight does not become a large array to keep.
"""

# JAX's own annotations are partly unknown to pyright; strictness about them finds nothing of ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import core


@dataclass(frozen=True)
class Split:
    """`prepare(weights)` gives what `step(prepared, weights, others)` needs of marked calls.

    `needed` are the positions among the weights that `step` still reads; it takes those only.
    """

    prepare: Callable[[Sequence[Any]], list[Any]]
    step: Callable[[Sequence[Any], Sequence[Any], Sequence[Any]], list[Any]]
    needed: tuple[int, ...]


def split(traced: core.ClosedJaxpr, weights: int, mark: str) -> Split:
    """Split a program whose first `weights` arguments are its weights."""
    jaxpr = traced.jaxpr
    fixed = set(jaxpr.invars[:weights]) | set(jaxpr.constvars)
    known: list[Any] = []
    marked: list[Any] = []
    for eqn in jaxpr.eqns:
        if not eqn.effects and all(v in fixed for v in _variables(eqn.invars)):
            fixed.update(eqn.outvars)
            known.append(eqn)
            if eqn.params.get("name") == mark:
                marked.append(eqn)
    prepared = [v for eqn in marked for v in eqn.outvars]
    before = _live(known, prepared)
    moved = {id(eqn) for eqn in marked}
    after = _live([e for e in jaxpr.eqns if id(e) not in moved], jaxpr.outvars)
    read = set(_variables(v for e in after for v in e.invars)) | set(_variables(jaxpr.outvars))
    needed = tuple(i for i, v in enumerate(jaxpr.invars[:weights]) if v in read)
    constants = dict(zip(jaxpr.constvars, traced.consts, strict=True))

    def prepare(given: Sequence[Any]) -> list[Any]:
        env = {**constants, **dict(zip(jaxpr.invars[:weights], given, strict=True))}
        _run(before, env, set(prepared))
        return [env[v] for v in prepared]

    def step(ready: Sequence[Any], given: Sequence[Any], others: Sequence[Any]) -> list[Any]:
        env = {**constants, **dict(zip(prepared, ready, strict=True))}
        env.update(zip((jaxpr.invars[i] for i in needed), given, strict=True))
        env.update(zip(jaxpr.invars[weights:], others, strict=True))
        _run(after, env, set(_variables(jaxpr.outvars)))
        return [_value(v, env) for v in jaxpr.outvars]

    return Split(prepare, step, needed)


def _variables(atoms: Iterable[Any]) -> list[Any]:
    return [a for a in atoms if not isinstance(a, core.Literal)]


def _live(eqns: Sequence[Any], wanted: Iterable[Any]) -> list[Any]:
    """The equations `wanted` needs, in order."""
    needed = set(_variables(wanted))
    kept: list[Any] = []
    for eqn in reversed(eqns):
        if eqn.effects or not needed.isdisjoint(eqn.outvars):
            kept.append(eqn)
            needed.update(_variables(eqn.invars))
    return kept[::-1]


def _run(eqns: Sequence[Any], env: dict[Any, Any], wanted: set[Any]) -> None:
    """JAX's own way of evaluating a jaxpr (JAX documentation, "Writing custom interpreters").
    Only `wanted` outlives its last use: weights unpacked on the way are as large as the model."""
    last = {v: index for index, eqn in enumerate(eqns) for v in _variables(eqn.invars)}
    for index, eqn in enumerate(eqns):
        params = eqn.primitive.get_bind_params(eqn.params)
        with eqn.ctx.manager:
            made = eqn.primitive.bind(*(_value(v, env) for v in eqn.invars), **params)
        env.update(
            zip(eqn.outvars, made if eqn.primitive.multiple_results else [made], strict=True)
        )
        for v in _variables(eqn.invars):
            if last[v] == index and v not in wanted:
                env.pop(v, None)


def _value(atom: Any, env: dict[Any, Any]) -> Any:
    return atom.val if isinstance(atom, core.Literal) else env[atom]
