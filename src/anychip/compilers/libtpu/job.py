"""In the child: load libtpu and compile, with or without its profile of the static schedule."""

from __future__ import annotations

from pathlib import Path

from anychip.compilers import topology

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_LOG_DIR": "disabled",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
}
"""What keeps libtpu from looking for a TPU. The accelerator type says nothing of the target."""

PROFILE = "--xla_jf_dump_static_llo_profile_to="


def compile(request: topology.Request) -> topology.Compiled:
    """One compile; the verdict."""
    return topology.compile(request)


def profile(request: topology.Request, folder: str) -> tuple[topology.Compiled, str]:
    """The same with the profiler writing to `folder`; it ends the process on some programs."""
    done = topology.compile(request)
    files = sorted(Path(folder).glob("*.textproto"))
    return done, "\n".join(file.read_text() for file in files)
