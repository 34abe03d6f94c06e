"""How fast `cpu:native` generates tokens, beside llama.cpp and beside this machine's memory.

    python bench/llm.py [--quick] [--json FILE] [--threads N] [--peer PYTHON]

Everything is measured in rounds, one of each after the other, so that what else the machine does
hits all alike; a ratio is the median of the rounds' ratios. The peer runs in a process of its own:
`--peer` is a Python that can import llama_cpp (by default this one). Without it the peer's figures
and ratios are null and `peer` says why.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

from anychip.core import CompileOptions, config

PEER = r"""
import sys, time
from llama_cpp import Llama, llama_cpp
path, threads, context = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
model = Llama(path, n_ctx=context, n_threads=threads, n_threads_batch=threads, n_batch=512,
              verbose=False, use_mmap=True)
print("ready", flush=True)
for line in sys.stdin:
    what, filled, count = line.split()
    filled, count = int(filled), int(count)
    if what == "fill":
        model.reset()
        if filled:
            model.eval([5] * filled)
        print(0, flush=True)
        continue
    if what == "decode":
        started = time.perf_counter()
        for _ in range(count):
            model.eval([5])
    else:
        model.reset()
        started = time.perf_counter()
        model.eval([5] * count)
    print(time.perf_counter() - started, flush=True)
"""


class Peer:
    """llama.cpp in a child process. Raises OSError when that Python cannot load it."""

    def __init__(self, python: str, model: Path, threads: int, context: int):
        arguments = [python, "-c", PEER, str(model), str(threads), str(context)]
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self._child.stdout is not None
        if self._child.stdout.readline().strip() != "ready":
            raise OSError((self._child.stderr.read() if self._child.stderr else "").strip()[-300:])

    def ask(self, what: str, filled: int, count: int) -> float:
        """Seconds."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(f"{what} {filled} {count}\n")
        self._child.stdin.flush()
        return float(self._child.stdout.readline())

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(timeout=60)


class Native:
    """Our decode and prefill of one model at one context."""

    def __init__(self, path: Path, threads: int, context: int, prefill: int):
        import anychip
        from anychip.compilers.native import NativeTarget
        from anychip.frontends.llm import PRECISIONS

        model, precision = anychip.load(str(path)), PRECISIONS["stored"]
        weights = model.bind(precision)
        self.target = NativeTarget(packed=config.read("home") / "packed")
        options = CompileOptions(threads=threads)
        decode = model.decode(1, context, precision).with_weights(weights)
        started = time.perf_counter()
        self.decode = self.target.compile(decode, options)
        self.compile_s = time.perf_counter() - started
        module = model.prefill(1, prefill, context, precision).with_weights(weights)
        self.prefill = self.target.compile(module, options)
        self.length = prefill
        self._position = 0
        self._state: list[Any] = [
            np.zeros([int(d) for d in a.shape], np.float32)
            for a in self.decode.signature.named("state")
        ]
        self.weight_bytes = sum(e.nbytes for e in self.decode.plan.image)

    def _step(self, executable: Any, tokens: list[int], start: int) -> np.ndarray:
        inputs = (np.array([tokens], np.int32), np.array([start], np.int32))
        logits, *self._state = executable.run(*self._state, *inputs)
        return logits

    def ask(self, what: str, filled: int, count: int) -> float:
        """Seconds; the same questions as the peer's."""
        started = time.perf_counter()
        if what == "fill":
            self._position = 0
            while self._position + self.length <= filled:
                self._step(self.prefill, [5] * self.length, self._position)
                self._position += self.length
            for _ in range(filled - self._position):
                self._step(self.decode, [5], self._position)
                self._position += 1
        elif what == "decode":
            for _ in range(count):
                self._step(self.decode, [5], self._position)
                self._position += 1
        else:
            assert count == self.length
            self._step(self.prefill, [5] * count, 0)
        return time.perf_counter() - started


def reader(native: Native) -> Callable[[], float]:
    """A function that reads all packed weights once on the same threads, and says how long."""
    import llvmlite.ir as llvm

    from anychip.compilers.native import jit
    from anychip.compilers.native.ir import I32V, I64, POINTER, Function

    plan, image = native.decode.plan, native.decode.image
    size = native.weight_bytes // 4096 * 4096
    module = llvm.Module("read")
    f = Function(module, "read", [("context", POINTER), ("thread", I64)])
    with f:
        context, thread = f.arguments["context"], f.arguments["thread"]
        memory, out = (context.at(8 * i).load(POINTER) for i in range(2))
        first, last = ((thread + i) * (size // 256) // plan.threads * 256 for i in (0, 1))
        sums = [f.cell(f.constant(I32V, 0)) for _ in range(4)]
        with f.loop(first, last, 256) as at:
            for i, one in enumerate(sums):
                one.value = one.value + memory.at(at).at(64 * i).load(I32V, align=64)
        total = sums[0].value + sums[1].value + sums[2].value + sums[3].value
        out.at(thread * 64).store(total)
    code = jit.build(module, ["read"], native.decode.isa)
    sums_memory = np.zeros(64 * plan.threads + 64, np.uint8)
    where = -(-sums_memory.ctypes.data // 64) * 64
    pool = native.decode.pool
    row = np.array([image.address, where], np.int64)

    def read() -> float:
        started = time.perf_counter()
        pool.run(code.address("read"), row.ctypes.data)
        seconds = time.perf_counter() - started
        assert sums_memory is not None
        return seconds * native.weight_bytes / size

    return read


@dataclass(frozen=True)
class Case:
    """One model: its file, cache positions, and how many tokens a round decodes."""

    name: str
    path: Path
    context: int
    tokens: int


def measure(case: Case, threads: int, rounds: int, prefill: int, python: str) -> dict[str, Any]:
    native = Native(case.path, threads, case.context, prefill)
    why, peer = "", None
    try:
        peer = Peer(python, case.path, threads, case.context)
    except OSError as error:
        why = f"not measured: {python} cannot run llama_cpp: {error}"
    read = reader(native)
    seconds: dict[str, list[float]] = {}

    def note(what: str, value: float) -> None:
        seconds.setdefault(what, []).append(value)

    for number in range(rounds + 1):
        for name, one in (("native", native), ("peer", peer)):
            if one is None:
                continue
            prompt = one.ask("prefill", 0, prefill)
            one.ask("fill", 64, 0)
            decode = one.ask("decode", 64, case.tokens) / case.tokens
            if number:  # the first round warms up
                note(f"{name} prefill", prompt / prefill)
                note(f"{name} decode", decode)
        once = statistics.fmean(read() for _ in range(max(3, case.tokens // 4)))
        if number:
            note("read", once)
    if peer is not None:
        peer.close()
    ours, bare = seconds["native decode"], seconds["read"]
    result: dict[str, Any] = {
        "engine": "cpu:native",
        "model": case.name,
        "threads": threads,
        "isa": native.decode.isa.name,
        "decode_tok_s": 1 / statistics.median(ours),
        "prefill_tok_s": 1 / statistics.median(seconds["native prefill"]),
        "weight_bytes": native.weight_bytes,
        "gb_s": native.weight_bytes / statistics.median(ours) / 1e9,
        "bandwidth_gb_s": native.weight_bytes / statistics.median(bare) / 1e9,
        "ratio": _median_ratio(bare, ours),
        "compile_s": native.compile_s,
        "compile_steps": native.decode.artifacts["seconds"],
        "rounds": rounds,
        "samples_s": seconds,
        "peer": why or "llama-cpp-python",
        "peer_decode_tok_s": None,
        "peer_prefill_tok_s": None,
        "decode_ratio_vs_llama_cpp": None,
        "prefill_ratio_vs_llama_cpp": None,
    }
    if peer is not None:
        theirs, prompts = seconds["peer decode"], seconds["peer prefill"]
        result |= {
            "peer_decode_tok_s": 1 / statistics.median(theirs),
            "peer_prefill_tok_s": 1 / statistics.median(prompts),
            "decode_ratio_vs_llama_cpp": _median_ratio(theirs, ours),
            "prefill_ratio_vs_llama_cpp": _median_ratio(prompts, seconds["native prefill"]),
        }
    return result


def _median_ratio(above: list[float], below: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="three rounds, fewer tokens")
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer", default=sys.executable, help="a Python that has llama_cpp")
    parser.add_argument("--only", help="one model's name")
    options = parser.parse_args()
    from anychip.frontends.pull import pull

    home = config.read("home")
    rounds, tokens = (3, 32) if options.quick else (9, 96)
    cases = [
        Case("smollm2-135m", pull("smollm2-135m", home).path, 1024, tokens),
        Case("llama-1b", random_1b(home / "bench" / "llama-1b-q4_0.gguf"), 1024, tokens // 4),
    ]
    cases = [c for c in cases if options.only in (None, c.name)]
    prefill = 64 if options.quick else 512
    found = [measure(c, options.threads, rounds, prefill, options.peer) for c in cases]
    report = {
        "ratio_vs_llama_cpp": {r["model"]: r["decode_ratio_vs_llama_cpp"] for r in found},
        "load_average": os.getloadavg()[0],
        "results": found,
    }
    for r in found:
        shown = {k: v for k, v in r.items() if k != "samples_s"}
        print(json.dumps(shown, indent=1))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
