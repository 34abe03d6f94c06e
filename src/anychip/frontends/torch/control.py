"""Control flow: torch's higher-order ops, whose branches and bodies arrive as callables."""

# Annotations of torch and transformers are partly missing or wrong:
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anychip.frontends.torch.promote import is_array
from anychip.frontends.torch.table import Rules

RULES = Rules()

Graph = Callable[..., Sequence[Any]]


@RULES("cond", space="higher_order")
def cond(pred: Any, true_fn: Graph, false_fn: Graph, operands: Sequence[Any] = ()) -> tuple:
    if isinstance(pred, bool):
        return tuple((true_fn if pred else false_fn)(*operands))
    arrays, call = _arrays_only(operands)
    branch = lambda fn: lambda *given: tuple(jnp.asarray(r) for r in call(fn, given))  # noqa: E731
    return tuple(lax.cond(pred.reshape(()), branch(true_fn), branch(false_fn), *arrays))


def _arrays_only(values: Sequence[Any]) -> tuple[list[Any], Callable[..., Any]]:
    """The arrays among the values, and how to call a function with all of them again."""
    arrays = [v for v in values if is_array(v)]

    def call(fn: Graph, given: Sequence[Any]) -> Sequence[Any]:
        rest = iter(given)
        return fn(*(next(rest) if is_array(v) else v for v in values))

    return arrays, call


@RULES("while_loop", space="higher_order")
def while_loop(
    cond_fn: Graph,
    body_fn: Graph,
    carried: Sequence[Any],
    additional: Sequence[Any] = (),
) -> tuple:
    first = tuple(jnp.asarray(c) for c in carried)

    def again(state: tuple) -> Any:
        out = cond_fn(*state, *additional)
        return jnp.reshape(out[0] if isinstance(out, list | tuple) else out, ())

    body = lambda state: tuple(  # noqa: E731
        jnp.asarray(r, s.dtype) for r, s in zip(body_fn(*state, *additional), state, strict=True)
    )
    return tuple(lax.while_loop(again, body, first))


@RULES("scan", space="higher_order")
def scan(
    combine_fn: Graph, init: Sequence[Any], xs: Sequence[Any], additional: Sequence[Any] = ()
) -> list[Any]:
    """Scans axis 0; gives the last carry, then the stacked outputs."""
    count = len(init)

    def step(carry: tuple, row: tuple) -> tuple[tuple, tuple]:
        out = combine_fn(*carry, *row, *additional)
        return tuple(out[:count]), tuple(out[count:])

    carry, stacked = lax.scan(step, tuple(init), tuple(xs))
    return [*carry, *stacked]


@RULES("associative_scan", space="higher_order")
def associative_scan(combine_fn: Graph, xs: Sequence[Any], additional: Sequence[Any] = ()) -> list:
    one = lambda a, b: tuple(combine_fn(*a, *b, *additional))  # noqa: E731
    pairwise = jax.vmap(one)  # torch's function combines single rows
    return list(lax.associative_scan(pairwise, tuple(xs), axis=0))


@RULES("map_impl", space="higher_order")
def map_rows(f: Graph, xs: Sequence[Any], additional: Sequence[Any] = ()) -> tuple:
    return tuple(lax.map(lambda row: tuple(f(*row, *additional)), tuple(xs)))


def _call_last(*values: Any) -> Any:
    at = next(i for i, v in enumerate(values) if callable(v))
    return values[at](*values[at + 1 :])


RULES("wrap_with_set_grad_enabled", "wrap_with_autocast", space="higher_order")(_call_last)
RULES("wrap", "tag_activation_checkpoint", space="higher_order")(
    lambda fn, *operands: fn(*operands)
)
RULES("invoke_subgraph", space="higher_order")(lambda fn, name, *operands: fn(*operands))
RULES("strict_mode", space="higher_order")(lambda fn, operands: fn(*operands))
RULES("hints_wrapper", space="higher_order")(lambda fn, operands, kwargs, hints: fn(*operands))
