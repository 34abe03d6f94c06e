"""Tokens, which only order, and the ops that talk to partners outside the program."""

# pyright: reportUnknownArgumentType=false, reportUnknownLambdaType=false

from __future__ import annotations

from typing import Any

from anychip.ops.case import case
from anychip.ops.count import moved, nothing
from anychip.ops.table import Op, op
from anychip.ops.view import OpView

TOKEN = ()
"""A token's value: nothing. Its order is that of the program."""

_TOKENS = """  %t0 = {make}
  %t1 = stablehlo.after_all %t0, %t0 : !stablehlo.token
  %0 = stablehlo.negate %a0 : tensor<2xf32>
  return %0 : tensor<2xf32>"""


@op(
    "stablehlo.after_all",
    unit="control",
    work=nothing,
    cases=[
        case(
            "f32[2]",
            body=_TOKENS.format(make="stablehlo.after_all : !stablehlo.token"),
            expect=lambda x: -x,
        )
    ],
)
def after_all(op: OpView, *tokens: Any) -> Any:
    """A token that comes after all of these."""
    return (TOKEN,)


@op(
    "stablehlo.create_token",
    unit="control",
    work=nothing,
    cases=[
        case(
            "f32[2]",
            body=_TOKENS.format(make="stablehlo.create_token : !stablehlo.token"),
            expect=lambda x: -x,
        )
    ],
)
def create_token(op: OpView) -> Any:
    """A token that comes after nothing."""
    return (TOKEN,)


def _outside(name: str, why: str, body: str) -> Op:
    def meaning(op: OpView, *operands: Any) -> Any:
        raise AssertionError(f"{name} is refused before it is evaluated")

    return op(
        f"stablehlo.{name}",
        unit="move",
        work=moved,
        cases=[case("f32[2]", out="f32[2]", body=body)],
        refusal=f"it {why}; a Module gets its data as arguments and returns results",
        reference="it talks to a partner outside the program",
    )(meaning)


_WITH_TOKEN = "  %t = stablehlo.create_token : !stablehlo.token\n"
_RETURN_SAME = "\n  return %a0 : tensor<2xf32>"
_CHANNEL = "channel_handle = #stablehlo.channel_handle<handle = 1, type = {}>"

OUTSIDE: tuple[Op, ...] = (
    _outside(
        "infeed",
        "waits for data from the host's infeed queue",
        _WITH_TOKEN
        + '  %r:2 = "stablehlo.infeed"(%t) : (!stablehlo.token)'
        + " -> (tensor<2xf32>, !stablehlo.token)\n  return %r#0 : tensor<2xf32>",
    ),
    _outside(
        "outfeed",
        "sends data to the host's outfeed queue",
        _WITH_TOKEN
        + '  %r = "stablehlo.outfeed"(%a0, %t)'
        + " : (tensor<2xf32>, !stablehlo.token) -> !stablehlo.token"
        + _RETURN_SAME,
    ),
    _outside(
        "send",
        "sends data to another program on a channel",
        _WITH_TOKEN
        + f'  %r = "stablehlo.send"(%a0, %t) <{{{_CHANNEL.format(2)}, is_host_transfer = true}}>'
        + " : (tensor<2xf32>, !stablehlo.token) -> !stablehlo.token"
        + _RETURN_SAME,
    ),
    _outside(
        "recv",
        "waits for data from another program on a channel",
        _WITH_TOKEN
        + f'  %r:2 = "stablehlo.recv"(%t) <{{{_CHANNEL.format(3)}, is_host_transfer = true}}>'
        + " : (!stablehlo.token) -> (tensor<2xf32>, !stablehlo.token)"
        + "\n  return %r#0 : tensor<2xf32>",
    ),
)
