"""In the child: compile kernels for a GPU that is not here, or run them in Triton's interpreter."""

# Triton is not installed where this is checked.
# pyright: reportMissingImports=false

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from anychip.compilers.triton.launch import Launch

GPUS = {
    "sm_80": ("cuda", 80, 32),
    "sm_90": ("cuda", 90, 32),
    "sm_100": ("cuda", 100, 32),
    "gfx942": ("hip", "gfx942", 64),
    "gfx950": ("hip", "gfx950", 64),
}
"""Architecture → Triton's backend, its name there, threads that go in step."""


def compile(folder: str, arch: str, launches: Sequence[Launch]) -> list[dict[str, Any]]:
    """Stages by name for each launch, and what the kernel takes of shared memory."""
    sys.path.insert(0, folder)
    triton: Any = import_module("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from anychip.compilers.triton import kernels

    backend, name, warp = GPUS[arch]
    made: list[dict[str, Any]] = []
    for one in launches:
        function = getattr(kernels, one.kernel)
        constants = dict(one.constants)
        names = list(function.arg_names)
        types = dict(zip(names, one.pointers, strict=False))
        aligned = {(i,): [["tt.divisibility", 16]] for i in range(len(one.pointers))}
        source = ASTSource(
            function, {n: types.get(n, "constexpr") for n in names}, constants, aligned
        )
        options = {"num_warps": 4, "num_stages": 3 if backend == "cuda" else 2}
        done = triton.compile(source, target=GPUTarget(backend, name, warp), options=options)
        stages = {
            stage: text.encode() if isinstance(text, str) else bytes(text)
            for stage, text in done.asm.items()
        }
        made.append({"stages": stages, "shared_bytes": int(done.metadata.shared)})
    return made


def interpret(
    folder: str, one: Launch, arrays: Sequence[np.ndarray], shape: tuple[int, ...]
) -> Any:
    """The kernel's result on these arrays, computed in f32 by Triton's interpreter on the CPU."""
    os.environ["TRITON_INTERPRET"] = "1"
    sys.path.insert(0, folder)
    import torch

    from anychip.compilers.triton import kernels

    kinds = {"*bf16": torch.bfloat16, "*fp16": torch.float16, "*fp32": torch.float32}
    *given, kind = one.pointers
    tensors = [
        torch.tensor(a.astype(np.float32)).to(kinds[k]) for a, k in zip(arrays, given, strict=True)
    ]
    out = torch.zeros(shape, dtype=kinds[kind])
    getattr(kernels, one.kernel)[one.grid](*tensors, out, **dict(one.constants))
    return out.float().numpy()
