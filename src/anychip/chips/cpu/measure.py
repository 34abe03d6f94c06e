"""Micro-benchmarks of this host, through the compiler that models run on. Some seconds in all.

Each gives samples in the unit of its key: one a repetition, none dropped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from anychip.chips.cpu.power import Power, power_meter
from anychip.compilers import pjrt

Samples = dict[str, list[float]]

_NUMPY = {"f32": np.float32, "bf16": ml_dtypes.bfloat16, "i8": np.int8}
_SUM = {"f32": "f32", "bf16": "f32", "i8": "i32"}
"""The element type in which each one's products are added up."""


def measure(cache_bytes: int, memory_bytes: int, powercap: Path | None = None) -> Samples:
    """Every figure: `read_bytes_per_s`, `matmul_f32_flops_per_s`, …; see `_benchmarks`.

    `cache_bytes` is the last-level cache, `memory_bytes` what may be used at most. `powercap` is
    the folder of the energy counters (`/sys/class/powercap`); without readable ones there are no
    `_w` and `_j` figures. The benchmarks take turns, three rounds of them, so that another
    program's burst spoils a round of some and not all of one; no round starts after 6 seconds.
    """
    made = {name: bench() for name, bench in _benchmarks(cache_bytes, memory_bytes).items()}
    samples: Samples = {name: [] for name in made}
    last_start_s = time.monotonic() + 6.0
    for turn in range(3):
        if turn and time.monotonic() > last_start_s:
            break
        for name, (run, amount) in made.items():
            is_rate = not name.endswith("_s") or name.endswith("_per_s")
            samples[name] += [amount / s if is_rate else s / amount for s in timed(run)]
    if powercap and (meter := power_meter(powercap)):
        samples["tdp_w"] = meter.limits_w()
        samples["idle_w"] = [meter.watts_of(lambda: time.sleep(0.5))[0]]
        for name, key, works in (
            ("read_bytes_per_s", "read_j_per_byte", 1),
            ("matmul_f32_flops_per_s", "mac_j", 2),  # a multiply-accumulate is two operations
        ):
            run, amount = made[name]
            samples[key] = [works * _joules(meter, run, samples["idle_w"][0]) / amount]
    return samples


def timed(run: Callable[[], object], budget_s: float = 0.08, least: int = 3) -> list[float]:
    """Seconds of repeated runs, after one to warm up: at least `least`, then until the budget."""
    run()
    seconds: list[float] = []
    while len(seconds) < least or (sum(seconds) < budget_s and len(seconds) < 50):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return seconds


def _joules(meter: Power, run: Callable[[], object], idle_w: float) -> float:
    """Joules above idle of one run, over half a second of runs."""
    rounds = max(1, int(0.5 / timed(run, 0.0, 1)[0]))
    watts, seconds = meter.watts_of(lambda: [run() for _ in range(rounds)])
    return max(0.0, watts - idle_w) * seconds / rounds


Bench = Callable[[], tuple[Callable[[], object], float]]
"""Makes (what to time, how much work that is)."""


def _benchmarks(cache_bytes: int, memory_bytes: int) -> Mapping[str, Bench]:
    large = min(max(4 * cache_bytes, 256 << 20), 1 << 30, memory_bytes // 8)
    small = max(cache_bytes // 2, 1 << 20)
    return {
        "read_bytes_per_s": lambda: read_sum(large, None),
        "read_1_thread_bytes_per_s": lambda: read_sum(large, 1),
        "cache_read_bytes_per_s": lambda: read_sum(small, None),
        **{f"matvec_{e}_bytes_per_s": lambda e=e: matvec(large // 2, e) for e in ("f32", "bf16")},
        **{f"matmul_{e}_flops_per_s": lambda e=e: _large_matmul(e) for e in _NUMPY},
        **{f"rows_64_{e}_flops_per_s": lambda e=e: matmul(64, 2048, 2048, e) for e in _NUMPY},
        "vector_flops_per_s": _vector,
        "convolution_flops_per_s": _convolution,
        "tanh_per_s": _tanh,
        "row_attention_flops_per_s": _row_attention,
        "turn_bytes_per_s": _turn,
        "fresh_write_bytes_per_s": lambda: _fill(min(64 << 20, memory_bytes // 8)),
        "kernel_small_s": lambda: _chain(16),
        "kernel_s": lambda: _chain(64),
        "step_s": lambda: _dispatch(256),
        "call_s": lambda: _dispatch(2),
    }


def read_sum(nbytes: int, threads: int | None) -> tuple[Callable[[], object], float]:
    """Adds up float32 rows of 16 KiB; (run, bytes read).

    Of rows four times as long XLA:CPU gives all to one thread, which sees a third of the machine.
    """
    rows, width = max(nbytes // (1 << 14), 1), 4096
    array = np.ones((rows, width), np.float32)
    text = f"""
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %r = stablehlo.reduce(%a0 init: %zero) applies stablehlo.add across dimensions = [1]
      : (tensor<{rows}x{width}xf32>, tensor<f32>) -> tensor<{rows}xf32>"""
    return _program(text, [array], f"tensor<{rows}xf32>", threads), float(array.nbytes)


def matvec(
    nbytes: int, element: str, threads: int | None = None
) -> tuple[Callable[[], object], float]:
    """One row times a matrix, as a token step does it; (run, bytes of the matrix).

    f32 as a dot, narrower types as multiply and reduce, which is faster on XLA:CPU than its dot.
    """
    k = 4096
    n = max(nbytes // (k * _NUMPY[element](0).nbytes), 1)
    w = np.ones((n, k), _NUMPY[element])
    if element == "f32":
        return matmul(1, k, n, element, threads)[0], float(w.nbytes)
    matrix = f"tensor<{n}x{k}x{{}}>".format
    text = f"""
  %zero = stablehlo.constant dense<0.0> : tensor<f32>
  %x = stablehlo.broadcast_in_dim %a0, dims = [1] : (tensor<{k}xf32>) -> {matrix("f32")}
  %w = stablehlo.convert %a1 : ({matrix(element)}) -> {matrix("f32")}
  %p = stablehlo.multiply %x, %w : {matrix("f32")}
  %r = stablehlo.reduce(%p init: %zero) applies stablehlo.add across dimensions = [1]
      : ({matrix("f32")}, tensor<f32>) -> tensor<{n}xf32>"""
    run = _program(text, [np.ones(k, np.float32), w], f"tensor<{n}xf32>", threads)
    return run, float(w.nbytes)


def matmul(
    m: int, k: int, n: int, element: str, threads: int | None = None
) -> tuple[Callable[[], object], float]:
    """[m, k] times the transpose of [n, k]; (run, operations)."""
    left, right = np.ones((m, k), _NUMPY[element]), np.ones((n, k), _NUMPY[element])
    out = f"tensor<{m}x{n}x{_SUM[element]}>"
    text = f"""
  %r = stablehlo.dot_general %a0, %a1, contracting_dims = [1] x [1]
      : (tensor<{m}x{k}x{element}>, tensor<{n}x{k}x{element}>) -> {out}"""
    return _program(text, [left, right], out, threads), 2.0 * m * k * n


def _large_matmul(element: str) -> tuple[Callable[[], object], float]:
    """The largest square one, up to 2048, that takes less than 0.1 s."""
    made = matmul(512, 512, 512, element)
    for size in (1024, 2048):
        if timed(made[0], 0.0, 1)[0] > 0.1 / 8:
            break
        made = matmul(size, size, size, element)
    return made


def _vector() -> tuple[Callable[[], object], float]:
    """64 multiply-and-adds on each of 2^20 float32 elements in one fused loop."""
    kind = "tensor<1048576xf32>"
    lines = [
        f"  %c = stablehlo.constant dense<0.99> : {kind}",
        f"  %d = stablehlo.constant dense<0.5> : {kind}",
        f"  %v0 = stablehlo.multiply %a0, %c : {kind}",
    ]
    for i in range(64):
        lines.append(f"  %p{i} = stablehlo.multiply %v{i}, %c : {kind}")
        lines.append(f"  %v{i + 1} = stablehlo.add %p{i}, %d : {kind}")
    lines.append(f"  %r = stablehlo.negate %v64 : {kind}")
    return _program("\n".join(lines), [np.ones(1 << 20, np.float32)], kind), 128.0 * (1 << 20)


def _convolution(size: int = 32, channels: int = 96) -> tuple[Callable[[], object], float]:
    """3 x 3 over a picture in channels-last; (run, operations)."""
    x = np.ones((1, size, size, channels), np.float32)
    w = np.ones((3, 3, channels, channels), np.float32)
    kind = f"tensor<1x{size}x{size}x{channels}xf32>"
    text = f"""
  %r = stablehlo.convolution(%a0, %a1) dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f],
      window = {{pad = [[1, 1], [1, 1]]}}
      {{batch_group_count = 1 : i64, feature_group_count = 1 : i64}}
      : ({kind}, tensor<3x3x{channels}x{channels}xf32>) -> {kind}"""
    return _program(text, [x, w], kind), 2.0 * size**2 * 9 * channels**2


def _fill(nbytes: int) -> tuple[Callable[[], object], float]:
    """Writes one number all over a new array that is too large to be kept; (run, bytes)."""
    kind = f"tensor<{nbytes // 4}xf32>"
    text = f"  %r = stablehlo.broadcast_in_dim %a0, dims = [] : (tensor<f32>) -> {kind}"
    return _program(text, [np.ones((), np.float32)], kind), float(nbytes)


def _tanh() -> tuple[Callable[[], object], float]:
    """One tanh on each of 2^20 float32 elements, which stay in the last cache; (run, elements)."""
    kind = "tensor<1048576xf32>"
    text = f"  %r = stablehlo.tanh %a0 : {kind}"
    return _program(text, [np.full(1 << 20, 0.3, np.float32)], kind), float(1 << 20)


def _turn(size: int = 512) -> tuple[Callable[[], object], float]:
    """A matrix with its axes exchanged, as a copy; (run, bytes)."""
    kind = f"tensor<{size}x{size}xf32>"
    text = f"""
  %t = stablehlo.transpose %a0, dims = [1, 0] : ({kind}) -> {kind}
  %r = stablehlo.add %t, %a1 : {kind}"""
    arrays = [np.full((size, size), 0.3, np.float32)] * 2
    return _program(text, arrays, kind), 4.0 * size * size


def _row_attention() -> tuple[Callable[[], object], float]:
    """One token's attention over a cache, by its composite's body; (run, operations)."""
    import jax

    from anychip.ops.composites import cached_attention

    heads, queries, slots, size = 4, 2, 768, 64
    held = np.full((1, heads, slots, size), 0.3, np.float32)
    q = np.full((1, heads * queries, 1, size), 0.3, np.float32)
    placed = [jax.numpy.asarray(a) for a in (q, held, held, np.full(1, slots - 1, np.int32))]
    run = jax.jit(lambda q, k, v, start: cached_attention(q, k, v, start, scale=size**-0.5))
    return lambda: run(*placed).block_until_ready(), (4.0 * size + 5) * heads * queries * slots


def _chain(size: int, count: int = 64) -> tuple[Callable[[], object], float]:
    """Small matmuls, each waiting for the one before; (run, matmuls)."""
    kind = f"tensor<{size}x{size}xf32>"
    lines = [
        f"  %v{i + 1} = stablehlo.dot_general {f'%v{i}' if i else '%a0'}, %a1, "
        f"contracting_dims = [1] x [0] : ({kind}, {kind}) -> {kind}"
        for i in range(count)
    ]
    lines.append(f"  %r = stablehlo.negate %v{count} : {kind}")
    square = np.full((size, size), 1 / size, np.float32)
    return _program("\n".join(lines), [square, square], kind), float(count)


def _dispatch(arguments: int) -> tuple[Callable[[], object], float]:
    """A call of a program that does next to nothing with its arguments; (run, calls)."""
    text = "  %r = stablehlo.add %a0, %a1 : tensor<16xf32>"
    arrays = [np.ones(16, np.float32)] * arguments
    return _program(text, arrays, "tensor<16xf32>"), 1.0


def _program(
    body: str, arrays: list[np.ndarray], result: str, threads: int | None = None
) -> Callable[[], object]:
    """`body` computes `%r` from the arguments `%a0`, `%a1`, …; running waits for the result."""
    from anychip.core import Module, dtype

    kinds = [f"tensor<{''.join(f'{d}x' for d in a.shape)}{dtype(a.dtype).name}>" for a in arrays]
    parameters = ", ".join(f"%a{i}: {kind}" for i, kind in enumerate(kinds))
    text = (
        f"module {{ func.func public @main({parameters}) -> {result} {{\n{body}\n"
        f"  return %r : {result} }} }}"
    )
    at = pjrt.client(threads)
    loaded = pjrt.compile(at, Module.from_mlir(text).bytecode, {})
    placed = [pjrt.put(at, a, copy=False) for a in arrays]
    return lambda: pjrt.execute(loaded, placed)[0].block_until_ready()
