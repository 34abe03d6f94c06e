"""The public names are exactly what `__all__` lists, and each can be had."""

import ast
import importlib.util
from pathlib import Path

import pytest

import anychip
import anychip.core

CORE = Path(anychip.core.__file__)


def _imported(path: Path) -> list[str]:
    """Names that a file imports at module level, `from __future__` aside."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    froms = [n for n in body if isinstance(n, ast.ImportFrom) and n.module != "__future__"]
    return [alias.asname or alias.name for node in froms for alias in node.names]


def test_core_exports_all_it_imports_and_nothing_else():
    assert sorted(anychip.core.__all__) == sorted(_imported(CORE))
    assert len(set(anychip.core.__all__)) == len(anychip.core.__all__)


@pytest.mark.parametrize("name", anychip.core.__all__)
def test_core_name_is_there(name):
    assert hasattr(anychip.core, name)


def test_core_init_only_re_exports():
    body = ast.parse(CORE.read_text(encoding="utf-8")).body
    allowed = (ast.ImportFrom, ast.Assign, ast.Expr)
    assert all(isinstance(node, allowed) for node in body)


def test_package_lists_what_it_offers():
    from anychip import _HOME

    assert anychip.__all__ == sorted(_HOME)
    assert dir(anychip) == sorted([*anychip.__all__, "__version__"])


@pytest.mark.parametrize("name", anychip.__all__)
def test_package_name_is_there(name):
    home = importlib.util.find_spec(anychip._HOME[name])
    assert home is not None
    assert getattr(anychip, name) is not None


def test_other_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = anychip.lode  # type: ignore[attr-defined]
