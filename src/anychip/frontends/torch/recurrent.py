"""LSTM, GRU and plain recurrent layers as a scan over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax

from anychip.core.errors import UnsupportedError
from anychip.frontends.torch.linear import linear
from anychip.frontends.torch.table import Rules

RULES = Rules()

Step = Callable[[tuple[Any, ...], Any, Sequence[Any]], tuple[tuple[Any, ...], Any]]


def _lstm_step(state: tuple[Any, ...], gates_x: Any, params: Sequence[Any]) -> Any:
    hidden, cell = state
    weight, bias, project = params
    gates = gates_x + linear(hidden, weight, bias)
    take, forget, new, give = jnp.split(gates, 4, -1)
    cell = lax.logistic(forget) * cell + lax.logistic(take) * jnp.tanh(new)
    hidden = lax.logistic(give) * jnp.tanh(cell)
    hidden = hidden if project is None else linear(hidden, project)
    return (hidden, cell), hidden


def _gru_step(state: tuple[Any, ...], gates_x: Any, params: Sequence[Any]) -> Any:
    (hidden,) = state
    weight, bias, _ = params
    reset_x, update_x, new_x = jnp.split(gates_x, 3, -1)
    reset_h, update_h, new_h = jnp.split(linear(hidden, weight, bias), 3, -1)
    reset, update = lax.logistic(reset_x + reset_h), lax.logistic(update_x + update_h)
    new = jnp.tanh(new_x + reset * new_h)
    hidden = new + update * (hidden - new)
    return (hidden,), hidden


def _rnn_step(activation: Callable[[Any], Any]) -> Step:
    def step(state: tuple[Any, ...], gates_x: Any, params: Sequence[Any]) -> Any:
        hidden = activation(gates_x + linear(state[0], params[0], params[1]))
        return (hidden,), hidden

    return step


def _direction(
    step: Step, x: Any, state: tuple[Any, ...], params: Sequence[Any], reverse: bool
) -> tuple[tuple[Any, ...], Any]:
    """One layer in one direction over x[T, B, I]; the input's product is done for all T at once."""
    weight_x, weight_h, bias_x, bias_h, project = params
    gates_x = linear(x, weight_x, bias_x)
    body = lambda carry, row: step(carry, row, (weight_h, bias_h, project))  # noqa: E731
    return lax.scan(body, state, gates_x, reverse=reverse)


def _layers(
    step: Step,
    x: Any,
    states: Sequence[Any],
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    bidirectional: bool,
    batch_first: bool,
    projected: bool = False,
) -> tuple[Any, ...]:
    unbatched = x.ndim == 2
    if unbatched:
        x, states, batch_first = x[:, None], [s[:, None] for s in states], False
    if batch_first:
        x = jnp.swapaxes(x, 0, 1)
    directions = 2 if bidirectional else 1
    each = 2 + 2 * has_biases + projected
    lasts = []
    for layer in range(num_layers):
        outs = []
        for direction in range(directions):
            at = layer * directions + direction
            own = list(params[at * each : (at + 1) * each])
            biases = own[2:4] if has_biases else [None, None]
            row = (*own[:2], *biases, own[-1] if projected else None)
            first = tuple(s[at] for s in states)
            last, out = _direction(step, x, first, row, reverse=direction == 1)
            lasts.append(last)
            outs.append(out)
        x = jnp.concatenate(outs, -1) if directions == 2 else outs[0]
    final = [jnp.stack(column) for column in zip(*lasts, strict=True)]
    if unbatched:
        x, final = x[:, 0], [f[:, 0] for f in final]
    return jnp.swapaxes(x, 0, 1) if batch_first else x, *final


def _no_dropout(dropout: float, train: bool) -> None:
    if dropout > 0 and train:
        raise UnsupportedError("a recurrent layer with dropout; call .eval() on the model")


@RULES("lstm.input")
def lstm(
    x: Any,
    hx: Sequence[Any],
    params: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, ...]:
    _no_dropout(dropout, train)
    projected = hx[0].shape[-1] != hx[1].shape[-1]
    return _layers(
        _lstm_step, x, hx, params, has_biases, num_layers, bidirectional, batch_first, projected
    )


def _single_state(step: Step) -> Any:
    def rule(
        x: Any,
        hx: Any,
        params: Sequence[Any],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Any, ...]:
        _no_dropout(dropout, train)
        return _layers(step, x, [hx], params, has_biases, num_layers, bidirectional, batch_first)

    return rule


RULES("gru.input")(_single_state(_gru_step))
RULES("rnn_tanh.input")(_single_state(_rnn_step(jnp.tanh)))
RULES("rnn_relu.input")(_single_state(_rnn_step(lambda x: jnp.maximum(x, 0))))
