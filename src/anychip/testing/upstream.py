"""Upstream StableHLO conformance files: programs that check themselves, made to return both sides.

The files call `check.…` on what they computed and what they expect. No such dialect is to be had,
so each check is replaced: `main` returns all computed values, then all expected ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from anychip.core import ir
from anychip.core.errors import InputError

REDUCED = 256
"""Their tolerance is that of sums of so many terms; the files do not say how long theirs are."""


@dataclass(frozen=True)
class UpstreamCase:
    """`text` is a module whose `main` takes nothing and returns `checks` values, twice."""

    name: str
    text: str
    checks: int


def upstream_cases(folder: Path) -> Iterator[UpstreamCase | InputError]:
    """Every program of the `*.mlir` files below a folder, in order of name.

    An InputError stands for a program without a check, or whose `main` needs arguments.
    """
    for path in sorted(folder.rglob("*.mlir")):
        sections = re.split(r"^// -----.*$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for index, section in enumerate(sections):
            name = path.stem if len(sections) == 1 else f"{path.stem}#{index}"
            text = re.sub(r"^\s*//.*$", "", section, flags=re.MULTILINE)
            if not text.strip():
                continue
            try:
                yield UpstreamCase(name, *returning_checks(text))
            except InputError as error:
                yield InputError(str(error), path=str(path), field=f"program {index}")


_VALUE = r"(%[\w#]+)"
_CALLED = re.compile(
    r"(?:%\w+ = )?stablehlo\.custom_call @check\.\w+\(\s*" + _VALUE + r",\s*" + _VALUE + r"\)"
    r"[^:]*:\s*\((tensor<.*?>), tensor<.*?>\)\s*->\s*(?:tensor<i1>|\(\))"
)
_CONSTANT = re.compile(
    r"check\.expect_(?:almost_)?eq_const\s*\(?" + _VALUE + r",\s*(dense<.*?>)\)?\s*:\s*"
    r"(tensor<[^\n]*>)(?:,[^\n]*)?",
    re.DOTALL,
)
_PAIR = re.compile(
    r"check\.expect_(?:almost_eq|eq|close)\s*\(?" + _VALUE + r",\s*" + _VALUE + r"\)?"
    r"[^:\n]*:\s*(tensor<[^,\n]*>)[^\n]*"
)
_GENERIC = re.compile(
    r'"check\.\w+"\(' + _VALUE + r",\s*" + _VALUE + r"\)[^:]*?(?:max_ulp_difference[^:]*:[^:]*)?"
    r":\s*\((tensor<.*?>), tensor<.*?>\)\s*->\s*\(\)"
)
_GENERIC_CONSTANT = re.compile(
    r'"check\.\w+"\(' + _VALUE + r"\)\s*<\{[^}]*?value = (dense<.*?>) : (tensor<[^}]*?>)[,}].*"
)
_FUNCTION = re.compile(r"func\.func (?:public )?@(\w+)\(([^)]*)\)\s*(?:->\s*[^\n]*?)?\s*\{[ \t]*\n")


def returning_checks(text: str) -> tuple[str, int]:
    """The program with its checks turned into results of `main`, and how many there are.

    Raises InputError when it has none, or when `main` takes arguments.
    """
    text = _pretty(text)
    start, end, head = _checking_function(text)
    body = text[start:end]
    got: list[str] = []
    want: list[str] = []
    types: list[str] = []

    def noted(match: re.Match[str]) -> str:
        got.append(match[1])
        types.append(match[3])
        if match[2].startswith("%"):
            want.append(match[2])
            return ""
        want.append(f"%expected_{len(want)}")
        return f"{want[-1]} = stablehlo.constant {match[2]} : {match[3]}"

    for pattern in (_CALLED, _CONSTANT, _PAIR, _GENERIC, _GENERIC_CONSTANT):
        body = pattern.sub(noted, body)
    if "check." in body:
        raise InputError(f"a check is spelled in a way not known here: {_line(body, 'check.')}")
    all_types = ", ".join(types * 2)
    stop = body.rindex("return")
    lines = body[:stop].removesuffix("func.").rstrip()
    returned = f"\n  return {', '.join(got + want)} : {all_types}\n"
    header = f"func.func public @main() -> ({all_types}) {{\n"
    return text[:head] + header + lines + returned + text[end:], len(got)


def _pretty(text: str) -> str:
    """The program in MLIR's short form, whatever form it came in.

    Text with the short form of `check.…` ops, which only their dialect can read, stays as it is.
    """
    if re.search(r"^\s*check\.", text, flags=re.MULTILINE):
        return text
    return ir.to_text(ir.parse(text, foreign=re.findall(r'"(check\.\w+)"', text)))


def _checking_function(text: str) -> tuple[int, int, int]:
    """Where the body of the function with the checks starts and ends, and where its head does."""
    found = list(_FUNCTION.finditer(text))
    ends = [match.start() for match in found[1:]] + [len(text)]
    for match, limit in zip(found, ends, strict=True):
        if "check." not in text[match.end() : limit]:
            continue
        if match[2].strip():
            raise InputError(f"@{match[1]} takes arguments, so the file lacks its inputs")
        end = _closing(text, match.end())
        return match.end(), end, match.start()
    raise InputError("the program checks nothing")


def _closing(text: str, start: int) -> int:
    """The position of the brace that closes the one before `start`."""
    depth = 1
    for index in range(start, len(text)):
        depth += (text[index] == "{") - (text[index] == "}")
        if depth == 0:
            return index
    raise InputError("a function is not closed")


def _line(text: str, part: str) -> str:
    return next(line.strip() for line in text.splitlines() if part in line)
