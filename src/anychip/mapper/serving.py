"""Serving: what users of a server see under load, by simulation with a virtual clock.

Continuous batching as servers do it: prompts are admitted in order of arrival while cache and
places last, computed whole or in chunks beside the decodes or instead of them, and every answer
token takes one step. The clock jumps over stretches in which nothing but decoding happens, so
thousands of requests take seconds. The policy is that of `anychip.llm.scheduler` without its prefix
cache and preemption; a test drives both with the same requests.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from anychip.core import UsageError
from anychip.mapper.pace import Pace


@dataclass(frozen=True, kw_only=True)
class Stack:
    """How a serving stack fills a step.

    `step_tokens` bounds its tokens, `sequences` the answers in flight. `mixes`: prompts share a
    step with decodes (else they stop them). `chunks`: a prompt may be cut to fill a step (one
    longer than a step always is). `host_s` is what a step costs beside the chip's work, `token_s`
    what every sequence in it costs there; `overlaps`: what sequences cost is done for one step
    while the chip works on the next, and counts only where it takes longer. Prompts
    take `prompt_slower` times as long as tuned kernels would, and a step with prompts in it, which
    no captured graph fits, at least `eager_layer_s` a layer. The front end takes requests in one
    after the other, `request_s` each, and hands tokens out one after the other, `stream_s` each:
    behind a fast model it is what tokens wait for, and users see its times. `reserved`
    places are never given to a request. `is_padded`: a step costs what one of the next power of
    two of tokens would. `cache` is the element type of its KV cache, "" for the precision's own. Of
    an answer's cache `held` is set aside when its prompt is admitted: 1 where nobody is ever
    evicted, a half where pages are taken as they are needed, which is what answers under way hold
    on average.
    """

    name: str
    step_tokens: int = 8192
    sequences: int = 256
    mixes: bool = True
    chunks: bool = True
    is_padded: bool = False
    overlaps: bool = False
    host_s: float = 0.0
    token_s: float = 0.0
    prompt_slower: float = 1.0
    request_s: float = 0.0
    eager_layer_s: float = 0.0
    stream_s: float = 0.0
    reserved: int = 0
    cache: str = ""
    held: float = 1.0

    def step_s(self, chip_s: float, results: int) -> float:
        """A step that the chip works on for `chip_s` and that gives `results` tokens, as users wait
        for it."""
        each = self.token_s * results
        return self.host_s + (max(chip_s, each) if self.overlaps else chip_s + each)


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Requests, one entry each: tokens of prompt and answer. Either `arrivals_s` says when each
    comes, rising, or `concurrency` users each send the next when theirs is answered."""

    prompts: np.ndarray
    answers: np.ndarray
    arrivals_s: np.ndarray | None = None
    concurrency: int = 0

    def __post_init__(self) -> None:
        if len(self.prompts) != len(self.answers) or not len(self.prompts):
            raise UsageError("a demand needs as many prompts as answers, and at least one")
        if min(self.prompts.min(), self.answers.min()) < 1:
            raise UsageError("prompts and answers have at least one token")
        if (self.arrivals_s is None) == (self.concurrency < 1):
            raise UsageError("give arrival times or a concurrency of at least 1, one of the two")
        if self.arrivals_s is not None and (
            len(self.arrivals_s) != len(self.prompts) or (np.diff(self.arrivals_s) < 0).any()
        ):
            raise UsageError("arrival times must be as many as requests, and rising")


def closed(prompt: int, answer: int, concurrency: int, requests: int) -> Demand:
    """`concurrency` users with requests of one size, `requests` in all."""
    return Demand(
        prompts=np.full(requests, prompt),
        answers=np.full(requests, answer),
        concurrency=concurrency,
    )


@dataclass(frozen=True, kw_only=True)
class Served:
    """When each request came, gave its first token, and ended (seconds); `tokens` of its answer.

    `steps` counts steps; `busy_s` is the time some step was running. `decode_steps` are those that
    gave tokens of answers beyond the first, `decoded` the sequences in them, added up.
    """

    arrived_s: np.ndarray
    first_s: np.ndarray
    ended_s: np.ndarray
    tokens: np.ndarray
    steps: int
    busy_s: float
    decode_steps: int = 0
    decoded: int = 0

    @property
    def ttft_s(self) -> np.ndarray:
        """Time to first token of each request."""
        return self.first_s - self.arrived_s

    @property
    def tpot_s(self) -> np.ndarray:
        """Mean time per token after the first, of each request with more than one."""
        many = self.tokens > 1
        return (self.ended_s - self.first_s)[many] / (self.tokens[many] - 1)

    @property
    def tok_s(self) -> float:
        """Answer tokens a second, from the first arrival to the last end."""
        return float(self.tokens.sum() / (self.ended_s.max() - self.arrived_s.min()))

    @property
    def steady_tok_s(self) -> float:
        """Answer tokens a second between the first and the last fifth of requests to end: without
        the time a server takes to fill and to run empty."""
        order = np.argsort(self.ended_s, kind="stable")
        first, last = len(order) // 5, len(order) - 1 - len(order) // 5
        span = self.ended_s[order[last]] - self.ended_s[order[first]]
        if last <= first or span <= 0:
            return self.tok_s
        return float(self.tokens[order[first + 1 : last + 1]].sum() / span)


def serve(
    pace: Pace,
    stack: Stack,
    demand: Demand,
    accepted: Sequence[float] | None = None,
    draft_share: float = 0.0,
) -> Served:
    """Serve a demand to its end.

    `accepted` is a distribution of how many tokens a decode step gives (speculative decoding,
    multi-token prediction): `accepted[i]` is the probability of i + 1; its mean is what counts
    here. A step then checks as many tokens of each sequence as `accepted` has entries, and makes
    all but one of them beforehand, each in `draft_share` of a plain step of these sequences.
    Raises UsageError for a request that finds no room.
    """
    return _Server(pace, stack, demand, guessing(accepted, draft_share)).run()


@dataclass(frozen=True)
class Guessing:
    """Tokens a decode step gives of each sequence, those it checks, and what each guess costs, over
    a plain step of the same sequences."""

    given: float = 1.0
    checked: int = 1
    draft_share: float = 0.0

    def step_s(
        self,
        pace: Pace,
        decodes: int,
        context: float,
        chunks: Sequence[tuple[int, int]] = (),
        slower: float = 1.0,
    ) -> float:
        """Seconds of a step with its guesses, as `Pace.step_s` has them without."""
        seconds = pace.step_s(decodes, context, chunks, slower, self.checked)
        if self.draft_share and decodes:
            seconds += (self.checked - 1) * self.draft_share * pace.step_s(decodes, context)
        return seconds


def guessing(accepted: Sequence[float] | None, draft_share: float = 0.0) -> Guessing:
    """The Guessing of a distribution of accepted lengths, see `serve`."""
    return Guessing(_mean(accepted), len(accepted or (1,)), draft_share)


def steps_to(seconds: float, first: float, growth: float) -> int:
    """The fewest steps that last `seconds`, the first of which takes `first` and each `growth`
    longer than the one before: the n whose sum `n first + growth n (n - 1) / 2` reaches it."""
    if growth <= 0:
        return math.ceil(seconds / first)
    linear = first - growth / 2
    return math.ceil((math.sqrt(linear * linear + 2 * growth * seconds) - linear) / growth)


def _mean(accepted: Sequence[float] | None) -> float:
    if accepted is None:
        return 1.0
    if not len(accepted) or min(accepted) < 0 or abs(sum(accepted) - 1) > 1e-6:
        raise UsageError("accepted lengths are probabilities of 1, 2, … tokens; they sum to 1")
    return float(np.dot(accepted, np.arange(1, len(accepted) + 1)))


class _Server:
    """One simulation in the making. Decoding sequences are a heap of the step they end at, so a
    step costs the same whatever their number."""

    def __init__(self, pace: Pace, stack: Stack, demand: Demand, guessing: Guessing):
        self.pace, self.stack, self.guessing = pace, stack, guessing
        self.per_step = guessing.given
        self.prompts = [int(n) for n in demand.prompts]
        self.answers = [int(n) for n in demand.answers]
        count = len(self.prompts)
        self.arrived, self.first, self.ended = (np.zeros(count) for _ in range(3))
        self.users = demand.concurrency
        self.times = None if demand.arrivals_s is None else [float(t) for t in demand.arrivals_s]
        self.coming = 0
        self.waiting: deque[int] = deque()
        self.entering: deque[tuple[float, int]] = (
            deque()
        )  # (when the front end lets it in, request)
        self.door_s = 0.0  # until when the front end takes in what came
        self.out_s = 0.0  # until when it hands out what was made
        self.places = max(1, stack.sequences - stack.reserved)
        self.prompting: deque[list[int]] = deque()  # [request, tokens done]
        self.decoding: list[tuple[int, int]] = []  # heap of (step at which it ends, request)
        self.now = self.busy = self.context = self.held = 0.0
        self.turn = self.steps = self.done = self.decoded = 0

    def run(self) -> Served:
        for _ in range(min(self.users, len(self.prompts))):
            self._arrive(0.0)
        while self.done < len(self.prompts):
            self._take_arrivals()
            self._admit()
            chunks = self._chunks()
            if chunks:
                self._mixed(chunks)
            elif self.decoding:
                self._decode()
            else:
                self._sleep()
        return Served(
            arrived_s=self.arrived,
            first_s=self.first,
            ended_s=self.ended,
            tokens=np.array(self.answers),
            steps=self.steps,
            busy_s=self.busy,
            decode_steps=self.turn,
            decoded=self.decoded,
        )

    def _arrive(self, when: float) -> None:
        if self.coming < len(self.prompts):
            self.arrived[self.coming] = when
            self.door_s = max(self.door_s, when) + self.stack.request_s
            self.entering.append((self.door_s, self.coming))
            self.coming += 1

    def _take_arrivals(self) -> None:
        while self.times and self.coming < len(self.times) and self.times[self.coming] <= self.now:
            self._arrive(self.times[self.coming])
        while self.entering and self.entering[0][0] <= self.now:
            self.waiting.append(self.entering.popleft()[1])

    def _next_s(self) -> float:
        """When the next request comes in that is not waiting yet; infinite when none will."""
        if self.entering:
            return self.entering[0][0]
        if self.times and self.coming < len(self.times):
            return max(self.times[self.coming], self.door_s) + self.stack.request_s
        return np.inf

    def _sleep(self) -> None:
        if self.waiting:
            id = self.waiting[0]
            raise UsageError(
                f"a request of {self.prompts[id]} + {self.answers[id]} tokens needs more KV cache "
                f"than the {self.pace.cache_tokens:.0f} tokens there is room for"
            )
        if not self.entering and self.times is not None:
            self._arrive(self.times[self.coming])
        self.now = max(self.now, self.entering[0][0])

    def _admit(self) -> None:
        """In order of arrival; who finds no room holds back those behind."""
        while self.waiting:
            id = self.waiting[0]
            need = self._need(id)
            active = len(self.decoding) + len(self.prompting)
            if active >= self.places or self.held + need > self.pace.cache_tokens:
                return
            self.held += need
            self.waiting.popleft()
            self.prompting.append([id, 0])

    def _need(self, id: int) -> float:
        return self.prompts[id] + self.stack.held * self.answers[id]

    def _chunks(self) -> list[tuple[int, int]]:
        """The prompts' part of the next step: (tokens, tokens done before) of the first in line."""
        left = self.stack.step_tokens - (len(self.decoding) if self.stack.mixes else 0)
        chunks: list[tuple[int, int]] = []
        for id, done in self.prompting:
            rest = self.prompts[id] - done
            if left < 1 or (rest > left and not self.stack.chunks and chunks):
                break
            chunks.append((min(rest, left), done))
            left -= chunks[-1][0]
        return chunks

    def _chip_s(
        self, decodes: int, context: float, chunks: Sequence[tuple[int, int]] = ()
    ) -> float:
        slower = self.stack.prompt_slower
        return self.guessing.step_s(self.pace, decodes, context, chunks, slower)

    def _mixed(self, chunks: list[tuple[int, int]]) -> None:
        decodes = len(self.decoding) if self.stack.mixes else 0
        seconds = self._chip_s(decodes, self.context if decodes else 0.0, chunks)
        seconds = max(seconds, self.stack.eager_layer_s * self.pace.layers)
        seconds = self.stack.step_s(seconds, decodes + len(chunks))
        self._pass(seconds, 1, decodes * self.per_step + len(chunks))
        if decodes:
            self.turn += 1
            self.decoded += decodes
            self.context += decodes * self.per_step
            self._finish()
        for size, _ in chunks:
            head = self.prompting[0]
            head[1] += size
            if head[1] < self.prompts[head[0]]:
                break
            self.prompting.popleft()
            self._begin(head[0])

    def _begin(self, id: int) -> None:
        self.first[id] = max(self.out_s, self.now)
        if self.answers[id] == 1:
            self._end(id)
            return
        steps = max(1, round((self.answers[id] - 1) / self.per_step))
        heapq.heappush(self.decoding, (self.turn + steps, id))
        self.context += self.prompts[id] + 1

    def _decode(self) -> None:
        """Steps of decodes only, as many at once as nothing else can happen in."""
        count = len(self.decoding)
        many = self.decoding[0][0] - self.turn
        until = self._next_s() - self.now
        if np.isfinite(until):
            first = self._decode_s(count, self.context)
            growth = self._decode_s(count, self.context + count * self.per_step) - first
            many = max(1, min(many, steps_to(until, first, growth)))
        middle = self.context + count * self.per_step * (many - 1) / 2
        seconds = many * self._decode_s(count, middle)
        self._pass(seconds, many, count * self.per_step)
        self.turn += many
        self.decoded += count * many
        self.context += count * self.per_step * many
        self._finish()

    def _decode_s(self, count: int, context: float) -> float:
        return self.stack.step_s(self._chip_s(count, context), count)

    def _pass(self, seconds: float, steps: int, tokens: float) -> None:
        """So many steps that give `tokens` each, which the front end then hands out."""
        each, backlog_s = tokens * self.stack.stream_s, max(self.out_s - self.now, 0.0)
        self.out_s = self.now + max(backlog_s + steps * each, seconds + each)
        self.now += seconds
        self.busy += seconds
        self.steps += steps

    def _finish(self) -> None:
        while self.decoding and self.decoding[0][0] <= self.turn:
            _, id = heapq.heappop(self.decoding)
            self.context -= self.prompts[id] + 1 + (self.answers[id] - 1)
            self._end(id)
        if not self.decoding:
            self.context = 0.0

    def _end(self, id: int) -> None:
        self.ended[id] = max(self.out_s, self.now)
        self.held -= self._need(id)
        self.done += 1
        if self.users:
            self._arrive(float(self.ended[id]))
