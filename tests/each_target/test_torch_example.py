"""What depends on data: branches and sizes of the example, and numbers that are constants after
all."""

from __future__ import annotations

import operator

import jax
import numpy as np
import pytest
import torch
from torch import nn
from torch_run import run

from anychip.compilers.xla import XlaTarget
from anychip.core import UnsupportedError
from anychip.frontends.torch import load, optimize
from anychip.frontends.torch.graph import Evaluation, evaluate
from anychip.frontends.torch.table import table


def test_a_branch_on_data_can_follow_the_example_and_says_when_it_would_not():
    def fn(x):
        return x + 1 if x.sum() > 0 else x - 1

    up, down = torch.ones(3), -torch.ones(3)
    module = load(fn, up, follow_example=True)
    result, follows = run(module, up)
    torch.testing.assert_close(result, up + 1)
    assert bool(follows)
    assert not bool(run(module, down)[1])
    compiled = optimize(fn, XlaTarget(), follow_example=True)
    torch.testing.assert_close(compiled(up), up + 1)
    with pytest.raises(UnsupportedError, match="another branch"):
        compiled(down)


def mask(*places: int) -> torch.Tensor:
    return torch.tensor([i in places for i in range(6)])


PICKS = {
    "x[mask]": lambda x, m: x[m] * 2,
    "x[:, mask]": lambda x, m: x.t()[:, m].sum(0),
    "nonzero": lambda x, m: x[m.nonzero()[:, 0]],
    "item": lambda x, m: x[: int(m.sum())] + 1,
    "pad": lambda x, m: nn.functional.pad(x, (0, int(m.sum()))),
}


@pytest.mark.parametrize("name", PICKS)
def test_a_size_can_follow_the_example_and_says_when_it_would_not(name: str):
    fn, x = PICKS[name], torch.arange(18.0).reshape(6, 3)
    with pytest.raises(UnsupportedError):
        load(fn, (x, mask(1, 4)))
    module = load(fn, (x, mask(1, 4)), follow_example=True)
    for places in ((1, 4), (2, 3)):
        result, follows = run(module, x, mask(*places))
        torch.testing.assert_close(result, fn(x, mask(*places)))
        assert bool(follows)
    assert not bool(run(module, x, mask(1, 4, 5))[-1])


class Padded(nn.Module):
    """Its padding is computed from buffers, as those of EnCodec and Mimi are."""

    def __init__(self, changes: str = ""):
        super().__init__()
        self.stride = nn.Buffer(torch.tensor(4), persistent=False)
        self.register_buffer("calls", torch.tensor(0))
        self.changes = changes

    def forward(self, x):
        if self.changes == "in place":
            self.calls += 1
        if self.changes == "anew":
            self.calls = self.calls + 1
        missing = (torch.ceil(x.shape[0] / self.stride) * self.stride).to(torch.int64) - x.shape[0]
        if missing > self.stride:
            x = x + 1
        return nn.functional.pad(x, (0, missing)) + self.calls


def test_numbers_kept_as_buffers_are_constants_where_sizes_come_from_them():
    model = Padded().eval()
    module = load(model, torch.ones(6))
    torch.testing.assert_close(run(module, torch.ones(6))[0], model(torch.ones(6)))
    assert model.stride is model._buffers["stride"]
    assert not model._forward_pre_hooks


@pytest.mark.parametrize("changes", ["in place", "anew"])
def test_a_number_that_forward_changes_is_no_constant(changes: str):
    with pytest.raises(UnsupportedError, match="depends on the data"):
        load(Padded(changes).eval(), torch.ones(6))


def test_an_optimized_model_follows_a_number_that_its_owner_changes():
    model = Padded().eval()
    compiled = optimize(model, XlaTarget())
    with torch.no_grad():
        for stride in (4, 5):
            model.stride.fill_(stride)
            torch.testing.assert_close(compiled(torch.ones(6)), model(torch.ones(6)))


@pytest.mark.parametrize("target", [operator.index, torch.ops.aten.repeat.default])
def test_a_size_computed_from_data_is_a_row_of_the_report(target):
    graph = torch.fx.Graph()
    x, n = graph.placeholder("x"), graph.placeholder("n")
    arguments = (n,) if target is operator.index else (x, [n])
    graph.output((graph.call_function(target, arguments),))
    state = Evaluation(table())
    module = torch.fx.GraphModule({}, graph)
    with pytest.raises(UnsupportedError, match=r"computed from data.*follow_example") as caught:
        jax.eval_shape(lambda *a: evaluate(state, module, a), np.ones(3, np.float32), np.int32(2))
    assert len(caught.value.report) == 1
