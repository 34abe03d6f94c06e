"""cpu:xla keeps compiled code between processes, and is not fooled by a damaged entry."""

import subprocess
import sys

import numpy as np
import pytest

from anychip.compilers.cache import Cache
from anychip.compilers.xla import XlaTarget
from anychip.core import CompileOptions, Module

OPTIONS = CompileOptions()

PROGRAM = """
import sys
from pathlib import Path
import numpy as np
from anychip.compilers.cache import Cache
from anychip.compilers.xla import XlaTarget
from anychip.core import CompileOptions, Module
module = Module.from_mlir(Path(sys.argv[1]).read_text(), name="many")
program = XlaTarget(cache=Cache(Path(sys.argv[2]))).compile(module, CompileOptions())
rng = np.random.default_rng(0)
a, b = (rng.standard_normal((32, 32)).astype(np.float32) for _ in "ab")
np.savez(sys.argv[3], *map(np.asarray, program.run(a, b)))
print(program.artifacts["cache"])
"""


def _many_ops() -> str:
    """Kinds of code XLA:CPU treats differently: fusions, matmuls, loops, sorts, library calls."""
    import jax
    import jax.numpy as jnp

    def many(a, b):
        spd = a @ a.T + jnp.eye(32)
        return (
            jax.lax.conv_general_dilated(a[None, None], b[None, None, :3, :3], (1, 1), "SAME"),
            jnp.linalg.cholesky(spd),
            jnp.linalg.eigh(spd)[0],
            jnp.sort(a, axis=1),
            jax.lax.top_k(b, 4)[1],
            jnp.abs(jnp.fft.fft(a)),
            jax.lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] @ b * 0.1), (0, a))[1],
            jax.random.normal(jax.random.PRNGKey(0), (8,)),
            jax.lax.ragged_dot(a, jnp.stack([b, b]), jnp.array([10, 22])),
            (a.astype(jnp.bfloat16) @ b.astype(jnp.bfloat16)).astype(jnp.float32),
            jax.lax.dot(a.astype(jnp.int8), b.astype(jnp.int8), preferred_element_type=jnp.int32),
        )

    square = np.zeros((32, 32), np.float32)
    return jax.jit(many).lower(square, square).as_text(debug_info=True)


def test_another_process_loads_the_code_and_computes_the_same_bits(tmp_path):
    text = tmp_path / "many.mlir"
    text.write_text(_many_ops())
    notes, errors, results = [], [], []
    for index in range(2):
        out = tmp_path / f"{index}.npz"
        command = [sys.executable, "-c", PROGRAM, str(text), str(tmp_path / "cache"), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        notes.append(done.stdout.strip())
        errors.append(done.stderr)
        results.append(dict(np.load(out)))
    assert notes == ["not found, stored", "found"]
    assert errors == ["", ""]
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name])


TEXT = """
module @twice { func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> {
  %0 = stablehlo.add %a, %a : tensor<4xf32> loc("layer.0/add") return %0 : tensor<4xf32> } }
"""


def _run(cache: Cache) -> str:
    executable = XlaTarget(cache=cache).compile(Module.from_mlir(TEXT), OPTIONS)
    assert np.asarray(executable.run(np.ones(4, np.float32))[0]).tolist() == [2, 2, 2, 2]
    return str(executable.artifacts["cache"])


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        (lambda raw: raw[:-1], "found damaged, compiled again and stored"),
        (lambda raw: b"", "found damaged, compiled again and stored"),
    ],
)
def test_damaged_entry_is_compiled_again(tmp_path, damage, note):
    cache = Cache(tmp_path)
    assert _run(cache) == "not found, stored"
    (path,) = (p for p in tmp_path.glob("??/*") if p.suffix != ".lock")
    path.write_bytes(damage(path.read_bytes()))
    assert _run(cache) == note
    assert _run(cache) == "found"


def test_entry_that_xla_does_not_load_is_compiled_again(tmp_path):
    cache = Cache(tmp_path)
    _run(cache)
    (path,) = (p for p in tmp_path.glob("??/*") if p.suffix != ".lock")
    with cache.locked(path.name, 5) as entry:
        entry.write(b"whole, but not an executable")
    assert _run(cache).startswith("found but does not load (")
    assert _run(cache) == "found"


def test_options_that_change_code_have_entries_of_their_own(tmp_path):
    target, module = XlaTarget(cache=Cache(tmp_path)), Module.from_mlir(TEXT)
    for options in (
        OPTIONS,
        CompileOptions(threads=1),
        CompileOptions(extra={"xla_backend_optimization_level": "0"}),
    ):
        assert target.compile(module, options).artifacts["cache"] == "not found, stored"
        assert target.compile(module, options).artifacts["cache"] == "found"


def test_stages_can_be_looked_at_whether_compiled_or_loaded(tmp_path):
    target, module = XlaTarget(cache=Cache(tmp_path)), Module.from_mlir(TEXT)
    for _ in range(2):
        executable = target.compile(module, OPTIONS)
        assert "add" in executable.artifacts["hlo"]
        assert len(executable.artifacts["executable"]) > 0
        (span,) = executable.trace(np.ones(4, np.float32)).spans
        assert span.origin.layer == "layer.0"
