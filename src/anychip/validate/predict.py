"""One published row → what the twin says of the same setting, or why it cannot be expressed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from anychip.core import (
    AnychipError,
    ChipSpec,
    Estimate,
    LanguageModel,
    Precision,
    Quantity,
    Registry,
    SystemSpec,
    UnsupportedError,
)
from anychip.mapper import Found, Question, Surfaces, Workload, estimates, search
from anychip.mapper.energy import ServedPower
from anychip.mapper.pace import Pace, pace
from anychip.mapper.serving import Demand, Served, Stack, serve
from anychip.mapper.stacks import OWN, STACKS, TUNED, serving_error, with_cache
from anychip.twin import Shards, machine
from anychip.twin.machine import ACTIVE
from anychip.validate.names import (
    CHIPS,
    DATASETS,
    LINKS,
    MODELS,
    NATIVE,
    PRECISIONS,
    Build,
    Lengths,
    lookup,
    rebuilt,
)
from anychip.validate.ops import op_seconds
from anychip.validate.rows import Published
from anychip.validate.units import UNITS

Quantities = Mapping[str, Quantity | None]

METRICS = {
    "tok_s_user": ("user_tok_s", 1.0),
    "tpot_mean": ("tpot_s", 1e3),
    "tpot_p50": ("tpot_s", 1e3),
    "ttft": ("ttft_s", 1e3),
    "ttft_p50": ("ttft_s", 1e3),
    "e2e_latency": ("latency_s", 1.0),
    "throughput_output_per_gpu": ("chip_tok_s", 1.0),
    "throughput_output_system": ("chip_tok_s", 1.0),  # times the chips
    "energy_per_output_token": ("j_per_tok", 1.0),
    "system_wall_power": ("j_per_tok", 1.0),  # times the tokens a second
    "prefill_tok_s": ("ttft_s", 1.0),
}
"""Published metric → (our quantity, factor to its unit)."""

PROMPT = GENERATE = 128
"""Lengths where a row states none; a prompt only for decode rates, which hardly depend on it."""
DECODE_ONLY = ("tok_s_user", "tpot_mean", "tpot_p50")
WAVES = {"sglang": 5}
"""Requests of a closed loop, per user, by stack; ten elsewhere, as load generators are often told.
The points do not say; of five and ten these fit. All users begin at once, so a tenth of the mean
time to first token is that first crowd's."""
SPREAD = 0.1
"""Half-width of answer lengths around the stated one, relative. Assumed: users do not stay in
step, or every answer would end together and every prompt wait for all others."""
MOST_SEQUENCES = 2048
"""In flight on one copy where a row says "maximum" (TensorRT-LLM's default max_batch_size)."""
QUEUED = re.compile(r"(\d+) equal requests queued at once")
"""A run of so many requests, all asked at once and of equal lengths, whose rate is all tokens over
the whole time: steps fill up and run empty. As many are in flight as the cache holds."""

ONE_BATCH = "benchmark_latency"
"""vLLM's script that gives one batch to the engine in its own process and waits for it to end."""
IN_PROCESS = ("MLPerf", ONE_BATCH, "trtllm-bench")
"""Benchmarks that hand requests to the engine in its own process: no front end takes them in or
hands tokens out."""
AMD_VLLM = replace(STACKS["vllm"], cache="", request_s=0.0, stream_s=0.0)
"""What AMD and those who build with its chips run in MLPerf (rocm.blogs.amd.com:
mi325x-accelerates-mlperf-inference): vLLM, in the load generator's process, with an 8-bit cache."""
CAPPED = "power-capped"

OP_FACTOR = 1.57
"""Eight of ten published times of single ops lie within this factor: 1.57 on A100, 1.52 on H100."""


@dataclass(frozen=True)
class Skip(Exception):
    """A row that cannot be expressed, and why."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Value:
    """What the twin says of a row, in the row's unit, and how it was got."""

    value: float
    low: float
    high: float
    chip: str
    family: str
    model: str
    shards: str
    how: str  # "closed form", "serving" or "op"
    stack: str = ""  # of a server
    of_active: Callable[[float], float] | None = field(default=None, repr=False, compare=False)
    """Of energy: the value at another share of power that a busy chip draws whatever it does."""


@dataclass(frozen=True)
class Predictor:
    """Predicts rows; what several rows share is kept. `load` gives a catalogue model by name, with
    at least so long a context; `precisions` are those it can be built in."""

    registry: Registry
    load: Callable[[str, int], LanguageModel]
    precisions: Mapping[str, Precision]
    stacks: Mapping[str, Stack] = field(default_factory=lambda: {**STACKS, OWN.name: OWN})
    surfaces: Surfaces = field(default_factory=Surfaces, repr=False)
    kept: dict[Any, Any] = field(default_factory=dict[Any, Any], repr=False)

    def predict(self, row: Published) -> Value:
        """Raises Skip with the reason when the row cannot be expressed."""
        if row.metric not in METRICS and row.metric != "op_latency":
            raise Skip(f"metric {row.metric!r} is not predicted; known: {', '.join(UNITS)}")
        if row.unit != UNITS[row.metric]:
            raise Skip(f"unit {row.unit!r} of {row.metric} is not known: give {UNITS[row.metric]}")
        if row.speculative == "yes":
            raise Skip("speculative decoding: the acceptance length is not published")
        try:
            if row.metric == "op_latency":
                return self._op(row)
            build = lookup(CHIPS, row.chip)
            if not isinstance(build, Build):
                raise Skip(f"chip {row.chip!r} has no spec: `anychip chips` lists those that do")
            spec = rebuilt(self.registry.chip(build.chip).spec, build)
            if CAPPED in row.notes:
                raise Skip("its power was capped, and the cap is not published")
            if row.stack or row.who.startswith("MLPerf") or row.batch.startswith("max"):
                return self._serving(row, build, spec)
            if ONE_BATCH in row.who:
                return self._serving(row, build, spec)
            return self._static(row, build, spec)
        except AnychipError as error:
            raise Skip(str(error)) from None

    def chip_of(self, row: Published) -> str:
        """Our name of the row's chip, "" when it has no spec."""
        build = lookup(CHIPS, row.chip) or lookup(LINKS, row.chip)
        return build.chip if isinstance(build, Build) else str(build or "")

    def _model(self, row: Published, context: int) -> LanguageModel:
        """The row's model. One timed beyond the context it was published with is lengthened."""
        name = lookup(MODELS, row.model)
        if not isinstance(name, str):
            raise Skip(f"model {row.model!r} is not in the catalogue")
        if name not in self.kept:
            self.kept[name] = self.load(name, 0)
        if context <= self.kept[name].facts.context:
            return self.kept[name]
        if (name, context) not in self.kept:
            longer = self.load(name, context)
            self.kept[name, context] = replace(longer, name=f"{name} at {context}")
        return self.kept[name, context]

    def _precision(self, row: Published, chip: str) -> str:
        name = lookup(PRECISIONS, row.precision)
        if not isinstance(name, str):
            raise Skip(f"precision {row.precision!r} is not built")
        return NATIVE.get(chip, {}).get(name, name)

    def _systems(self, chip: str, count: str) -> tuple[SystemSpec, ...]:
        """The chip's systems with just this count, or all of them when the row states none."""
        known = self.registry.systems(chip)
        if not count:
            return known
        n = _whole(count, "chips")
        n = n // 2 if chip == "wormhole-n300" and n > 1 else n  # a card of that spec is two chips
        able = [s for s in known if s.counts[-1] >= n]
        if not able:
            raise Skip(f"no system of {chip} has {n} chips")
        return (replace(min(able, key=lambda s: s.counts[-1]), counts=(n,)),)

    def _op(self, row: Published) -> Value:
        chip, seconds = op_seconds(row, self.registry, is_simulated=True)
        spec = self.registry.chip(chip).spec
        low, high = seconds / OP_FACTOR, seconds * OP_FACTOR
        return Value(
            value=seconds * 1e6,
            low=low * 1e6,
            high=high * 1e6,
            chip=chip,
            family=spec.family,
            model=row.model,
            shards=row.chips,
            how="op",
        )

    def plan_of(self, row: Published, build: Build, spec: ChipSpec) -> tuple[Found, Quantities]:
        """The plan by which a batch in step is predicted, and its quantities."""
        work = _workload(row)
        model, precision = self._model(row, work.context), self._precision(row, build.chip)
        key = (build, model.name, precision, work, row.chips)
        if key not in self.kept:
            self.surfaces.at(model, self.precisions[precision], 1)
            question = Question(
                model=model,
                workload=work,
                precisions=self.precisions,
                objective="latency",
                precision=precision,
                surfaces=self.surfaces,
            )
            found = search(question, spec, self._systems(build.chip, row.chips))
            self.kept[key] = (found, estimates(found, model))
        return self.kept[key]

    def _static(self, row: Published, build: Build, spec: ChipSpec) -> Value:
        """One batch, all in step: the closed form."""
        work, (found, values) = _workload(row), self.plan_of(row, build, spec)
        quantity, factor = METRICS[row.metric]
        estimate = values[quantity]
        if not isinstance(estimate, Estimate):
            raise Skip(f"{build.chip} has no {quantity}")
        if row.metric == "throughput_output_system":
            factor *= found.option.shards.chips
        ends = [estimate.value, estimate.low, estimate.high]
        if row.metric == "prefill_tok_s" or "TTFT probably included" in row.notes:
            tokens = work.prompt if row.metric == "prefill_tok_s" else work.generate
            of = estimate if row.metric == "prefill_tok_s" else values["latency_s"]
            if of is None:
                raise Skip(f"{build.chip} has no latency_s")
            ends = [work.batch * tokens / seconds for seconds in (of.value, of.high, of.low)]
        value, low, high = (end * factor for end in ends)
        return Value(
            value=value,
            low=low,
            high=high,
            chip=build.chip,
            family=spec.family,
            model=found.plan.model,
            shards=str(found.option.shards),
            how="closed form",
        )

    def _serving(self, row: Published, build: Build, spec: ChipSpec) -> Value:
        """Requests that come and go: the simulated server."""
        stack, lengths = self.stack_of(row), _lengths(row)
        model = self._model(row, lengths.prompt + lengths.generate)
        precision = self._precision(row, build.chip)
        (system,) = self._systems(build.chip, row.chips or "1")
        chips = system.counts[0]
        most = row.batch in ("offline max", "max", "") or row.batch.startswith("max (")
        asked = 0 if most else _whole(row.batch.removeprefix("max_seqs "), "batch")
        queued = _queued(row, asked)
        limit = max(queued, MOST_SEQUENCES)
        users = limit * chips if most else asked
        said = re.match(r"TP(\d+)\b", row.notes)
        tensor = row.tensor or (int(said[1]) if said else 0)
        tensor = tensor or (chips if ONE_BATCH in row.who else 0)
        ways = [tensor] if tensor else _divisors(chips)
        best: tuple[Served, int, int] | None = None
        for tensor in ways:
            copies = chips // tensor
            each = self._pace(model, precision, build, spec, system, tensor, stack, limit)
            room = int(each.cache_tokens // (lengths.prompt + stack.held * lengths.generate))
            if room < 1:
                continue
            number = max(1, min(round(users / copies), room if most else MOST_SEQUENCES))
            wide = replace(stack, sequences=max(number, 1))
            if queued:
                served = serve(each, wide, _at_once(lengths, queued))
            else:
                served = self._served(each, wide, lengths, number, (build, model.name, precision))
            if best is None or served.steady_tok_s * copies > best[0].steady_tok_s * best[1]:
                best = (served, copies, number)
        if best is None:
            raise UnsupportedError(f"{model.name} at {precision} does not fit {chips} {build.chip}")
        served, copies, number = best
        quantity = METRICS[row.metric][0]
        shards = f"{copies} x tp{chips // copies}"
        if quantity == "j_per_tok":
            shared = Shards(chips // copies)
            power = ServedPower(
                spec=spec,
                system=system,
                surface=self.surfaces.at(model, with_cache(self.precisions[precision], stack), 1),
                shards=shared,
                demand=_demand(lengths, number, WAVES.get(stack.name, 10)),
                served=served,
            )
            is_power = row.metric == "system_wall_power"
            times = copies if is_power else 1 / served.steady_tok_s

            def of_active(share: float) -> float:
                return (power.watts({ACTIVE: share}) or 0.0) * times

            watts, spread = power.watts(), power.spread()
            if watts is None or spread is None:
                raise Skip(f"{build.chip} has no power: its spec lacks a figure")
            if not is_power:
                error = serving_error(stack, "chip_tok_s")
                spread = spread.also("the server's rate", np.exp(-error), np.exp(error))
            return Value(
                value=watts * times,
                low=watts * times * float(np.exp(-spread.down)),
                high=watts * times * float(np.exp(spread.up)),
                chip=build.chip,
                family=spec.family,
                model=model.name,
                shards=shards,
                how="serving",
                stack=stack.name,
                of_active=of_active,
            )
        values = {
            "ttft_s": float(served.ttft_s.mean()) * 1e3,
            "tpot_s": float(served.tpot_s.mean()) * 1e3,
            "user_tok_s": 1.0 / float(served.tpot_s.mean()),
            "chip_tok_s": _rate(row, served, number) * copies / chips,
            "latency_s": float((served.ended_s - served.arrived_s).mean()),
        }
        if quantity not in values:
            raise Skip(f"{quantity} of a server is not predicted")
        value = values[quantity] * (chips if row.metric == "throughput_output_system" else 1)
        # The points that stacks were fitted to are of two chips; who names a stack elsewhere is one
        # of those whose errors the tuned stack's interval comes from (tools/half_widths.py).
        error = serving_error(stack if row.stack else TUNED, quantity)
        return Value(
            value=value,
            low=value * float(np.exp(-error)),
            high=value * float(np.exp(error)),
            chip=build.chip,
            family=spec.family,
            model=model.name,
            shards=shards,
            how="serving",
            stack=stack.name,
        )

    def stack_of(self, row: Published) -> Stack:
        """The one named as back end, of its version if that is known apart, else one that author or
        source name; audited benchmarks that name none are run on tuned ones. Benchmarks that hand
        requests over in the same process pay for no front end."""
        if row.stack:
            if row.stack not in self.stacks:
                raise Skip(f"serving stack {row.stack!r} is not modelled")
            return self.stacks.get(f"{row.stack} {row.version}") or self.stacks[row.stack]
        text = f"{row.who} {row.source}".lower()
        if row.chip.startswith("AMD") and row.who.startswith("MLPerf"):
            return AMD_VLLM
        named = next((one for name, one in self.stacks.items() if name in text), TUNED)
        if any(one in row.who for one in IN_PROCESS):
            return replace(named, request_s=0.0, stream_s=0.0)
        return named

    def _pace(
        self,
        model: LanguageModel,
        precision: str,
        build: Build,
        spec: ChipSpec,
        system: SystemSpec,
        tensor: int,
        stack: Stack,
        sequences: int = MOST_SEQUENCES,
    ) -> Pace:
        held = with_cache(self.precisions[precision], stack)
        key = (
            build,
            model.name,
            held.name,
            system.name,
            tensor,
            stack.step_tokens,
            stack.is_padded,
            sequences,
        )
        if key not in self.kept:
            surface = self.surfaces.at(model, held, 1)
            each = pace(
                surface,
                machine(spec, system),
                Shards(tensor),
                step_tokens=stack.step_tokens,
                sequences=sequences,
            )
            self.kept[key] = each.padded() if stack.is_padded else each
        return self.kept[key]

    def _served(
        self, each: Pace, stack: Stack, lengths: Lengths, users: int, setting: Any
    ) -> Served:
        key = (id(each), stack, lengths, users, setting)
        if key not in self.kept:
            self.kept[key] = serve(each, stack, _demand(lengths, users, WAVES.get(stack.name, 10)))
        return self.kept[key]


def _rate(row: Published, served: Served, users: int) -> float:
    """Answer tokens a second of one copy: for a serving point from its mean times, as published
    there; else those of the steady state."""
    if _queued(row, users):
        return served.tok_s
    if not row.stack:
        return served.steady_tok_s
    answer = int(row.generate)
    each = float(served.ttft_s.mean()) + (answer - 1) * float(served.tpot_s.mean())
    return users * answer / each


def _queued(row: Published, batch: int) -> int:
    """How many requests are asked at once and waited for; 0 when users come and go."""
    if ONE_BATCH in row.who:
        return batch
    queued = QUEUED.search(row.notes)
    return int(queued[1]) if queued else 0


def _demand(lengths: Lengths, users: int, waves: int) -> Demand:
    """A closed loop with lengths spread evenly around their means, the same every time."""
    random = np.random.default_rng(0)

    def spread(mean: int) -> np.ndarray:
        around = 1 + lengths.spread * (2 * random.random(users * waves) - 1)
        return np.maximum(1, np.rint(mean * around)).astype(int)

    return Demand(
        prompts=np.full(users * waves, lengths.prompt),
        answers=spread(lengths.generate),
        concurrency=users,
    )


def _at_once(lengths: Lengths, requests: int) -> Demand:
    """All at time zero, of equal lengths."""
    return Demand(
        prompts=np.full(requests, lengths.prompt),
        answers=np.full(requests, lengths.generate),
        concurrency=requests,
    )


def _lengths(row: Published) -> Lengths:
    known = lookup(DATASETS, row.prompt)
    if isinstance(known, Lengths):
        answer = round(float(row.generate)) if row.generate else known.generate
        return replace(known, generate=answer)
    answer = _whole(row.generate, "gen_len") if row.generate else GENERATE
    return Lengths(_whole(row.prompt, "prompt_len"), answer, row.source, SPREAD)


def _workload(row: Published) -> Workload:
    known = lookup(DATASETS, row.prompt)
    if isinstance(known, Lengths):
        prompt, generate = known.prompt, known.generate
    elif not row.prompt and row.metric in DECODE_ONLY:
        prompt, generate = PROMPT, GENERATE
    else:
        prompt = _whole(row.prompt.lstrip("~"), "prompt_len")
        generate = _whole(row.generate, "gen_len") if row.generate else GENERATE
    batch = _whole(row.batch, "batch")
    if row.metric.startswith("ttft") and row.who.startswith("Tenstorrent"):
        batch = 1  # its READMEs give one user's time to first token, whatever the batch
    return Workload(prompt, max(generate, 2), batch)


def _divisors(chips: int) -> list[int]:
    return [n for n in (1, 2, 4, 8, 16) if chips % n == 0]


def _whole(text: str, what: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(k?)", text.strip())
    if not match:
        raise Skip(f"{what} is {text!r}, not a number")
    return int(float(match[1]) * (1000 if match[2] else 1))
