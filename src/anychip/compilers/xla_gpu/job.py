"""In the child: compile with the CUDA plug-in and gather the PTX and stages it leaves."""

from __future__ import annotations

from pathlib import Path

from anychip.compilers import topology

ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2"}
"""Else the plug-in says that there is no driver, which is the point."""

_KEPT = {"ptx": "*.ptx", "thunks": "*.thunk_sequence.txt", "buffers": "*-buffer-assignment.txt"}


def compile(request: topology.Request) -> tuple[topology.Compiled, dict[str, str]]:
    """The verdict, and what XLA left in the dump folder by stage."""
    done = topology.compile(request)
    folder = Path(request.dump_folder)
    texts = {
        stage: "\n".join(file.read_text() for file in sorted(folder.glob(pattern)))
        for stage, pattern in _KEPT.items()
    }
    return done, texts
