"""Target `cpu:native`: a token step's Module to one native function for this host."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path

from anychip.compilers.cache import Cache
from anychip.compilers.native import fuse, jit, keep, memory, pack
from anychip.compilers.native.executable import Artifacts, NativeExecutable
from anychip.compilers.native.foreign import compile_pieces
from anychip.compilers.native.isa import NAMES, Isa, choose
from anychip.compilers.native.kernels.pointwise import Pointwise, Source, dense_strides
from anychip.compilers.native.plan import Buffer, Foreign, Outside, Plan, claimed
from anychip.compilers.native.pool import Pool, check_host
from anychip.compilers.native.read import Missing, Reader
from anychip.compilers.native.step import write_step
from anychip.compilers.native.threads import Choice, choose_threads
from anychip.compilers.native.view import View
from anychip.core import (
    CompileError,
    CompileOptions,
    InputError,
    Module,
    OpCoverage,
    Recipe,
    UnsupportedError,
    UsageError,
    Weights,
    unknown,
)

EXTRA = {"isa": f"which instructions to use: {', '.join(NAMES)}; default: the best this CPU has"}
"""Compile options of this target."""

STAGES = ("stablehlo", "llvm_ir", "llvm_ir_optimised", "assembly")
"""What kept code does not hold: made anew when looked at."""


@dataclass
class _Shared:
    """Images, thread pools and thread counts that executables of one target share."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    images: weakref.WeakValueDictionary[object, pack.Image] = field(
        default_factory=weakref.WeakValueDictionary
    )
    pools: weakref.WeakValueDictionary[tuple[int, str], Pool] = field(
        default_factory=weakref.WeakValueDictionary
    )
    choices: dict[tuple[str, int], Choice] = field(default_factory=dict[tuple[str, int], Choice])


@dataclass(frozen=True)
class NativeTarget:
    """Our own code generator for prefill and decode steps.

    Products with 4- and 8-bit weights round their activations to 8 bits in groups of 32; the
    ledger says where. `packed` is the folder that keeps repacked weights, and how many threads pay;
    None packs anew and takes all CPUs. `cache` keeps the code of steps whose recipe is known.
    """

    name: str = "cpu:native"
    packed: Path | None = None
    cache: Cache | None = None
    runs: bool = True
    _shared: _Shared = field(default_factory=_Shared, repr=False, compare=False)

    @property
    def toolchain(self) -> str:
        return f"anychip native, llvmlite {version('llvmlite')}"

    def compile(self, module: Module, options: CompileOptions) -> NativeExecutable:
        """Plan, pack, emit and load.

        Raises UsageError for symbolic dimensions and unknown options, UnsupportedError with a row
        for each op that has no kernel, InputError when weights are known by shape only.
        """
        with _no_collections():
            return self._compile(module, options)

    def _compile(self, module: Module, options: CompileOptions) -> NativeExecutable:
        check_host()
        isa, threads = self._options(options)
        if module.signature.symbols:
            raise UsageError(
                f"{self.name} compiles fixed shapes; module {module.name} has symbolic dimensions "
                f"{', '.join(module.signature.symbols)}. Fix them first: "
                "module.specialise({name: size, …})"
            )
        started = time.perf_counter()
        plan = plan_step(module, threads, self.name)
        planned = time.perf_counter()
        image = self._image(plan, module.weights, isa)
        packed = time.perf_counter()
        pieces = compile_pieces(plan, module, options)
        fallen = time.perf_counter()
        written = write_step(plan, isa)
        emitted = time.perf_counter()
        code = jit.build(written, ["step"], isa)
        if time.perf_counter() - started > options.timeout_s:
            raise CompileError(f"{self.name} took longer than {options.timeout_s:g} s")
        seconds = {
            "planning": planned - started,
            "packing": packed - planned,
            "cpu:xla's pieces": fallen - packed,
            "writing the IR": emitted - fallen,
            "LLVM": code.seconds,
        }
        artifacts = Artifacts(
            {
                "stablehlo": lambda: module.text(locations=True),
                "plan": plan.text,
                "llvm_ir": lambda: code.llvm_ir,
                "llvm_ir_optimised": lambda: code.optimised_ir,
                "assembly": lambda: code.assembly,
                "packed": lambda: image.note,
                "memory": image.pages,
                "seconds": lambda: _table(seconds),
                **_unkept(image.not_kept),
            }
        )
        pool = self._pool(threads, isa)
        return NativeExecutable(
            self.name, plan, module.weights, image, pool, isa, code, pieces, artifacts
        )

    def recall(self, recipe: Recipe, options: CompileOptions) -> NativeExecutable:
        """See `core.Recalls`. Steps with pieces for cpu:xla are not kept.

        Raises what `compile` raises.
        """
        check_host()
        isa, threads = self._options(options)
        if self.cache is None:
            return self.compile(recipe.build(), options)
        key = keep.key(recipe, isa, threads)
        with self.cache.locked(key, options.timeout_s) as entry:
            kept = keep.loads(entry.read())
            if kept is None:
                with _no_collections():
                    made = self._compile(recipe.build(), options)
                if not made.pieces and (why := entry.write(keep.dumps(made.plan, made.code))):
                    own = made.artifacts
                    stages = {stage: partial(_stage, own, stage) for stage in own}
                    made.artifacts = Artifacts({**stages, **_unkept(why)})
                return made
        plan, binary = kept
        image = self._image(plan, recipe.weights, isa)
        code = jit.load(binary, ["step"], isa)
        anew = cache(lambda: self.compile(recipe.build(), options))
        artifacts = Artifacts(
            {
                **{stage: partial(_artifact, anew, stage) for stage in STAGES},
                "plan": plan.text,
                "packed": lambda: image.note,
                "memory": image.pages,
                "seconds": lambda: _table({"loading kept code": code.seconds}),
                **_unkept(image.not_kept),
            }
        )
        pool = self._pool(threads, isa)
        return NativeExecutable(
            self.name, plan, recipe.weights, image, pool, isa, code, {}, artifacts
        )

    def _options(self, options: CompileOptions) -> tuple[Isa, int]:
        for name in options.extra:
            if name not in EXTRA:
                raise unknown(f"option of {self.name}", name, EXTRA)
        threads = options.threads
        if threads is None:
            threads = self.thread_choice(options).threads
        if not 1 <= threads <= 1024:
            raise UsageError(f"{self.name}: threads must be 1 to 1024, got {threads}")
        return choose(options.extra.get("isa", "")), threads

    def thread_choice(self, options: CompileOptions | None = None) -> Choice:
        """How many threads steps get when the options do not say, and why. Measured in some tenths
        of a second when `packed` holds no measurement for this host. Raises SetupError where
        cpu:native does not run."""
        check_host()
        isa = choose((options or CompileOptions()).extra.get("isa", ""))
        cpus = len(os.sched_getaffinity(0))
        with self._shared.lock:
            choice = self._shared.choices.get((isa.name, cpus))
            if choice is None:
                choice = choose_threads(self.packed, isa, cpus)
                self._shared.choices[isa.name, cpus] = choice
            return choice

    def _image(self, plan: Plan, weights: Weights, isa: Isa) -> pack.Image:
        for name in {e.argument for e in plan.image if not isinstance(e, pack.Constant)}:
            if name not in weights:
                raise InputError(
                    f"module {plan.name} has no values for weight {name}; "
                    "bind them with module.with_weights(…) before compiling"
                )
        readers = tuple(
            e if isinstance(e, pack.Constant) else (e, id(weights[e.argument].read))
            for e in plan.image
        )
        with self._shared.lock:
            image = self._shared.images.get((readers, isa))
            if image is None:
                image = pack.load(plan.image, weights, isa, self.packed)
                self._shared.images[readers, isa] = image
            return image

    def _pool(self, threads: int, isa: Isa) -> Pool:
        with self._shared.lock:
            pool = self._shared.pools.get((threads, isa.name))
            if pool is None or not pool.is_usable:
                pool = self._shared.pools[threads, isa.name] = Pool(threads, isa)
            return pool


@contextmanager
def _no_collections() -> Iterator[None]:
    """Tracing and writing code make a million objects that all stay until they end; looking among
    them for cycles finds nothing and takes a quarter of the time, JAX's own garbage hook included.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def plan_step(module: Module, threads: int, target: str = "cpu:native") -> Plan:
    """The plan of a module's main. Raises UnsupportedError listing every op without a kernel."""
    reader = Reader(threads)
    results = reader.read(module)
    for known, result in zip(results, module.signature.results, strict=True):
        if isinstance(known, Missing):
            continue
        view = reader.view(known)
        if result.updates is not None:
            is_own = isinstance(view.place, Outside) and view.place.argument.name == result.updates
            if not is_own:
                reader.refused[
                    "return", f"state {result.updates} not updated in place", reader.origin
                ] += 1
            continue
        _bind(reader, view, result.name, result.dtype)
    _refuse(reader, module, target)
    tasks = fuse.fuse_rounding(fuse.fuse_sums(reader.tasks))
    layout = memory.place(tasks)
    return Plan(
        name=module.name,
        threads=threads,
        tasks=tasks,
        barriers=memory.barriers(tasks, layout, frozenset(claimed(tasks, threads))),
        offsets=layout.offsets,
        shared_bytes=layout.shared_bytes,
        private_bytes=layout.private_bytes,
        signature=module.signature,
        coverage=reader.coverage(),
    )


def _bind(reader: Reader, view: View, name: str, element: str) -> None:
    """Let the task that makes a result write it where the caller wants it."""
    if element not in ("f32", "i32") or view.element != element:
        reader.refused["return", f"a result of {element}", reader.origin] += 1
        return
    place = view.place
    if isinstance(place, Buffer) and view.is_dense and 4 * view.size == place.nbytes:
        foreign = [t.written.place for t in reader.tasks if isinstance(t.kernel, Foreign)]
        is_ours = all(place is not one for one in foreign)
        if is_ours and not place.private and not place.result:
            place.result = name
            return
    shape = view.shape or (1,)
    source = Source(view.element, view.strides or (0,))
    out = View(Buffer(name, 4 * view.size, result=name), element, shape, dense_strides(shape))
    reader.add(Pointwise("copy", shape, (source,), (), element), view, out, each=False)


def _stage(artifacts: Mapping[str, str | bytes], stage: str) -> str:
    return str(artifacts[stage])


def _unkept(why: str) -> dict[str, Callable[[], str]]:
    return {"not_kept": lambda: why} if why else {}


def _artifact(anew: Callable[[], NativeExecutable], stage: str) -> str:
    made = anew().artifacts[stage]
    assert isinstance(made, str)
    return made


MOST_PIECES = 64
"""Falling back more often than this in one step is slower than cpu:xla from the start."""


def _refuse(reader: Reader, module: Module, target: str) -> None:
    pieces = sum(reader.fallen.values())
    if not reader.refused and pieces > MOST_PIECES:
        rows = reader.fallbacks()
        kinds = "\n".join(f"  {r.count} × {r.op} at {r.origin}: {r.why}" for r in rows[:12])
        raise UnsupportedError(
            f"{target} would leave {pieces} ops of {module.name} to cpu:xla, one by one:\n{kinds}\n"
            "Compile the whole model for cpu:xla.",
            report=tuple(replace(row, fate="unsupported", falls_back_to="") for row in rows),
        )
    if not reader.refused:
        return
    rows = tuple(
        OpCoverage(op=op, fate="unsupported", count=count, origin=origin, why=why)
        for (op, why, origin), count in reader.refused.items()
    )
    own = [row for row in rows if row.why != "its operands have no kernel"]
    lines = "\n".join(f"  {r.count} × {r.op} at {r.origin}: {r.why}" for r in own[:12])
    more = f"\n  and {len(own) - 12} more" if len(own) > 12 else ""
    raise UnsupportedError(
        f"{target} has no kernels for {len(own)} kinds of op in {module.name}:\n{lines}{more}\n"
        "Compile it for cpu:xla.",
        report=rows,
    )


def _table(seconds: Mapping[str, float]) -> str:
    return "".join(f"{name}: {value * 1e3:.1f} ms\n" for name, value in seconds.items())
