"""LLVM IR to machine code in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import llvmlite.binding as binding
import llvmlite.ir as llvm

from anychip.compilers.native.isa import Isa
from anychip.core import CompileError


@dataclass(frozen=True, eq=False)
class Code:
    """Loaded machine code; lives as long as this object. `seconds` took LLVM, or loading `binary`,
    the object file. Code loaded from one has no IR."""

    llvm_ir: str
    binary: bytes = field(repr=False)
    seconds: float
    _addresses: dict[str, int]
    _isa: Isa
    _optimised: bytes
    _engine: Any = field(repr=False)

    def address(self, name: str) -> int:
        return self._addresses[name]

    @cached_property
    def optimised_ir(self) -> str:
        return str(binding.parse_bitcode(self._optimised)) if self._optimised else ""

    @cached_property
    def assembly(self) -> str:
        machine = _machine(self._isa)
        return machine.emit_assembly(binding.parse_bitcode(self._optimised))


def build(module: llvm.Module, functions: Sequence[str], isa: Isa) -> Code:
    """Optimise and load. Raises CompileError with the IR as log when LLVM refuses it."""
    started = time.perf_counter()
    _initialise()
    machine = _machine(isa)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    text = str(module)
    try:
        parsed = binding.parse_assembly(text)
        parsed.verify()
    except RuntimeError as error:
        raise CompileError(f"LLVM refuses the generated IR: {error}", log=text) from None
    # Kernels are written as vectors and without waste, so this does all that LLVM's own pipeline
    # would (measured: the same speed), in a sixth of the time.
    passes = binding.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    tuning = binding.create_pipeline_tuning_options(speed_level=2)
    passes.run(parsed, binding.create_pass_builder(machine, tuning))
    optimised = parsed.as_bitcode()
    engine = binding.create_mcjit_compiler(parsed, machine)
    made: list[bytes] = []
    engine.set_object_cache(lambda module, binary: made.append(binary))
    engine.finalize_object()
    addresses = {name: engine.get_function_address(name) for name in functions}
    seconds = time.perf_counter() - started
    return Code(text, made[0], seconds, addresses, isa, optimised, engine)


def load(binary: bytes, functions: Sequence[str], isa: Isa) -> Code:
    """What `build` made, from its object file."""
    started = time.perf_counter()
    _initialise()
    engine = binding.create_mcjit_compiler(binding.parse_assembly(""), _machine(isa))
    engine.add_object_file(binding.ObjectFileRef.from_data(binary))
    engine.finalize_object()
    addresses = {name: engine.get_function_address(name) for name in functions}
    return Code("", binary, time.perf_counter() - started, addresses, isa, b"", engine)


def _machine(isa: Isa) -> Any:
    target = binding.Target.from_default_triple()
    return target.create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=2, codemodel="jitdefault", jit=True
    )


def _initialise() -> None:
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
