"""The stages of keras.applications up to their logits, with TensorFlow's own numbers as the
reference. A softmax at the end would hide what is wrong before it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from anychip.core import CompileOptions, discover
from anychip.zoo import Entry, Row, relative_error

_OWN_LIMIT_S = 7200.0  # above the zoo's, which is the one that counts


def stages(entry: Entry, targets: Sequence[str], row: Row) -> Iterator[str]:
    """Names each stage before it begins, and fills the row as stages succeed."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    from anychip.frontends.tensorflow import load_tensorflow

    row.frontend = "tensorflow"
    size = entry.values["size"]
    keras.utils.set_random_seed(0)
    model = getattr(keras.applications, entry.name)(
        weights=None, input_shape=(size, size, 3), classifier_activation=None
    )
    random = np.random.default_rng(0)
    _spread(model, random)
    _settle(model, _images(random, 16, size))
    image = _images(random, 1, size)
    yield "reference"
    wanted = np.asarray(model(image, training=False))
    if not np.isfinite(wanted).all() or wanted.std() < 1e-3 * np.abs(wanted).max():
        raise ValueError("TensorFlow's own outputs are degenerate: constant, or not finite")
    yield "lower"
    module = load_tensorflow(model, [image], timeout_s=_OWN_LIMIT_S)
    row.imported = row.lowered = True
    row.ops = module.text(elide_over=16).count("stablehlo.")
    for target in targets:
        yield f"compile for {target}"
        executable = (
            discover().target(target).compile(module, CompileOptions(timeout_s=_OWN_LIMIT_S))
        )
        row.compiled(target)
        yield f"run on {target}"
        row.judge(target, relative_error([np.asarray(executable.run(image)[0])], [wanted]))


def _spread(model: Any, random: np.random.Generator) -> None:
    """Scales near 1 and biases near 0, none of them alike: a swapped pair would show, and so would
    a branch that is scaled to nothing at first, as ConvNeXt's are."""
    for weight in model.weights:
        if weight.path.endswith(("beta", "bias")):
            weight.assign(random.standard_normal(weight.shape) * 0.1)
        elif weight.path.endswith("gamma"):
            weight.assign(random.uniform(0.7, 1.3, weight.shape))


def _images(random: np.random.Generator, count: int, size: int) -> np.ndarray:
    """Coarse patterns of several strengths under fine noise. Noise alone looks all the same to a
    deep network: batch norms would blow up what little differs, and rounding with it."""
    coarse = random.standard_normal((count, 4, 4, 3)).repeat(size // 4, 1).repeat(size // 4, 2)
    fine = random.standard_normal((count, size, size, 3))
    strength = random.uniform(0.3, 2, (count, 1, 1, 3))
    return ((coarse + 0.3 * fine) * strength).astype(np.float32)


def _settle(model: Any, images: np.ndarray) -> None:
    """Set the running statistics of batch norms to those of these images.

    With statistics of its own choosing a deep network's activations grow without bound, and what
    is compared is rounding noise, or a softmax of one 1 among zeros.
    """
    import keras

    norms = [m for m in model._flatten_layers() if isinstance(m, keras.layers.BatchNormalization)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    if norms:
        model(images, training=True)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
