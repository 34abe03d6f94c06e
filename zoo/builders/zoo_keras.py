"""The stages of keras.applications, with TensorFlow's own numbers as the reference."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from anychip.core import CompileOptions, discover
from anychip.zoo import Entry, Row, relative_error


def stages(entry: Entry, targets: Sequence[str], row: Row) -> Iterator[str]:
    """Names each stage before it begins, and fills the row as stages succeed."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    from anychip.frontends.tensorflow import load_tensorflow

    row.frontend = "tensorflow"
    size = entry.values["size"]
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, entry.name)(weights=None, input_shape=(size, size, 3))
    _spread(model)
    image = np.random.default_rng(0).standard_normal((1, size, size, 3)).astype(np.float32)
    yield "reference"
    wanted = np.asarray(model(image, training=False))
    if not np.isfinite(wanted).all() or wanted.std() < 1e-9:
        raise ValueError("TensorFlow's own outputs are degenerate: constant, or not finite")
    yield "lower"
    module = load_tensorflow(model, [image])
    row.imported = row.lowered = True
    row.ops = module.text(elide_over=16).count("stablehlo.")
    for target in targets:
        yield f"compile for {target}"
        executable = discover().target(target).compile(module, CompileOptions(timeout_s=600))
        row.compiled(target)
        yield f"run on {target}"
        row.judge(target, relative_error([np.asarray(executable.run(image)[0])], [wanted]))


def _spread(model: Any) -> None:
    """Seeded statistics for batch norms: zeros and ones would hide a swapped pair."""
    rng = np.random.default_rng(1)
    for weight in model.weights:
        if "moving_mean" in weight.path or weight.path.endswith("beta"):
            weight.assign(rng.standard_normal(weight.shape) * 0.1)
        elif "moving_variance" in weight.path or weight.path.endswith("gamma"):
            weight.assign(rng.uniform(0.7, 1.3, weight.shape))
