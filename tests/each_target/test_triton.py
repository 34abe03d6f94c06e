"""chip:triton: kernels for absent GPUs, their numbers in Triton's interpreter, and refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest

from anychip.compilers import child
from anychip.compilers.toolchains import TRITON
from anychip.compilers.triton.job import GPUS, interpret
from anychip.compilers.triton.launch import Launch, launch
from anychip.compilers.triton.target import TritonTarget
from anychip.core import Argument, CompileOptions, Module, UnsupportedError, UsageError
from anychip.frontends.trace import to_module
from anychip.ops import composites
from anychip.ops.interp import evaluate
from anychip.ops.walk import walk

needs_triton = pytest.mark.skipif(
    TRITON.installed is None, reason=f"Triton is not in {TRITON.folder}"
)

KERNELS = {
    "matmul": (lambda a, b: a @ b, [(70, 96), (96, 33)]),
    "batched": (lambda a, b: _batched(a, b), [(3, 20, 64), (3, 40, 64)]),
    "softmax": (lambda x: composites.softmax(x, axis=-1), [(5, 300)]),
    "rms_norm": (lambda x, s: composites.rms_norm(x, s, eps=1e-5), [(6, 200), (200,)]),
    "layer_norm": (
        lambda x, s, b: composites.layer_norm(x, s, b, eps=1e-5),
        [(6, 200), (200,), (200,)],
    ),
    "attention": (
        lambda q, k, v: composites.attention(q, k, v, scale=0.2, causal=True),
        [(2, 4, 70, 32), (2, 2, 70, 32), (2, 2, 70, 32)],
    ),
}


def _batched(a, b):
    import jax.numpy as jnp

    return jnp.einsum("zmk,znk->zmn", a, b)


def _module(name: str, dtype: str) -> Module:
    function, shapes = KERNELS[name]
    arguments = [Argument(f"x{i}", shape, dtype) for i, shape in enumerate(shapes)]
    return to_module(function, arguments, name=name, result_names=["y"])


def _launch(module: Module) -> Launch:
    made = [launch(step.op) for step in walk(module, enter=lambda op: op.name == "func.call")]
    (one,) = (m for m in made if isinstance(m, Launch))
    return one


@needs_triton
@pytest.mark.parametrize("name", KERNELS)
def test_the_kernels_numbers_in_the_interpreter_are_the_op_tables(name):
    module = _module(name, "f32")
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(a.shape).astype(np.float32) for a in module.signature.arguments]
    shape = tuple(int(d) for d in module.signature.results[0].shape)
    assert TRITON.installed is not None
    got = child.run(
        interpret,
        *(str(TRITON.installed.root), _launch(module), arrays, shape),
        timeout_s=240.0,
        what=f"interpreting {name}",
    )
    (want,) = evaluate(module, *arrays)
    np.testing.assert_allclose(got, want, rtol=2e-4, atol=2e-4)


SAYS = {
    "sm_80": ("ptx", "mma.sync"),
    "sm_90": ("ptx", "wgmma"),
    "sm_100": ("ptx", "tcgen05.mma"),
    "gfx942": ("amdgcn", "v_mfma"),
    "gfx950": ("amdgcn", "v_mfma"),
}


@needs_triton
@pytest.mark.parametrize("arch", GPUS)
def test_a_large_product_uses_the_matrix_unit(arch):
    kind = [Argument(n, (1024, 1024), "bf16") for n in ("a", "b")]
    module = to_module(lambda a, b: a @ b, kind, name="product", result_names=["c"])
    executable = TritonTarget(f"test:{arch}", arch).compile(module, CompileOptions())
    stage, word = SAYS[arch]
    assert word in str(executable.artifacts[f"0-matmul.{stage}"])
    binary = "cubin" if arch.startswith("sm") else "hsaco"
    assert executable.artifacts[f"0-matmul.{binary}"][:4] == b"\x7fELF"
    (row,) = json.loads(executable.artifacts["kernels.json"])
    assert row["shared_bytes"] > 0
    with pytest.raises(UnsupportedError, match="GPU is not here"):
        executable.run()


@needs_triton
def test_a_module_of_all_kernels_compiles_each_once():
    def block(x, s, w):
        y = composites.rms_norm(x, s, eps=1e-5)
        y = composites.rms_norm(y, s, eps=1e-5)
        return composites.softmax(y @ w, axis=-1)

    arguments = [
        Argument("x", (64, 256), "bf16"),
        Argument("s", (256,), "bf16"),
        Argument("w", (256, 128), "bf16"),
    ]
    module = to_module(block, arguments, name="block", result_names=["y"])
    executable = TritonTarget("test:sm_90", "sm_90").compile(module, CompileOptions())
    kernels = [row["kernel"] for row in json.loads(executable.artifacts["kernels.json"])]
    assert kernels == ["rms_norm", "matmul", "softmax"]
    assert executable.coverage.to_json()["native"] == 4


@needs_triton
def test_what_has_no_kernel_is_reported_and_options_are_refused():
    module = to_module(
        lambda x: composites.softmax(x, axis=0) + 1,
        [Argument("x", (8, 8), "f32")],
        name="odd",
        result_names=["y"],
    )
    target = TritonTarget("test:sm_90", "sm_90")
    with pytest.raises(UnsupportedError, match="has no kernel for") as caught:
        target.compile(module, CompileOptions())
    assert {row.fate for row in caught.value.report} == {"unsupported"}
    with pytest.raises(UsageError, match="takes no options"):
        target.compile(module, CompileOptions(threads=1))


@pytest.mark.parametrize(
    ("shapes", "equation", "why"),
    [
        ([(4, 5, 6), (6, 5, 7)], "abc,cbd->ad", "summed over 2"),
        ([(4, 6, 5), (6, 7)], "abc,bd->acd", "one stride"),
    ],
)
def test_products_no_kernel_is_for_say_why(shapes, equation, why):
    import jax.numpy as jnp

    arguments = [Argument(f"x{i}", shape, "f32") for i, shape in enumerate(shapes)]
    module = to_module(
        lambda a, b: jnp.einsum(equation, a, b), arguments, name="odd", result_names=["y"]
    )
    said = [launch(s.op) for s in walk(module) if s.op.name == "stablehlo.dot_general"]
    assert [why in one for one in said if isinstance(one, str)] == [True]
