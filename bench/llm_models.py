"""Models that benches time: one pulled, one of a real shape with random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def random_1b(path: Path) -> Path:
    """A model of Llama-3.2-1B's shape whose every matrix is random q4_0, written once."""
    if path.exists():
        return path
    import gguf

    hidden, ffn, vocabulary, layers, kv = 2048, 8192, 128256, 16, 512
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(partial, "llama")
    for key, value in {
        "block_count": layers,
        "context_length": 131072,
        "embedding_length": hidden,
        "feed_forward_length": ffn,
        "attention.head_count": 32,
        "attention.head_count_kv": 8,
        "rope.dimension_count": 64,
        "vocab_size": vocabulary,
    }.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 500000.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)  # OpenVINO asks for it
    writer.add_string("tokenizer.ggml.model", "gpt2")
    writer.add_string("tokenizer.ggml.pre", "smollm")
    words = [*(f"t{i}" for i in range(vocabulary - 2)), "t", "0"]
    writer.add_array("tokenizer.ggml.tokens", words)
    writer.add_array("tokenizer.ggml.token_type", [1] * vocabulary)
    writer.add_array("tokenizer.ggml.merges", ["t 0"])
    writer.add_uint32("tokenizer.ggml.eos_token_id", 2)
    writer.add_uint32("tokenizer.ggml.bos_token_id", 1)
    random = np.random.default_rng(1)

    def matrix(name: str, rows: int, depth: int) -> None:
        blocks = random.integers(0, 256, (rows, depth // 32, 18), np.uint8)
        scale = random.uniform(0.002, 0.006, (rows, depth // 32, 1)).astype(np.float16)
        blocks[..., :2] = scale.view(np.uint8)
        kind = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(name, blocks.reshape(rows, -1), raw_dtype=kind)

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(hidden, np.float32))

    matrix("token_embd.weight", vocabulary, hidden)
    norm("output_norm.weight")
    for i in range(layers):
        norm(f"blk.{i}.attn_norm.weight")
        norm(f"blk.{i}.ffn_norm.weight")
        matrix(f"blk.{i}.attn_q.weight", hidden, hidden)
        matrix(f"blk.{i}.attn_k.weight", kv, hidden)
        matrix(f"blk.{i}.attn_v.weight", kv, hidden)
        matrix(f"blk.{i}.attn_output.weight", hidden, hidden)
        matrix(f"blk.{i}.ffn_gate.weight", ffn, hidden)
        matrix(f"blk.{i}.ffn_up.weight", ffn, hidden)
        matrix(f"blk.{i}.ffn_down.weight", hidden, ffn)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(path)
    return path
