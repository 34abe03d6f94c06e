"""Where toolchains are installed that are not to be among the packages: in folders of their own.

JAX opens every PJRT plug-in among its packages when it starts, and both libtpu and the CUDA plug-in
then complain of the missing device. `pip install --target` keeps them apart; an environment that
has them among its packages works too.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, DistributionFinder, MetadataPathFinder
from pathlib import Path

from anychip.core import SetupError


@dataclass(frozen=True)
class Toolchain:
    """A pip package with the compiler in it. `pins` are the requirements seen working together."""

    name: str
    distribution: str
    library: str
    pins: tuple[str, ...]
    unlocks: str = ""

    @property
    def folder(self) -> Path:
        """The folder of its own."""
        return Path(sys.prefix) / "share" / "anychip" / self.name

    @property
    def installed(self) -> Installed | None:
        return _find(self)

    def need(self, purpose: str) -> Installed:
        """Where it is. Raises SetupError that says what to type."""
        if found := self.installed:
            return found
        raise SetupError(
            f"{purpose} needs the package {self.distribution!r}, which is not installed. Put it "
            "where JAX does not try to open it as a device: pip install --no-deps --target "
            f"{self.folder} {' '.join(self.pins)}"
        )


@dataclass(frozen=True)
class Installed:
    """A toolchain found: its version, its library, and the folder that holds its packages."""

    version: str
    library: Path
    root: Path


LIBTPU = Toolchain(
    "libtpu",
    "libtpu",
    "libtpu/libtpu.so",
    ("libtpu==0.0.52",),
    "compiling for TPU v4 to v7x without one",
)
CUDA = Toolchain(
    "cuda12",
    "jax-cuda12-pjrt",
    "jax_plugins/xla_cuda12/xla_cuda_plugin.so",
    ("jax-cuda12-pjrt==0.10.2", "nvidia-cuda-nvcc-cu12==12.9.86"),
    "compiling for NVIDIA data-centre GPUs without one",
)
TRITON = Toolchain(
    "triton",
    "triton",
    "triton/_C/libtriton.so",
    ("triton==3.9.0",),
    "single kernels for NVIDIA sm_80 to sm_100 and AMD gfx942 and gfx950 without one (1 GB)",
)
QNN = Toolchain(
    "qnn",
    "onnxruntime-qnn",
    "onnxruntime_qnn/libonnxruntime_providers_qnn.so",
    ("onnxruntime-qnn==2.7.0",),
    "compiling for Qualcomm Hexagon without one, beside onnxruntime (245 MB)",
)
RKNN = Toolchain(
    "rknn",
    "rknn-toolkit2",
    "rknn/api/rknn.py",
    (
        "rknn-toolkit2==2.5.0",
        "'setuptools<81'",
        "numpy==1.26.4",
        "onnx==1.17.0",
        "protobuf==4.25.4",
        "opencv-python-headless",
        "fast-histogram",
        "ruamel.yaml",
        "psutil",
        "tqdm",
    ),
    "compiling for Rockchip NPUs without one, with their simulator (410 MB)",
)
TOOLCHAINS = (LIBTPU, CUDA, TRITON, QNN, RKNN)
TESTED = (LIBTPU, CUDA)
"""Those that `make test` installs."""


@cache
def _find(one: Toolchain) -> Installed | None:
    for path in (str(one.folder), *sys.path):
        context = DistributionFinder.Context(name=one.distribution, path=[path])
        for found in MetadataPathFinder.find_distributions(context):
            library = _library(found, one)
            if library.exists():
                root = library.parents[len(Path(one.library).parts) - 1]
                return Installed(found.version, library, root)
    return None


def _library(found: Distribution, one: Toolchain) -> Path:
    return Path(str(found.locate_file(one.library)))
