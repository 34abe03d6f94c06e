"""The token engine: requests in, pieces of text out, many sequences side by side on one target.

It turns the pure scheduler with the wall clock, runs its batches as paged steps, draws tokens and
checks guesses. One thread; whoever serves calls `step` in a loop. An answer depends on its request
alone wherever the target computes each row of a step alike, whatever else is in the step
(docs/engine.md says which do).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import median

import numpy as np

from anychip.core import (
    AnychipError,
    CompileOptions,
    LanguageModel,
    PagedShape,
    Precision,
    Target,
    UsageError,
)
from anychip.llm import scheduler
from anychip.llm.generate import Piece, check_ids
from anychip.llm.paged import Pace, PagedSteps, Row
from anychip.llm.sampling import History, Sampling, draw, logprobs
from anychip.llm.scheduler import Batch, Limits, Request, Slice
from anychip.llm.speculate import Acceptance, Drafter, SeesHidden, best_length
from anychip.llm.text import Stop, TextOut


@dataclass(frozen=True, kw_only=True)
class Speculation:
    """Guess up to `most` tokens a step. How many pay is learnt from how many came true, and from
    how long steps of other sizes took; until those are known, a guess is taken to cost `token_cost`
    of a step."""

    drafter: Drafter
    most: int = 8
    token_cost: float = 0.1

    def __post_init__(self) -> None:
        if self.most < 1 or self.token_cost <= 0:
            raise UsageError(f"speculation of {self.most} tokens at a cost of {self.token_cost}")


@dataclass
class _Answer:
    """What the engine keeps of a request that is not over."""

    prompt: tuple[int, ...]
    sampling: Sampling
    stop: Stop
    text: TextOut
    asked_s: float
    history: History | None
    acceptance: Acceptance | None
    tokens: list[int] = field(default_factory=list)
    line: int = -1
    without_guess: int = 0
    expected: int | None = None
    """A guess that is not checked ahead."""


class Engine:
    """See the module. `limits` bound the KV cache and the steps; `kv_bytes` says what they take.

    Raises UsageError for a target that does not run and UnsupportedError for a model without paged
    steps. A step that fails breaks the engine: its cache is lost, and every later call says so.
    """

    def __init__(
        self,
        model: LanguageModel,
        target: Target,
        limits: Limits,
        *,
        precision: Precision | None = None,
        options: CompileOptions | None = None,
        speculation: Speculation | None = None,
        clock: Callable[[], float] = time.perf_counter,
        progress: Callable[[str], None] = lambda what: None,
    ):
        if limits.context > model.facts.context:
            raise UsageError(
                f"{model.name} was made for {model.facts.context} tokens, "
                f"the engine's context is {limits.context}"
            )
        shape = PagedShape(
            tokens=limits.step_tokens,
            rows=limits.step_tokens,
            sequences=limits.sequences + 1,
            pages=limits.pages + 1,
            page_tokens=limits.page_tokens,
            table=-(-limits.context // limits.page_tokens),
            gives_hidden=bool(speculation and isinstance(speculation.drafter, SeesHidden)),
        )
        self.model, self.limits, self.speculation = model, limits, speculation
        self.steps = PagedSteps(
            model,
            target,
            shape,
            precision or model.native_precision,
            options or CompileOptions(),
            progress,
        )
        self.acceptance = Acceptance(speculation.drafter.name) if speculation else None
        self._draft_times_s: deque[float] = deque(maxlen=8)
        self._draft_s = 0.0
        self._guess_costs: dict[int, Sequence[float]] = {}
        self._pace: Pace | None = None
        self.batches = 0
        self._clock, self._state = clock, scheduler.start(limits)
        self._answers: dict[int, _Answer] = {}
        self._table = np.full((shape.sequences, shape.table), self.steps.scratch, np.int32)
        self._lines = list(range(limits.sequences - 1, -1, -1))
        self._number, self._broken = 0, ""

    @property
    def kv_bytes(self) -> int:
        """Bytes of the KV cache, scratch page included."""
        return self.steps.kv_bytes

    @property
    def is_idle(self) -> bool:
        return self._state.is_idle

    @property
    def state(self) -> scheduler.State:
        """What the scheduler knows now."""
        return self._state

    def warm(self, prompts: Sequence[int]) -> None:
        """Compile ahead what prompts of these lengths, given at once, and their answers need. Other
        sizes of steps are compiled when they come up."""
        together = min(len(prompts), self.limits.sequences)
        self.steps.warm(min(sum(prompts), self.limits.step_tokens), together)
        self.steps.warm(together, together)

    def submit(
        self,
        prompt: Sequence[int],
        *,
        max_new: int,
        sampling: Sampling = Sampling(),
        stop: Stop | None = None,
        priority: int = 0,
        owner: str = "",
        salt: str = "",
        timeout_s: float | None = None,
    ) -> int:
        """Queue a request; its number. Without `stop`, the model's own stop tokens end it.

        Raises UsageError for what cannot be, others being unharmed: an empty or too long prompt,
        ids outside the vocabulary, a bias of such, more KV cache than there is, stop texts without
        a tokenizer.
        """
        self._check(prompt, sampling)
        tokenizer = self.model.tokenizer
        if stop is None:
            stop = Stop(tokenizer.stop) if tokenizer else Stop()
        if stop.texts and tokenizer is None:
            raise UsageError(f"{self.model.name} has no tokenizer, so stop texts cannot be found")
        now_s = self._clock()
        request = Request(
            id=self._number,
            prompt=tuple(int(token) for token in prompt),
            max_new=max_new,
            arrival_s=now_s,
            priority=priority,
            owner=owner,
            salt=salt,
            deadline_s=None if timeout_s is None else now_s + timeout_s,
        )
        self._state = scheduler.submit(self._state, request)
        self._number += 1
        self._answers[request.id] = _Answer(
            prompt=request.prompt,
            sampling=sampling,
            stop=stop,
            text=TextOut(tokenizer.stream() if tokenizer else None, stop.texts),
            asked_s=now_s,
            history=History(set(request.prompt)) if sampling.needs_history else None,
            acceptance=Acceptance(self.acceptance.drafter) if self.acceptance else None,
        )
        return request.id

    def cancel(self, request: int) -> None:
        """End a request without another piece; unknown or ended ones are left as they are."""
        self._state = scheduler.cancel(self._state, request)
        self._forget(request)

    def step(self) -> list[Piece]:
        """Compute one batch; the pieces it gave. Nothing to do gives none."""
        self._must_work()
        self._state, batch = scheduler.step(self._state, self._clock())
        pieces = [self._ended(request, why) for request, why in batch.ended.items()]
        for request in batch.preempted:
            self._free_line(self._answers[request])
        if not batch.slices:
            return pieces
        try:
            logits = self._compute(batch)
        except BaseException as error:  # an interrupt, too, leaves half a step in the cache
            self._broken = f"{type(error).__name__}: {error}"
            raise
        self.batches += 1
        return [*pieces, *self._take(batch, logits)]

    def run(self) -> Iterator[Piece]:
        """Step until nothing is left to do."""
        while not self.is_idle:
            yield from self.step()

    def generate(self, prompts: Iterable[Sequence[int]], **options: object) -> Iterator[Piece]:
        """`submit` each with the same options, then `run`."""
        for prompt in prompts:
            self.submit(prompt, **options)  # pyright: ignore[reportArgumentType]
        return self.run()

    def _compute(self, batch: Batch) -> dict[int, np.ndarray]:
        """Each sampling slice's logits, of its last tokens."""
        if batch.copies:
            self.steps.copy(batch.copies)
        rows: list[Row] = []
        last: list[Row] = []
        wanted: list[tuple[int, int]] = []
        for one in batch.slices:
            line = self._line(one)
            own = [Row(t, line, one.context + i) for i, t in enumerate(one.tokens)]
            count = 1 + one.drafts if one.samples else 0
            rows += own[: len(own) - count]
            last += own[len(own) - count :]
            wanted.append((one.id, count))
        logits = self.steps.run([*rows, *last], len(last), self._table.copy())
        self._show(batch, len(rows))
        found: dict[int, np.ndarray] = {}
        at = 0
        for request, count in wanted:
            found[request] = logits[at : at + count]
            at += count
        return found

    def _show(self, batch: Batch, last: int) -> None:
        """What the step made of each slice's tokens, to a drafter that reads it. Rows lie as
        `_compute` put them: those without logits, then from `last` on the others."""
        drafter = self.speculation.drafter if self.speculation else None
        hidden = self.steps.hidden
        if hidden is None or not isinstance(drafter, SeesHidden):
            return
        first = 0
        for one in batch.slices:
            count = 1 + one.drafts if one.samples else 0
            before = len(one.tokens) - count
            parts = hidden[first : first + before], hidden[last : last + count]
            drafter.see(one.id, one.context, np.concatenate(parts))
            first, last = first + before, last + count

    def _take(self, batch: Batch, logits: dict[int, np.ndarray]) -> list[Piece]:
        """Draw tokens, tell the scheduler, and make pieces of them."""
        sampled: dict[int, list[int]] = {}
        stopped: set[int] = set()
        pieces: dict[int, list[Piece]] = {}
        for one in batch.slices:
            if not one.samples:
                continue
            made = self._draw(one, logits[one.id])
            if made is None:
                self._state = scheduler.cancel(self._state, one.id)
                pieces[one.id] = [self._ended(one.id, "error")]
                continue
            pieces[one.id] = made
            sampled[one.id] = [piece.token for piece in made]
            if made[-1].finish:
                stopped.add(one.id)
        self._state, ended = scheduler.advance(self._state, batch, sampled, stopped)
        for request, why in ended.items():
            if not pieces[request][-1].finish:
                pieces[request][-1] = self._closed(pieces[request][-1], why)
            self._forget(request)
        if self.speculation:
            self._guess(batch)
        return [piece for made in pieces.values() for piece in made]

    def _draw(self, one: Slice, logits: np.ndarray) -> list[Piece] | None:
        """The pieces of a slice: guesses that came true and the token after; None when the logits
        are no numbers."""
        answer = self._answers[one.id]
        made: list[Piece] = []
        guesses = one.tokens[len(one.tokens) - one.drafts :]
        for i in range(one.drafts + 1):
            if not np.isfinite(logits[i]).all():
                return None
            token = draw(logits[i], answer.sampling, len(answer.tokens), answer.history)
            chances = answer.sampling.logprobs
            answer.tokens.append(token)
            if answer.history:
                answer.history.add(token)
            is_stop = token in answer.stop.ids
            text = answer.text.rest() if is_stop else answer.text.push(token)
            made.append(
                Piece(
                    token=token,
                    text=text,
                    seconds=self._clock() - answer.asked_s,
                    finish="stop" if is_stop or answer.text.is_over else "",
                    logprobs=None if chances is None else logprobs(logits[i], token, chances),
                    request=one.id,
                )
            )
            if made[-1].finish or i == one.drafts or token != guesses[i]:
                break
        if answer.acceptance and answer.expected is not None:
            answer.acceptance.saw(made[0].token == answer.expected)
            answer.expected = None
        if answer.acceptance and self.acceptance and one.drafts:
            right = sum(p.token == g for p, g in zip(made, guesses, strict=False))
            answer.acceptance.add(one.drafts, right)
            self.acceptance.add(one.drafts, right)
        return made

    def _guess(self, batch: Batch) -> None:
        """Propose what may follow, as much as has paid of late. Where nothing pays, a guess is
        compared with what comes, which costs no step: so the engine knows when it would pay."""
        assert self.speculation is not None
        if self.batches % 8 == 0 or self._pace is None:
            self._pace = self.steps.pace()
            self._draft_s = median(self._draft_times_s) if self._draft_times_s else 0.0
            self._guess_costs.clear()
        seldom = 1 if self._pace is None or self._draft_s < 0.01 * self._pace.seconds(1) else 8
        costs = self._costs(sum(one.samples for one in batch.slices))
        for one in batch.slices:
            answer = self._answers.get(one.id)
            if answer is None or not one.samples or answer.acceptance is None:
                continue
            count = best_length(answer.acceptance.rate, costs)
            answer.expected = None
            if not count:
                answer.without_guess += 1
                if answer.without_guess % seldom:
                    continue
            started = time.perf_counter()
            text = [*answer.prompt, *answer.tokens]
            guesses = self.speculation.drafter.draft(one.id, text, max(count, 1))
            self._draft_times_s.append((time.perf_counter() - started) / max(count, 1))
            if count:
                self._state = scheduler.propose(self._state, one.id, guesses)
            elif guesses:
                answer.expected = guesses[0]

    def _costs(self, sequences: int) -> Sequence[float]:
        """What 0, 1, 2, … guesses for each of these sequences cost in steps without any, making
        them included."""
        if sequences in self._guess_costs:
            return self._guess_costs[sequences]
        assert self.speculation is not None
        pace, counts = self._pace, range(self.speculation.most + 1)
        if pace is None:
            costs = [1 + count * self.speculation.token_cost for count in counts]
        else:
            size = partial(self.steps.size, most=self.limits.step_tokens)
            seconds = [
                pace.seconds(size(sequences * (1 + n))) + sequences * n * self._draft_s
                for n in counts
            ]
            costs = [max(s / max(seconds[0], 1e-9), 1 + 0.01 * n) for n, s in enumerate(seconds)]
        self._guess_costs[sequences] = costs
        return costs

    def _line(self, one: Slice) -> int:
        """The sequence's line in the table, which lists its pages."""
        answer = self._answers[one.id]
        if answer.line < 0:
            answer.line = self._lines.pop()
        line = self._table[answer.line]
        line[: len(one.pages)] = one.pages
        line[len(one.pages) :] = self.steps.scratch
        return answer.line

    def _free_line(self, answer: _Answer) -> None:
        if answer.line >= 0:
            self._lines.append(answer.line)
            answer.line = -1

    def _forget(self, request: int) -> None:
        answer = self._answers.pop(request, None)
        if answer is None:
            return
        self._free_line(answer)
        if self.speculation:
            self.speculation.drafter.forget(request)

    def _ended(self, request: int, why: str) -> Piece:
        """The last piece of a request that got no token."""
        answer = self._answers[request]
        seconds = self._clock() - answer.asked_s
        self._forget(request)
        return Piece(
            token=-1, text=answer.text.rest(), seconds=seconds, finish=why, request=request
        )

    def _closed(self, piece: Piece, why: str) -> Piece:
        """A piece made the last."""
        rest = self._answers[piece.request].text.rest()
        return Piece(
            token=piece.token,
            text=piece.text + rest,
            seconds=piece.seconds,
            finish=why,
            logprobs=piece.logprobs,
            request=piece.request,
        )

    def _check(self, prompt: Sequence[int], sampling: Sampling) -> None:
        self._must_work()
        check_ids(self.model, (*prompt, *sampling.bias))

    def _must_work(self) -> None:
        if self._broken:
            raise AnychipError(
                f"a step of {self.model.name} failed, and its KV cache with it: {self._broken}; "
                "start a new engine"
            )
