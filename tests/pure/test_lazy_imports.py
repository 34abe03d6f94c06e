"""Importing us imports no framework: the command line starts quickly and without any of them."""

import subprocess
import sys

import pytest

FRAMEWORKS = (
    "jax",
    "jaxlib",
    "torch",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "transformers",
    "keras",
)


def _loaded(code: str) -> set[str]:
    """The frameworks in `sys.modules` of a fresh interpreter after running the code."""
    report = f"import sys\n{code}\nprint(*(m for m in {FRAMEWORKS!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import anychip",
        "import anychip; dir(anychip)",
        "import anychip.core",
        "import anychip.cli",
        "import anychip.compilers.xla",
        "import anychip.chips.cpu",
        "import anychip; anychip.Module, anychip.Estimate, anychip.Precision, anychip.load",
        "import anychip; anychip.Workload, anychip.Plan, anychip.compare, anychip.chips",
        "from anychip.core import discover; discover().target('cpu:xla')",
    ],
)
def test_no_framework_is_imported(code):
    assert _loaded(code) == set()


def test_the_check_sees_a_framework():
    assert "jax" in _loaded("import jax")
