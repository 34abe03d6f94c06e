"""A folder with a module that guesses ahead (multi-token prediction): the module against PyTorch's
own layer, and an engine that guesses with it.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from quick_xla import QuickXla

from anychip.compilers.native import NativeTarget
from anychip.core import CompileOptions, UsageError
from anychip.frontends.hf import load_hf
from anychip.frontends.hf.folder import import_transformers
from anychip.llm import Limits, Sampling
from anychip.llm.engine import Engine, Speculation
from anychip.llm.mtp import MTPDrafter

pytestmark = [
    pytest.mark.filterwarnings("ignore:torchvision does not fit"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
HIDDEN, LAYERS = 64, 2
SIZES = {
    **{"vocab_size": 96, "hidden_size": HIDDEN, "intermediate_size": 96},
    **{"num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2},
    **{"max_position_embeddings": 64, "num_nextn_predict_layers": 1},
    **{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
}
OWN = {
    "mimo": ("model.mtp_layers.0.", "token_layernorm hidden_layernorm input_proj final_layernorm"),
    "deepseek": (f"model.layers.{LAYERS}.", "enorm hnorm eh_proj shared_head.norm"),
}
CPU = QuickXla("cpu:xla")
LIMITS = Limits(pages=24, page_tokens=16, step_tokens=16, sequences=2, context=64)
LONG = [*range(20, 45)]
PROMPTS = [[5, 17, 30, 8, 40, 41, 3], [9, 9, 12]]


def saved(path, names: str, knows: bool):
    """A Qwen2 folder whose third layer is the module. With `knows`, layers add nothing and the
    module passes on the token's own embedding, so that it guesses what the model will say."""
    import_transformers()
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model("qwen2", **{**SIZES, "num_hidden_layers": LAYERS + 1})
    state = AutoModelForCausalLM.from_config(config).to(torch.float32).state_dict()
    for name, weight in state.items():
        quiet = knows and name.endswith(("o_proj.weight", "down_proj.weight"))
        weight.mul_(0) if quiet else weight.add_(torch.randn_like(weight) * 0.1 * (not knows))
    at, own = OWN[names]
    embed, hidden, join, norm = own.split()
    last = f"model.layers.{LAYERS}."
    tensors = {n.replace(last, at): w.clone() for n, w in state.items()}
    for one in (embed, hidden, norm):
        noise = torch.zeros(HIDDEN) if knows else torch.randn(HIDDEN) * 0.2
        tensors[f"{at}{one}.weight"] = 1 + noise
    parts = [torch.randn(HIDDEN, HIDDEN) * 0.2 for _ in range(2)]
    if knows:
        parts = [torch.zeros(HIDDEN, HIDDEN), torch.eye(HIDDEN)]  # of hidden state, of embedding
    order = parts if names == "mimo" else parts[::-1]
    tensors[f"{at}{join}.weight"] = torch.cat(order, dim=1)
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    kept = {**config.to_dict(), **SIZES, "architectures": ["Qwen2ForCausalLM"]}
    if names == "mimo":
        kept |= {"model_type": "mimo", "architectures": ["MiMoForCausalLM"], "auto_map": {}}
    kept.pop("layer_types", None)
    (path / "config.json").write_text(json.dumps(kept))
    return path, tensors, config, parts


def torch_module(tensors, config, parts, names, tokens, hidden):
    """(logits, next) by transformers' own layer."""
    from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding

    at, own = OWN[names]
    embed, hidden_norm, _, norm = (f"{at}{one}.weight" for one in own.split())
    config._attn_implementation = "eager"
    layer = Qwen2DecoderLayer(config, 0).eval()
    mine = {n.removeprefix(at): w for n, w in tensors.items() if n.startswith(at)}
    layer.load_state_dict({n: w for n, w in mine.items() if n in layer.state_dict()})

    def normed(x, weight):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps) * weight

    x = tensors["model.embed_tokens.weight"][torch.tensor(tokens)][None].clone()
    x[:, 0] = 0
    both = normed(torch.tensor(hidden)[None], tensors[hidden_norm]) @ parts[0].T
    both = both + normed(x, tensors[embed]) @ parts[1].T
    places = torch.arange(len(tokens))[None]
    mask = torch.full((1, 1, len(tokens), len(tokens)), float("-inf")).triu(1)
    turn = Qwen2RotaryEmbedding(config)(both, places)
    made = layer(both, attention_mask=mask, position_ids=places, position_embeddings=turn)
    made = made[0] if isinstance(made, tuple) else made
    after = normed(made[0, -1], tensors[norm])
    return tensors["lm_head.weight"] @ after, after


@pytest.mark.parametrize("names", OWN)
def test_the_module_is_pytorchs_layer_between_its_own_parts(names, tmp_path):
    path, tensors, config, parts = saved(tmp_path / "m", names, knows=False)
    model = load_hf(path)
    assert model.mtp is not None
    tokens = [5, 17, 30, 8]
    hidden = np.random.default_rng(0).standard_normal((4, HIDDEN)).astype(np.float32)
    with torch.no_grad():
        want = torch_module(tensors, config, parts, names, tokens, hidden)
    step = CPU.compile(model.mtp(4, 16, model.native_precision), CompileOptions())
    state = [np.zeros([int(d) for d in a.shape], np.float32) for a in step.signature.named("state")]
    keep = np.array([[0, 1, 1, 1]], np.float32)
    ids = np.array([tokens], np.int32)
    got = step.run(*state, ids, hidden[None], keep, np.zeros(1, np.int32))
    for one, other in zip(got[:2], want, strict=True):
        np.testing.assert_allclose(np.asarray(one)[0], other.numpy(), rtol=1e-4, atol=1e-4)


def engine(model, target, speculation=None):
    """Its steps are of two sizes, not of every power of two."""
    made = Engine(model, target, LIMITS, speculation=speculation)
    made.steps._size = lambda count, most: min(most, 4) if count <= 4 else most
    return made


def answers(one, sampling):
    tokens = []
    for prompts in (PROMPTS, [LONG], [LONG]):  # the last finds its first pages computed
        found = {}
        for piece in one.generate(prompts, max_new=24, sampling=sampling):
            found.setdefault(piece.request, []).append(piece.token)
        tokens.append(list(found.values()))
    return tokens


@pytest.mark.parametrize("knows", [True, False])
def test_guessing_with_it_changes_no_token(knows, tmp_path):
    target = NativeTarget()
    model = load_hf(saved(tmp_path / "m", "mimo", knows)[0])
    drafter = MTPDrafter(model, target, LIMITS.context, model.native_precision)
    plain, ahead = engine(model, target), engine(model, target, Speculation(drafter=drafter))
    assert answers(ahead, Sampling()) == answers(plain, Sampling())
    seen = ahead.acceptance
    assert seen is not None
    assert seen.proposed > 0
    if knows:
        assert seen.accepted == seen.proposed
        assert seen.to_json()["mean_accepted_length"] > 2
    hot = Sampling(temperature=1.0, seed=3)
    assert answers(ahead, hot) == answers(plain, hot)


def test_a_model_without_such_a_module_says_so(tmp_path):
    path, *_ = saved(tmp_path / "m", "mimo", knows=True)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 0}))
    model = load_hf(path)
    with pytest.raises(UsageError, match="no module that guesses ahead"):
        MTPDrafter(model, CPU, 64, model.native_precision)
