"""The engines that bench/llm.py compares: cpu:native here, others in processes of their own."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core import CompileOptions, config, dtype

PIECE, TOKEN = 512, 5
"""Tokens of a prefill, and the one token everybody reads."""


class Peer:
    """Another engine in a child process. Raises OSError when that Python cannot run it."""

    def __init__(self, python: str, script: str, model: Path, threads: int):
        arguments = [python, str(Path(__file__).parent / script), str(model), str(threads)]
        pipe = subprocess.PIPE
        self._child = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self._child.stdout is not None
        said = self._child.stdout.readline().split(maxsplit=1)
        while said and said[0] != "ready":
            said = self._child.stdout.readline().split(maxsplit=1)
        if not said:
            raise OSError(self._error())
        self.version, self.process = said[1].strip(), self._child.pid

    def ask(self, what: str, *numbers: int) -> float:
        """Seconds."""
        return float(self.say(what, *numbers))

    def say(self, what: str, *numbers: int) -> str:
        """The line that is answered."""
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(" ".join(map(str, (what, *numbers))) + "\n")
        self._child.stdin.flush()
        answer = self._child.stdout.readline()
        if not answer:
            raise OSError(self._error())
        return answer

    def _error(self) -> str:
        assert self._child.stderr is not None
        return self._child.stderr.read().strip()[-300:]

    def close(self) -> None:
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait(timeout=60)


class Native:
    """cpu:native's steps of one model; compiled for a (context, batch) when first asked."""

    process = None

    def __init__(self, path: Path, threads: int, context: int):
        import anychip
        from anychip.compilers.native import NativeTarget
        from anychip.frontends.llm import PRECISIONS

        self._model = anychip.load(str(path))
        self._precision = replace(PRECISIONS["stored"], cache="f16")  # as llama.cpp's
        self._weights = self._model.bind(self._precision)
        self._target = NativeTarget(packed=config.read("home") / "packed")
        self._options = CompileOptions(threads=threads)
        self._context, self._steps, self._states = context, {}, {}
        started = time.perf_counter()
        self.decode = self._step(1, 1)
        self.compile_s = time.perf_counter() - started
        self.weight_bytes = sum(e.nbytes for e in self.decode.plan.image)
        self.version = f"{self._target.toolchain}, {self.decode.isa.name}"

    def _step(self, batch: int, length: int) -> Any:
        key = batch, length
        if key not in self._steps:
            context = self._context if batch == 1 else PIECE
            module = self._model.prefill(batch, length, context, self._precision)
            module = module.with_weights(self._weights)
            self._steps[key] = self._target.compile(module, self._options)
        return self._steps[key]

    def _run(self, key: tuple[int, int], length: int, start: int) -> float:
        batch = key[1]
        step = self._step(batch, length)
        if key not in self._states:
            self._states[key] = [
                np.zeros([int(d) for d in a.shape], dtype(a.dtype).numpy)
                for a in step.signature.named("state")
            ]
        inputs = np.full((batch, length), TOKEN, np.int32), np.full(batch, start, np.int32)
        started = time.perf_counter()
        _, *self._states[key] = step.run(*self._states[key], *inputs)
        return time.perf_counter() - started

    def ask(self, what: str, *numbers: int) -> float:
        """Seconds; the same questions as a peer's."""
        key = numbers[0], numbers[1]
        filled = key[0]
        if what == "prefill":
            self._run(key, filled, 0) if key not in self._states else None
            return self._run(key, filled, 0)
        if what == "decode":
            return sum(self._run(key, 1, filled + i) for i in range(numbers[2]))
        piece = PIECE if filled >= PIECE else filled
        for start in range(0, filled, piece):
            self._run(key, piece, start)
        return 0.0

    def close(self) -> None:
        pass


def reader(native: Native) -> Callable[[], float]:
    """A function that adds up all packed weights once on the same threads, and says how long that
    took."""
    from anychip.compilers.native.roof import Roof

    roof = Roof(native.decode.pool, native.decode.image.address, native.weight_bytes)

    def read() -> float:
        started = time.perf_counter()
        roof()
        return (time.perf_counter() - started) * native.weight_bytes / roof.nbytes

    return read
