"""XLA's CPU client through jaxlib: compile, load, put, execute.

The only file that touches private API. Of jax it uses `_src.xla_bridge.get_backend`; of jaxlib
`xla_client` (make_cpu_client, CompileOptions, batched_device_put, DeviceList), `lapack`, and
of a client and its executables compile_and_load, (de)serialize_executable, execute_sharded,
hlo_modules and get_compiled_memory_stats. Seen in jaxlib 0.10.2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Client:
    """One PJRT client: its device, and what placing an array there takes."""

    pjrt: Any
    device: Any
    sharding: Any

    @property
    def devices(self) -> Any:
        from jaxlib import xla_client

        return xla_client.DeviceList((self.device,))


@cache  # a client owns thread pools that live as long as the process
def client(threads: int | None) -> Client:
    """The client with this many worker threads; JAX's own client for None."""
    import jax
    from jax._src import xla_bridge
    from jaxlib import xla_client

    if threads is None:
        made = xla_bridge.get_backend("cpu")
    else:
        xla_bridge.get_backend("cpu")  # registers JAX's custom calls for this platform
        before = os.environ.get("NPROC")  # the one place XLA reads its pool size from
        os.environ["NPROC"] = str(threads)
        try:
            made = xla_client.make_cpu_client()
        finally:
            os.environ.pop("NPROC")
            if before is not None:
                os.environ["NPROC"] = before
    device = made.local_devices()[0]
    return Client(made, device, jax.sharding.SingleDeviceSharding(device))


def compile(at: Client, module: Any, flags: Mapping[str, Any], dump_to: str | None = None) -> Any:
    """A loaded executable from a parsed module. Raises jax.errors.JaxRuntimeError.

    `flags` are XLA options by name with values of their own type; `dump_to` is a folder for XLA's
    dumps.
    """
    from jaxlib import xla_client

    options = xla_client.CompileOptions()
    build = options.executable_build_options
    build.use_spmd_partitioning = build.use_shardy_partitioner = True
    options.env_option_overrides = list(flags.items())
    if dump_to is not None:
        build.debug_options.xla_dump_to = dump_to
    return at.pjrt.compile_and_load(module, at.devices, options)


def load_lapack() -> None:
    """Fill the table of LAPACK kernels; calling one without it is a segmentation fault."""
    from jaxlib import lapack

    lapack.prepare_lapack_call("getrf_ffi", np.dtype(np.float32))


def serialize(at: Client, executable: Any) -> bytes:
    """The compiled code as bytes. Raises jax.errors.JaxRuntimeError where XLA cannot.

    XLA cannot for an executable that was itself loaded from bytes.
    """
    return at.pjrt.serialize_executable(executable)


def deserialize(at: Client, stored: bytes) -> Any:
    """An executable from `serialize`. Trust the bytes: they hold machine code."""
    return at.pjrt.deserialize_executable(stored, at.devices)


def put(at: Client, array: np.ndarray, *, copy: bool) -> Any:
    """A device array. Without `copy` it shares a 64-byte aligned array's memory."""
    from jax.core import ShapedArray
    from jaxlib import xla_client

    aval = ShapedArray(array.shape, array.dtype)
    return xla_client.batched_device_put(
        aval, at.sharding, [array], [at.device], force_copy=copy, enable_x64=True
    )


def execute(executable: Any, arguments: Sequence[Any]) -> list[Any]:
    """Start a run on device arrays; the arrays it returns at once fill in when it is done."""
    results = executable.execute_sharded(arguments).disassemble_into_single_device_arrays()
    return [one[0] for one in results]


def profiler_crashes() -> bool:
    """Whether starting a profile would take this process down.

    JAX loads libtpu where it is installed unless told to use the CPU only, and starting libtpu
    0.0.52's profiler is a segmentation fault without a TPU. `JAX_PLATFORMS=cpu` avoids both.
    """
    import jax

    return find_spec("libtpu") is not None and jax.config.jax_platforms != "cpu"  # pyright: ignore


def hlo_text(executable: Any) -> str:
    """The optimised HLO."""
    return executable.hlo_modules()[0].to_string()


def memory(executable: Any) -> dict[str, int]:
    """Bytes of arguments, results, results that reuse an argument's memory, and temporaries."""
    stats = executable.get_compiled_memory_stats()
    return {
        "argument_bytes": stats.argument_size_in_bytes,
        "result_bytes": stats.output_size_in_bytes,
        "aliased_bytes": stats.alias_size_in_bytes,
        "temporary_bytes": stats.temp_size_in_bytes,
        "code_bytes": stats.generated_code_size_in_bytes,
    }
