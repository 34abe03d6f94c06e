"""TensorFlow and Keras models in: numbers equal TensorFlow's, refusals name the op."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from anychip.core import (
    CompileOptions,
    InputError,
    Module,
    UnsupportedError,
    UsageError,
    discover,
)
from anychip.frontends.tensorflow import load_tensorflow
from anychip.frontends.tensorflow.child import Refused, export

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

RNG = np.random.default_rng(0)


def run(module: Module, *inputs: np.ndarray) -> list[np.ndarray]:
    executable = discover().target("cpu:xla").compile(module, CompileOptions())
    return [np.array(r) for r in executable.run(*inputs)]


def close(got: np.ndarray, wanted: object) -> bool:
    reference = np.asarray(wanted)
    return bool(np.max(np.abs(got - reference)) <= 1e-3 * np.max(np.abs(reference)))


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two signatures, a variable that is assigned, a constant, and a dictionary of outputs."""

    class Counter(tf.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = tf.Variable(RNG.standard_normal((8, 4)).astype("f4"), name="kernel")
            self.seen = tf.Variable(np.zeros(4, "f4"), name="seen")
            self.shift = tf.constant(RNG.standard_normal(4).astype("f4"))

        @tf.function(input_signature=[tf.TensorSpec((None, 8), tf.float32, name="x")])
        def count(self, x):
            self.seen.assign_add(tf.reduce_sum(x, 0)[:4])
            return {"y": tf.nn.relu(x @ self.kernel) * self.shift + self.seen, "n": tf.shape(x)[0]}

        @tf.function(input_signature=[tf.TensorSpec((2, 8), tf.float32, name="x")])
        def double(self, x):
            return {"twice": 2 * x}

    model = Counter()
    path = str(tmp_path_factory.mktemp("tf") / "counter")
    tf.saved_model.save(model, path, signatures={"count": model.count, "double": model.double})
    return path


def test_saved_model_signature_matches_and_assigned_variable_becomes_state(saved_model):
    x = RNG.standard_normal((3, 8)).astype("f4")
    module = load_tensorflow(saved_model, shapes={"x": (3, 8)}, signature="count")
    roles = {a.name: a.role for a in module.signature.arguments}
    assert roles == {"x": "input", "seen": "state", "kernel": "weight", "constant": "weight"}
    assert [(r.name, r.updates) for r in module.signature.results] == [
        ("n", None),
        ("y", None),
        ("seen.next", "seen"),
    ]
    start = np.ones(4, "f4")
    count, y, seen = run(module, x, start)
    kernel, shift = (module.weights[n].array() for n in ("kernel", "constant"))
    after = start + x.sum(0)[:4]
    assert count == 3
    assert np.allclose(seen, after, rtol=1e-6)
    assert close(y, np.maximum(x @ kernel, 0) * shift + after)


@pytest.mark.parametrize(
    ("signature", "shapes", "message"),
    [
        ("predict", {}, r"\['count', 'double'\]"),
        ("count", {}, "open dimensions: x"),
        ("count", {"y": (1, 8)}, r"inputs are \['x'\]"),
        ("count", {"x": (1, 9)}, "does not fit"),
    ],
)
def test_wrong_signature_or_shapes_say_what_there_is(
    saved_model, tmp_path, signature, shapes, message
):
    job = {"path": saved_model, "signature": signature, "shapes": shapes}
    with pytest.raises(Refused, match=message):
        export(job, tmp_path)  # what the child does, in this process: TensorFlow is here already


def test_a_refusal_in_the_child_is_a_usage_error_naming_the_path(saved_model):
    with pytest.raises(UsageError, match=r"counter.*open dimensions: x"):
        load_tensorflow(saved_model, signature="count")
    with pytest.raises(UsageError, match="not both"):
        load_tensorflow(saved_model, [np.zeros((1, 8), "f4")], shapes={"x": (1, 8)})


def test_a_damaged_folder_is_an_input_error_naming_the_path(saved_model, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(saved_model, broken)
    graph = broken / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[:-100])
    with pytest.raises(InputError, match="TensorFlow cannot read it") as caught:
        load_tensorflow(broken)
    assert str(broken) in str(caught.value)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own
def test_keras_model_and_its_file_match(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(5, activation="softmax", name="head"),
        ],
        name="small",
    )
    x = RNG.random((2, 12, 12, 3)).astype("f4")
    wanted = model(x, training=False)
    module = load_tensorflow(model, x)  # one array, not its two rows
    assert "small/conv/kernel" in module.weights
    assert close(run(module, x)[0], wanted)
    model.save(tmp_path / "small.keras")
    from_file = load_tensorflow(tmp_path / "small.keras", shapes={"image": (2, 12, 12, 3)})
    assert close(run(from_file, x)[0], wanted)
    by_axis = load_tensorflow(tmp_path / "small.keras", dims={"image_0": 2})
    assert by_axis.signature == from_file.signature
    with pytest.raises(UsageError, match=r"open dimensions: image .*--dim x_0=1"):
        load_tensorflow(tmp_path / "small.keras")
    with pytest.raises(UsageError, match=r"\['batch', 12, 12, 3\]; .*KERAS_BACKEND=jax"):
        load_tensorflow(model, shapes={"image": ("batch", 12, 12, 3)})
    with pytest.raises(UsageError, match="no open dimensions are called image_1"):
        load_tensorflow(model, dims={"image_0": 2, "image_1": 12})


def test_a_keras_subclass_takes_arguments_one_by_one_or_by_name():
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = keras.layers.Dense(3)

        def call(self, a, b):
            return self.head(a) - b

    class Named(Pair):
        def call(self, inputs):
            return self.head(inputs["a"]) - inputs["b"]

    a, b = RNG.random((2, 4)).astype("f4"), RNG.random((2, 3)).astype("f4")
    pair, named = Pair(), Named()  # not built: loading makes their weights
    module = load_tensorflow(pair, [a, b])
    assert close(run(module, a, b)[0], pair(a, b))
    module = load_tensorflow(named, {"a": a, "b": b})
    assert [x.name for x in module.signature.named("input")] == ["a", "b"]
    assert close(run(module, a, b)[0], named({"a": a, "b": b}))
    with pytest.raises(UsageError, match="a Pair needs example_inputs"):
        load_tensorflow(Pair())


def test_recurrent_layer_and_control_flow_match():
    keras.utils.set_random_seed(0)
    tokens = RNG.integers(1, 50, (2, 10)).astype("i4")
    model = keras.Sequential(
        [
            keras.Input((10,), dtype="int32"),
            keras.layers.Embedding(50, 8, mask_zero=True),
            keras.layers.LSTM(6, return_sequences=True),
            keras.layers.GRU(4),
        ]
    )
    assert close(run(load_tensorflow(model, [tokens]), tokens)[0], model(tokens))

    @tf.function
    def loop(x, steps):
        for _ in tf.range(steps):
            x = tf.tanh(x) * 1.5
        return x if tf.reduce_sum(x) > 0 else -x

    x = RNG.standard_normal((3, 4)).astype("f4")
    steps = np.int32(4)
    named = tf.function(lambda x: {"up": x + 1, "pair": (x, -x)})
    assert load_tensorflow(named, x).signature.results[-1].name == "up"
    assert close(run(load_tensorflow(loop, [x, steps]), x, steps)[0], loop(x, steps))


def test_data_dependent_size_is_refused_with_the_ops_name():
    picks = tf.function(lambda x: tf.gather(x, tf.where(x > 0)[:, 0]))
    with pytest.raises(UnsupportedError, match="depends on the data"):
        load_tensorflow(picks, [RNG.standard_normal(10).astype("f4")])


def test_op_xla_lacks_is_refused_with_tensorflows_reason():
    text = tf.function(lambda x: tf.strings.length(tf.as_string(x)))
    with pytest.raises(UnsupportedError, match="AsString"):
        load_tensorflow(text, [RNG.standard_normal(10).astype("f4")])


def test_neither_model_nor_path_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no Keras model"):
        load_tensorflow(object(), [np.zeros(3)])
    with pytest.raises(UsageError, match="neither a SavedModel"):
        load_tensorflow(tmp_path)


ON_JAX = """
import anychip, keras, numpy as np

x, y = keras.Input((6, 8), name="words"), keras.Input((4,), name="facts")
h = keras.layers.LSTM(5)(keras.layers.BatchNormalization()(x))
h = keras.layers.Dropout(0.5)(keras.layers.Concatenate()([h, y]))
model = keras.Model([x, y], keras.layers.Dense(3, name="head")(h), name="net")
random = np.random.default_rng(0)
words, facts = (random.standard_normal(s).astype("f4") for s in ((3, 6, 8), (3, 4)))
sizes = {"words": ("batch", 6, 8), "facts": ("batch", 4)}
module = anychip.load(model, [words, facts], shapes=sizes)
assert module.signature.symbols == ("batch",)
assert "head/kernel" in module.weights
for batch in (1, 3):
    fixed = anychip.compile(module.specialise({"batch": batch}), "cpu:xla")
    (got,) = fixed.run(words[:batch], facts[:batch])
    np.testing.assert_allclose(got, model([words[:batch], facts[:batch]]), rtol=1e-4, atol=1e-6)
"""


def test_keras_on_its_jax_backend_has_a_symbolic_batch():
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-c", ON_JAX]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
