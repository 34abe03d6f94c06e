"""A chip from outside the tree: installed by pip, found by its entry point, judged like ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "acme-n1"

WITHOUT_HOST = """
from importlib.metadata import entry_points
from anychip.core import discover
registry = discover(p for p in entry_points(group="anychip.chips") if p.name != "cpu")
"""
"""`broken()` reads every spec, and the host's is measured: not what is tested here."""


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder outside the tree into which pip has installed the example package."""
    work = tmp_path_factory.mktemp("acme")
    copy = work / "acme-n1"
    shutil.copytree(EXAMPLE, copy)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--no-build-isolation", "--target", str(work / "installed"), str(copy)),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return work / "installed"


def _python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with `folder` on its path, outside the tree."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(folder), "JAX_PLATFORMS": "cpu"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def _distribution(folder: Path, package: str, chip: str, source: str) -> None:
    """Installs a package of one file by hand, as an installer would leave it."""
    folder.mkdir(exist_ok=True)
    module = package.replace("-", "_")
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[anychip.chips]\n{chip} = {module}:chip\n")


def test_an_installed_package_adds_its_chip_beside_ours(acme: Path) -> None:
    code = """
from anychip.core import discover
registry = discover()
print(registry.owners["acme-n1"], registry.chip("acme-n1").spec.title)
print(registry.systems("acme-n1")[0].counts, registry.target("acme-n1:twin").name)
print("h100" in registry.chips)
"""
    done = _python(acme, "-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "acme-n1 0.1.0 Acme N1",
        "(1, 2, 4, 8) acme-n1:twin",
        "True",
    ]


def test_compare_gives_an_installed_chip_a_row_without_any_other_edit(acme: Path) -> None:
    chips = ("--chip", "acme-n1", "--chip", "h100")
    done = _python(acme, "-m", "anychip", "compare", "llama-3.1-8b", *chips, "-f", "json")
    assert done.returncode == 0, done.stderr
    rows = {row["chip"]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["acme-n1"]["fits"]
    assert rows["acme-n1"]["target"] == "acme-n1:twin"
    assert rows["acme-n1"]["tpot_s"]["kind"] == "estimated"


def test_the_example_passes_its_own_tests(acme: Path) -> None:
    tests = acme.parent / "acme-n1" / "tests"
    done = _python(acme, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_a_package_that_does_not_import_is_listed_as_broken_and_harms_no_other(
    tmp_path: Path,
) -> None:
    _distribution(tmp_path, "apex-a1", "apex-a1", "import no_such_toolkit\n")
    code = (
        WITHOUT_HOST
        + """
print(registry.broken())
print(registry.chip("h100").spec.title)
registry.chip("apex-a1")
"""
    )
    done = _python(tmp_path, "-c", code)
    assert done.returncode != 0
    broken, title = done.stdout.splitlines()
    assert "chip 'apex-a1' of apex-a1 1.0 does not load: ModuleNotFoundError" in broken
    assert "no_such_toolkit" in broken
    assert title.startswith("NVIDIA H100")
    assert "PluginError: chip 'apex-a1' of apex-a1 1.0 does not load" in done.stderr


def test_a_package_with_a_mistyped_key_is_listed_with_file_and_field(tmp_path: Path) -> None:
    source = "from anychip.core import Chip\nchip = Chip.beside(__file__, targets={})\n"
    _distribution(tmp_path, "apex-a1", "apex-a1", source)
    spec = (EXAMPLE / "src" / "acme_n1" / "spec.toml").read_text(encoding="utf-8")
    (tmp_path / "spec.toml").write_text(spec.replace("tdp_w", "tpd_w"), encoding="utf-8")
    code = WITHOUT_HOST + "print(registry.broken()['apex-a1'])"
    done = _python(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    assert f"{tmp_path / 'spec.toml'}, tpd_w: no key named 'tpd_w'" in done.stdout
    assert "Did you mean 'tdp_w'" in done.stdout


def test_a_package_that_claims_a_name_of_ours_is_refused_by_both_names(tmp_path: Path) -> None:
    _distribution(tmp_path, "false-h100", "h100", "chip = None\n")
    done = _python(tmp_path, "-c", "from anychip.core import discover; discover()")
    assert done.returncode != 0
    assert "chip 'h100' is claimed by both" in done.stderr
    assert "false-h100 1.0" in done.stderr
    assert "anychip 0.1.0" in done.stderr
