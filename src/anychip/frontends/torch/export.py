"""nn.Module, TorchScript or .pt2 → an ExportedProgram decomposed to overloads with a rule."""

# Annotations of torch and transformers are partly missing or wrong:
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false

from __future__ import annotations

import io
import logging
import re
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch._dynamo.exc import UserErrorType
from torch._functorch import config as functorch_config
from torch._subclasses import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_map_only

from anychip.core.errors import InputError, UnsupportedError, UsageError
from anychip.core.origin import Origin
from anychip.core.target import OpCoverage
from anychip.frontends.torch import archive, example, numbers
from anychip.frontends.torch.table import table
from anychip.frontends.torch.unsupported import unsupported


def read(path: Path, seed: int | None = None) -> ExportedProgram:
    """A program written by torch.export.save. Raises InputError when it is none, UnsupportedError
    when it calls custom ops that nobody registered in this process, with all else in the way."""
    with archive.stand_ins(path) as unknown:
        try:
            program = torch.export.load(path)
        except Exception as error:  # torch raises RuntimeError, KeyError, … for damaged archives
            raise InputError(
                f"not a torch.export archive ({type(error).__name__}: {_first_line(error)}); write "
                "it with torch.export.save(torch.export.export(model, inputs), path)",
                path=str(path),
            ) from error
        if not unknown:
            return program
        from anychip.frontends.torch.obstacles import in_the_way

        rows = archive.take_out(program, unknown)
        raise unsupported([*rows, *in_the_way(decomposed(program), seed)])


def read_script(path: Path) -> torch.jit.ScriptModule:
    """A module written by torch.jit.save. Raises InputError for a file that holds no graph."""
    try:
        with zipfile.ZipFile(path) as file:
            is_script = any("/code/" in name for name in file.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"not a file of torch ({error})", path=str(path)) from error
    if not is_script:
        raise InputError(
            "holds tensors, or an object whose code would have to be run, but no graph; make the "
            "nn.Module, give it the weights (load_state_dict(torch.load(path))), and load that",
            path=str(path),
        )
    try:
        with _quiet():
            return torch.jit.load(path, map_location="cpu").eval()
    except Exception as error:  # torch raises RuntimeError and others for damaged archives
        raise InputError(
            f"not a TorchScript archive ({type(error).__name__}: {_first_line(error)})",
            path=str(path),
        ) from error


def capture(
    model: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dynamic_shapes: Any,
    strict: bool | None,
    *,
    follow_example: bool = False,
) -> ExportedProgram:
    """Run torch.export; without `strict` given, first without Dynamo and then with it. Where data
    is in the way, once more with the numbers that the model keeps as buffers for constants.

    With `follow_example` branches and sizes that depend on data are those of the example, and the
    program asserts them.
    Raises UnsupportedError saying where in the model and why when torch cannot capture it.
    """
    if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        return _from_script(model, args, kwargs, dynamic_shapes)
    model = as_module(model)
    _know_caches()
    failures: list[Exception] = []

    def attempt(mode: bool) -> ExportedProgram | None:
        real = functorch_config.patch(fake_tensor_propagate_real_tensors=follow_example)
        printed = io.StringIO()  # torch prints the graph it leaves unfinished
        try:
            with torch.no_grad(), _quiet(), real, redirect_stderr(printed):
                program = torch.export.export(
                    model, args, dict(kwargs), dynamic_shapes=dynamic_shapes, strict=mode
                )
            if hidden := _hidden_buffers(program):
                raise UnsupportedError(
                    f"forward reaches the buffer {hidden[0]} also through an object that is no "
                    "module, which torch.export takes for another tensor; use the attribute"
                )
            if follow_example:
                example.keep_sizes(program)
            sys.stderr.write(printed.getvalue())
            return program
        except Exception as error:  # torch.export has no error type of its own
            failures.append(error)
            return None

    for mode in (False, True) if strict is None else (strict,):
        if program := attempt(mode):
            return program
    if not strict and any(_is_about_data(failure) for failure in failures):
        with numbers.as_constants(model) as are_kept:
            program = attempt(False)
        if program is not None and are_kept():
            return program
    told = next((e for e in failures if not isinstance(e, UnsupportedError)), failures[0])
    if not _is_about_data(told) and (own := _own_failure(model, args, kwargs)):
        raise UsageError(
            f"{type(model).__name__} itself fails on these example inputs: {type(own).__name__}: "
            f"{_first_line(own)}{_at(_place(own))}"
        ) from own
    if getattr(told, "error_type", None) is UserErrorType.INVALID_INPUT:
        raise UsageError(f"torch.export: {_first_line(told)}") from told
    raise _explained(told, model) from told


def _own_failure(
    model: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Exception | None:
    """What the model raises in plain torch, its buffers as before afterwards."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    args, kwargs = tree_map_only(torch.Tensor, torch.clone, (args, dict(kwargs)))
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:  # the user's own code raises what it likes
        return error
    finally:
        for buffer, value in kept:
            buffer.data = value
    return None


def _hidden_buffers(program: ExportedProgram) -> list[str]:
    """Buffers that the program also holds as a constant; only Dynamo sees that they are one.

    transformers' StaticCache, whose tensors a module registers as buffers, is such an object.
    """
    held = {**program.state_dict, **program.constants}
    places: dict[InputKind, dict[str, int]] = {InputKind.BUFFER: {}, InputKind.CONSTANT_TENSOR: {}}
    for spec in program.graph_signature.input_specs:
        tensor = held.get(spec.target or "")
        if tensor is None or tensor.is_meta or isinstance(tensor, FakeTensor):
            continue  # torch leaves the stand-in of a buffer that forward does not read
        if spec.kind in places and tensor.numel():
            places[spec.kind][str(spec.target)] = tensor.data_ptr()
    constants = set(places[InputKind.CONSTANT_TENSOR].values())
    return [name for name, place in places[InputKind.BUFFER].items() if place in constants]


def _know_caches() -> None:
    """Let models of transformers, when it is in use, give their key-value caches as results."""
    if "transformers" in sys.modules:
        from anychip.frontends.torch import caches

        caches.register()


def as_module(model: Any) -> torch.nn.Module:
    """The module itself, or one whose forward is the function."""
    return model if isinstance(model, torch.nn.Module) else _Function(model)


class _Function(torch.nn.Module):
    """A plain function as the module torch.export wants."""

    def __init__(self, fn: Callable[..., Any]):
        super().__init__()
        self.forward = fn  # itself, so that the parameters keep their names


def _from_script(
    model: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], dynamic_shapes: Any
) -> ExportedProgram:
    from torch._export.converter import TS2EPConverter

    try:
        with torch.no_grad(), _quiet():
            converted = TS2EPConverter(model, args, dict(kwargs) or None).convert()
            return torch.export.export(
                converted.module(), args, dict(kwargs), dynamic_shapes=dynamic_shapes
            )
    except Exception as error:  # the converter raises whatever it meets
        raise UnsupportedError(
            f"this TorchScript module cannot be re-exported ({_first_line(error)}). TorchScript is "
            "deprecated in torch itself; pass the nn.Module it was made from"
        ) from error


@cache
def decompositions() -> Mapping[Any, Callable[..., Any]]:
    """torch's decompositions of every overload that has no rule here."""
    rules = table()
    all_of_them: dict[Any, Callable[..., Any]] = dict(torch._decomp.decomposition_table)
    all_of_them.update(torch.export.default_decompositions().items())
    return {op: fn for op, fn in all_of_them.items() if str(op) not in rules}


def decomposed(program: ExportedProgram) -> ExportedProgram:
    """The functional program in overloads of the table, as far as torch can decompose to them."""
    with torch.no_grad(), _quiet():
        return program.run_decompositions(dict(decompositions()))


class _quiet(warnings.catch_warnings):
    """Without what torch.export says and logs about its own insides."""

    _LOGS = (
        "torch._guards",
        "torch._subclasses.fake_tensor",
        "torch.export._trace",
        "torch.fx.experimental.symbolic_shapes",
    )

    def __enter__(self) -> Any:
        entered = super().__enter__()
        self._logged = {name: logging.getLogger(name).disabled for name in self._LOGS}
        for name in self._LOGS:
            logging.getLogger(name).disabled = True
        for message in (
            r".*LeafSpec",
            r".*were assigned during export",
            r".*was assigned during export",
            r".*is deprecated",
            r".*`torch\.jit\..*` is",
        ):
            warnings.filterwarnings("ignore", message=message)
        warnings.filterwarnings("ignore", category=FutureWarning)
        return entered

    def __exit__(self, *raised: Any) -> None:
        for name, was_disabled in self._logged.items():
            logging.getLogger(name).disabled = was_disabled
        super().__exit__(*raised)


_DATA_DEPENDENT = ("data-dependent", "GuardOnDataDependentSymNode", "unbacked")


def _is_about_data(error: Exception) -> bool:
    marked = any(mark in str(error) for mark in _DATA_DEPENDENT)
    return marked or type(error).__name__.startswith(("DataDependent", "DynamicOutput"))


def _explained(error: Exception, model: torch.nn.Module) -> UnsupportedError:
    text, origin = str(error), Origin("", _place(error))
    if _is_about_data(error):
        remedy = (
            "a size or a branch depends on the data; use torch.where or torch.cond, pass the "
            "number as a constant, or load with follow_example=True to keep the example's branches"
        )
    elif "not a known type" in text or "only `DynamicLayer`" in text:
        remedy = (
            "forward gives an object torch cannot take apart; return tensors, or pass "
            "use_cache=False to a model of transformers"
        )
    elif "dynamic" in text and "Constraints violated" in text:
        remedy = "the dynamic dimension is fixed by the model; leave it out of dynamic_shapes"
    else:
        remedy = "make forward traceable by torch.export, or use torch.compile, which splits it"
    name = type(model).__name__
    row = OpCoverage(op="torch.export", fate="unsupported", origin=origin, why=_first_line(error))
    return UnsupportedError(
        f"torch.export cannot capture {name}: {type(error).__name__}: {_first_line(error)}"
        f"{_at(origin.source)}; {remedy}",
        report=[row],
    )


def _at(place: str) -> str:
    return f" (at {place})" if place else ""


def _place(error: Exception) -> str:
    """`file:line` of the last frame that is neither torch's nor ours."""
    frames = re.findall(r'File "([^"]+)", line (\d+)', str(error))
    frames += [(f.filename, str(f.lineno)) for f in traceback.extract_tb(error.__traceback__)]
    inside = str(Path(torch.__file__).parent)
    own = [
        f"{file}:{line}"
        for file, line in frames
        if not file.startswith((inside, "<")) and "anychip/" not in file
    ]
    return own[-1] if own else ""


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
