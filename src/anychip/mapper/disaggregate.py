"""Disaggregated serving: prompts on some copies of a model, answers on others, a queue between.

Arrivals wait in one queue for whichever prefill copy is free next. A prompt's first token leaves
from there; its cache follows over the copy's link, one cache after another, and holds its room
until it is gone. A decode copy takes it at its next step: of those with room the one with fewest
answers, and where none has, it waits in one queue for the first that does. After Zhong et al.,
"DistServe", OSDI 2024, and NVIDIA Dynamo's prefill queue.

Events have a total order (time, serial); at one moment all of them happen before any step starts.
Decode copies leap over steps in which nothing happens, and a leap is cut when a cache comes in.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from anychip.core import UsageError
from anychip.mapper.pace import Pace
from anychip.mapper.serving import Demand, Guessing, Served, Stack, steps_to


@dataclass(frozen=True, kw_only=True)
class Split:
    """`prefill` copies hand caches to `decode` copies: each is under way for `handover_s`, then as
    long as its bytes take at `handover_bytes_per_s` of every chip."""

    prefill: int
    decode: int
    handover_s: float = 0.0
    handover_bytes_per_s: float = np.inf

    def __post_init__(self) -> None:
        if self.prefill < 1 or self.decode < 1:
            raise UsageError("disaggregated serving needs a copy for prompts and one for answers")
        if self.handover_s < 0 or not self.handover_bytes_per_s > 0:
            raise UsageError("a handover takes no negative time, and its link has bandwidth")


def serve_apart(
    pace: Pace, stack: Stack, demand: Demand, split: Split, guessing: Guessing | None = None
) -> Served:
    """Serve a demand to its end. Raises UsageError for a request that finds no room."""
    return _Halves(pace, stack, demand, split, guessing or Guessing()).run()


@dataclass
class _Prefill:
    """A copy that computes prompts. `line` are [request, tokens done], `link_s` is until when its
    link is busy, `out_s` until when its front end hands out tokens."""

    line: deque[list[int]] = field(default_factory=deque[list[int]])
    chunks: list[int] = field(default_factory=list[int])
    held: float = 0.0
    link_s: float = 0.0
    out_s: float = 0.0


@dataclass
class _Decode:
    """A copy that computes answers. `ends` is a heap of (turn, request), `coming` was given to it
    in the middle of a step. A leap of `many` steps began at `since`, the first of which takes
    `first` and each later one `growth` more; `version` tells it from those that were cut."""

    ends: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    coming: list[int] = field(default_factory=list[int])
    held: float = 0.0
    context: float = 0.0
    turn: int = 0
    many: int = 0
    since: float = 0.0
    first: float = 0.0
    growth: float = 0.0
    version: int = 0
    out_s: float = 0.0

    @property
    def answers(self) -> int:
        return len(self.ends) + len(self.coming)

    def leap_s(self) -> float:
        return self.many * (self.first + self.growth * (self.many - 1) / 2)


class _Halves:
    """One simulation in the making."""

    def __init__(
        self, pace: Pace, stack: Stack, demand: Demand, split: Split, guessing: Guessing
    ) -> None:
        self.pace, self.stack, self.split, self.guessing = pace, stack, split, guessing
        self.prompts = [int(n) for n in demand.prompts]
        self.answers = [int(n) for n in demand.answers]
        self.demand = demand
        count = len(self.prompts)
        self.arrived, self.first, self.ended = (np.zeros(count) for _ in range(3))
        self.prefills = [_Prefill() for _ in range(split.prefill)]
        self.decodes = [_Decode() for _ in range(split.decode)]
        self.waiting: deque[int] = deque()  # for a prefill copy
        self.between: deque[int] = deque()  # for a decode copy
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.places = max(1, stack.sequences - stack.reserved)
        self.now = self.busy = self.door_s = 0.0
        self.serial = self.steps = self.coming = self.decoded = 0
        self._check_room()

    def run(self) -> Served:
        times = self.demand.arrivals_s
        if times is None:
            for _ in range(self.demand.concurrency):
                self._arrive(0.0)
        else:
            for when in times:
                self._arrive(float(when))
        while self.events:
            self.now = self.events[0][0]
            while self.events and self.events[0][0] <= self.now:
                heapq.heappop(self.events)[2]()
            for one in self.prefills:
                if not one.chunks:
                    self._start_prefill(one)
            for one in self.decodes:
                if not one.many:
                    self._start_decode(one)
        return Served(
            arrived_s=self.arrived,
            first_s=self.first,
            ended_s=self.ended,
            tokens=np.array(self.answers),
            steps=self.steps,
            busy_s=self.busy,
            decode_steps=sum(one.turn for one in self.decodes),
            decoded=self.decoded,
        )

    def _check_room(self) -> None:
        for prompt, answer in zip(self.prompts, self.answers, strict=True):
            if prompt + self.stack.held * answer > self.pace.cache_tokens:
                raise UsageError(
                    f"a request of {prompt} + {answer} tokens needs more KV cache than the "
                    f"{self.pace.cache_tokens:.0f} tokens there is room for"
                )

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (when, self.serial, what))
        self.serial += 1

    def _arrive(self, when: float) -> None:
        """The next request comes; the front end takes it in after those before it."""
        if self.coming < len(self.prompts):
            id = self.coming
            self.coming += 1
            self.arrived[id] = when
            self.door_s = max(self.door_s, when) + self.stack.request_s
            self._at(self.door_s, lambda: self.waiting.append(id))

    def _end(self, id: int, when: float) -> None:
        self.ended[id] = when
        if self.demand.arrivals_s is None:
            self._at(max(when, self.now), lambda: self._arrive(when))

    def _start_prefill(self, one: _Prefill) -> None:
        """Fill a step: prompts under way first, then the queue's head while there is room."""
        left, chunks = self.stack.step_tokens, list[tuple[int, int]]()
        place = 0
        while left > 0:
            if place == len(one.line) and not self._take(one):
                break
            id, done = one.line[place]
            rest = self.prompts[id] - done
            if rest > left and not self.stack.chunks and chunks:
                break
            chunks.append((min(rest, left), done))
            left -= chunks[-1][0]
            place += 1
        if not chunks:
            return
        one.chunks = [size for size, _ in chunks]
        seconds = self.pace.step_s(0, 0.0, chunks, self.stack.prompt_slower)
        seconds = max(seconds, self.stack.eager_layer_s * self.pace.layers)
        seconds = self.stack.step_s(seconds, len(chunks))
        self._count(seconds, 1)
        self._at(self.now + seconds, lambda: self._end_prefill(one, seconds))

    def _take(self, one: _Prefill) -> bool:
        """The queue's head to this copy, if it has room."""
        if not self.waiting or len(one.line) >= self.places:
            return False
        need = self.prompts[self.waiting[0]]
        if one.held + need > self.pace.cache_tokens:
            return False
        one.held += need
        one.line.append([self.waiting.popleft(), 0])
        return True

    def _end_prefill(self, one: _Prefill, seconds: float) -> None:
        chunks, one.chunks = one.chunks, []
        each = len(chunks) * self.stack.stream_s
        one.out_s = max(one.out_s, self.now - seconds) + each
        one.out_s = max(one.out_s, self.now + each)
        for size in chunks:
            head = one.line[0]
            head[1] += size
            if head[1] < self.prompts[head[0]]:
                break
            one.line.popleft()
            self._hand_over(one, head[0])

    def _hand_over(self, one: _Prefill, id: int) -> None:
        """The first token goes out; the cache goes where the others will be made."""
        self.first[id] = max(one.out_s, self.now)
        if self.answers[id] == 1:
            one.held -= self.prompts[id]
            self._end(id, float(self.first[id]))
            return
        moved = self.prompts[id] * self.pace.token_bytes / self.split.handover_bytes_per_s
        one.link_s = max(one.link_s, self.now) + moved

        def gone() -> None:
            one.held -= self.prompts[id]

        self._at(one.link_s, gone)
        self._at(one.link_s + self.split.handover_s, lambda: self._handed(id))

    def _need(self, id: int) -> float:
        return self.prompts[id] + self.stack.held * self.answers[id]

    def _handed(self, id: int) -> None:
        self.between.append(id)
        self._deal()

    def _deal(self) -> None:
        """Caches that came in to the copies with room, in order; a copy in a leap ends it with the
        step that runs."""
        while self.between:
            need = self._need(self.between[0])
            able = [
                one
                for one in self.decodes
                if one.answers < self.places and one.held + need <= self.pace.cache_tokens
            ]
            if not able:
                return
            one = min(able, key=lambda copy: copy.answers)
            one.held += need
            one.coming.append(self.between.popleft())
            if one.many:
                self._cut(one)

    def _cut(self, one: _Decode) -> None:
        many = max(1, steps_to(self.now - one.since, one.first, one.growth))
        if many < one.many:
            one.many = many
            self._schedule(one)

    def _start_decode(self, one: _Decode) -> None:
        for id in one.coming:
            steps = max(1, round((self.answers[id] - 1) / self.guessing.given))
            heapq.heappush(one.ends, (one.turn + steps, id))
            one.context += self.prompts[id] + 1
        one.coming.clear()
        if not one.ends:
            return
        count, given = len(one.ends), self.guessing.given
        one.since, one.many = self.now, one.ends[0][0] - one.turn
        chip_s = self.guessing.step_s(self.pace, count, one.context)
        later = self.guessing.step_s(self.pace, count, one.context + count * given)
        one.first = self.stack.step_s(chip_s, count)
        one.growth = self.stack.step_s(later, count) - one.first
        self._schedule(one)

    def _schedule(self, one: _Decode) -> None:
        one.version += 1
        version = one.version
        self._at(one.since + one.leap_s(), lambda: self._end_decode(one, version))

    def _end_decode(self, one: _Decode, version: int) -> None:
        if version != one.version:
            return  # cut since
        count, many, seconds = len(one.ends), one.many, one.leap_s()
        one.many = 0
        self._count(seconds, many)
        each = count * self.guessing.given * self.stack.stream_s
        backlog = max(one.out_s - one.since, 0.0)
        one.out_s = one.since + max(backlog + many * each, seconds + each)
        one.turn += many
        self.decoded += count * many
        one.context += count * self.guessing.given * many
        while one.ends and one.ends[0][0] <= one.turn:
            _, id = heapq.heappop(one.ends)
            one.context -= self.prompts[id] + 1 + (self.answers[id] - 1)
            one.held -= self._need(id)
            self._end(id, max(one.out_s, self.now))
        if not one.ends:
            one.context = 0.0
        self._deal()

    def _count(self, seconds: float, steps: int) -> None:
        self.busy += seconds
        self.steps += steps
