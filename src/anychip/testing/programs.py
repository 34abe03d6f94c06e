"""Random small programs with their inputs: what a compiler says of them is held against the op
meanings (`agree.py`).
"""

# pyright: reportUnknownMemberType=false

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np

from anychip.core import Argument, Module, Result, Signature, Weights
from anychip.testing.writer import Value, Writer


@dataclass(frozen=True)
class RandomProgram:
    """A Module with its weights bound, and arrays for its inputs."""

    seed: int
    module: Module
    inputs: tuple[np.ndarray, ...]


def random_program(seed: int, ops: int = 24) -> RandomProgram:
    """The same program for the same numbers, always."""
    made = Writer(random.Random(seed))
    while len(made.lines) < ops:
        made.step()
    results = made.results()
    kinds = ", ".join(v.type for v in results)
    heads = ", ".join(f'{v.name}: {v.type} loc("{v.name[1:]}")' for v in made.arguments)
    body = "\n".join(f"    {line}" for line in made.lines)
    text = (
        f"module @random_{seed} {{\n  func.func public @main({heads}) -> ({kinds}) {{\n{body}\n"
        f"    return {', '.join(v.name for v in results)} : {kinds}\n  }}\n}}\n"
    )
    weights = [v for v in made.arguments if v.name.startswith("%w")]
    signature = Signature(
        tuple(
            Argument(v.name[1:], v.shape, v.element, "weight" if v in weights else "input")
            for v in made.arguments
        ),
        tuple(Result(f"r{i}", v.shape, v.element) for i, v in enumerate(results)),
    )
    numbers = np.random.default_rng(seed)
    bound = Weights.from_arrays({v.name[1:]: _array(v, numbers) for v in weights})
    module = Module.from_mlir(text, signature=signature).with_weights(bound)
    inputs = tuple(_array(v, numbers) for v in made.arguments if v not in weights)
    return RandomProgram(seed, module, inputs)


def _array(value: Value, numbers: np.random.Generator) -> np.ndarray:
    if value.element == "i32":
        return numbers.integers(0, 5, value.shape, np.int32)
    return numbers.uniform(-1, 1, value.shape).astype(np.float32)
