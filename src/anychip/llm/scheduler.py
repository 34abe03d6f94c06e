"""Which tokens of which sequences go into the next step: a pure function of a state and the time.

Continuous batching: decoding sequences and chunks of prompts share a step under a token budget. No
clock, no thread, no model; an engine turns it with wall time, a simulator with virtual time:

    state = submit(start(limits), request)
    state, batch = step(state, now_s)            # what to compute
    state, ended = advance(state, batch, sampled)  # what came out

A simulator costs `batch.slices` (each says new tokens, context and kind), adds that to its clock
and gives any token for each slice that samples. A batch without slices means: nothing to do until
the next request arrives.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from anychip.core import UsageError
from anychip.llm.pages import Ledger, Pages, empty, root

Kind = Literal["prefill", "decode"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a step may hold. `pages` of `page_tokens` tokens are all the KV memory there is;
    `step_tokens` bounds the tokens of a step, `sequences` those that run side by side, `context`
    the tokens of one sequence. A request that waited `ageing_s` counts as one priority higher;
    0 turns that off."""

    pages: int
    page_tokens: int = 16
    step_tokens: int = 256
    sequences: int = 64
    context: int = 8192
    prefix_cache: bool = True
    ageing_s: float = 0.0

    def __post_init__(self) -> None:
        for name in ("pages", "page_tokens", "step_tokens", "sequences", "context"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 1")
        if self.step_tokens < self.sequences:
            raise UsageError(
                f"step_tokens = {self.step_tokens} leaves some of {self.sequences} sequences "
                "without a token in a step; raise it, or lower sequences"
            )
        if self.ageing_s < 0:
            raise UsageError(f"ageing_s = {self.ageing_s} must be 0 (off) or more")


@dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt to continue by `max_new` tokens at most. Higher `priority` goes first; between
    equals the `owner` who got least so far, then who came first. Prefixes are shared between
    requests of equal `salt`. Not finished by `deadline_s`: ended."""

    id: int
    prompt: tuple[int, ...]
    max_new: int
    arrival_s: float = 0.0
    priority: int = 0
    owner: str = ""
    salt: str = ""
    deadline_s: float | None = None


@dataclass(frozen=True, kw_only=True)
class Running:
    """A request on its way. `cached` of its tokens are in `pages`; of these pages the first
    `sealed` are full and known to the prefix cache, under `key`. `draft` are guesses at what
    follows, to be checked in the next step."""

    request: Request
    serial: int
    generated: tuple[int, ...] = ()
    pages: tuple[int, ...] = ()
    cached: int = 0
    sealed: int = 0
    key: bytes = b""
    draft: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens known, cached or not."""
        return len(self.request.prompt) + len(self.generated)

    def tokens(self, start: int, stop: int) -> tuple[int, ...]:
        prompt, many = self.request.prompt, len(self.request.prompt)
        if start >= many:
            return self.generated[start - many : stop - many]
        return (*prompt[start:stop], *self.generated[: max(stop - many, 0)])


@dataclass(frozen=True, kw_only=True)
class Slice:
    """What one sequence does in a step: `tokens` are computed at positions from `context` on, so
    many being cached before. The last `drafts` of them are guesses. `samples`: the step's logits
    of the last 1 + drafts tokens are wanted. Token i goes to page (context + i) // page_tokens of
    `pages`."""

    id: int
    tokens: tuple[int, ...]
    context: int
    pages: tuple[int, ...]
    samples: bool
    kind: Kind
    drafts: int = 0


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One step. First copy whole pages, (from, to) in this order, then compute the slices.

    `preempted` lost their pages and wait again; `ended` are over, with the reason; `hits` counts
    the prompt tokens of newly admitted sequences that need no computing.
    """

    slices: tuple[Slice, ...] = ()
    copies: tuple[tuple[int, int], ...] = ()
    preempted: tuple[int, ...] = ()
    ended: Mapping[int, str] = field(default_factory=dict[int, str])
    hits: int = 0

    @property
    def tokens(self) -> int:
        return sum(len(s.tokens) for s in self.slices)


@dataclass(frozen=True, kw_only=True)
class State:
    """Everything the scheduler knows. `served` is what each owner with requests here got."""

    limits: Limits
    pages: Pages
    running: tuple[Running, ...] = ()
    waiting: tuple[Running, ...] = ()
    served: Mapping[str, float] = field(default_factory=dict[str, float])
    serial: int = 0

    @property
    def is_idle(self) -> bool:
        return not self.running and not self.waiting


def start(limits: Limits) -> State:
    return State(limits=limits, pages=empty(limits.pages, limits.page_tokens))


def submit(state: State, request: Request) -> State:
    """The state with one more request waiting.

    Raises UsageError for one that could never run: no tokens, longer than a context, or more than
    all the pages there are.
    """
    _check(state, request)
    served = dict(state.served)
    if request.owner not in served:
        served[request.owner] = min(served.values(), default=0.0)  # coming late earns nothing
    made = Running(request=request, serial=state.serial, key=root(request.salt))
    return replace(state, waiting=(*state.waiting, made), served=served, serial=state.serial + 1)


def cancel(state: State, id: int) -> State:
    """The state without this request; unchanged when it is not there."""
    return _without(state, {id})


def propose(state: State, id: int, draft: Sequence[int]) -> State:
    """Guesses at the tokens that follow in a running sequence, tried in the next step as far as
    budget and pages allow."""
    running = tuple(
        replace(s, draft=tuple(draft)) if s.request.id == id else s for s in state.running
    )
    return replace(state, running=running)


def step(state: State, now_s: float) -> tuple[State, Batch]:
    """What to compute next. Running sequences go first, by rank, then waiting ones while budget,
    places and pages last; a running sequence that finds no page takes those of the last in rank."""
    ended = {
        s.request.id: "deadline"
        for s in (*state.running, *state.waiting)
        if s.request.deadline_s is not None and now_s >= s.request.deadline_s
    }
    state = _without(state, ended)
    plan = _Plan(state)
    plan.make_way()
    if plan.run_running():
        plan.admit_waiting()
    return plan.close(), plan.batch(ended)


def advance(
    state: State,
    batch: Batch,
    sampled: Mapping[int, Sequence[int]],
    stopped: Collection[int] = (),
) -> tuple[State, Mapping[int, str]]:
    """The state after the batch was computed, and the requests that ended with it, with the reason.

    `sampled` gives for each slice that samples the tokens that follow: the drafts that were right
    and one more. `stopped` are the requests that end with these ("stop"); others end at `max_new`
    ("length") or when their context is full ("context"). Sequences cancelled meanwhile are passed.
    """
    ledger = Ledger(state.pages)
    size, slices = state.limits.page_tokens, {s.id: s for s in batch.slices}
    running: list[Running] = []
    ended: dict[int, str] = {}
    for one in state.running:
        done = slices.get(one.request.id)
        if done is None or done.context != one.cached:
            running.append(one)
            continue
        new = tuple(sampled[one.request.id]) if done.samples else ()
        if done.samples and not 1 <= len(new) <= 1 + done.drafts:
            raise ValueError(f"request {one.request.id}: {len(new)} tokens of 1 + {done.drafts}")
        room = one.request.max_new - len(one.generated)
        new = new[:room]
        cached = done.context + len(done.tokens) - done.drafts + max(len(new) - 1, 0)
        one = replace(one, generated=(*one.generated, *new), cached=cached, draft=())
        if state.limits.prefix_cache:
            one = _sealed(one, ledger, size)
        reason = ""
        if one.request.id in stopped:
            reason = "stop"
        elif len(one.generated) >= one.request.max_new:
            reason = "length"
        elif one.length > state.limits.context:
            reason = "context"
        if reason:
            ended[one.request.id] = reason
            ledger.release(reversed(one.pages))
        else:
            running.append(one)
    after = replace(state, pages=ledger.close(), running=tuple(running))
    return _forget_owners(after), ended


class _Plan:
    """One step in the making."""

    def __init__(self, state: State):
        self.state, self.limits = state, state.limits
        self.ledger = Ledger(state.pages)
        self.running = {s.request.id: s for s in sorted(state.running, key=self._rank)}
        self.waiting = list(state.waiting)
        self.served = dict(state.served)
        self.left = self.limits.step_tokens
        self.slices: dict[int, Slice] = {}
        self.copies: list[tuple[int, int]] = []
        self.preempted: list[int] = []
        self.hits = 0
        self.reserved: dict[int, int] = {}  # id → decodes still to come after it

    def close(self) -> State:
        return replace(
            self.state,
            pages=self.ledger.close(),
            running=tuple(self.running.values()),
            waiting=tuple(self.waiting),
            served=self.served,
        )

    def batch(self, ended: Mapping[int, str]) -> Batch:
        return Batch(
            slices=tuple(self.slices.values()),
            copies=tuple(self.copies),
            preempted=tuple(self.preempted),
            ended=ended,
            hits=self.hits,
        )

    def run_running(self) -> bool:
        """Decodes before prompts, so that a long prompt delays nobody's next token. False when
        pages ran out."""
        before = len(self.preempted)
        running = list(self.running.values())
        decodes = [one for one in running if one.length - one.cached == 1]
        for after, one in enumerate(reversed(decodes)):
            self.reserved[one.request.id] = after
        for one in (*decodes, *(s for s in running if s.length - s.cached > 1)):
            if one.request.id in self.running:
                self._run(one)
        return len(self.preempted) == before

    def make_way(self) -> None:
        """Preempt the last in rank for whom waits with a higher priority and finds no room."""
        while self.waiting and self.running:
            first = min(self.waiting, key=self._turn)
            last = max(self.running.values(), key=self._rank)
            need = -(-first.length // self.limits.page_tokens) + len(self.running)
            fits = len(self.running) < self.limits.sequences and need <= self.ledger.available
            outranks = first.request.priority > last.request.priority
            if fits or not outranks or self._rank(last) < self._rank(first):
                return
            self._preempt(last)

    def admit_waiting(self) -> None:
        """Strictly in order: who finds no room holds back those behind, so nobody starves."""
        while self.waiting and self.left and len(self.running) < self.limits.sequences:
            one = min(self.waiting, key=self._turn)
            found = self._admitted(one)
            if found is None:
                return
            self.waiting.remove(one)
            self.running[found.request.id] = found
            self._run(found)

    def _run(self, one: Running) -> None:
        """Put a slice of a running sequence into the step, as long as budget and pages allow."""
        pending = one.length - one.cached
        count = min(pending, self.left)
        if not count:
            return
        samples = count == pending
        draft = one.draft[: self._room_for_draft(one, count)] if samples else ()
        size = self.limits.page_tokens
        need = -(-(one.cached + count) // size) - len(one.pages)
        while need > self.ledger.available:
            victim = max(self.running.values(), key=self._rank)
            self._preempt(victim)
            if victim.request.id == one.request.id:
                return
        spare = max(self.ledger.available - need - len(self.running), 0)  # others come first
        draft = draft[: (len(one.pages) + need + spare) * size - one.cached - count]
        need = -(-(one.cached + count + len(draft)) // size) - len(one.pages)
        pages = one.pages
        if need > 0:
            pages = (*pages, *(self.ledger.take() for _ in range(need)))
            self.running[one.request.id] = replace(one, pages=pages)
        self.left -= count + len(draft)
        owner = one.request.owner
        # A generated token weighs twice a prompt's, as in arXiv:2401.00588.
        self.served[owner] += count + len(draft) if pending > 1 else 2 * (1 + len(draft))
        self.slices[one.request.id] = Slice(
            id=one.request.id,
            tokens=(*one.tokens(one.cached, one.cached + count), *draft),
            context=one.cached,
            pages=pages,
            samples=samples,
            kind="decode" if one.generated and pending == 1 else "prefill",
            drafts=len(draft),
        )

    def _room_for_draft(self, one: Running, count: int) -> int:
        """Guesses worth computing: none past the budget, the answer's end or the context's."""
        budget = self.left - count - self.reserved.get(one.request.id, 0)
        answer = one.request.max_new - len(one.generated) - 1
        return max(min(budget, answer, self.limits.context - one.length), 0)

    def _admitted(self, one: Running) -> Running | None:
        """A waiting sequence with the pages the prefix cache has for it; None when the rest of
        its tokens find no room. At least one token is left to compute, for its logits."""
        size = self.limits.page_tokens
        tokens = one.tokens(0, one.length)
        shared: list[int] = []
        key, copied, alike = root(one.request.salt), -1, 0
        if self.limits.prefix_cache:
            shared, key = self.ledger.find(key, tokens[: len(tokens) - 1])
            rest = tokens[len(shared) * size : len(tokens) - 1]
            copied, alike = self.ledger.find_beginning(key, rest[:size])
        need = -(-one.length // size) - len(shared)
        idle = sum(self.ledger.is_idle(page) for page in shared)
        # Each running sequence may want a page soon: admitting into that would only thrash.
        if self.running and need + len(self.running) > self.ledger.available - idle:
            return None
        for page in shared:
            self.ledger.share(page)
        pages = list(shared)
        if alike and self.ledger.available - self.ledger.is_idle(copied) > 0:
            self.ledger.share(copied)  # not to be taken for its own copy
            pages.append(self.ledger.take())
            self.ledger.release([copied])
            self.copies.append((copied, pages[-1]))
        else:
            alike = 0
        cached = len(shared) * size + alike
        self.hits += cached
        return replace(one, pages=tuple(pages), cached=cached, sealed=len(shared), key=key)

    def _preempt(self, one: Running) -> None:
        """Its pages are taken, its tokens stay: it is computed again, as far as they are gone."""
        self.ledger.release(reversed(one.pages))
        del self.running[one.request.id]
        undone = self.slices.pop(one.request.id, None)
        self.left += len(undone.tokens) if undone else 0
        self.preempted.append(one.request.id)
        blank = {"pages": (), "cached": 0, "sealed": 0, "key": b"", "draft": ()}
        self.waiting.append(replace(one, **blank))

    def _rank(self, one: Running) -> tuple[float, float, int]:
        """Smaller goes first. Ageing as a constant: who arrived earlier is ahead by that much."""
        request = one.request
        ageing_s = self.limits.ageing_s
        aged = request.arrival_s // ageing_s if ageing_s else 0.0
        return (aged - request.priority, request.arrival_s, one.serial)

    def _turn(self, one: Running) -> tuple[float, int, float, float, int]:
        """The order of admission: who was preempted goes before those who never ran."""
        urgency, arrival, serial = self._rank(one)
        new = not one.generated
        return (urgency, new, self.served[one.request.owner] if new else 0.0, arrival, serial)


def _sealed(one: Running, ledger: Ledger, size: int) -> Running:
    """The sequence with its full pages known to the prefix cache."""
    sealed, key = one.sealed, one.key
    while (sealed + 1) * size <= one.cached:
        key = ledger.keep(one.pages[sealed], key, one.tokens(sealed * size, (sealed + 1) * size))
        sealed += 1
    return one if sealed == one.sealed else replace(one, sealed=sealed, key=key)


def _without(state: State, ids: Collection[int]) -> State:
    gone = [s for s in state.running if s.request.id in ids]
    waiting = tuple(s for s in state.waiting if s.request.id not in ids)
    if not gone and len(waiting) == len(state.waiting):
        return state
    ledger = Ledger(state.pages)
    for one in gone:
        ledger.release(reversed(one.pages))
    running = tuple(s for s in state.running if s.request.id not in ids)
    return _forget_owners(replace(state, pages=ledger.close(), running=running, waiting=waiting))


def _forget_owners(state: State) -> State:
    here = {s.request.owner for s in (*state.running, *state.waiting)}
    return replace(state, served={o: n for o, n in state.served.items() if o in here})


def _check(state: State, request: Request) -> None:
    limits, id = state.limits, request.id
    if any(s.request.id == id for s in (*state.running, *state.waiting)):
        raise UsageError(f"request {id} is already here")
    if not request.prompt:
        raise UsageError(f"request {id} has an empty prompt; give at least one token")
    if request.max_new < 1:
        raise UsageError(f"request {id}: max_new is {request.max_new}; it must be at least 1")
    if len(request.prompt) > limits.context:
        raise UsageError(
            f"request {id}: the prompt has {len(request.prompt)} tokens, the context is "
            f"{limits.context}; shorten it by {len(request.prompt) - limits.context}"
        )
    most = min(len(request.prompt) + request.max_new - 1, limits.context)
    room = limits.pages * limits.page_tokens
    if most > room:
        raise UsageError(
            f"request {id} may need {most} tokens of KV cache, there is room for {room}; "
            "shorten it, lower max_new, or give the cache more pages"
        )
