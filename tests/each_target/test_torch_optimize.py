"""optimize: a compiled model that behaves like the original."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anychip.compilers.xla import XlaTarget
from anychip.core import CompileOptions, Module, UsageError
from anychip.frontends.torch import optimize


class Counting:
    """cpu:xla, counting its compiles."""

    name, runs, toolchain = "cpu:xla", True, "xla"

    def __init__(self):
        self.compiled: list[Module] = []
        self.inner = XlaTarget()

    def compile(self, module: Module, options: CompileOptions):
        self.compiled.append(module)
        return self.inner.compile(module, options)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x, scale: float = 1.0):
        self.calls += 1
        y = self.drop(torch.relu(self.norm(self.conv(x))))
        return {"mean": y.mean((2, 3)) * scale, "calls": self.calls * 1, "kind": "net"}


@pytest.fixture
def target() -> Counting:
    return Counting()


@pytest.fixture(autouse=True)
def _no_grad():
    with torch.no_grad():
        yield


def twin(model: nn.Module) -> nn.Module:
    other = type(model)().eval()
    other.load_state_dict(model.state_dict())
    return other


def test_tensors_in_tensors_out_and_buffers_move_on(target: Counting):
    model = Net().eval()
    original = twin(model)
    compiled = optimize(model, target)
    x = torch.randn(2, 3, 8, 8)
    for _ in range(3):
        got, wanted = compiled(x, scale=2.0), original(x, scale=2.0)
        torch.testing.assert_close(got["mean"], wanted["mean"])
        assert got["calls"] == wanted["calls"]
        assert got["kind"] == "net"
    assert int(model.calls) == 3
    assert len(target.compiled) == 1


def test_new_shapes_new_constants_and_new_weights_compile_again(target: Counting):
    model = Net().eval()
    compiled = optimize(model, target)
    x = torch.randn(1, 3, 8, 8)
    compiled(x)
    compiled(x[:, :, :6])
    compiled(x, scale=3.0)
    assert len(target.compiled) == 3
    compiled(x)
    assert len(target.compiled) == 3
    model.conv.weight.mul_(2)
    torch.testing.assert_close(compiled(x)["mean"], twin(model)(x)["mean"])
    assert len(target.compiled) == 4


def test_the_cache_is_bounded(target: Counting):
    compiled = optimize(Net().eval(), target, cache_size=1)
    small, large = torch.randn(1, 3, 5, 5), torch.randn(1, 3, 6, 6)
    for x in (small, large, small):
        compiled(x)
    assert len(target.compiled) == 3


def test_eval_and_train_are_followed(target: Counting):
    compiled = optimize(Net(), target)
    assert compiled.eval() is compiled
    assert not compiled.training
    compiled(torch.randn(1, 3, 5, 5))
    compiled.train()
    with pytest.raises(Exception, match=r"\.eval\(\)"):
        compiled(torch.randn(1, 3, 5, 5))


def test_a_call_under_grad_warns(target: Counting):
    layer = optimize(nn.Linear(2, 2), target)
    with torch.enable_grad(), pytest.warns(UserWarning, match="without gradients"):
        layer(torch.randn(1, 2))


def test_dynamic_shapes_are_captured_once(target: Counting):
    layer = nn.Linear(4, 3).eval()
    batch = torch.export.Dim("batch", max=8)
    compiled = optimize(layer, target, dynamic_shapes=({0: batch},))
    for size in (2, 5, 2, 1):
        x = torch.randn(size, 4)
        torch.testing.assert_close(compiled(x), layer(x))
    assert len(target.compiled) == 3
    with pytest.raises(UsageError, match="batch <= 8"):
        compiled(torch.randn(9, 4))
    with pytest.raises(UsageError, match="fixed to 4"):
        compiled(torch.randn(2, 5))


def test_inputs_that_forward_changes_are_changed(target: Counting):
    class Fill(nn.Module):
        def forward(self, cache, x):
            cache[1] = x
            return cache.sum()

    compiled = optimize(Fill(), target)
    cache = torch.zeros(3, 2)
    assert float(compiled(cache, torch.ones(2))) == 2
    torch.testing.assert_close(cache, torch.tensor([[0.0, 0], [1, 1], [0, 0]]))


class Watching(Counting):
    """Notes where the arrays lie that go into a program and come out of it."""

    def compile(self, module: Module, options: CompileOptions):
        executable = super().compile(module, options)
        run = executable.run

        def watched(*inputs):
            results = run(*inputs)
            self.given = [i.unsafe_buffer_pointer() for i in inputs]
            self.made = [r.unsafe_buffer_pointer() for r in results]
            return results

        executable.run = watched
        return executable


def test_tensors_are_not_copied_on_the_way_in_or_out():
    target = Watching()
    compiled = optimize(nn.ReLU(), target)
    x = torch.randn(64, 64)
    got = compiled(x)
    assert target.given == [x.data_ptr()]
    assert target.made == [got.data_ptr()]
    torch.testing.assert_close(got, torch.relu(x))


def test_a_tensor_that_is_not_contiguous_comes_in_in_its_own_order(target: Counting):
    x = torch.arange(6.0).reshape(2, 3).t()
    torch.testing.assert_close(optimize(nn.Identity(), target)(x), x)


def test_a_target_that_only_compiles_is_refused():
    class Absent(Counting):
        name, runs = "far:away", False

    with pytest.raises(UsageError, match="far:away compiles but does not run"):
        optimize(nn.Identity(), Absent())
    with pytest.raises(UsageError, match="at least 1"):
        optimize(nn.Identity(), Counting(), cache_size=0)
