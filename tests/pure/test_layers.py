"""Imports flow one way: the table below is the architecture, and a planted breach is seen."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import anychip

ROOT = Path(anychip.__file__).parent

MAY_IMPORT: dict[str, set[str]] = {
    "core": set(),
    "ops": {"core"},
    "frontends": {"core", "ops"},
    "passes": {"core", "ops"},
    "compilers": {"core", "ops", "passes"},
    "profile": {"core", "ops"},
    "debug": {"core", "ops"},
    "twin": {"core", "ops"},
    "chips": {"core", "ops", "compilers", "twin"},
    "mapper": {"core", "ops", "passes", "twin"},
    "validate": {"core", "ops", "twin", "mapper"},
    "llm": {"core", "ops", "passes", "frontends"},
    "serve": {"core", "llm", "mapper"},
    "testing": {"core", "ops"},
    "zoo": {"core"},
    "dash": {"core", "profile", "debug", "serve"},
}
"""Folder → the folders of ours it may import. `cli` and the files beside it may import all."""

DATA = {"models", "systems"}
"""Folders without Python."""

HEAVY = {"jax", "jaxlib", "torch", "tensorflow", "onnx", "transformers", "tokenizers", "jinja2"}


def imports(path: Path, package: str) -> Iterator[tuple[int, str]]:
    """(line, absolute module) of every import of a file, inside functions too.

    `from a import b` counts as a.b, for b may be a module.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def breaches(root: Path) -> list[str]:
    """`folder/file.py:line: folder must not import …` for each import the table forbids."""
    found: list[str] = []
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        folder = inside.parts[0]
        if len(inside.parts) == 1 or folder == "cli":
            continue
        package = ".".join(("anychip", *inside.parts[:-1]))
        for line, module in imports(path, package):
            parts = module.split(".")
            if parts[0] != "anychip":
                continue
            target = parts[1] if len(parts) > 1 else ""
            if target != folder and target not in MAY_IMPORT.get(folder, set()):
                found.append(f"{inside}:{line}: {folder} must not import {module}")
    return found


def test_every_folder_is_in_the_table():
    folders = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert folders - {"cli"} <= set(MAY_IMPORT)
    assert not [p for name in DATA for p in (ROOT / name).rglob("*.py")]


def test_no_import_breaks_the_table():
    assert breaches(ROOT) == []


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("core", "from anychip.twin import twin\n"),
        ("core", "import anychip.ops.walk\n"),
        ("core", "from anychip import compilers\n"),
        ("core", "import anychip\n"),
        ("ops", "def f():\n    from anychip.frontends.trace import to_module\n"),
        ("twin", "from ..chips import cpu\n"),
        ("chips/cpu", "from ...mapper import search\n"),
        ("compilers", "if True:\n    from .. import llm\n"),
        ("frontends/llm", "class A:\n    from anychip.mapper.plan import Plan\n"),
        ("dash", "from anychip.twin import twin\n"),
    ],
)
def test_planted_breach_is_seen(tmp_path, folder, code):
    place = tmp_path / "anychip" / folder
    place.mkdir(parents=True)
    (place / "planted.py").write_text("import json\n" + code)
    (breach,) = breaches(tmp_path / "anychip")
    assert breach.startswith(f"{folder}/planted.py:")
    assert "must not import anychip" in breach


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("core", "from anychip.core.errors import unknown\nfrom .errors import unknown\n"),
        ("ops", "from anychip.core import Module\nimport jax\n"),
        ("chips/cpu", "from ...twin import twin\nfrom . import host\n"),
        ("cli", "from anychip.serve import app\n"),
        ("mapper", "import anychipper\nfrom anychip.passes import fold\n"),
    ],
)
def test_allowed_import_is_no_breach(tmp_path, folder, code):
    place = tmp_path / "anychip" / folder
    place.mkdir(parents=True)
    (place / "fine.py").write_text(code)
    assert breaches(tmp_path / "anychip") == []


def _at_module_level(path: Path) -> Iterator[tuple[int, str]]:
    """Top modules imported when a file is; imports for type checkers only do not count."""

    def visit(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
        for node in body:
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name.split(".")[0]) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.lineno, node.module.split(".")[0]
            elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
                yield from visit(node.body + node.orelse)
            elif isinstance(node, ast.Try):
                yield from visit(node.body)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")).body)


@pytest.mark.parametrize("folder", ["core", "compilers", "chips", "mapper", "cli", "passes", "zoo"])
def test_frameworks_are_imported_inside_functions_only(folder):
    found = [
        f"{path.relative_to(ROOT)}:{line}: {module}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, module in _at_module_level(path)
        if module in HEAVY
    ]
    assert found == []
