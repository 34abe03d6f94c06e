"""models/*.toml: published shapes add up, are read strictly, and become verified modules."""

from dataclasses import replace

import pytest

from anychip.core import InputError, UsageError
from anychip.frontends.llm import PRECISIONS, catalogue
from anychip.frontends.llm.weights import facts, weight_specs
from anychip.ops.composites import composite_of
from anychip.ops.walk import walk
from anychip.ops.work import Work

NAMES = catalogue.names()
BF16 = PRECISIONS["bf16"]


def total_work(module):
    """Composites count as one op each."""
    work = Work()
    for step in walk(module, enter=lambda op: composite_of(op) is None):
        entry = composite_of(step.op)
        work += (entry.work(step.op) if entry else step.work) * step.count
    return work


def test_the_catalogue_holds_the_models_it_promises():
    assert set(NAMES) >= {
        *("llama-2-7b", "llama-2-70b", "llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"),
        *("llama-3.2-1b", "qwen3-8b", "qwen3-32b", "qwen3-235b-a22b", "mixtral-8x7b"),
        *("gpt-oss-20b", "gpt-oss-120b", "deepseek-v3", "mistral-7b", "gemma-3-27b"),
        "smollm2-135m",
    }


@pytest.mark.parametrize("name", NAMES)
def test_tensors_add_up_to_the_published_parameters(name):
    published = catalogue.read(name)
    counted = facts(published.shape)
    assert sum(s.parameters for s in weight_specs(published.shape, BF16)) == counted.parameters
    assert counted.parameters == pytest.approx(published.parameters, rel=0.01)
    if published.active_parameters:  # publishers differ on whether the embedding table counts
        assert counted.active_parameters == pytest.approx(published.active_parameters, rel=0.03)
    assert published.source
    assert published.parameters_source


@pytest.mark.parametrize("name", NAMES)
def test_decode_reads_its_weights_and_multiplies_by_each_once(name):
    model = catalogue.model(name)
    module = model.decode(1, 2048, BF16)  # Module.from_mlir verifies it
    facts_, weights = model.facts, model.bind(BF16)
    assert [a.name for a in module.signature.named("weight")] == list(weights)
    assert not {s.name for s in module.signature.named("state")} ^ {
        r.updates for r in module.signature.results[1:]
    }
    assert module.signature.results[0].shape == (1, facts_.vocabulary)
    work = total_work(module)
    assert work.flops > 2 * facts_.active_parameters
    cache = sum(s.nbytes for s in module.signature.named("state"))
    needed = 2 * facts_.active_parameters + cache
    # Activations and single elementwise ops come on top; small models have more of them.
    assert needed * 0.97 < work.read_bytes < needed * 1.1 + 1e8
    assert len(module.bytecode) < 300_000  # layers are calls, not copies


@pytest.mark.parametrize("name", NAMES)
def test_prefill_of_a_batch_builds(name):
    model = catalogue.model(name)
    module = model.prefill(8, 2048, 2048, BF16)
    assert module.signature.results[0].shape == (8, model.facts.vocabulary)
    assert module.weights.is_shape_only
    tokens = 8 * 2048
    # Every expert's bytes are counted at most once, and each token multiplies with its own only.
    flops = total_work(module).flops
    head = model.facts.vocabulary * model.facts.hidden  # the last token's alone
    assert flops > 2 * tokens * (model.facts.active_parameters - head)
    assert flops < 3.5 * tokens * model.facts.active_parameters


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("name", ["llama-3.1-8b", "gpt-oss-20b", "deepseek-v3", "gemma-3-27b"])
def test_native_precision_builds(name, batch):
    model = catalogue.model(name)
    module = model.decode(batch, 2048, model.native_precision)
    stored = sum(a.nbytes for a in module.signature.named("weight"))
    released = {"deepseek-v3": 671e9, "gpt-oss-20b": 12.8e9}  # bytes of their safetensors files
    expected = released.get(name, 2 * model.facts.parameters)
    assert stored == pytest.approx(expected, rel=0.09)


def test_window_layers_keep_window_sized_caches():
    module = catalogue.model("gemma-3-27b").decode(1, 8192, BF16)
    sizes = [s.shape[2] for s in module.signature.named("state") if s.name.endswith(".k")]
    assert sizes[:6] == [1024] * 5 + [8192]
    latent = catalogue.model("deepseek-v3").decode(2, 512, BF16).signature.named("state")
    assert {s.shape for s in latent} == {(2, 512, 576)}


def test_sizes_that_cannot_be_are_refused():
    model = catalogue.model("llama-2-7b")
    with pytest.raises(UsageError, match="made for 4096 tokens"):
        model.decode(1, 8192, BF16)
    with pytest.raises(UsageError, match="length = 9 must be between 1 and context = 8"):
        model.prefill(1, 9, 8, BF16)
    with pytest.raises(UsageError, match="batch = 0"):
        model.decode(0, 8, BF16)
    with pytest.raises(UsageError, match="has no file"):
        model.decode(1, 8, PRECISIONS["stored"])
    odd = replace(catalogue.read("llama-2-7b").shape, hidden=4128)
    wrong = next(s for s in weight_specs(odd, PRECISIONS["nvfp4"]) if s.kind == "linear")
    with pytest.raises(InputError, match=r"layers\.0\.attn\.q.*block of 64"):
        assert wrong.arguments


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("layers = 32", "layer = 32", r"shape\.layer: no key named 'layer'. Did you mean 'layers'"),
        ("layers = 32\n", "", r"shape\.layers: this key is missing"),
        ("layers = 32", 'layers = "32"', r"shape\.layers: expected int, got '32'"),
        ("layers = 32", "layers = true", r"shape\.layers: expected int, got True"),
        ("kv_heads = 8", "kv_heads = 7", r"kv_heads: 7 does not divide heads = 32"),
        ('"llama3"', '"ntk"', r"shape\.rope\.scaling: no scaling named 'ntk'"),
        ('"bf16"', '"bf8"', r"precision: no precision named 'bf8'"),
        ("[shape]", "[shape", "not valid TOML"),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path, old, new, message):
    text = (catalogue.FOLDER / "llama-3.1-8b.toml").read_text()
    assert old in text
    path = tmp_path / "odd.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        catalogue.read_file(path)
    assert str(path) in str(caught.value)


def test_an_unknown_model_lists_the_known():
    with pytest.raises(UsageError, match=r"Did you mean 'llama-3\.1-8b'"):
        catalogue.model("llama-3.1-8")
