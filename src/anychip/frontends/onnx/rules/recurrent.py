"""RNN, GRU and LSTM: one lax.scan a direction, sequence lengths by masking (ONNX operator docs)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from anychip.core.errors import InputError
from anychip.frontends.onnx.rules.cast import clamp
from anychip.frontends.onnx.table import Call, op

Activation = Callable[[Any], Any]

_ALPHAS = {"leakyrelu": 0.01, "elu": 1.0, "thresholdedrelu": 1.0, "hardsigmoid": 0.2}


def _activation(name: str, alpha: float | None, beta: float | None) -> Activation:
    kind = name.lower()
    a = _ALPHAS.get(kind, 1.0) if alpha is None else alpha
    b = (0.5 if kind == "hardsigmoid" else 1.0) if beta is None else beta
    table: dict[str, Activation] = {
        "relu": lambda x: jnp.maximum(x, 0),
        "tanh": jnp.tanh,
        "sigmoid": jax.nn.sigmoid,
        "affine": lambda x: a * x + (0.0 if beta is None else b),
        "leakyrelu": lambda x: jnp.where(x < 0, a * x, x),
        "thresholdedrelu": lambda x: jnp.where(x > a, x, 0),
        "scaledtanh": lambda x: a * jnp.tanh(b * x),
        "hardsigmoid": lambda x: clamp(a * x + b, 0, 1),
        "elu": lambda x: jnp.where(x < 0, a * jnp.expm1(x), x),
        "softsign": lambda x: x / (1 + jnp.abs(x)),
        "softplus": jax.nn.softplus,
    }
    if kind not in table:
        raise InputError(f"activation {name!r} is unknown")
    return table[kind]


def _activations(call: Call, direction: int, defaults: list[str]) -> list[Activation]:
    """The activation functions of one direction; alphas go to those that take one, in order."""
    names = call.attr("activations") or defaults * 2
    alphas, betas = list(call.attr("activation_alpha", [])), list(call.attr("activation_beta", []))
    takes_alpha = {*_ALPHAS, "affine", "scaledtanh"}
    takes_beta = {"affine", "scaledtanh", "hardsigmoid"}
    made = []
    for name in names:
        alpha = alphas.pop(0) if alphas and name.lower() in takes_alpha else None
        beta = betas.pop(0) if betas and name.lower() in takes_beta else None
        made.append(_activation(name, alpha, beta))
    count = len(defaults)
    return made[direction * count : (direction + 1) * count]


def _clipped(call: Call) -> Activation:
    limit = call.attr("clip")
    return (lambda x: x) if not limit else (lambda x: clamp(x, -limit, limit))


Step = Callable[[tuple[Any, ...], Any], tuple[Any, ...]]
"""(state, x at one time) → next state; state[0] is the hidden output."""


def _directions(call: Call) -> list[bool]:
    """Whether each direction runs backwards."""
    return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[
        call.attr("direction", "forward")
    ]


def _run(
    call: Call,
    x: Any,
    lengths: Any,
    states: list[Any],
    step_of: Callable[[int], Step],
) -> Any:
    """Run all directions. Returns Y and the last value of each state, in the node's layout."""
    batch_first = bool(call.attr("layout", 0))
    x = x.swapaxes(0, 1) if batch_first else x
    backwards = _directions(call)
    states = [s.swapaxes(0, 1) if batch_first and s is not None else s for s in states]
    hidden = call.required("hidden_size")
    zeros = jnp.zeros((len(backwards), x.shape[1], hidden), x.dtype)
    states = [zeros if s is None else s for s in states]
    ys, lasts = [], []
    for index, back in enumerate(backwards):
        y, last = _scan(x, lengths, tuple(s[index] for s in states), step_of(index), back)
        ys.append(y)
        lasts.append(last)
    y = jnp.stack(ys, axis=1)
    finals = [jnp.stack(parts) for parts in zip(*lasts, strict=True)]
    if batch_first:
        y = y.transpose(2, 0, 1, 3)
        finals = [f.swapaxes(0, 1) for f in finals]
    return (y, *finals)


def _scan(x: Any, lengths: Any, state: tuple[Any, ...], step: Step, back: bool) -> Any:
    times = jnp.arange(x.shape[0])

    def body(carry: tuple[Any, ...], at: tuple[Any, Any]) -> tuple[tuple[Any, ...], Any]:
        value, time = at
        new = step(carry, value)
        if lengths is None:
            return new, new[0]
        alive = (time < lengths)[:, None]
        kept = tuple(jnp.where(alive, n, c) for n, c in zip(new, carry, strict=True))
        return kept, jnp.where(alive, new[0], 0)

    last, y = lax.scan(body, state, (x, times), reverse=back)
    return y, last


@op("RNN")
def rnn(
    call: Call, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None
) -> Any:
    clip = _clipped(call)

    def step_of(index: int) -> Step:
        (f,) = _activations(call, index, ["Tanh"])
        bias = 0 if b is None else sum(jnp.split(b[index], 2))

        def step(state: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
            return (f(clip(value @ w[index].T + state[0] @ r[index].T + bias)),)

        return step

    return _run(call, x, lengths, [h0], step_of)


@op("GRU")
def gru(
    call: Call, x: Any, w: Any, r: Any, b: Any = None, lengths: Any = None, h0: Any = None
) -> Any:
    clip, hidden = _clipped(call), call.required("hidden_size")
    after = bool(call.attr("linear_before_reset", 0))

    def step_of(index: int) -> Step:
        f, g = _activations(call, index, ["Sigmoid", "Tanh"])
        rz, rr, rh = jnp.split(r[index], 3)
        zeros = jnp.zeros(6 * hidden, x.dtype)
        wb, rb = jnp.split(zeros if b is None else b[index], 2)
        rbz, rbr, rbh = jnp.split(rb, 3)

        def step(state: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
            h = state[0]
            xz, xr, xh = jnp.split(value @ w[index].T + wb, 3, axis=-1)
            z = f(clip(xz + h @ rz.T + rbz))
            reset = f(clip(xr + h @ rr.T + rbr))
            inner = reset * (h @ rh.T + rbh) if after else (reset * h) @ rh.T + rbh
            return ((1 - z) * g(clip(xh + inner)) + z * h,)

        return step

    return _run(call, x, lengths, [h0], step_of)


@op("LSTM")
def lstm(
    call: Call,
    x: Any,
    w: Any,
    r: Any,
    b: Any = None,
    lengths: Any = None,
    h0: Any = None,
    c0: Any = None,
    peepholes: Any = None,
) -> Any:
    clip, hidden = _clipped(call), call.required("hidden_size")
    coupled = bool(call.attr("input_forget", 0))

    def step_of(index: int) -> Step:
        f, g, h_of = _activations(call, index, ["Sigmoid", "Tanh", "Tanh"])
        bias = 0 if b is None else sum(jnp.split(b[index], 2))
        pi, po, pf = (0, 0, 0) if peepholes is None else jnp.split(peepholes[index], 3)

        def step(state: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
            h, c = state
            i, o, forget, cell = jnp.split(value @ w[index].T + h @ r[index].T + bias, 4, axis=-1)
            i = f(clip(i + pi * c))
            forget = 1 - i if coupled else f(clip(forget + pf * c))
            c = forget * c + i * g(clip(cell))
            o = f(clip(o + po * c))
            return o * h_of(c), c

        return step

    assert hidden
    return _run(call, x, lengths, [h0, c0], step_of)
