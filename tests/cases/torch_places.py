"""Torch cases: where elements lie: shapes, indices, order, and tensors made from nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F
from torch_tensors import Group, randn

SHAPES: Group = {
    "view -1": lambda t: t.X.view(2, -1),
    "expand": lambda t: t.X[:, :1].expand(-1, 6, -1),
    "permute": lambda t: t.X.permute(2, 0, 1),
    "squeeze": lambda t: t.X[:, :1].squeeze(1),
    "squeeze all": lambda t: t.X[:1, :1].squeeze(),
    "unflatten": lambda t: t.X.unflatten(1, (2, -1)),
    "cat promotes": lambda t: torch.cat([t.X, t.INTS], 1),
    "cat empty": lambda t: torch.cat([torch.zeros(0), t.X[0, 0]]),
    "stack": lambda t: torch.stack([t.X, t.Y], 1),
    "repeat": lambda t: t.X.repeat(2, 1, 2, 1),
    "tile": lambda t: torch.tile(t.X, (2, 1)),
    "repeat_interleave": lambda t: t.X.repeat_interleave(3, 1),
    "slice step": lambda t: t.X[:, 1:4:2, -3:],
    "slice beyond": lambda t: t.X[:, 2:99],
    "select": lambda t: t.X[:, -1],
    "narrow": lambda t: t.X.narrow(1, 1, 2),
    "split": lambda t: torch.cat(t.X.split(2, 2)[:2]),
    "split sizes": lambda t: t.X.split([1, 3], 1)[1],
    "chunk": lambda t: t.X.chunk(3, 2)[2],
    "unbind": lambda t: t.X.unbind(1)[2],
    "tensor_split": lambda t: torch.tensor_split(t.X, 3, 2)[0],
    "flip": lambda t: t.X.flip(0, 2),
    "roll": lambda t: t.X.roll((1, -2), (0, 2)),
    "roll flat": lambda t: t.X.roll(3),
    "rot90": lambda t: t.X.rot90(1, (1, 2)),
    "pad": lambda t: F.pad(t.X, (1, 2, 0, 1), value=3.0),
    "pad negative": lambda t: F.pad(t.X, (-1, 2)),
    "pad reflect": lambda t: F.pad(t.IMAGE, (2, 1, 3, 0), mode="reflect"),
    "pad replicate": lambda t: F.pad(t.IMAGE, (2, 1, 0, 3), mode="replicate"),
    "pad circular": lambda t: F.pad(t.LINE, (2, 3), mode="circular"),
    "diagonal": lambda t: t.X.diagonal(1, 1, 2),
    "diag_embed": lambda t: torch.diag_embed(t.X[0], 1),
    "diag_embed negative": lambda t: torch.diag_embed(t.X[0], -2),
    "tril": lambda t: t.X.tril(-1),
    "triu": lambda t: t.X.triu(1),
    "unfold": lambda t: t.X.unfold(2, 3, 2),
    "as_strided": lambda t: torch.as_strided(t.X.clone(), (3, 2), (5, 1), 1),
    "as_strided transposed": lambda t: torch.as_strided(
        (t.X * 2).transpose(0, 2), (4, 2), (3, 2), 2
    ),
    "as_strided of a view": lambda t: torch.as_strided((t.X * 2)[1], (2, 2), (5, 1)),
    "as_strided by place": lambda t: torch.as_strided(
        (v := (t.X * 2)[1]), (2, 2), (5, 1), v.storage_offset() + 1
    ),
    "pixel_shuffle": lambda t: F.pixel_shuffle(t.IMAGE, 2),
    "pixel_unshuffle": lambda t: F.pixel_unshuffle(t.IMAGE[:, :, :8], 2),
    "channel_shuffle": lambda t: F.channel_shuffle(t.IMAGE, 2),
    "meshgrid": lambda t: torch.stack(torch.meshgrid(t.X[0, 0], t.X[0, :, 0], indexing="xy")),
    "movedim": lambda t: t.X.movedim(0, -1),
    "swapaxes": lambda t: t.X.swapaxes(0, 2),
    "broadcast_to": lambda t: t.X[0].broadcast_to(2, 4, 5),
    "block_diag": lambda t: torch.block_diag(t.X[0], t.Y[0]),
    "cartesian": lambda t: torch.cartesian_prod(t.X[0, 0], t.Y[0, 0]),
    "in place": lambda t: _in_place(t),
}


def _in_place(t: Any) -> torch.Tensor:
    out = t.X.clone()
    out[:, 1] += 1
    out[0, ::2, 1:3] = 9
    out.view(-1)[3:7].mul_(2)
    return out.t_() if out.ndim == 2 else out.transpose_(0, 1)


INDICES: Group = {
    "index": lambda t: t.X[torch.tensor([2, 0, -1])],
    "index pair": lambda t: t.X[torch.tensor([2, 0]), :, torch.tensor([1, -1])],
    "index adjacent": lambda t: t.X[:, torch.tensor([[2, 0]]), torch.tensor([1, 3])],
    "index_select": lambda t: t.X.index_select(1, torch.tensor([3, 3, 0])),
    "embedding": lambda t: F.embedding(t.TIED, randn(6, 7)),
    "gather": lambda t: t.X.gather(1, t.INTS.abs()[:, :2, :3] % 4),
    "take": lambda t: t.X.take(torch.tensor([1, -1])),
    "take_along_dim": lambda t: torch.take_along_dim(t.X, t.X.argsort(2), 2),
    "index_put": lambda t: t.X.index_put((torch.tensor([1, 2]),), torch.tensor(4.0)),
    "index_put accumulate": lambda t: t.X.index_put(
        (torch.tensor([1, 1, 2]), torch.tensor([0, 0, 1])), torch.ones(3, 5), accumulate=True
    ),
    "mask put values": lambda t: t.X.index_put((t.Y > 0,), randn(23)),
    "masked_scatter": lambda t: t.X.masked_scatter(t.Y > 0, t.Y),
    "scatter": lambda t: t.X.scatter(1, t.INTS.abs()[:, :1] % 4, t.Y),
    "scatter value": lambda t: t.X.scatter(2, t.INTS.abs()[:, :, :1] % 5, 7.0),
    "scatter_add": lambda t: t.X.scatter_add(0, t.INTS.abs() % 3, t.Y),
    "scatter_reduce sum": lambda t: t.X.scatter_reduce(0, t.INTS.abs() % 3, t.Y, "sum"),
    "scatter_reduce amax": lambda t: t.X.scatter_reduce(
        0, t.INTS.abs() % 3, t.Y, "amax", include_self=False
    ),
    "scatter_reduce mean": lambda t: t.X.scatter_reduce(1, t.INTS.abs() % 4, t.Y, "mean"),
    "scatter_reduce mean alone": lambda t: t.X.scatter_reduce(
        1, t.INTS.abs() % 4, t.Y, "mean", include_self=False
    ),
    "scatter_reduce prod": lambda t: t.X.scatter_reduce(2, t.INTS.abs() % 5, t.Y, "prod"),
    "index_add": lambda t: t.X.index_add(1, torch.tensor([0, 0]), t.Y[:, :2], alpha=0.5),
    "index_copy": lambda t: t.X.index_copy(1, torch.tensor([3, 0]), t.Y[:, :2]),
    "index_fill": lambda t: t.X.index_fill(2, torch.tensor([1, 4]), 5.0),
    "select_scatter": lambda t: t.X.select_scatter(t.Y[:, 0], 1, -1),
    "slice_scatter": lambda t: t.X.slice_scatter(t.Y[:, :2], 1, 1, 3),
    "slice_scatter step": lambda t: t.X.slice_scatter(t.Y[..., :3], 2, 0, 5, 2),
    "diagonal_scatter": lambda t: torch.diagonal_scatter(t.X[0], randn(4)),
    "embedding_bag": lambda t: F.embedding_bag(
        torch.tensor([1, 2, 4, 5, 4, 3]), randn(6, 3), torch.tensor([0, 2, 5]), mode="mean"
    ),
    "embedding_bag max": lambda t: F.embedding_bag(
        torch.tensor([1, 2, 4, 5, 4, 3]), randn(6, 3), torch.tensor([0, 4]), mode="max"
    ),
    "one_hot": lambda t: F.one_hot(t.TIED, 6),
}


ORDER: Group = {
    "sort": lambda t: t.X.sort(1)[0],
    "sort places": lambda t: torch.sort(t.TIED, dim=1, descending=True, stable=True)[1],
    "sort bools": lambda t: torch.sort(t.BOOLS, dim=1, stable=True)[1],
    "argsort": lambda t: t.X.argsort(0),
    "topk": lambda t: torch.cat([p.double() for p in t.X.topk(2, 1)]),
    "topk smallest": lambda t: torch.cat([p.double() for p in t.X.topk(3, 2, largest=False)]),
    "topk ints": lambda t: t.INTS.topk(2, 1, largest=False)[0],
    "searchsorted": lambda t: torch.searchsorted(t.X.sort(-1)[0], t.Y, right=True),
    "bucketize": lambda t: torch.bucketize(t.X, torch.tensor([-1.0, 0.0, 0.5])),
}


CREATED: Group = {
    "arange": lambda t: t.X[..., 0] * torch.arange(4),
    "arange step": lambda t: t.X[0, 0] * torch.arange(0.0, 1.0, 0.2),
    "arange float": lambda t: t.X[0, 0] + torch.arange(1, 6, dtype=torch.float32),
    "linspace": lambda t: t.X[0, 0] + torch.linspace(-1, 1, 5),
    "logspace": lambda t: t.X[0, 0] + torch.logspace(0, 1, 5),
    "eye": lambda t: t.X[0] + torch.eye(4, 5),
    "full like": lambda t: torch.full_like(t.X, 3, dtype=torch.int32),
    "new_full": lambda t: t.X.new_full((2, 3), 1.5),
    "zeros ones": lambda t: t.X.new_zeros(3, 4, 5) + torch.ones_like(t.X),
    "tril_indices": lambda t: torch.tril_indices(3, 4, 1) * t.INTS[0, 0, 0],
    "hann": lambda t: t.X[0, 0] * torch.hann_window(5),
}
