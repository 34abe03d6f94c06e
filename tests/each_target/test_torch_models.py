"""Whole small models end to end: one of each kind, numbers against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from quick_xla import QuickXla
from torch import nn
from torch.utils._pytree import tree_flatten

from anychip.core import CompileOptions
from anychip.frontends.hf.folder import import_transformers
from anychip.frontends.torch import load
from anychip.frontends.torch.tensors import to_numpy

TOLERANCE = 1e-3  # max |Δ| / max |reference|, in f32

pytestmark = [
    pytest.mark.filterwarnings("ignore:torchvision does not fit"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, groups=2, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid())

    def forward(self, x):
        y = torch.relu(self.norm(self.first(x)))
        return x + y * self.gate(y)


def resnet() -> nn.Module:
    stem = (nn.Conv2d(3, 8, 7, 2, 3), nn.BatchNorm2d(8), nn.Hardswish(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, Residual(8), Residual(8), nn.Flatten(), nn.LazyLinear(5))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, 2, 1)
        self.norm = nn.GroupNorm(2, 8)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.out = nn.Conv2d(7, 2, 1)

    def forward(self, x):
        y = self.up(torch.nn.functional.silu(self.norm(self.down(x))))
        y = torch.nn.functional.interpolate(y, x.shape[2:], mode="bilinear")
        return self.out(torch.cat([x, y], 1))


class Speech(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("window", torch.hann_window(32))
        self.rnn = nn.GRU(17, 12, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(24, 6)

    def forward(self, wave):
        spectrum = torch.stft(wave, 32, 16, window=self.window, return_complex=True)
        features = torch.log1p(spectrum.abs()).transpose(1, 2)
        return torch.log_softmax(self.out(self.rnn(features)[0]), -1)


class Generator(nn.Module):
    """Detection-like: top candidates, gathered boxes, masked writes."""

    def __init__(self):
        super().__init__()
        self.score, self.box = nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x):
        scores = self.score(x).squeeze(-1)
        best, places = scores.topk(3, 1)
        boxes = self.box(x).sigmoid().gather(1, places[..., None].expand(-1, -1, 4))
        boxes[best < 0] = -1.0
        return boxes, places, best.cumsum(1)


TEXT = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
MLA = {
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "moe_intermediate_size": 16,
    "num_key_value_heads": 4,
}
T5 = {"vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
IMAGE = {"image_size": 16, "patch_size": 4}


def hf(family: str, auto: str, **config: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import_transformers()
        import transformers

        made = transformers.AutoConfig.for_model(family, **config)
        return getattr(transformers, auto).from_config(made)

    return make


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(3, 60, shape, generator=torch.Generator().manual_seed(1))


def image(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Any]]]] = {
    "residual network": (resnet, lambda: {"input": image(32)}),
    "u-net": (UNet, lambda: {"x": image(24)}),
    "speech recogniser": (Speech, lambda: {"wave": torch.sin(torch.arange(512.0) / 7)[None]}),
    "detector": (Generator, lambda: {"x": image(8)[:, 0]}),
    "llama": (
        hf("llama", "AutoModelForCausalLM", **TEXT, num_key_value_heads=2),
        lambda: {"input_ids": ids(2, 9), "use_cache": False},
    ),
    "mixture of experts": (
        hf("mixtral", "AutoModelForCausalLM", **TEXT, num_local_experts=4, num_key_value_heads=2),
        lambda: {"input_ids": ids(2, 9), "use_cache": False},
    ),
    "latent attention": (
        hf("deepseek_v3", "AutoModelForCausalLM", **TEXT, **MLA),
        lambda: {"input_ids": ids(2, 9), "use_cache": False},
    ),
    "encoder": (
        hf("bert", "AutoModel", **TEXT),
        lambda: {"input_ids": ids(2, 9), "attention_mask": (ids(2, 9) > 20).long()},
    ),
    "encoder and decoder": (
        hf("t5", "AutoModelForSeq2SeqLM", **T5),
        lambda: {"input_ids": ids(2, 9), "decoder_input_ids": ids(2, 4), "use_cache": False},
    ),
    "state space": (
        hf("mamba", "AutoModelForCausalLM", vocab_size=64, hidden_size=32, num_hidden_layers=2),
        lambda: {"input_ids": ids(1, 6), "use_cache": False},
    ),
    "vision transformer": (
        hf("vit", "AutoModel", **{k: v for k, v in TEXT.items() if "vocab" not in k}, **IMAGE),
        lambda: {"pixel_values": image(16)},
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_numbers_match(name: str):
    make, inputs_of = MODELS[name]
    torch.manual_seed(0)
    model, inputs = make().eval(), inputs_of()
    with torch.no_grad():
        model(**inputs)  # lazy layers take shape
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
        wanted = [t for t in tree_flatten(model(**inputs))[0] if isinstance(t, torch.Tensor)]
    module = load(model, inputs)
    given = [to_numpy(t) for t in inputs.values() if isinstance(t, torch.Tensor)]
    got = QuickXla().compile(module, CompileOptions()).run(*given)
    assert len(got) == len(wanted)
    for one, other in zip(got, wanted, strict=True):
        expected = to_numpy(other)
        if expected.dtype.kind in "iu":
            np.testing.assert_array_equal(one, expected)
            continue
        assert np.std(expected) > 1e-3  # it says something
        assert np.abs(np.asarray(one) - expected).max() < TOLERANCE * np.abs(expected).max()


def test_key_value_caches_go_in_and_out():
    from anychip.frontends.torch import optimize

    import_transformers()
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("llama", **TEXT)
    model = AutoModelForCausalLM.from_config(config).eval()
    fast = optimize(model, QuickXla())
    with torch.no_grad():
        first, wanted = fast(input_ids=ids(1, 4)), model(input_ids=ids(1, 4))
        (field,) = set(first.keys()) - {"logits"}
        assert type(first[field]) is type(wanted[field])
        second = fast(input_ids=ids(1, 1), **{field: first[field]})
        wanted = model(input_ids=ids(1, 1), **{field: wanted[field]})
    torch.testing.assert_close(second.logits, wanted.logits, rtol=1e-3, atol=1e-4)
    assert second[field].get_seq_length() == 5
