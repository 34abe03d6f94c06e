"""One kernel as a Python function: what tests and benchmarks call."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import llvmlite.ir as llvm
import numpy as np

from anychip.compilers.native import jit
from anychip.compilers.native.isa import Isa
from anychip.compilers.native.plan import Kernel
from anychip.compilers.native.step import write_kernel


def load_kernels(kernels: Sequence[Kernel], isa: Isa) -> dict[Kernel, Callable[..., None]]:
    """Each kernel as `run(*addresses, first=0, last=units)`. The caller answers for the memory."""
    module = llvm.Module("alone")
    for kernel in kernels:
        write_kernel(module, kernel, isa)
    code = jit.build(module, [kernel.name for kernel in kernels], isa)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)

    def function(kernel: Kernel) -> Callable[..., None]:
        native = kind(code.address(kernel.name))

        def run(*addresses: int, first: int = 0, last: int = kernel.units) -> None:
            assert len(addresses) == len(kernel.operands)
            assert code is not None  # its memory holds the machine code
            operands = np.array(addresses, np.int64)
            native(operands.ctypes.data, first, last)

        return run

    return {kernel: function(kernel) for kernel in kernels}
