"""Run what IREE compiled on this host: on the CPU in this process, on Vulkan in a child.

The child is IREE's own `iree-run-module`: its Python runtime imports host memory into Vulkan with
an alignment of 64 bytes where drivers ask for 4,096 (seen in 3.13 on Mesa's lavapipe).
"""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anychip.core import Argument, CompileError, Module, SetupError, UnsupportedError, dtype
from anychip.core.child import run_module

_TOOL = "iree._runtime.scripts.iree_run_module"


class Runner(Protocol):
    """A loaded program: all arguments in signature order (weights bound), results as numpy."""

    def __call__(self, inputs: Mapping[int, np.ndarray]) -> Sequence[np.ndarray]: ...


class OnCpu:
    """In this process. `driver` is local-task (all cores) or local-sync (the caller's thread)."""

    def __init__(self, module: Module, vmfb: bytes, driver: str):
        import iree.runtime as rt

        self._rt, self._module = rt, module
        config = rt.Config(driver)
        self._device = config.device
        context = rt.SystemContext(config=config)
        loaded = rt.VmModule.copy_buffer(config.vm_instance, vmfb)
        context.add_vm_module(loaded)
        self._main = context.modules[loaded.name]["main"]
        self._weights: dict[int, Any] | None = None
        self._lock = threading.Lock()

    def __call__(self, inputs: Mapping[int, np.ndarray]) -> Sequence[np.ndarray]:
        signature = self._module.signature
        with self._lock:  # one context, one run at a time
            if self._weights is None:
                self._weights = {i: self._put(w) for i, w in weights_of(self._module).items()}
            given = {**self._weights, **{i: self._put(x) for i, x in inputs.items()}}
            made = self._main(*(given[i] for i in range(len(signature.arguments))))
        listed = made if isinstance(made, list | tuple) else [made]
        return [
            np.asarray(one).astype(dtype(r.dtype).numpy)  # i1 comes as i8
            for one, r in zip(listed, signature.results, strict=True)
        ]

    def _put(self, array: np.ndarray) -> Any:
        raw = array.view(np.int8) if array.dtype == np.bool_ else array
        return self._rt.asdevicearray(self._device, raw)


class OnVulkan:
    """In a child each time, over files. Weights are written anew for every run."""

    def __init__(self, module: Module, vmfb: bytes, name: str, timeout_s: float):
        self._module, self._vmfb, self._name, self._timeout_s = module, vmfb, name, timeout_s

    def __call__(self, inputs: Mapping[int, np.ndarray]) -> Sequence[np.ndarray]:
        signature = self._module.signature
        given = {**weights_of(self._module), **inputs}
        with tempfile.TemporaryDirectory(prefix="anychip-vulkan-") as name:
            folder = Path(name)
            (folder / "module.vmfb").write_bytes(self._vmfb)
            words = ["--device=vulkan", f"--module={folder / 'module.vmfb'}", "--function=main"]
            for index, argument in enumerate(signature.arguments):
                file = folder / f"in{index}.bin"
                given[index].tofile(file)
                words.append(f"--input={_typed(argument)}=@{file}")
            files = [folder / f"out{index}.bin" for index in range(len(signature.results))]
            words += [f"--output=@{file}" for file in files]
            what = f"{self._name} run of {self._module.name}"
            run_module(_TOOL, words, timeout_s=self._timeout_s, what=what)
            return [
                np.fromfile(file, dtype(r.dtype).numpy).reshape([int(d) for d in r.shape])
                for file, r in zip(files, signature.results, strict=True)
            ]


def weights_of(module: Module) -> dict[int, np.ndarray]:
    """The weights by their place in the signature. The module must have values for all."""
    return {
        index: np.ascontiguousarray(module.weights[argument.name].array())
        for index, argument in enumerate(module.signature.arguments)
        if argument.role == "weight"
    }


def check_types(module: Module, target: str) -> None:
    """Raise UnsupportedError for arguments or results narrower than a byte."""
    for one in (*module.signature.arguments, *module.signature.results):
        if dtype(one.dtype).bits < 8 and dtype(one.dtype).kind != "bool":
            raise UnsupportedError(
                f"{target} compiled {module.name} but cannot run it: {one.name} is {one.dtype}, "
                "and IREE's runtime takes no arrays narrower than a byte; unpack them first"
            )


@cache
def vulkan_device() -> str:
    """The name of the first Vulkan device here. Raises SetupError where there is none."""
    try:
        listed = run_module(
            _TOOL, ["--dump_devices=vulkan"], timeout_s=60.0, what="looking for a Vulkan device"
        )
    except CompileError as error:
        raise SetupError(f"{_NO_DEVICE} ({error})") from None
    found = re.search(r"^#   (.+?)(?: \(.*)?$", listed, re.MULTILINE)
    if found is None:
        raise SetupError(_NO_DEVICE)
    return found[1]


_NO_DEVICE = (
    "vulkan:iree needs a Vulkan driver, and none was found. A GPU's driver brings one; Mesa's "
    "lavapipe runs Vulkan on any CPU: apt-get install mesa-vulkan-drivers libvulkan1"
)


def _typed(argument: Argument) -> str:
    name = "i8" if argument.dtype == "i1" else argument.dtype
    return "x".join([*(str(int(d)) for d in argument.shape), name])
