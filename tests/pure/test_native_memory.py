"""Placing buffers and barriers: nothing alive overlaps, and no conflict goes without a barrier."""

import random
from dataclasses import dataclass

import pytest

from anychip.compilers.native.memory import barriers, place
from anychip.compilers.native.plan import Buffer, Foreign, Operand, Outside, Task, claimed
from anychip.core import Argument, Origin


@dataclass(frozen=True)
class Work:
    """A kernel by its sharing alone."""

    units: int
    row_local: bool = False
    is_light: bool = False
    piece: int = 0
    name: str = "work"
    operands: tuple[str, ...] = ()

    def emit(self, f, isa, first, last):
        raise AssertionError("not emitted")


def task(reads, out, units=8, row_local=False, each=False, piece=0):
    operands = [Operand(b) for b in (*reads, out)]
    return Task(Work(units, row_local, piece=piece), operands, "op", Origin(), each)


def some_tasks(seed: int) -> list[Task]:
    draw = random.Random(seed)
    made: list[Buffer] = [Buffer("first", 64)]
    tasks = [task([], made[0])]
    for number in range(40):
        private = draw.random() < 0.3
        out = Buffer(f"b{number}", draw.randrange(1, 3000), private=private)
        reads = draw.sample(made, min(len(made), draw.randrange(1, 4)))
        tasks.append(task(reads, out, draw.choice([4, 8]), draw.random() < 0.5, private))
        made.append(out)
    return tasks


@pytest.mark.parametrize("seed", range(20))
def test_buffers_alive_together_do_not_overlap(seed):
    tasks = some_tasks(seed)
    layout = place(tasks)
    lives: dict[Buffer, list[int]] = {}
    for index, one in enumerate(tasks):
        for operand in one.operands:
            lives.setdefault(operand.place, []).append(index)
    for a, when in lives.items():
        end = layout.private_bytes if a.private else layout.shared_bytes
        assert layout.offsets[a] % 64 == 0
        assert layout.offsets[a] + a.nbytes <= end
        for b, other in lives.items():
            if a is b or a.private != b.private:
                continue
            if when[-1] < other[0] or other[-1] < when[0]:
                continue
            first, second = layout.offsets[a], layout.offsets[b]
            assert first + a.nbytes <= second or second + b.nbytes <= first


@pytest.mark.parametrize("seed", range(20))
def test_every_conflict_between_threads_has_a_barrier_between(seed):
    tasks = some_tasks(seed)
    layout = place(tasks)
    needed = barriers(tasks, layout)
    epoch, epochs = 0, []
    for index in range(len(tasks)):
        epoch += index in needed
        epochs.append(epoch)

    def touched(operand):
        start = layout.offsets[operand.place]
        return None if operand.place.private else range(start, start + operand.place.nbytes)

    def meet(one, other):
        a, b = touched(one), touched(other)
        return a is not None and b is not None and a.start < b.stop and b.start < a.stop

    for later, one in enumerate(tasks):
        for earlier, other in enumerate(tasks[:later]):
            if epochs[earlier] != epochs[later]:
                continue
            same_rows = one.kernel.row_local and other.kernel.row_local
            same_rows &= one.kernel.units == other.kernel.units and not (one.each or other.each)
            pairs = [(one.written, other.written)]
            pairs += [(r, other.written) for r in one.reads]
            pairs += [(one.written, r) for r in other.reads]
            for a, b in pairs:
                assert not meet(a, b) or (same_rows and a.place is b.place)


def test_a_thread_follows_itself_through_rows_without_a_barrier():
    x, y, z = (Buffer(n, 4096) for n in "xyz")
    rows = [task([x], y, row_local=True), task([y], z, row_local=True)]
    assert barriers(rows, place(rows)) == frozenset()
    mixed = [task([x], y, row_local=True), task([y], z)]
    assert barriers(mixed, place(mixed)) == {1}
    uneven = [task([x], y, row_local=True), task([y], z, units=4, row_local=True)]
    assert barriers(uneven, place(uneven)) == {1}
    anybody = [task([x], y, row_local=True, piece=1), task([y], z, row_local=True)]
    assert barriers(anybody, place(anybody)) == {1}


def test_a_cache_written_is_not_read_before_the_threads_have_met():
    cache = Outside(Argument("layers.0.k", (1, 2, 8, 16), "f32", "state"))
    out = Buffer("out", 64)
    new = Buffer("new", 64)
    tasks = [task([new], cache), task([cache], out)]
    assert barriers(tasks, place(tasks)) == {1}


def test_counters_are_cleared_before_threads_claim_by_them():
    a, b, c = (Buffer(n, 4096) for n in "abc")
    apart = [task([], a), task([], b), task([], c)]
    layout = place(apart)
    assert barriers(apart, layout) == frozenset()
    assert barriers(apart, layout, {1, 2}) == {1}
    piece = Task(Foreign("main", 0, (), ((1,), "f32", (1,))), [Operand(c)], "op", Origin())
    cut = [*apart[:2], piece, *apart[:2]]
    assert barriers(cut, place(cut), {1, 4}) == {1, 4}


def test_heavy_tasks_with_enough_units_are_claimed():
    one = Buffer("one", 64)

    def made(**what):
        each = what.pop("each", False)
        return Task(Work(**what), [Operand(one)], "op", Origin(), each)

    tasks = [
        made(units=8, piece=1),
        made(units=8),
        made(units=8, piece=1, each=True),
        made(units=7, piece=2),
        made(units=8, piece=2),
    ]
    assert claimed(tasks, 2) == (0, 4)
    assert claimed(tasks, 1) == ()
