"""Module: one verified StableHLO program with named arguments, lazy weights and op origins."""

# The MLIR bindings are untyped.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from anychip.core import ir
from anychip.core.errors import InputError, UsageError
from anychip.core.files import write_atomically
from anychip.core.refine import refine
from anychip.core.signature import Argument, Dim, Result, Role, Signature
from anychip.core.weights import Weights

_SIGNATURE = "anychip.signature"
_SOURCES = "anychip.sources"


@dataclass(frozen=True)
class Module:
    """A StableHLO program. Immutable; every change makes another Module.

    `bytecode` is MLIR bytecode with locations; its public `main` takes `signature.arguments` in
    order. Weights are arguments, never constants; `weights` holds their values by name (it may be
    empty, or shape only). `sources` is the table of user source lines that origins index.
    """

    name: str
    bytecode: bytes = field(repr=False)
    signature: Signature
    weights: Weights = Weights()
    sources: tuple[str, ...] = field(default=(), repr=False)

    @staticmethod
    def from_mlir(
        source: str | bytes | Any,
        *,
        name: str = "",
        signature: Signature | None = None,
        weights: Weights = Weights(),
        sources: tuple[str, ...] | None = None,
        path: str = "",
    ) -> Module:
        """Verify and wrap StableHLO: text, bytecode, or a parsed `ir.Module` (which is copied).

        Bytes may also be a portable artifact (`save`). The signature is taken from the argument,
        else from the module's own `anychip.signature` attribute, else made from `main`'s types
        with the names in its locations. `name` defaults to the module's symbol name.
        Raises InputError when the text does not verify or does not match the signature.
        """
        raw = source if isinstance(source, str | bytes) else ir.to_bytecode(source)
        parsed = ir.parse(raw, path=path)
        with parsed.context:
            attributes = parsed.operation.attributes
            if signature is None and _SIGNATURE in attributes:
                signature = _own(attributes, _SIGNATURE, Signature.from_json, path)
            if sources is None and _SOURCES in attributes:
                sources = _own(attributes, _SOURCES, _source_table, path)
            main = find_function(parsed, "main", path=path)
            signature = signature or _signature_of(main)
            _check_signature(main, signature, path=path)
            _set_string(attributes, _SIGNATURE, signature.to_json())
            _set_string(attributes, _SOURCES, json.dumps(list(sources or ())))
            if name:
                _set_string(attributes, "sym_name", name)
            else:
                name = _string(attributes["sym_name"]) if "sym_name" in attributes else "module"
            bytecode = ir.to_bytecode(parsed)
        return Module(name, bytecode, signature, weights, sources or ())

    def text(self, *, locations: bool = False, elide_over: int | None = None) -> str:
        """StableHLO assembly. `Module.from_mlir` of it with `locations` gives the same module."""
        with ir.opened(self.bytecode) as parsed:
            return ir.to_text(parsed, locations=locations, elide_over=elide_over)

    def opened(self):
        """`with module.opened() as parsed:` gives a private parsed copy inside its MLIR context."""
        return ir.opened(self.bytecode)

    def run_passes(self, pipeline: str) -> Module:
        """This module after an MLIR pass pipeline that leaves the signature as it is."""
        return Module.from_mlir(
            ir.run_passes(self.bytecode, pipeline),
            name=self.name,
            signature=self.signature,
            weights=self.weights,
            sources=self.sources,
        )

    def with_weights(self, weights: Weights) -> Module:
        """The same program bound to these weights (every weight argument must be present)."""
        for argument in self.signature.named("weight"):
            weight = weights[argument.name]
            if weight.shape != argument.shape or weight.dtype != argument.dtype:
                raise InputError(
                    f"weight {argument.name} should be {argument.dtype}{list(argument.shape)}, "
                    f"it is {weight.dtype}{list(weight.shape)}",
                    path=weight.source,
                )
        return replace(self, weights=weights)

    def specialise(self, dims: Mapping[str, int]) -> Module:
        """Fix every symbolic dimension.

        Raises UsageError when one is missing, unknown or below 1, or when a guard does not hold.
        """
        wanted = self.signature.symbols
        if set(dims) != set(wanted):
            raise UsageError(
                f"module {self.name} has symbolic dimensions {list(wanted)}, got {sorted(dims)}"
            )
        if small := {name: size for name, size in dims.items() if size < 1}:
            raise UsageError(f"module {self.name}: sizes must be at least 1, got {small}")
        if broken := self.signature.violated(dims):
            raise UsageError(
                f"module {self.name} holds only for {' and '.join(broken)}; got {dict(dims)}"
            )
        return self._at(dims) if wanted else self

    def _at(self, dims: Mapping[str, int]) -> Module:
        def fixed(shape: tuple[Dim, ...]) -> tuple[int, ...]:
            return tuple(dims[d] if isinstance(d, str) else d for d in shape)

        arguments = tuple(replace(a, shape=fixed(a.shape)) for a in self.signature.arguments)
        types = [f"tensor<{''.join(f'{d}x' for d in a.shape)}{a.dtype}>" for a in arguments]
        try:
            bytecode = refine(self.bytecode, types)
            results = _sized(bytecode, self.signature.results)
        except InputError as error:
            raise InputError(f"module {self.name} at dimensions {dict(dims)}: {error}") from None
        return Module.from_mlir(
            bytecode,
            name=self.name,
            signature=Signature(arguments, results),
            weights=self.weights,
            sources=self.sources,
        )

    def save(self, path: Path) -> None:
        """Write a portable StableHLO artifact (without weights) that later versions can read.

        CHLO ops are written as the StableHLO they stand for. Raises UnsupportedError for a module
        that such an artifact cannot hold.
        """
        write_atomically(path, ir.to_portable(self.bytecode))


def find_function(parsed: Any, name: str, *, path: str = "") -> Any:
    """The `func.func` with this symbol name in a parsed module, or InputError."""
    for op in parsed.body.operations:
        if (
            op.operation.name == "func.func"
            and _string(op.operation.attributes["sym_name"]) == name
        ):
            return op
    raise InputError(f"the module has no function @{name}", path=path)


def _own(attributes: Any, key: str, read: Callable[[str], Any], path: str) -> Any:
    """One of our own attributes of a module, which may come from anywhere."""
    try:
        return read(_string(attributes[key]))
    except ValueError as error:
        raise InputError(f"not what anychip writes: {error}", path=path, field=key) from None


def _source_table(text: str) -> tuple[str, ...]:
    table = json.loads(text)
    if not isinstance(table, list) or not all(isinstance(line, str) for line in table):
        raise ValueError("expected a list of strings")
    return tuple(table)


def _string(attribute: Any) -> str:
    from jaxlib.mlir import ir as mlir

    return mlir.StringAttr(attribute).value


def _set_string(attributes: Any, key: str, value: str) -> None:
    from jaxlib.mlir import ir as mlir

    attributes[key] = mlir.StringAttr.get(value)


def function_types(main: Any) -> tuple[list[str], list[str]]:
    """The types of a function's arguments and results, as text."""
    from jaxlib.mlir import ir as mlir

    kind = mlir.FunctionType(mlir.TypeAttr(main.operation.attributes["function_type"]).value)
    return [str(t) for t in kind.inputs], [str(t) for t in kind.results]


def _sized(bytecode: bytes, results: tuple[Result, ...]) -> tuple[Result, ...]:
    """`results` with the sizes that `main` gives them; InputError where one is still dynamic."""
    with ir.opened(bytecode) as parsed:
        _, outputs = function_types(find_function(parsed, "main"))
    found: list[Result] = []
    for text, result in zip(outputs, results, strict=True):
        shape, _ = ir.tensor_type(text)
        sizes = tuple(d for d in shape if d is not None)
        if len(sizes) < len(shape):
            raise InputError(f"result {result.name} keeps a dynamic size ({text})")
        found.append(replace(result, shape=sizes))
    return tuple(found)


def _argument_names(main: Any, count: int) -> list[str]:
    names: list[str] = []
    for index, argument in enumerate(main.operation.regions[0].blocks[0].arguments):
        text = str(argument.location)
        named = text[5:-2] if text.startswith('loc("') and text.endswith('")') else ""
        if not named or ":" in named:  # no name, or a place in a file
            named = f"arg{index}"
        while named in names:
            named += "_"
        names.append(named)
    return names[:count]


def _signature_of(main: Any) -> Signature:
    inputs, outputs = function_types(main)
    names = _argument_names(main, len(inputs))

    def shape(text: str, owner: str) -> tuple[tuple[int | str, ...], str]:
        sizes, element = ir.tensor_type(text)
        return tuple(f"{owner}_{i}" if d is None else d for i, d in enumerate(sizes)), element

    role: Role = "input"
    arguments = tuple(Argument(n, *shape(t, n), role) for n, t in zip(names, inputs, strict=True))
    results = tuple(Result(f"result{i}", *shape(t, f"result{i}")) for i, t in enumerate(outputs))
    return Signature(arguments, results)


def _check_signature(main: Any, signature: Signature, *, path: str) -> None:
    inputs, outputs = function_types(main)
    for what, types, declared in (
        ("argument", inputs, signature.arguments),
        ("result", outputs, signature.results),
    ):
        if len(types) != len(declared):
            raise InputError(
                f"main has {len(types)} {what}s, the signature names {len(declared)}", path=path
            )
        for text, one in zip(types, declared, strict=True):
            sizes, element = ir.tensor_type(text)
            agrees = len(sizes) == len(one.shape) and all(
                (d is None) == isinstance(s, str) and (d is None or d == s)
                for d, s in zip(sizes, one.shape, strict=True)
            )
            if not agrees or element != one.dtype:
                raise InputError(
                    f"{what} {one.name} is {text} in main but "
                    f"{one.dtype}{list(one.shape)} in the signature",
                    path=path,
                )
