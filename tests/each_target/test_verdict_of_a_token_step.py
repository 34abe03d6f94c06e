"""What a token step is judged on: a cache that the model itself filled, and what 8 bits can do."""

from datetime import datetime

import numpy as np

from anychip.cli.asking import ask
from anychip.cli.model import Step, language_step
from anychip.cli.verdicts import Inquiry
from anychip.compilers.native import NativeTarget
from anychip.core import Chip, CompileOptions, Registry, RunFolder
from anychip.frontends.gguf import load_gguf


class Watched(NativeTarget):
    """Keeps what its executables are run on."""

    seen: list[list[np.ndarray]] = []

    def compile(self, module, options):
        made = super().compile(module, options)
        run = made.run

        def watched(*inputs):
            self.seen.append([np.array(x) for x in inputs])
            return run(*inputs)

        made.run = watched
        return made


def test_the_cache_is_of_a_prompt_and_the_roundings_of_8_bits_are_allowed_for(tiny_gguf, tmp_path):
    model = load_gguf(tiny_gguf(format="q4_1"))
    step = Step(step="decode", batch=1, length=1, context=48, precision="auto", dims=())
    inquiry = Inquiry(
        loaded=language_step(model, step),
        registry=Registry(
            {"c": lambda: Chip(lambda: None, {"native": lambda chip: Watched()}, {}, name="c")},
            {"c": "test 1"},
        ),
        folder=RunFolder.new(tmp_path, "compile", "one", datetime(2026, 1, 1)),
        options=CompileOptions(threads=1),
        compile=lambda target, module, options: target.compile(module, options),
    )
    (verdict,) = ask(inquiry, ["c:native"], lambda name, verdict: None).verdicts
    assert verdict.matched is True
    assert verdict.tolerance == 16 / 254
    assert verdict.rel_err is not None
    assert 0 < verdict.rel_err < verdict.tolerance
    (inputs,) = Watched.seen
    names = [a.name for a in inquiry.loaded.module.signature.arguments if a.role != "weight"]
    given = dict(zip(names, inputs, strict=True))
    assert given["start"].tolist() == [24]
    keys = given["layers.0.k"]
    assert np.abs(keys[:, :, :24]).min(axis=-1).max() > 0
    assert not keys[:, :, 24:].any()
