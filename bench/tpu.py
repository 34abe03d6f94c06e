"""What do TPUs take, by their own compiler? Large products against the peak, a decode layer, MLPs
over 8 chips with their all-reduce, and what does not fit. Needs libtpu, not a TPU.

    python bench/tpu.py [--json out.json] [--only product|layer|sharded|memory]

`over_roofline` is the estimated time over that of the published peak (products) or of the bytes
that must be read (layers and MLPs). Exits 1 when a product on v5e, v5p or v6e is beyond 1.10.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from anychip.core import Argument, CompileError, CompileOptions, Executable, Module, discover

CHIPS = ("tpu-v4", "tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-v7x")
HELD = frozenset({"tpu-v5e", "tpu-v5p", "tpu-v6e"})
"""Those whose large product must take the published peak's time, within a tenth."""
HALVES = frozenset({"tpu-v7x"})  # one device is half of the chip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=("product", "layer", "sharded", "memory"))
    given = parser.parse_args()
    questions: dict[str, list[Callable[[], dict[str, Any]]]] = {
        "product": [partial(_product, chip) for chip in CHIPS],
        "layer": [partial(_layer, chip, b) for chip in CHIPS for b in (1, 8)],
        "sharded": [partial(_sharded, chip, 8) for chip in ("tpu-v5e", "tpu-v5p", "tpu-v6e")],
        "memory": [partial(_too_large, "tpu-v5e")],
    }
    rows: list[dict[str, Any]] = []
    for kind, asked in questions.items():
        for ask in asked if given.only in (None, kind) else ():
            rows.append({"kind": kind, **ask()})
            print(json.dumps(rows[-1]), flush=True)
    if given.json:
        toolchain = discover().target("tpu-v5e:xla").toolchain
        document = {"toolchain": toolchain, "kind": "estimated", "rows": rows}
        given.json.write_text(json.dumps(document, indent=1), encoding="utf-8")
    return int(
        any(r["over_roofline"] > 1.1 for r in rows if r["chip"] in HELD and r["kind"] == "product")
    )


def _product(chip: str, size: int = 4096) -> dict[str, Any]:
    from anychip.frontends.trace import to_module

    sides = [Argument(n, (size, size), "bf16", "input") for n in ("a", "b")]
    module = to_module(lambda a, b: a @ b, sides, name=f"product-{size}", result_names=["c"])
    peak = discover().chip(chip).spec.matmul_flops_per_s["bf16"].value
    peak /= 2 if chip in HALVES else 1
    return _row(chip, module, _compiled(chip, module), 2 * size**3 / peak)


def _layer(chip: str, batch: int, context: int = 2048) -> dict[str, Any]:
    """One decoder layer of Llama-3.1-8B at its own width with a small vocabulary, in bf16."""
    from anychip.frontends.llm import PRECISIONS, language_model
    from anychip.frontends.llm.catalogue import read

    shape = replace(read("llama-3.1-8b").shape, layers=1, vocabulary=1024)
    name = f"llama-3.1-8b-layer-batch{batch}"
    model = language_model(shape, name=name, source="bench")
    module = model.decode(batch, context, PRECISIONS["bf16"])
    held = sum(a.nbytes for a in module.signature.arguments if a.role != "input")
    bandwidth = discover().chip(chip).spec.main_memory.read_bytes_per_s.value
    bandwidth /= 2 if chip in HALVES else 1
    return _row(chip, module, _compiled(chip, module), held / bandwidth)


def _sharded(chip: str, devices: int) -> dict[str, Any]:
    """A gated MLP at Llama-3.1-8B's width over tensor-parallel devices, 64 tokens."""
    import jax

    from anychip.frontends.trace import to_module

    arguments = [
        Argument("mlp.gate", (4096, 14336), "bf16", "weight"),
        Argument("mlp.up", (4096, 14336), "bf16", "weight"),
        Argument("mlp.down", (14336, 4096), "bf16", "weight"),
        Argument("x", (64, 4096), "bf16", "input"),
    ]
    module = to_module(
        lambda gate, up, down, x: (jax.nn.silu(x @ gate) * (x @ up)) @ down,
        arguments,
        name=f"mlp-over-{devices}",
        result_names=["y"],
    )
    held = sum(a.nbytes for a in arguments if a.role == "weight") / devices
    bandwidth = discover().chip(chip).spec.main_memory.read_bytes_per_s.value
    return _row(chip, module, _compiled(chip, module, shards=str(devices)), held / bandwidth)


def _too_large(chip: str) -> dict[str, Any]:
    """A program beyond the chip's memory: the verdict is no, with the sizes."""
    kind = "tensor<65536x65536xf32>"
    module = Module.from_mlir(
        f"module @big {{ func.func public @main(%a: {kind}) -> {kind} {{"
        f" %0 = stablehlo.negate %a : {kind} return %0 : {kind} }} }}"
    )
    try:
        _compiled(chip, module, profile="no")
    except CompileError as error:
        return {"chip": chip, "module": module.name, "refused": str(error)}
    return {"chip": chip, "module": module.name, "refused": None}


def _compiled(chip: str, module: Module, **extra: str) -> Executable:
    return discover().target(f"{chip}:xla").compile(module, CompileOptions(extra=extra))


def _row(chip: str, module: Module, executable: Executable, floor_s: float) -> dict[str, Any]:
    trace = executable.trace()
    links = [s for s in trace.spans if s.resource == "link"]
    return {
        "chip": chip,
        "module": module.name,
        "seconds": trace.seconds,
        "over_roofline": trace.seconds / floor_s,
        "collectives": len(links),
        "link_s": sum(s.seconds for s in links),
        "memory": json.loads(executable.artifacts["memory.json"]),
        "executable_bytes": len(executable.artifacts["executable"]),
        "note": trace.note,
    }


if __name__ == "__main__":
    sys.exit(main())
