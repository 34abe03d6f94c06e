"""Torch cases: the layers of a model."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch.nn import functional as F
from torch_tensors import Group, randn, same

PRODUCTS: Group = {
    "mm": lambda t: t.X[0] @ t.Y[0].T,
    "bmm": lambda t: torch.bmm(t.X, t.Y.transpose(1, 2)),
    "matmul broadcast": lambda t: t.X[:, None] @ t.Y.transpose(1, 2)[None],
    "matmul vector": lambda t: t.X @ randn(5),
    "mv dot": lambda t: torch.mv(t.X[0], t.Y[0, 0]) * torch.dot(t.X[0, 0], t.Y[0, 0]),
    "linear": lambda t: F.linear(t.X, randn(7, 5), randn(7)),
    "addmm": lambda t: torch.addmm(randn(4), t.X[0], t.Y[0].T, beta=0.5, alpha=2),
    "baddbmm": lambda t: torch.baddbmm(randn(3, 1, 4), t.X, t.Y.mT, beta=2),
    "addbmm": lambda t: torch.addbmm(randn(4, 4), t.X, t.Y.mT),
    "outer": lambda t: torch.outer(t.X[0, 0], t.Y[0, 0]),
    "einsum": lambda t: torch.einsum("bij,bkj->bik", t.X, t.Y),
    "einsum ellipsis": lambda t: torch.einsum("...ij,...ij->...", t.X, t.Y),
    "tensordot": lambda t: torch.tensordot(t.X, t.Y, ([1, 2], [1, 2])),
    "bilinear": lambda t: F.bilinear(t.X, t.Y, randn(2, 5, 5), randn(2)),
    "kron": lambda t: torch.kron(t.X[0], t.Y[0]),
    "int mm": lambda t: t.INTS[0] @ t.OTHER_INTS[0].T,
    "bf16 mm": lambda t: t.HALF @ t.HALF.mT,
    "cross": lambda t: torch.linalg.cross(randn(4, 3), randn(4, 3, seed=5)),
    "multi_dot": lambda t: torch.linalg.multi_dot([t.X[0], t.Y[0].T, t.X[1]]),
    "matrix_power": lambda t: torch.linalg.matrix_power(t.X[0] @ t.Y[0].T, 3),
    "grouped_mm": lambda t: F.grouped_mm(
        randn(8, 16).bfloat16(),
        randn(3, 16, 8).bfloat16(),
        offs=torch.tensor([2, 2, 8], dtype=torch.int32),
    ),
}


CONVOLUTIONS: Group = {
    "conv1d": lambda t: F.conv1d(t.LINE, same(6, 4, 3), same(6), stride=2, padding=1),
    "conv2d": lambda t: F.conv2d(t.IMAGE, same(6, 4, 3, 2), padding=(1, 0), dilation=2),
    "conv2d groups": lambda t: F.conv2d(t.IMAGE, same(8, 2, 3, 3), groups=2),
    "depthwise": lambda t: F.conv2d(t.IMAGE, same(8, 1, 3, 3), groups=4),
    "conv2d same": lambda t: F.conv2d(t.IMAGE, same(6, 4, 3, 5), padding="same"),
    "conv2d unbatched": lambda t: F.conv2d(t.IMAGE[0], same(6, 4, 3, 3)),
    "conv3d": lambda t: F.conv3d(t.VOLUME, same(3, 2, 2, 3, 3), stride=(1, 2, 1)),
    "transpose1d": lambda t: F.conv_transpose1d(t.LINE, same(4, 3, 4), stride=2, padding=1),
    "transpose2d": lambda t: F.conv_transpose2d(
        t.IMAGE, same(4, 3, 3, 3), same(6), 2, 1, 1, groups=2, dilation=2
    ),
    "transpose3d": lambda t: F.conv_transpose3d(t.VOLUME, same(2, 3, 2, 2, 2), stride=2),
    "unfold": lambda t: F.unfold(t.IMAGE, (3, 2), padding=1, stride=2),
    "fold": lambda t: F.fold(same(2, 18, 18), (5, 7), (3, 2)),
}


POOLS: Group = {
    "max1d": lambda t: F.max_pool1d(t.LINE, 3, 2, 1),
    "max2d": lambda t: F.max_pool2d(t.IMAGE, 3, 2, 1, ceil_mode=True),
    "max2d places": lambda t: F.max_pool2d(t.IMAGE, 2, 2, return_indices=True)[1],
    "max2d dilated": lambda t: F.max_pool2d(t.IMAGE, 2, 1, dilation=2),
    "max3d": lambda t: F.max_pool3d(t.VOLUME, 2),
    "avg1d": lambda t: F.avg_pool1d(t.LINE, 3, 2, 1),
    "avg2d": lambda t: F.avg_pool2d(t.IMAGE, 3, 2, 1),
    "avg2d uncounted": lambda t: F.avg_pool2d(t.IMAGE, 3, 2, 1, count_include_pad=False),
    "avg2d ceil": lambda t: F.avg_pool2d(t.IMAGE, 3, 2, 1, ceil_mode=True),
    "avg2d divisor": lambda t: F.avg_pool2d(t.IMAGE, 2, divisor_override=3),
    "avg3d": lambda t: F.avg_pool3d(t.VOLUME, 2),
    "adaptive avg": lambda t: F.adaptive_avg_pool2d(t.IMAGE, (4, 5)),
    "adaptive avg 1": lambda t: F.adaptive_avg_pool2d(t.IMAGE, 1),
    "adaptive avg 1d": lambda t: F.adaptive_avg_pool1d(t.LINE, 3),
    "adaptive max": lambda t: F.adaptive_max_pool2d(t.IMAGE, (4, 3)),
    "adaptive max places": lambda t: F.adaptive_max_pool1d(t.LINE, 3, return_indices=True)[1],
    "lp": lambda t: F.lp_pool2d(t.IMAGE.abs(), 2, 2),
    "unpool": lambda t: F.max_unpool2d(*F.max_pool2d(t.IMAGE, 2, return_indices=True), 2),
}


NORMS: Group = {
    "layer": lambda t: F.layer_norm(t.X, (5,), same(5), same(5)),
    "layer plain": lambda t: F.layer_norm(t.X, (4, 5)),
    "layer bias only": lambda t: F.layer_norm(t.X, (5,), None, same(5)),
    "rms": lambda t: F.rms_norm(t.X, (5,), same(5)),
    "group": lambda t: F.group_norm(t.IMAGE, 2, same(4), same(4)),
    "batch eval": lambda t: F.batch_norm(t.IMAGE, same(4), same(4).abs(), same(4), same(4)),
    "batch training": lambda t: F.batch_norm(t.IMAGE, None, None, training=True),
    "instance": lambda t: F.instance_norm(t.IMAGE),
    "local response": lambda t: F.local_response_norm(t.IMAGE, 3),
    "weight norm": lambda t: torch._weight_norm(same(4, 3), same(4, 1), 0),
}


ATTENTION: Group = {
    "plain": lambda t: F.scaled_dot_product_attention(_heads(4), _heads(4, 7), _heads(4, 7)),
    "causal": lambda t: F.scaled_dot_product_attention(
        _heads(4), _heads(4), _heads(4), is_causal=True
    ),
    "bool mask": lambda t: F.scaled_dot_product_attention(
        _heads(4), _heads(4), _heads(4), attn_mask=torch.ones(6, 6).tril().bool()
    ),
    "added mask": lambda t: F.scaled_dot_product_attention(
        _heads(4), _heads(4), _heads(4), attn_mask=randn(2, 1, 6, 6)
    ),
    "masked row": lambda t: F.scaled_dot_product_attention(
        _heads(4), _heads(4), _heads(4), attn_mask=torch.ones(6, 6).tril(-1).bool()
    ),
    "grouped queries": lambda t: F.scaled_dot_product_attention(
        _heads(4), _heads(2), _heads(2), enable_gqa=True, scale=0.3
    ),
    "three axes": lambda t: F.scaled_dot_product_attention(t.X, t.Y, t.Y),
    "five axes": lambda t: F.scaled_dot_product_attention(
        _heads(4)[None].repeat(2, 1, 1, 1, 1), _heads(4)[None], _heads(4)[None]
    ),
}


def _heads(heads: int, length: int = 6) -> torch.Tensor:
    return randn(2, heads, length, 8, seed=heads + length)


RECURRENT: Group = {
    "lstm": lambda t: _recurrent(layer(torch.nn.LSTM, 5, 6, 2, bidirectional=True), t.X),
    "lstm projected": lambda t: _recurrent(
        layer(torch.nn.LSTM, 5, 6, batch_first=True, proj_size=3), t.X
    ),
    "gru": lambda t: _recurrent(layer(torch.nn.GRU, 5, 6, 2, batch_first=True), t.X),
    "gru no bias": lambda t: _recurrent(
        layer(torch.nn.GRU, 5, 6, bias=False, bidirectional=True), t.X
    ),
    "rnn": lambda t: _recurrent(layer(torch.nn.RNN, 5, 6), t.X),
    "rnn relu": lambda t: _recurrent(layer(torch.nn.RNN, 5, 6, nonlinearity="relu"), t.X),
    "lstm cell": lambda t: _recurrent(layer(torch.nn.LSTMCell, 5, 6), t.X[0]),
}


@cache
def layer(kind: type[torch.nn.Module], *sizes: int, **options: Any) -> torch.nn.Module:
    made = kind(*sizes, **options)
    with torch.no_grad():
        for i, weight in enumerate(made.parameters()):
            weight.copy_(randn(*weight.shape, seed=i) * 0.5)
    return made


def _recurrent(made: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    out, states = made(x)
    last = states if isinstance(states, tuple) else (states,)
    return out + sum(state.sum() for state in last)
