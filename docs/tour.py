"""The tour: one real model from its file to a verdict for chips you do not have. Run it:

    .venv/bin/python docs/tour.py

It is also a test, so what it shows is true. Read it top to bottom; each step is one noun.
"""

from __future__ import annotations

from collections import Counter

import anychip
from anychip.core import CompileOptions, LanguageModel, Module, discover
from anychip.core.config import read
from anychip.frontends.llm import PRECISIONS
from anychip.frontends.pull import pull
from anychip.llm import compile_runner, prompt_ids
from anychip.ops.walk import total, walk


def a_model_comes_in() -> LanguageModel:
    """A file with weights becomes a LanguageModel: two families of Modules, prefill and decode.

    Nothing is read but the header; weights stay in the file's memory map until they are touched.
    """
    pulled = pull("smollm2-135m", read("home"))
    model = anychip.load(pulled.model.name)
    assert isinstance(model, LanguageModel)
    facts = model.facts
    print(f"{model.name}: {facts.layers} layers, {facts.parameters / 1e6:.0f} M parameters")
    return model


def it_is_a_module(model: LanguageModel) -> Module:
    """One step at a given batch, context and precision is a Module: verified StableHLO.

    Weights are arguments, the KV cache is state that is donated and returned, and each op knows the
    layer it came from. What hardware knows as one thing (attention, a norm) is one composite.
    """
    decode = model.decode(1, 256, PRECISIONS["f32"])
    roles = Counter(argument.role for argument in decode.signature.arguments)
    counted = ", ".join(f"{count} {role}s" for role, count in roles.items())
    print(f"{decode.name} takes {counted}")
    composites = Counter(
        step.op.attributes["name"] for step in walk(decode) if step.op.name == "stablehlo.composite"
    )
    print("composites:", ", ".join(f"{n} × {name}" for name, n in composites.most_common()))
    work = total(decode)
    print(f"work of one token: {work.flops / 1e9:.2f} GFLOP, {work.read_bytes / 1e9:.2f} GB read")
    return decode


def it_runs_here(model: LanguageModel) -> str:
    """`cpu:xla` is a Target; compiling gives an Executable, and two of them make a Runner."""
    prompt = prompt_ids(model, "The capital of France is")
    target = discover().target("cpu:xla")
    runner = compile_runner(
        model, target, prompt_tokens=len(prompt), max_new=8, precision=PRECISIONS["f32"]
    )
    answer = "".join(piece.text for piece in runner.generate(prompt, max_new=8))
    print(f"The capital of France is{answer}")
    return answer


def a_twin_says_what_it_would_cost_elsewhere(decode: Module) -> float:
    """The same Module goes to a twin: same seam, but it predicts, and its Trace says so."""
    twin = discover().target("groq-lpu:twin")
    executable = twin.compile(decode, CompileOptions())
    print(executable.coverage.summary())
    trace = executable.trace()
    print(f"groq-lpu: {trace.seconds * 1e6:.0f} µs a token, {trace.kind}, not measured")
    return trace.seconds


def every_chip_at_once() -> str:
    """`compare` does that for every chip and system, with intervals, energy and money."""
    table = anychip.compare("llama-3.1-70b", batch=8, objective="cost")
    best = table.rows[0]
    cost = best.quantities["usd_per_mtok"]
    assert cost is not None
    print(f"cheapest for llama-3.1-70b at batch 8: {best.chip} × {best.count}, {best.precision}")
    print(f"  ${cost.value:.2f} per million tokens, between {cost.low:.2f} and {cost.high:.2f}")
    for flip in table.flips:
        print(f"  {flip.text}")
    return best.chip


if __name__ == "__main__":
    loaded = a_model_comes_in()
    step = it_is_a_module(loaded)
    it_runs_here(loaded)
    a_twin_says_what_it_would_cost_elsewhere(step)
    every_chip_at_once()
