"""MLIR contexts, parsing, verifying and printing: what knows how jaxlib binds MLIR."""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import io
import re
from collections.abc import Collection, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anychip.core.errors import InputError, UnsupportedError, UsageError


def context() -> Any:
    """A fresh MLIR context with StableHLO, CHLO, func and Shardy loaded."""
    from jaxlib.mlir import ir
    from jaxlib.mlir._mlir_libs import _jax_mlir_ext
    from jaxlib.mlir.dialects import chlo, sdy, stablehlo

    class Context(ir.Context):
        # The parent's constructor loads every dialect linked into the binary; we need five.
        def __init__(self, *args: Any, **kwargs: Any):
            super(ir.Context, self).__init__(*args, **kwargs)

    registry = ir.DialectRegistry()
    _jax_mlir_ext.register_dialects(registry)
    made = Context()
    made.append_dialect_registry(registry)
    made.load_all_available_dialects()
    for dialect in (stablehlo, chlo, sdy):
        dialect.register_dialect(made)
    made.allow_unregistered_dialects = True  # module attributes named `anychip.…`
    return made


def parse(source: str | bytes | Path, *, path: str = "", foreign: Collection[str] = ()) -> Any:
    """Parse StableHLO text, MLIR bytecode or a portable artifact in a fresh context and verify it.

    A Path is a file of text, whose ops know their lines in it.
    The result keeps its context alive (`module.context`). Raises InputError with MLIR's own
    message, which names line and column, and for ops of dialects other than those of `context`,
    except the `foreign` ones, which the caller replaces.
    """
    from jaxlib.mlir import ir

    made = context()
    with made:
        try:
            if isinstance(source, bytes) and source.startswith(_PORTABLE):
                module = _deserialise(made, source)
            elif isinstance(source, Path):
                module = ir.Module.parseFile(str(source))
            else:
                module = ir.Module.parse(source)
            module.operation.verify()
        except (ir.MLIRError, ValueError) as error:
            raise InputError(f"not valid StableHLO: {error}", path=path) from None
        _check_ops(module, path, foreign)
        return module


_PORTABLE = b"ML\xefR\rStableHLO_v"


def _deserialise(made: Any, source: bytes) -> Any:
    from jaxlib.mlir.dialects import stablehlo

    with _messages(made):
        return stablehlo.deserialize_portable_artifact(made, source)


def to_portable(bytecode: bytes, *, weeks_back: bool = False) -> bytes:
    """A portable artifact, which later StableHLO versions read; CHLO ops become StableHLO.

    With `weeks_back`, one that readers as old as 12 weeks understand too.
    Raises UnsupportedError for what such artifacts cannot hold.
    """
    from jaxlib.mlir.dialects import stablehlo

    lowered = run_passes(bytecode, "builtin.module(func.func(chlo-legalize-to-stablehlo))")
    with opened(lowered) as module:  # a private copy: serialising changes the module it is given
        try:
            with _messages(module.context):
                version = stablehlo.get_current_version()
                if weeks_back:
                    requirement = stablehlo.StablehloCompatibilityRequirement.WEEK_12
                    version = stablehlo.get_version_from_compatibility_requirement(requirement)
                return stablehlo.serialize_portable_artifact(module, version)
        except ValueError as error:
            raise UnsupportedError(f"cannot be written as a portable artifact: {error}") from None


@contextmanager
def _messages(context: Any) -> Generator[None]:
    """Adds MLIR's own messages to a ValueError, instead of their being printed."""
    messages: list[str] = []

    def note(diagnostic: Any) -> bool:
        messages.append(f"{diagnostic.message} at {diagnostic.location}")
        return True  # not printed

    handler = context.attach_diagnostic_handler(note)
    try:
        yield
    except ValueError as error:
        raise ValueError("; ".join([str(error), *messages])) from None
    finally:
        handler.detach()


def _check_ops(module: Any, path: str, foreign: Collection[str]) -> None:
    """Contexts let unregistered dialects in, for attributes' sake; their ops stay out."""
    from jaxlib.mlir import ir

    strangers: list[str] = []
    known: set[str] = set(foreign)

    def visit(op: Any) -> Any:
        if op.name in known or module.context.is_registered_operation(op.name):
            known.add(op.name)
            return ir.WalkResult.ADVANCE
        strangers.append(f"{op.name} at {op.location}")
        return ir.WalkResult.INTERRUPT

    module.operation.walk(visit)
    if strangers:
        raise InputError(f"{strangers[0]} is no op of StableHLO, CHLO, func or Shardy", path=path)


@contextmanager
def opened(bytecode: bytes) -> Generator[Any]:
    """The parsed module, with its context entered, for the length of a `with` block."""
    module = parse(bytecode)
    with module.context:
        yield module


def ops_named(module: Any, *names: str) -> list[Any]:
    """Every op of these names in a parsed module, those in regions too."""
    from jaxlib.mlir import ir

    found: list[Any] = []

    def visit(op: Any) -> Any:
        if op.name in names:
            found.append(op)
        return ir.WalkResult.ADVANCE

    module.operation.walk(visit)
    return found


def to_bytecode(module: Any) -> bytes:
    """MLIR bytecode with locations."""
    buffer = io.BytesIO()
    module.operation.write_bytecode(buffer)
    return buffer.getvalue()


def to_text(module: Any, *, locations: bool = False, elide_over: int | None = None) -> str:
    """Assembly text. `elide_over` hides constants with more elements than that (not parseable)."""
    options: dict[str, Any] = {"enable_debug_info": locations}
    if elide_over is not None:
        options["large_elements_limit"] = elide_over
    return module.operation.get_asm(**options)


def run_passes(bytecode: bytes, pipeline: str) -> bytes:
    """Run an MLIR pass pipeline (`"builtin.module(stablehlo-refine-shapes)"`) on a copy."""
    from jaxlib.mlir import ir, passmanager
    from jaxlib.mlir.dialects import stablehlo

    stablehlo.register_stablehlo_passes()
    with opened(bytecode) as module:
        try:
            manager = passmanager.PassManager.parse(pipeline)
        except ValueError as error:
            raise UsageError(f"no such pass pipeline: {error}") from None
        try:
            manager.run(module.operation)
        except ir.MLIRError as error:
            raise InputError(f"pass pipeline {pipeline} failed: {error}") from None
        return to_bytecode(module)


_TENSOR = re.compile(r"^tensor<((?:(?:\d+|\?)x)*)(.+)>$")


def tensor_type(text: str) -> tuple[tuple[int | None, ...], str]:
    """Shape and element type of `tensor<2x?xf32>`; None stands for a dynamic size."""
    match = _TENSOR.match(text)
    if match is None:
        raise InputError(f"{text} is not a tensor type")
    sizes = tuple(None if d == "?" else int(d) for d in match[1].split("x")[:-1])
    element = match[2].split(", #")[0].split(", {")[0]  # drop an encoding such as #stablehlo.bounds
    return sizes, element
