"""torch.compile(backend="anychip"): graph breaks, dynamic shapes, mutation, many small models."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

OPTIONS = {"target": "cpu:xla"}


@pytest.fixture(autouse=True)
def _inference():
    torch._dynamo.reset()
    with torch.no_grad():
        yield
    torch._dynamo.reset()


def compiled(model, **options):
    return torch.compile(model, backend="anychip", options={**OPTIONS, **options})


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm(x))


class Conv(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(16, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x):
        return self.layers(x.reshape(x.shape[0], 16, -1, 1)).flatten(1)


class Attention(nn.Module):
    def forward(self, x):
        heads = x.unflatten(-1, (4, 4)).transpose(1, 2)
        return F.scaled_dot_product_attention(heads, heads, heads, is_causal=True)


MODELS = {
    "mlp": lambda: nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)),
    "transformer block": Block,
    "convolution": Conv,
    "attention": Attention,
    "embedding": lambda: nn.Sequential(_Tokens(), nn.Embedding(7, 5), nn.RMSNorm(5)),
    "softmax": lambda: nn.Softmax(1),
    "group norm": lambda: nn.Sequential(_Last(), nn.GroupNorm(4, 16)),
}


class _Tokens(nn.Module):
    def forward(self, x):
        return (x.abs() * 3).long() % 7


class _Last(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


@pytest.mark.parametrize("name", MODELS)
def test_models_give_what_torch_gives(name: str):
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    x = torch.randn(2, 6, 16)
    torch.testing.assert_close(compiled(model)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*")  # Dynamo warns about the break itself
def test_a_graph_break_splits_the_program():
    seen = []

    def fn(x):
        y = torch.sin(x) * 2
        seen.append(float(y.sum()))  # reading a number stops the capture
        return torch.relu(y) + x

    x = torch.randn(4, 3)
    wanted = fn(x)
    torch.testing.assert_close(compiled(fn)(x), wanted)
    assert seen[0] == pytest.approx(seen[1], rel=1e-5)


def test_sizes_that_change_are_handled_without_capturing_each():
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.LayerNorm(8)).eval()
    fast = compiled(model)
    for size in (2, 3, 5, 8, 3):
        x = torch.randn(size, 4)
        torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)


def test_sizes_are_numbers_in_the_program():
    def fn(x):
        return x.mean(0) * x.shape[0] + x.new_ones(x.shape[0]).sum(), x.shape[0] + 1

    fast = torch.compile(fn, backend="anychip", dynamic=True)
    for size in (3, 6):
        x = torch.randn(size, 4)
        got, wanted = fast(x), fn(x)
        torch.testing.assert_close(got[0], wanted[0])
        assert got[1] == wanted[1]


def test_symbolic_strides_are_those_of_torchs_memory():
    """Overlapping chunks of a transposed tensor, as Longformer makes them."""

    def fn(x, w):
        y = (x @ w).transpose(0, 1)
        chunks = y.view(y.shape[0], 2, 4, 6)
        batch, time, window, features = chunks.stride()
        return chunks.as_strided((y.shape[0], 3, 4, 6), (batch, time // 2, window, features))

    fast, w = compiled(fn), torch.randn(6, 6)
    for batch in (2, 3):
        x = torch.randn(8, batch, 6)
        torch.testing.assert_close(fast(x, w), fn(x, w))


def test_inputs_changed_in_place_are_changed():
    def fn(x, cache):
        cache[0].add_(x)
        return cache[1:], cache * 2

    x, cache = torch.randn(3), torch.randn(2, 3)
    other = cache.clone()
    wanted = fn(x, cache)
    got = compiled(fn)(x, other)
    torch.testing.assert_close(other, cache)
    torch.testing.assert_close(got, wanted)


def test_gradients_are_refused_with_a_remedy():
    with torch.enable_grad(), pytest.raises(Exception, match=r"torch\.no_grad"):
        compiled(nn.Linear(2, 2))(torch.randn(1, 2))


def test_an_unknown_option_is_named():
    with pytest.raises(Exception, match="no option of the anychip backend named 'traget'"):
        compiled(nn.Linear(2, 2), traget="cpu:xla")(torch.randn(1, 2))


def test_unsupported_ops_are_listed_with_their_lines():
    def fn(x):
        return torch.linalg.svdvals(x) + 1

    with pytest.raises(Exception, match=r"_linalg_svd.*test_torch_compile\.py"):
        compiled(fn)(torch.randn(3, 3))
