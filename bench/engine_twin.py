"""The token engine on this host beside `anychip simulate --target cpu --stack anychip`.

    python bench/engine_twin.py [--model smollm2-135m] [--users 8] [--requests 40] [--prompt 64]
                                [--generate 32] [--precision f32] [--target cpu:xla] [--json FILE]

Users in a closed loop ask the engine and then the simulated one the same. Beside what is simulated
from the host's closed form stands what is simulated with the steps' measured times: the first is
the whole prediction, the second the scheduler and the engine's own time alone. `others` is the
share of the CPUs that other programs took: with much of it the first says nothing. Two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np

import anychip
from anychip.chips.cpu.system import cpu_seconds, others_share
from anychip.core import CompileOptions, LanguageModel, discover, machine_name
from anychip.frontends.llm import PRECISIONS
from anychip.llm import Limits, Sampling, Stop
from anychip.llm.engine import Engine
from anychip.mapper.deployment import deploy
from anychip.mapper.pace import Pace
from anychip.mapper.serving import Served, closed
from anychip.mapper.stacks import OWN
from anychip.mapper.traffic import run

RESULT = Path(__file__).parent / "results" / "engine-twin.json"


def measured(engine: Engine, given: argparse.Namespace) -> tuple[Served, int]:
    """What the users saw, and how many steps it took."""
    dice = np.random.default_rng(0)
    highest = engine.model.facts.vocabulary
    arrived, first, ended = (np.zeros(given.requests) for _ in range(3))
    number: dict[int, int] = {}

    def ask(which: int) -> None:
        prompt = dice.integers(0, highest, given.prompt).tolist()
        arrived[which] = time.perf_counter()
        id = engine.submit(prompt, max_new=given.generate, sampling=Sampling(), stop=Stop())
        number[id] = which

    before = engine.batches
    for which in range(min(given.users, given.requests)):
        ask(which)
    while not engine.is_idle:
        for piece in engine.step():
            which, now = number[piece.request], time.perf_counter()
            first[which] = first[which] or now
            if piece.finish:
                ended[which] = now
                if len(number) < given.requests:
                    ask(len(number))
    tokens = np.full(given.requests, given.generate)
    steps = engine.batches - before
    return Served(
        arrived_s=arrived, first_s=first, ended_s=ended, tokens=tokens, steps=steps, busy_s=0.0
    ), steps


def seen(served: Served) -> dict[str, float]:
    return {
        "ttft_s": float(served.ttft_s.mean()),
        "tpot_s": float(served.tpot_s.mean()),
        "tok_s": served.tok_s,
    }


def of_steps(engine: Engine, like: Pace) -> Pace:
    """The pace of the sizes that were run, by their median times; nothing but tokens counts."""
    most: dict[int, list[float]] = {}
    for (tokens, _), seconds in engine.steps.seconds.items():
        most.setdefault(tokens, []).extend(seconds)
    sizes = sorted(most)
    zero = np.zeros(len(sizes))
    return replace(
        like,
        tokens=np.array(sizes, float),
        linear_s=np.array([np.median(most[size]) for size in sizes]),
        context_s=zero,
        prompt_s=0.0,
        pair_s=0.0,
    ).padded()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--target", default="cpu:xla")
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--requests", type=int, default=40)
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--generate", type=int, default=32)
    parser.add_argument("--json", type=Path, default=RESULT)
    given = parser.parse_args()
    model = anychip.load(given.model)
    assert isinstance(model, LanguageModel)
    longest = given.prompt + given.generate
    limits = Limits(
        pages=64 * -(-longest // 16),
        step_tokens=OWN.step_tokens,
        sequences=OWN.sequences,
        context=1 << (longest - 1).bit_length(),
        prefix_cache=False,
    )
    precision = PRECISIONS[given.precision]
    engine = Engine(
        model,
        discover().target(given.target),
        limits,
        precision=precision,
        options=CompileOptions(),
    )
    measured(engine, given)  # compiles the sizes that come up
    engine.steps.seconds.clear()
    before = cpu_seconds()
    saw, steps = measured(engine, given)
    others = others_share(before, cpu_seconds())
    placed = deploy(
        model,
        "cpu",
        discover(),
        PRECISIONS,
        longest=longest,
        precision=given.precision,
        stack=OWN.name,
    )
    demand = closed(given.prompt, given.generate, given.users, given.requests)
    paces = {"closed form": placed.pace, "measured steps": of_steps(engine, placed.pace)}
    document: dict[str, Any] = {
        "machine": machine_name(),
        "others": others,
        **{key: str(value) for key, value in vars(given).items() if key != "json"},
        "measured": {**seen(saw), "steps": steps},
    }
    for name, one in paces.items():
        served = run(replace(placed.fleet(), pace=one), demand)
        values = seen(served)
        off = {key: values[key] / seen(saw)[key] - 1 for key in values}
        document[name] = {**values, "steps": served.steps, "error": off}
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(part)}" for key, part in document.items())
    given.json.write_text(f"{{{lines}}}\n", encoding="utf-8")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
