"""How long does a model take to come in, and how much memory?

    python bench/import_models.py --json bench/results/import.json [--rounds 5]
        [--only resnet50|llama-1b]

ResNet-50 (transformers' default ResNet configuration, random weights): seconds of `anychip.load` at
batch 1, 224 × 224, after the frameworks are imported.
A Llama of 1.2 billion parameters in bf16 as a Hugging Face folder (random weights, written once
into a temporary folder): peak resident memory of a process that loads it, builds its decode step,
binds the weights and reads every one, over the size of the file. Each round is a fresh process.
About two minutes on an idle machine of two cores, and 2.5 GB of disk. Exit code 1 when ResNet-50
takes 5 s or the Llama more than 1.3 times its file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESNET = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
from anychip.frontends.hf.folder import import_transformers
import_transformers()
import jax, torch, torch.export
from transformers import ResNetConfig, ResNetModel
import anychip
torch.manual_seed(0)
model = ResNetModel(ResNetConfig()).eval()
x = torch.randn(1, 3, 224, 224)
import anychip.frontends.torch.program, anychip.frontends.torch.export
begin, busy = time.perf_counter(), time.process_time()
module = anychip.load(model, x)
took, busy = time.perf_counter() - begin, time.process_time() - busy
parameters = sum(p.numel() for p in model.parameters())
print(json.dumps({"seconds": took, "cpu_seconds": busy, "parameters": parameters}))
"""

LLAMA = """
import json, sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
import anychip
model = anychip.load(sys.argv[1])
precision = model.native_precision
module = model.decode(1, 128, precision)
weights = model.bind(precision)
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
before = peak()
total = 0
for name in weights:
    array = weights[name].array()
    total += array.nbytes
    array.view("uint8").reshape(-1)[::512].sum()  # touches every page
print(json.dumps({"peak": peak(), "before_weights": before, "weights": total}))
"""

MOST_S, MOST_RATIO = 5.0, 1.3
SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "torch_dtype": "bfloat16",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=["resnet50", "llama-1b"])
    options = parser.parse_args()
    from anychip.core import machine_name

    report: dict[str, Any] = {
        "machine": machine_name(),
        "command": "python bench/import_models.py",
        "bounds": {"resnet50_s": MOST_S, "llama-1b_peak_over_file": MOST_RATIO},
    }
    if options.only != "llama-1b":
        rounds = [_run(RESNET) for _ in range(options.rounds)]
        seconds = sorted(r["seconds"] for r in rounds)
        report["resnet50"] = {
            "kind": "measured",
            "unit": "s",
            "value": statistics.median(seconds),
            "low": seconds[0],
            "high": seconds[-1],
            "cpu_s": statistics.median(r["cpu_seconds"] for r in rounds),
            "samples": len(seconds),
            "holds": statistics.median(seconds) < MOST_S,
            "parameters": rounds[0]["parameters"],
        }
    if options.only != "resnet50":
        with tempfile.TemporaryDirectory(prefix="anychip-1b-") as folder:
            size = write_llama(Path(folder))
            found = _run(LLAMA, folder)
        report["llama-1b"] = {
            "kind": "measured",
            "file_bytes": size,
            "peak_bytes": found["peak"],
            "before_weights_bytes": found["before_weights"],
            "weights_bytes": found["weights"],
            "peak_over_file": found["peak"] / size,
            "holds": found["peak"] <= MOST_RATIO * size,
        }
    print(json.dumps(report, indent=1))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    measured = [part for part in report.values() if isinstance(part, dict) and "holds" in part]
    return 0 if all(part["holds"] for part in measured) else 1


def _run(script: str, *arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=1200
    )
    if done.returncode != 0:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


def write_llama(folder: Path) -> int:
    """A folder of 1.24 billion random bf16 parameters, written piece by piece; the file's size."""
    import numpy as np

    hidden, wide, heads = SIZES["hidden_size"], SIZES["intermediate_size"], SIZES["head_dim"]
    inner, few = SIZES["num_attention_heads"] * heads, SIZES["num_key_value_heads"] * heads
    shapes = {
        "model.embed_tokens.weight": (SIZES["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
    }
    for i in range(SIZES["num_hidden_layers"]):
        at = f"model.layers.{i}"
        shapes |= {
            f"{at}.input_layernorm.weight": (hidden,),
            f"{at}.post_attention_layernorm.weight": (hidden,),
            f"{at}.self_attn.q_proj.weight": (inner, hidden),
            f"{at}.self_attn.k_proj.weight": (few, hidden),
            f"{at}.self_attn.v_proj.weight": (few, hidden),
            f"{at}.self_attn.o_proj.weight": (hidden, inner),
            f"{at}.mlp.gate_proj.weight": (wide, hidden),
            f"{at}.mlp.up_proj.weight": (wide, hidden),
            f"{at}.mlp.down_proj.weight": (hidden, wide),
        }
    (folder / "config.json").write_text(json.dumps(SIZES))
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    block = (np.random.default_rng(0).standard_normal(1 << 20) * 0.02).astype(np.float32)
    noise = (block.view(np.uint32) >> 16).astype(np.uint16).tobytes()  # cut to bf16
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            left = 2 * int(np.prod(shape))
            while left:
                left -= file.write(noise[:left])
    return (folder / "model.safetensors").stat().st_size


if __name__ == "__main__":
    sys.exit(main())
