"""StableHLO files from anyone: text, MLIR bytecode or portable artifact, older versions upgraded.

Bytes are read in a child process first, since MLIR's reader dies on some damaged files.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core import ir
from anychip.core.child import run_module
from anychip.core.dtypes import dtype, nbytes
from anychip.core.errors import CompileError, InputError, UnsupportedError
from anychip.core.module import Module, find_function, function_types
from anychip.core.signature import Argument
from anychip.core.weights import Weight, Weights
from anychip.frontends.custom_calls import check_custom_calls

LARGE_BYTES = 1024
"""Constants above this size become weights."""

_BYTECODE = b"ML\xefR"
_PORTABLE = re.compile(rb"ML\xefR\rStableHLO_v(\d+)\.(\d+)\.(\d+)")
_READ_SECONDS = 60.0
_READ_MEMORY = 6 << 30  # address space: the libraries themselves map some


def load(path: str | Path, *, name: str = "") -> Module:
    """Read a StableHLO file of any form as a Module.

    The entry is `main`, or the only public function. Argument names are those in the file's
    locations, else `arg0`, …; dynamic sizes become symbols `<argument>_<axis>`. Constants above
    1 KiB become weights, named after their place. A portable artifact of an older version is
    upgraded.

    Raises InputError for a damaged file, UnsupportedError for a newer version (both versions are
    named) and for custom calls without a meaning, all of them listed.
    """
    try:
        source = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=str(path)) from None
    return from_source(source, name=name or Path(path).stem, path=str(path), is_file=True)


def from_source(
    source: str | bytes, *, name: str = "", path: str = "", is_file: bool = False
) -> Module:
    """As `load`, for text or bytes in memory; `is_file` when `path` holds them."""
    if isinstance(source, bytes) and not source.startswith(_BYTECODE):
        try:
            source = source.decode("utf-8")
        except UnicodeDecodeError:
            raise InputError("neither StableHLO text nor MLIR bytecode", path=path) from None
    if isinstance(source, bytes):
        _check_version(source, path)
        _read_in_child(source, path)
    parsed = ir.parse(Path(path) if is_file and isinstance(source, str) else source, path=path)
    with parsed.context:
        _upgrade(parsed, path)
        _entry(parsed, path)
        module = Module.from_mlir(parsed, name=name, path=path)
    module = hoist_constants(module, source=path)
    check_custom_calls(module, path=path)
    return module


def _check_version(source: bytes, path: str) -> None:
    from jaxlib.mlir.dialects import stablehlo

    match = _PORTABLE.match(source)
    if match is None:
        return
    version = tuple(int(part) for part in match.groups())
    newest = stablehlo.get_current_version()
    oldest = stablehlo.get_minimum_version()
    text = ".".join(map(str, version))
    if version > _numbers(newest):
        raise UnsupportedError(
            f"{path} is StableHLO {text}; the installed jaxlib reads up to {newest}. "
            f"Upgrade jaxlib, or write the file for version {newest}."
        )
    if version < _numbers(oldest):
        raise UnsupportedError(
            f"{path} is StableHLO {text}; the installed jaxlib reads {oldest} to {newest}. "
            "Upgrade the file step by step with the tools that wrote it."
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _read_in_child(source: bytes, path: str) -> None:
    """Raise InputError if reading kills a process, runs out of memory or does not end."""
    with tempfile.NamedTemporaryFile(suffix=".mlirbc") as file:
        file.write(source)
        file.flush()
        try:
            run_module(
                __name__,
                [file.name],
                timeout_s=_READ_SECONDS,
                what="reading the bytecode",
                memory_bytes=_READ_MEMORY + 8 * len(source),
            )
        except CompileError as error:
            raise InputError(f"damaged MLIR bytecode: {_reason(error)}", path=path) from None


def _reason(error: CompileError) -> str:
    """What the child said of the file, or how it ended."""
    said = [line for line in error.log.splitlines() if line.startswith("InputError: ")]
    return said[-1].removeprefix("InputError: ") if said else str(error)


def _upgrade(parsed: Any, path: str) -> None:
    """Turn VHLO, the versioned form, into StableHLO; old artifacts come out of the reader as it."""
    from jaxlib.mlir import ir as mlir
    from jaxlib.mlir import passmanager
    from jaxlib.mlir.dialects import stablehlo

    if not any(op.operation.name.startswith("vhlo.") for op in parsed.body.operations):
        return
    stablehlo.register_stablehlo_passes()
    target = stablehlo.get_current_version()
    passes = f"builtin.module(vhlo-to-version{{target={target}}},vhlo-legalize-to-stablehlo)"
    try:
        passmanager.PassManager.parse(passes).run(parsed.operation)
    except mlir.MLIRError as error:
        raise InputError(f"cannot be upgraded to StableHLO {target}: {error}", path=path) from None


def _entry(parsed: Any, path: str) -> None:
    """Make sure there is a `main`: the only public function becomes it."""
    from jaxlib.mlir import ir as mlir

    functions = [op for op in parsed.body.operations if op.operation.name == "func.func"]
    names = {mlir.StringAttr(f.attributes["sym_name"]).value: f for f in functions}
    if "main" in names:
        return
    public = [n for n, f in names.items() if _is_public(f)]
    if len(public) != 1:
        raise InputError(
            f"has no function @main, and {len(public)} public ones ({', '.join(public) or 'none'})",
            path=path,
        )
    old = public[0]
    names[old].attributes["sym_name"] = mlir.StringAttr.get("main")
    for call in _calls(parsed.operation, old):
        call.attributes["callee"] = mlir.FlatSymbolRefAttr.get("main")


def _is_public(function: Any) -> bool:
    from jaxlib.mlir import ir as mlir

    if "sym_visibility" not in function.attributes:
        return True
    return mlir.StringAttr(function.attributes["sym_visibility"]).value == "public"


def _calls(operation: Any, name: str) -> list[Any]:
    from jaxlib.mlir import ir as mlir

    return [
        call
        for call in ir.ops_named(operation, "func.call")
        if mlir.FlatSymbolRefAttr(call.attributes["callee"]).value == name
    ]


def hoist_constants(module: Module, *, source: str = "") -> Module:
    """The module with the large constants of `main` as weight arguments behind the others.

    `source` is where the weights say they come from.
    """
    taken = {a.name for a in module.signature.arguments}
    weights: list[Weight] = []
    with module.opened() as parsed:
        main = find_function(parsed, "main")
        block = main.operation.regions[0].blocks[0]
        for op in list(block.operations):
            array = _large_constant(op)
            if array is None:
                continue
            name = _constant_name(op, len(weights), taken)
            value = block.add_argument(op.operation.results[0].type, op.location)
            op.operation.results[0].replace_all_uses_with(value)
            op.operation.erase()
            element = dtype(array.dtype).name
            read = lambda array=array: array  # noqa: E731
            weights.append(Weight(name, array.shape, element, read, element, array.nbytes, source))
        if not weights:
            return module
        _set_arguments(main)
        more = tuple(Argument(w.name, w.shape, w.dtype, "weight") for w in weights)
        signature = module.signature
        return Module.from_mlir(
            parsed,
            name=module.name,
            signature=replace(signature, arguments=(*signature.arguments, *more)),
            weights=Weights((*module.weights.entries, *weights)),
            sources=module.sources,
        )


def _large_constant(op: Any) -> np.ndarray | None:
    from jaxlib.mlir import ir as mlir

    from anychip.ops.attributes import decode

    if op.operation.name != "stablehlo.constant":
        return None
    sizes, element = ir.tensor_type(str(op.operation.results[0].type))
    if nbytes(tuple(s or 0 for s in sizes), element) < LARGE_BYTES:
        return None
    if dtype(element).kind == "complex":  # MLIR's Python cannot hand these out; they stay
        return None
    value = op.attributes["value"]
    if isinstance(value, mlir.DenseElementsAttr) and value.is_splat:
        return None
    array = decode(value)
    return array if isinstance(array, np.ndarray) else None


def _constant_name(op: Any, index: int, taken: set[str]) -> str:
    """The name in the constant's location, if it is one; places in files and traces are not."""
    match = re.match(r'^loc\("(\w[\w.]*)"\)$', str(op.location))
    name = match[1] if match else f"constant{index}"
    unique, serial = name, 1
    while unique in taken:
        serial += 1
        unique = f"{name}_{serial}"
    taken.add(unique)
    return unique


def _set_arguments(main: Any) -> None:
    """Bring the function's type and argument attributes in line with its block."""
    from jaxlib.mlir import ir as mlir

    block = main.operation.regions[0].blocks[0]
    _, results = function_types(main)
    kinds = [a.type for a in block.arguments]
    outputs = [mlir.Type.parse(text) for text in results]
    main.attributes["function_type"] = mlir.TypeAttr.get(mlir.FunctionType.get(kinds, outputs))
    if "arg_attrs" in main.attributes:
        given = list(mlir.ArrayAttr(main.attributes["arg_attrs"]))
        empty = mlir.DictAttr.get({})
        padded = given + [empty] * (len(kinds) - len(given))
        main.attributes["arg_attrs"] = mlir.ArrayAttr.get(padded)


def _main(path: str) -> int:
    """In the child: read the file; a message and exit 1 when it is not valid."""
    try:
        ir.parse(Path(path).read_bytes())
    except InputError as error:
        print(f"InputError: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
