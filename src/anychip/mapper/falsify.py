"""The command that would prove a prediction wrong, for a person who has the chip."""

from __future__ import annotations

from anychip.core import ChipSpec, LanguageModel
from anychip.mapper.workload import Workload
from anychip.twin import Shards

HOSTED = {
    "Groq": "https://api.groq.com/openai",
    "Cerebras": "https://api.cerebras.ai",
    "SambaNova": "https://api.sambanova.ai",
}
"""Vendors whose chips are reached through their own endpoint."""

_FLAGS = {"f8E4M3FN": "--quantization fp8", "bf16": "--dtype bfloat16", "f16": "--dtype float16"}


def command(
    model: LanguageModel, spec: ChipSpec, shards: Shards, precision: str, workload: Workload
) -> str:
    """vLLM's benchmarks where vLLM runs, llama-bench on CPUs and SoCs, the vendor's endpoint for
    chips that are only served, and anychip itself for this host.
    """
    name, w = model.source if "/" in model.source else model.name, workload
    if spec.name == "cpu":
        return (
            f"anychip compare {model.name} --chip cpu --prompt {w.prompt} --generate {w.generate} "
            f"--batch {w.batch}"
        )
    if spec.family in ("cpu", "soc"):
        return f"llama-bench -m {model.name}.gguf -p {w.prompt} -n {w.generate}"
    url = HOSTED.get(spec.vendor)
    if url is None and spec.family in ("lpu", "wafer", "dimc", "dataflow"):
        url = f"$THE_{spec.vendor.upper().replace('-', '_').replace(' ', '_')}_ENDPOINT"
    if url is not None:
        return (
            f"vllm bench serve --backend openai-chat --base-url {url} "
            f"--endpoint /v1/chat/completions --model {name} --dataset-name random "
            f"--random-input-len {w.prompt} --random-output-len {w.generate} "
            f"--max-concurrency {w.batch}"
        )
    flags = [f"-tp {shards.tensor}"]
    flags += [f"-pp {shards.pipeline}"] if shards.pipeline > 1 else []
    flags += ["--enable-expert-parallel"] if shards.expert > 1 else []
    flags += [_FLAGS[precision]] if precision in _FLAGS else []
    return (
        f"vllm bench latency --model {name} --input-len {w.prompt} --output-len {w.generate} "
        f"--batch-size {w.batch} {' '.join(flags)}"
    )
