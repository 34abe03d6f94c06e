"""Kernels for AArch64 become assembly with its dot products. Nothing here runs them."""

import llvmlite.binding as binding
import llvmlite.ir as llvm
import pytest

from anychip.compilers.native.isa import Isa
from anychip.compilers.native.kernels.attention import Attention
from anychip.compilers.native.kernels.matmul_block import BlockMatmul
from anychip.compilers.native.kernels.quantize import Quantize
from anychip.compilers.native.step import write_kernel

NEON = Isa("neon", "neoverse-v1", "+neon,+dotprod,+i8mm,+fullfp16", "sdot", True)


@pytest.mark.parametrize(
    ("kernel", "instruction"),
    [
        (BlockMatmul("q4_0", 32, 64, 1), "sdot"),
        (BlockMatmul("q8_0", 32, 64, 8), "sdot"),
        (BlockMatmul("q6_K", 32, 256, 1), "sdot"),
        (Quantize(1, 64, 64), "fcvt"),
        (Attention(1, 1, 2, 1, 64, 32, 32, 0.1, 0, 0.0, "f16", (64, 64, 32)), "fmla"),
    ],
)
def test_kernels_compile_for_aarch64(kernel, instruction):
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    module = llvm.Module("aarch64")
    write_kernel(module, kernel, NEON)
    target = binding.Target.from_triple("aarch64-unknown-linux-gnu")
    machine = target.create_target_machine(cpu=NEON.cpu, features=NEON.features, opt=2)
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    assert instruction in machine.emit_assembly(parsed)
