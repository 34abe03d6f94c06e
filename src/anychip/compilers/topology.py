"""Compile for a chip that is not here: a PJRT plug-in's compile-only devices. Runs in a child.

API of jaxlib used, as seen in 0.10.2: `xla_client` (load_pjrt_plugin_dynamically,
initialize_pjrt_plugin, make_tfrt_tpu_c_api_device_topology, make_c_api_device_topology), a
topology's `_make_compile_only_devices`, and of its client `compile`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Topology:
    """Devices to compile for, by the plug-in in the shared library. `arguments` go to it."""

    platform: str
    library: str
    name: str
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, kw_only=True)
class Request:
    """One compile. `flags` are XLA's, by name; `devices` is how many the program is spread over.

    `data_folder` is CUDA's; XLA leaves its stages in `dump_folder`.
    """

    bytecode: bytes
    topology: Topology
    flags: Mapping[str, str] = field(default_factory=dict[str, str])
    devices: int = 1
    is_layout_free: bool = False
    data_folder: str = ""
    dump_folder: str = ""


@dataclass(frozen=True, kw_only=True)
class Compiled:
    """What a compile left. `refusal` is XLA's error when it said no; the rest is then empty.

    `executable` is empty when XLA cannot serialise it, and `unsaved` says why.
    """

    refusal: str = ""
    hlo: str = ""
    memory: str = ""
    executable: bytes = b""
    unsaved: str = ""


def compile(request: Request) -> Compiled:
    """Compile in this process; the plug-in may end it."""
    import jax
    import numpy as np
    from jaxlib import xla_client

    from anychip.core import ir

    devices = _devices(request.topology)[: request.devices]
    options = xla_client.CompileOptions()
    options.num_partitions = len(devices)
    build = options.executable_build_options
    build.num_partitions = len(devices)
    build.use_spmd_partitioning = len(devices) > 1
    build.allow_spmd_sharding_propagation_to_output = [True]
    build.use_shardy_partitioner = False
    if request.data_folder:
        build.debug_options.xla_gpu_cuda_data_dir = request.data_folder
    if request.dump_folder:
        build.debug_options.xla_dump_to = request.dump_folder
    ids = np.array([[d.id for d in devices]])
    build.device_assignment = xla_client.DeviceAssignment.create(ids)
    options.env_option_overrides = [
        (name, {"true": True, "false": False}.get(value, value))
        for name, value in request.flags.items()
    ]
    with ir.opened(request.bytecode) as parsed:
        if request.is_layout_free:
            _free_layouts(parsed)
        try:
            done = devices[0].client.compile(
                parsed,
                executable_devices=xla_client.DeviceList(tuple(devices)),
                compile_options=options,
            )
        except jax.errors.JaxRuntimeError as error:
            return Compiled(refusal=str(error))
    try:
        executable, unsaved = done.serialize(), ""
    except jax.errors.JaxRuntimeError as error:
        executable, unsaved = b"", str(error)
    return Compiled(
        hlo=done.hlo_modules()[0].to_string(),
        memory=_memory(done),
        executable=executable,
        unsaved=unsaved,
    )


def _devices(topology: Topology) -> list[Any]:
    from jaxlib import xla_client

    plugin = xla_client.load_pjrt_plugin_dynamically(topology.platform, topology.library)
    xla_client.initialize_pjrt_plugin(topology.platform)
    given = dict(topology.arguments)
    if topology.platform == "tpu":
        made: Any = xla_client.make_tfrt_tpu_c_api_device_topology(topology.name, **given)
    else:
        made = xla_client.make_c_api_device_topology(plugin, topology.name, **given)
    return made._make_compile_only_devices()


def _memory(done: Any) -> str:
    stats = done.get_compiled_memory_stats()
    return json.dumps(
        {
            "argument_bytes": stats.argument_size_in_bytes,
            "result_bytes": stats.output_size_in_bytes,
            "aliased_bytes": stats.alias_size_in_bytes,
            "temporary_bytes": stats.temp_size_in_bytes,
            "code_bytes": stats.generated_code_size_in_bytes,
        }
    )


def _free_layouts(parsed: Any) -> None:
    """Leave the layout of every argument and result to the compiler."""
    from jaxlib.mlir import ir as mlir

    from anychip.core.module import find_function

    main = find_function(parsed, "main")
    attributes = main.operation.attributes
    kind = mlir.FunctionType(mlir.TypeAttr(attributes["function_type"]).value)
    free = {"mhlo.layout_mode": mlir.StringAttr.get("auto")}
    for key, count in (("arg_attrs", len(kind.inputs)), ("res_attrs", len(kind.results))):
        empty: Sequence[Any] = [mlir.DictAttr.get({})] * count
        given = list(mlir.ArrayAttr(attributes[key])) if key in attributes else empty
        rows = [{a.name: a.attr for a in mlir.DictAttr(row)} | free for row in given]
        attributes[key] = mlir.ArrayAttr.get([mlir.DictAttr.get(row) for row in rows])
