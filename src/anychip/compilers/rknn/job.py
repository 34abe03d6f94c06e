"""In the child: RKNN-Toolkit2 builds a model, and its simulator runs it.

The toolkit has packages of its own, older than ours: their folder comes first on the path.
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np


def build(packages: str, model: str, platform: str, inputs: str = "") -> dict[str, Any]:
    """`rknn` (the compiled file), `log` (with the table of layers), and, where `inputs` names an
    .npz with arrays in order, `outputs`: an .npz of what the simulator gives for them.

    The process goes to the model's folder: the toolkit leaves graphs of its checks where it works.
    """
    sys.path.insert(0, packages)
    folder = Path(model).parent
    os.chdir(folder)
    with _log() as written:
        toolkit: Any = import_module("rknn.api").RKNN(verbose=True)
        steps = [
            ("takes no such platform", lambda: toolkit.config(target_platform=platform)),
            ("does not load the model", lambda: toolkit.load_onnx(model=model)),
            ("does not build the model", lambda: toolkit.build(do_quantization=False)),
            ("does not write the model", lambda: toolkit.export_rknn(str(folder / "made.rknn"))),
        ]
        if inputs:
            steps.append(("does not simulate", lambda: toolkit.init_runtime(target=None)))
        refusal = ""
        for what, step in steps:
            if step() != 0:
                refusal = what
                break
        outputs: list[Any] = []
        if inputs and not refusal:
            arrays = [*np.load(inputs).values()]
            layouts = ["nchw" if a.ndim == 4 else None for a in arrays]
            outputs = toolkit.inference(inputs=arrays, data_format=layouts) or []
        toolkit.release()
    made = folder / "made.rknn"
    kept = folder / "outputs.npz"
    if outputs:
        np.savez(kept, *outputs)
    return {
        "refusal": refusal,
        "rknn": made.read_bytes() if made.exists() else b"",
        "log": written[0],
        "outputs": kept.read_bytes() if outputs else b"",
    }


class _log:
    """What this process writes to standard output and error, libraries included."""

    def __enter__(self) -> list[str]:
        self._file = tempfile.TemporaryFile()
        sys.stdout.flush()
        sys.stderr.flush()
        self._kept = [os.dup(1), os.dup(2)]
        for descriptor in (1, 2):
            os.dup2(self._file.fileno(), descriptor)
        self._written: list[str] = []
        return self._written

    def __exit__(self, *_: object) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, kept in zip((1, 2), self._kept, strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)
        self._file.seek(0)
        self._written.append(self._file.read().decode(errors="replace"))
        self._file.close()
