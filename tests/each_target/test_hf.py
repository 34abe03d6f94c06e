"""Hugging Face folders: language models step by step, other models whole, damage named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_xla import QuickXla

from anychip.core import (
    AnychipError,
    CompileOptions,
    InputError,
    LanguageModel,
    Module,
    Precision,
    UnsupportedError,
    UsageError,
)
from anychip.frontends.hf import load_hf
from anychip.frontends.hf.folder import import_transformers

pytestmark = [
    pytest.mark.filterwarnings("ignore:torchvision does not fit"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

TINY = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "pad_token_id": 0,
}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mixtral": EXPERTS,
    "gemma2": {"head_dim": 8, "sliding_window": 4},
    "gpt_oss": {**EXPERTS, "head_dim": 8, "sliding_window": 4},
}


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Saves a tiny model of a family, with a tokenizer; gives the folder."""

    def make(family: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
        import_transformers()
        from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

        torch.manual_seed(0)
        values = {**TINY, **FAMILIES.get(family, {}), **changes}
        config = AutoConfig.for_model(family, **values)
        kind = AutoModelForCausalLM if family in FAMILIES else AutoModel
        model = kind.from_config(config).to(dtype)
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
        model.save_pretrained(tmp_path)
        _write_tokenizer(tmp_path)
        return tmp_path

    return make


def _write_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())[:90]
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{c: i + 3 for i, c in enumerate(letters)}}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}\n{% endfor %}"
    )
    settings = {"chat_template": template, "bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def reference(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path).eval()


class Session:
    """A Module's state kept between its runs."""

    def __init__(self, state: dict[str, np.ndarray]):
        self.state = state

    def step(self, module: Module, tokens: Any, start: Any) -> np.ndarray:
        executable = QuickXla().compile(module, CompileOptions())
        states = [self.state[a.name] for a in module.signature.named("state")]
        outs = executable.run(*states, np.asarray(tokens, np.int32), np.asarray(start, np.int32))
        for result, out in zip(module.signature.results, outs, strict=True):
            if result.updates:
                self.state[result.updates] = np.asarray(out)
        (logits,) = [
            o for r, o in zip(module.signature.results, outs, strict=True) if r.name == "logits"
        ]
        return np.asarray(logits)


def empty_state(module: Module) -> dict[str, np.ndarray]:
    return {a.name: np.zeros(a.shape, np.float32) for a in module.signature.named("state")}


@pytest.mark.parametrize("family", FAMILIES)
def test_prefill_and_decode_follow_transformers(family: str, folder: Callable[..., Path]):
    path = folder(family)
    model = load_hf(path)
    assert isinstance(model, LanguageModel)
    precision = model.native_precision
    prompt, later = [[5, 17, 30, 8], [40, 41, 3, 9]], [[11], [60]]
    prefill, decode = model.prefill(2, 4, 12, precision), model.decode(2, 12, precision)
    session = Session(empty_state(prefill))
    logits = session.step(prefill, prompt, [0, 0])
    wanted = reference(path)(input_ids=torch.tensor(prompt)).logits[:, -1]
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-4)
    logits = session.step(decode, later, [4, 4])
    wanted = reference(path)(input_ids=torch.tensor(np.hstack([prompt, later]))).logits[:, -1]
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-4)


def test_sequences_of_one_batch_stand_at_their_own_places(folder: Callable[..., Path]):
    path = folder("llama")
    model = load_hf(path)
    decode = model.decode(2, 8, model.native_precision)
    session = Session(empty_state(decode))
    session.step(decode, [[5], [40]], [0, 0])
    session.step(decode, [[6], [41]], [1, 1])
    logits = session.step(decode, [[7], [42]], [2, 1])  # the second sequence goes back by one
    whole = reference(path)
    np.testing.assert_allclose(
        logits[0], whole(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1], rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(
        logits[1], whole(input_ids=torch.tensor([[40, 42]])).logits[0, -1], rtol=1e-3, atol=1e-4
    )


def test_names_facts_and_precisions(folder: Callable[..., Path]):
    model = load_hf(folder("mixtral", torch.bfloat16))
    assert model.native_precision.weights == "bf16"
    assert (model.facts.layers, model.facts.hidden, model.facts.vocabulary) == (2, 32, 96)
    assert model.facts.active_parameters < model.facts.parameters
    module = model.decode(1, 8, model.native_precision)
    roles = {a.name: a.role for a in module.signature.arguments}
    assert roles["model.layers.0.self_attn.q_proj.weight"] == "weight"
    assert roles["layers.1.v"] == "state"
    assert [a.name for a in module.signature.named("input")] == ["tokens", "start"]
    f32 = Precision(name="f32", weights="f32", activations="f32", cache="f32", matmul="f32")
    assert model.bind(f32)["lm_head.weight"].dtype == "f32"
    q4 = Precision(name="q4_0", weights="q4_0", activations="f32", cache="f32", matmul="f32")
    with pytest.raises(UnsupportedError, match="GGUF"):
        model.bind(q4)


def test_weights_are_read_from_the_file_into_aligned_memory(folder: Callable[..., Path]):
    path = folder("llama")
    model = load_hf(path)
    weights = model.bind(model.native_precision)
    held = dict(reference(path).named_parameters())
    for name, weight in weights.items():
        if name not in held:
            continue
        array = weight.array()
        assert weight.source.endswith(".safetensors")
        assert array.ctypes.data % 64 == 0
        np.testing.assert_array_equal(array, held[name].numpy())


def test_tokenizer_and_chat(folder: Callable[..., Path]):
    model = load_hf(folder("llama"))
    assert model.tokenizer is not None
    assert model.chat is not None
    ids = model.tokenizer.encode("Hello!")
    assert model.tokenizer.bos == 1
    assert model.tokenizer.stop == (2,)
    assert model.tokenizer.decode([1, *ids, 2]) == "Hello!"
    stream = model.tokenizer.stream()
    assert "".join([*(stream.push(i) for i in ids), stream.flush()]) == "Hello!"
    assert model.chat.render([{"role": "user", "content": "hi"}]) == "<s>user:hi\n"
    with pytest.raises(UsageError, match="no token id"):
        model.tokenizer.decode([10**6])


def test_an_encoder_is_a_module_with_symbolic_batch_and_length(folder: Callable[..., Path]):
    path = folder("bert")
    module = load_hf(path)
    assert isinstance(module, Module)
    assert module.signature.symbols == ("batch", "length")
    ids = torch.tensor([[4, 9, 7], [5, 5, 2]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    fixed = module.specialise({"batch": 2, "length": 3})
    got = QuickXla().compile(fixed, CompileOptions()).run(ids.numpy(), mask.numpy())
    from transformers import AutoModel

    wanted = AutoModel.from_pretrained(path).eval()(input_ids=ids, attention_mask=mask)
    np.testing.assert_allclose(got[0], wanted.last_hidden_state, rtol=1e-3, atol=1e-4)


def test_example_inputs_give_the_module_of_forward(folder: Callable[..., Path]):
    module = load_hf(
        folder("llama"), {"input_ids": torch.ones(1, 4, dtype=torch.int64), "use_cache": False}
    )
    assert isinstance(module, Module)
    assert [r.name for r in module.signature.results] == ["logits"]


def _truncate(path: Path) -> str:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return r"model\.safetensors.*outside the file"


def _absurd_header(path: Path) -> str:
    file = path / "model.safetensors"
    file.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    return r"model\.safetensors.*header claims"


def _missing_tensor(path: Path) -> str:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, path / "model.safetensors", {"format": "pt"})
    return r"in no file, such as model\.layers\.1\.mlp\.up_proj\.weight"


def _no_weights(path: Path) -> str:
    (path / "model.safetensors").rename(path / "model.bin")
    return r"no \*\.safetensors file.*pickles"


def _bad_json(path: Path) -> str:
    (path / "config.json").write_text("{")
    return r"config\.json.*not valid JSON"


def _bad_value(path: Path) -> str:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    return r"config\.json.*refuses"


def _bad_tokenizer(path: Path) -> str:
    (path / "tokenizer.json").write_text('{"model": 3}')
    return r"tokenizer\.json.*not a tokenizer"


@pytest.mark.parametrize(
    "damage",
    [
        _truncate,
        _absurd_header,
        _missing_tensor,
        _no_weights,
        _bad_json,
        _bad_value,
        _bad_tokenizer,
    ],
)
def test_damage_is_named(damage: Callable[[Path], str], folder: Callable[..., Path]):
    path = folder("llama")
    message = damage(path)
    with pytest.raises(InputError, match=message):
        load_hf(path)


@pytest.mark.parametrize("other", [{"model_type": "homemade"}, {"architectures": ["LlamaOwn"]}])
def test_code_in_a_folder_is_never_run(folder: Callable[..., Path], other: dict[str, Any]):
    path = folder("llama")
    config = json.loads((path / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "code.Model"}} | other
    (path / "config.json").write_text(json.dumps(config))
    (path / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UnsupportedError, match=r"never run.*nn\.Module"):
        load_hf(path)


def test_capturing_a_model_does_not_touch_its_weights(folder: Callable[..., Path]):
    small = load_hf(folder("llama"))
    small.decode(1, 8, small.native_precision)  # torch.export and JAX take memory of their own
    path = folder("llama", vocab_size=60000, hidden_size=256, intermediate_size=4096)
    size = (path / "model.safetensors").stat().st_size
    model = load_hf(path)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again at what is used now
    before = _peak_bytes()
    model.decode(1, 8, model.native_precision)
    assert _peak_bytes() - before < size / 4


def _peak_bytes() -> int:
    """The most memory this process had resident since the peak was last reset (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def _mutated(data: bytes, random: np.random.Generator) -> bytes:
    """A few bytes changed, cut out or put in, near the start (headers) or anywhere."""
    raw = bytearray(data)
    for _ in range(int(random.integers(1, 6))):
        reach = min(len(raw), int(random.choice([16, 400, 1 << 30])))
        at = int(random.integers(0, max(reach, 1)))
        match int(random.integers(4)):
            case 0 if raw:
                raw[at] = int(random.integers(256))
            case 1:
                del raw[at : at + int(random.integers(1, 50))]
            case 2:
                raw[at:at] = random.bytes(int(random.integers(1, 9)))
            case _:
                raw[at : at + 1] = bytes(random.choice([b"9", b"-", b"{", b"null", b"999999999"]))
    return bytes(raw)


def test_mutated_folders_load_or_end_in_our_error(folder: Callable[..., Path]):
    path = folder("llama")
    whole = {f: f.read_bytes() for f in path.iterdir() if f.suffix in (".json", ".safetensors")}
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(60):
        file = list(whole)[int(random.integers(len(whole)))]
        file.write_bytes(_mutated(whole[file], random))
        try:
            assert load_hf(path) is not None
        except AnychipError:
            refused += 1
        file.write_bytes(whole[file])
    assert 20 < refused < 60
