"""Writing a step takes little: constants of vectors and code of kernels are shared, where they are
the same, and nobody looks for garbage meanwhile."""

import gc

import jax
import llvmlite.ir as llvm
import numpy as np
import pytest

import anychip
from anychip.compilers.native import NativeTarget
from anychip.compilers.native.ir import F32V, I32V, Function
from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.core import CompileOptions, UnsupportedError


def test_constants_that_compare_equal_are_told_apart():
    f = Function(llvm.Module("m"), "f", [])
    zero, negative = f.constant(F32V, 0.0), f.constant(F32V, -0.0)
    whole, real = f.constant(I32V, 1), f.constant(F32V, 1.0)
    lanes = f.constant(I32V, range(16))
    texts = {str(one.raw) for one in (zero, negative, whole, real, lanes)}
    assert len(texts) == 5
    assert f.constant(F32V, -0.0).raw is negative.raw


def test_products_of_one_token_share_code_where_only_whole_rows_of_tiles_differ():
    one, more = BlockMatmul("q4_0", 64, 96, 1), BlockMatmul("q4_0", 192, 96, 1)
    assert one.code == more.code
    assert (one.units, more.units) == (4, 12)
    apart = (
        *(BlockMatmul("q4_0", 40, 96, 1), BlockMatmul("q4_0", 64, 96, 2)),
        *(BlockMatmul("q4_0", 64, 96, 1, has_residual=True), BlockMatmul("q4_0", 64, 8192, 1)),
    )
    assert len({one.code, *(other.code for other in apart)}) == 5


def test_a_refused_compile_leaves_the_garbage_collector_as_it_was():
    @jax.jit
    def unknown(x):
        return jax.numpy.linalg.inv(x)

    module = anychip.load(unknown, np.eye(3, dtype=np.float32))
    for was in (True, False):
        (gc.enable if was else gc.disable)()
        try:
            with pytest.raises(UnsupportedError):
                NativeTarget().compile(module, CompileOptions(threads=1))
            assert gc.isenabled() == was
        finally:
            gc.enable()
