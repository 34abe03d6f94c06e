"""Random bits and numbers. Bits are defined by their algorithm; `rng` is only a distribution."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import lax
from jax import numpy as jnp

from anychip.core.dtypes import dtype
from anychip.ops.case import case
from anychip.ops.count import moved
from anychip.ops.table import op
from anychip.ops.view import OpView
from anychip.ops.work import Work

_OPS_PER_WORD = 58
"""Integer operations behind one 32-bit word of Threefry-2x32 with 20 rounds: each round is an add,
a rotation (3) and an xor on two words, and 5 key injections add 3 words each: (20·5 + 15) / 2.
Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3 (SC11), section 3.3."""


def _bits_work(op: OpView) -> Work:
    words = -(-op.outputs[-1].nbytes // 4)
    return moved(op) + Work(flops=_OPS_PER_WORD * words)


def _bits(state: str, out: str, algorithm: str, law: Any):
    return case(
        state,
        out=(state, out),
        attributes=f"rng_algorithm = #stablehlo<rng_algorithm {algorithm}>",
        draw="bits",
        law=law,
    )


def _is_spread(state: np.ndarray, after: np.ndarray, bits: np.ndarray) -> bool:
    """The state moved on and each bit position is set in about half of the words."""
    width = bits.dtype.itemsize * 8
    shares = [float(((bits >> np.array(b, bits.dtype)) & 1).mean()) for b in range(width)]
    return bool((state != after).any() and all(abs(s - 0.5) < 0.1 for s in shares))


_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def _threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x32-20 in plain integers, from section 3.3 of the paper."""
    mask = 0xFFFFFFFF
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDA)
    x, y = (counter[0] + keys[0]) & mask, (counter[1] + keys[1]) & mask
    for group in range(5):
        for turn in _ROTATIONS[group % 2]:
            x = (x + y) & mask
            y = ((y << turn) | (y >> (32 - turn))) & mask
            y ^= x
        x = (x + keys[(group + 1) % 3]) & mask
        y = (y + keys[(group + 2) % 3] + group + 1) & mask
    return x, y


def _is_threefry(state: np.ndarray, after: np.ndarray, bits: np.ndarray) -> bool:
    """XLA hashes counters state[1], state[1] + 1, … and lays all first words before all second."""
    key, first = int(state[0]), int(state[1])
    count = bits.size // 2
    pairs = [
        _threefry(
            (key & 0xFFFFFFFF, key >> 32),
            ((first + i) & 0xFFFFFFFF, ((first + i) & (2**64 - 1)) >> 32),
        )
        for i in range(count)
    ]
    want = {word for pair in pairs for word in pair}
    return set(bits.reshape(-1).tolist()) == want and int(after[0]) == key


def _long_state(op: OpView) -> str:
    if op.inputs[0].nbytes == 16:
        return ""
    return "JAX knows states of 128 bits only; split or extend the state"


@op(
    "stablehlo.rng_bit_generator",
    unit="vector",
    work=_bits_work,
    cases=[
        _bits("ui64[2]", "ui32[6]", "THREE_FRY", _is_threefry),
        _bits("ui64[2]", "ui32[64,32]", "THREE_FRY", _is_spread),
        _bits("ui64[2]", "ui32[64,32]", "PHILOX", _is_spread),
        _bits("ui64[2]", "ui64[1024]", "DEFAULT", _is_spread),
        _bits("ui64[2]", "ui8[2048]", "THREE_FRY", _is_spread),
    ],
    refusal=_long_state,
    reference="it has no rule for this op",
)
def rng_bit_generator(op: OpView, state: Any) -> tuple[Any, ...]:
    """The next state, and bits: a pure function of the state that the algorithm defines."""
    out = op.outputs[1]
    algorithm = lax.RandomAlgorithm.__members__[f"RNG_{op.attributes['rng_algorithm']}"]
    element: Any = dtype(out.dtype).numpy
    return lax.rng_bit_generator(state, out.sizes, element, algorithm)


def _draws(element: str, distribution: str, a: float, b: float, law: Any):
    return case(
        f"{element}[]",
        f"{element}[]",
        "i64[2]",
        out=f"{element}[40,50]",
        attributes=f"rng_distribution = #stablehlo<rng_distribution {distribution}>",
        given={0: a, 1: b, 2: [40, 50]},
        law=law,
    )


def _is_uniform(low: Any, high: Any, shape: Any, x: np.ndarray) -> bool:
    wide = x.astype(np.float64)
    middle, width = (float(low) + float(high)) / 2, float(high) - float(low)
    inside = bool((wide >= float(low)).all() and (wide <= float(high)).all())
    return inside and abs(wide.mean() - middle) < 0.05 * width


def _is_normal(mean: Any, deviation: Any, shape: Any, x: np.ndarray) -> bool:
    wide = x.astype(np.float64)
    return bool(
        abs(wide.mean() - float(mean)) < 0.15 * float(deviation)
        and abs(wide.std() / float(deviation) - 1) < 0.1
    )


@op(
    "stablehlo.rng",
    unit="vector",
    work=lambda op: (
        moved(op)
        + Work(
            flops=_OPS_PER_WORD * op.outputs[0].size,
            transcendentals=op.outputs[0].size
            if op.attributes["rng_distribution"] == "NORMAL"
            else 0,
        )
    ),
    cases=[
        _draws("f32", "UNIFORM", -1, 3, _is_uniform),
        _draws("bf16", "UNIFORM", 0, 1, _is_uniform),
        _draws("i32", "UNIFORM", -5, 100, _is_uniform),
        _draws("f32", "NORMAL", 2, 3, _is_normal),
        _draws("f64", "NORMAL", 0, 1, _is_normal),
    ],
    reference="its result is random by definition",
)
def rng(op: OpView, a: Any, b: Any, shape: Any) -> Any:
    """UNIFORM numbers of [a, b), or NORMAL ones of mean a and deviation b.

    Ops of one module with different bounds or shapes draw from different streams, the same op
    draws the same numbers each time: programs that need more carry a state (rng_bit_generator).
    """
    out = op.outputs[0]
    element = dtype(out.dtype)
    key = jax.random.key(_stream(op), impl="threefry2x32")
    if op.attributes["rng_distribution"] == "NORMAL":
        return a + b * jax.random.normal(key, out.sizes, element.numpy)
    if element.kind == "float":
        return a + (b - a) * jax.random.uniform(key, out.sizes, element.numpy)
    if element.kind == "bool":
        return jax.random.bernoulli(key, 0.5, out.sizes) & jnp.asarray(b)
    return jax.random.randint(key, out.sizes, a, b, element.numpy)


def _stream(op: OpView) -> int:
    """A seed that depends only on the op's type, distribution and place in the model."""
    import zlib

    return zlib.crc32(f"{op} {op.attributes['rng_distribution']}".encode())
