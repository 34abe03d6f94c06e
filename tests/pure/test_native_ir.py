"""Constants of vectors are shared between kernels; numbers that only compare equal are not."""

import llvmlite.ir as llvm

from anychip.compilers.native.ir import F32V, I32V, Function


def test_constants_that_compare_equal_are_told_apart():
    f = Function(llvm.Module("m"), "f", [])
    zero, negative = f.constant(F32V, 0.0), f.constant(F32V, -0.0)
    whole, real = f.constant(I32V, 1), f.constant(F32V, 1.0)
    lanes = f.constant(I32V, range(16))
    texts = {str(one.raw) for one in (zero, negative, whole, real, lanes)}
    assert len(texts) == 5
    assert f.constant(F32V, -0.0).raw is negative.raw
