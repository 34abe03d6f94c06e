"""`cpu:native` end to end: composites against their own definitions, models against `cpu:xla`."""

import gc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from quick_xla import QuickXla

from anychip.compilers.native import NativeTarget
from anychip.compilers.native.isa import NAMES, choose
from anychip.core import (
    Argument,
    CompileOptions,
    InputError,
    LanguageModel,
    SetupError,
    UnsupportedError,
    UsageError,
    dtype,
)
from anychip.frontends.gguf import load_gguf as load
from anychip.frontends.llm import PRECISIONS
from anychip.frontends.trace import to_module
from anychip.ops.case import parse
from anychip.ops.composites import COMPOSITES
from anychip.testing.tolerance import tolerance

STORED = PRECISIONS["stored"]

COVERED = {
    "anychip.rms_norm": (0, 1, 2),
    "anychip.silu": (0, 1),
    "anychip.swiglu": (0, 1, 2),
    "anychip.gelu": (0, 2),
    "anychip.rope": (0, 1, 2),
}
"""Examples that must compile. Their results are f32 inside, so narrow types cannot be worse."""


def compiled(composite, example, threads=2):
    arguments = []
    for index, spec in enumerate(example.inputs):
        shape, element = parse(spec)
        arguments.append(Argument(f"a{index}", shape, np.dtype(element).name))
    arguments = [
        Argument(a.name, a.shape, {"float32": "f32", "int32": "i32", "bfloat16": "bf16"}[a.dtype])
        for a in arguments
    ]
    module = to_module(
        lambda *arrays: composite(*arrays, **example.attributes).astype("float32"),
        arguments,
        name=composite.name,
        result_names=["out"],
    )
    return NativeTarget().compile(module, CompileOptions(threads=threads))


@pytest.mark.parametrize(
    ("name", "number"), [(n, i) for n, numbers in COVERED.items() for i in numbers]
)
def test_composites_agree_with_their_own_definition(name, number):
    composite = COMPOSITES[name]
    example = composite.examples[number]
    arrays = example.arrays()
    (got,) = compiled(composite, example).run(*arrays)
    want = example.expected(arrays)
    rtol, atol = tolerance("f32", example.reduced)
    np.testing.assert_allclose(got, want, rtol=max(rtol, 1e-5), atol=max(atol, 1e-5))


SHAPES = [
    # batch, heads, kv heads, queries, slots, width, start, window, softcap
    (1, 4, 2, 1, 40, 32, [37], 0, 0.0),
    (2, 3, 3, 1, 16, 16, [15, 2], 0, 0.0),
    (1, 6, 2, 5, 33, 64, [20], 0, 0.0),
    (2, 4, 1, 3, 50, 16, [0, 44], 7, 0.0),
    (1, 9, 3, 1, 300, 64, [290], 0, 0.0),
    (1, 2, 1, 4, 48, 32, [30], 20, 15.0),
    (1, 2, 2, 1, 16, 128, [0], 0, 0.0),
    (2, 6, 2, 40, 100, 64, [0, 55], 0, 0.0),  # on tile registers where there are any
    (1, 4, 1, 70, 130, 32, [33], 20, 5.0),
]


@pytest.mark.parametrize(
    ("shape", "cache", "threads"),
    [
        (shape, cache, 1 + (number + other) % 3)
        for number, shape in enumerate(SHAPES)
        for other, cache in enumerate(("f32", "bf16", "f16"))
    ],
)
def test_attention_over_an_updated_cache_is_the_definition(shape, cache, threads):
    from anychip.ops.composite_cache import np_update
    from anychip.ops.composite_cached import np_cached

    batch, heads, kv_heads, queries, slots, width, start, window, softcap = shape
    state = Argument("k", (batch, kv_heads, slots, width), cache, "state")
    arguments = (
        state,
        Argument("v", state.shape, cache, "state"),
        Argument("q", (batch, heads, queries, width), "f32"),
        Argument("new_k", (batch, kv_heads, queries, width), "f32"),
        Argument("new_v", (batch, kv_heads, queries, width), "f32"),
        Argument("start", (batch,), "i32"),
    )
    keywords = {"scale": width**-0.5, "window": window, "softcap": softcap}

    def step(k, v, q, new_k, new_v, start):
        update, attend = COMPOSITES["anychip.cache_update"], COMPOSITES["anychip.cached_attention"]
        k, v = update(k, new_k, start), update(v, new_v, start)
        return attend(q, k, v, start, **keywords), k, v

    module = to_module(
        step,
        arguments,
        name="attend",
        result_names=["out", "k", "v"],
        updates={"k": "k", "v": "v"},
    )
    executable = NativeTarget().compile(module, CompileOptions(threads=threads))
    random = np.random.default_rng(1)
    arrays = [random.standard_normal(a.shape).astype(np.float32) for a in arguments[:5]]
    arrays[:2] = [a.astype(dtype(cache).numpy) for a in arrays[:2]]
    begin = np.array(start, np.int32)
    out, k, v = executable.run(*arrays, begin)
    want = [
        np_update(old, new.astype(old.dtype), begin)
        for old, new in zip(arrays[:2], arrays[3:5], strict=True)
    ]
    assert (np.asarray(k) == want[0]).all()
    assert (np.asarray(v) == want[1]).all()
    wide = [w.astype(np.float64) for w in want]
    expected = np_cached(arrays[2].astype(np.float64), *wide, begin, **keywords)
    near = 5e-5 if queries >= 16 else 2e-5
    np.testing.assert_allclose(out, expected, rtol=near, atol=near)


PLACES = {
    "one": [(1, 37)],
    "mixed": [(0, 0), (2, 63), (1, 5), (1, 6), (2, 30)],
    "a prompt": [(2, 7 + i) for i in range(40)],
    "a prompt beside others": [(0, 9), (1, 63), *((2, 7 + i) for i in range(40))],
}


@pytest.mark.parametrize("isa", ["amx", "avx512vnni"])
@pytest.mark.parametrize("where", PLACES)
def test_attention_over_pages_is_the_definition(where, isa):
    from anychip.ops.composite_paged import _np_paged, _np_update

    need(isa)
    places = np.array(PLACES[where], np.int32).T.copy()
    tokens, heads, kv_heads, width, page = places.shape[1], 6, 2, 32, 16
    pool = Argument("k", (14, kv_heads, page, width), "f16", "state")
    arguments = (
        pool,
        Argument("v", pool.shape, "f16", "state"),
        Argument("q", (1, heads, tokens, width), "f32"),
        Argument("new_k", (1, kv_heads, tokens, width), "f32"),
        Argument("new_v", (1, kv_heads, tokens, width), "f32"),
        Argument("table", (3, 4), "i32"),
        Argument("places", (2, tokens), "i32"),
    )

    def step(k, v, q, new_k, new_v, table, places):
        update, attend = COMPOSITES["anychip.paged_update"], COMPOSITES["anychip.paged_attention"]
        k, v = update(k, new_k, table, places), update(v, new_v, table, places)
        return attend(q, k, v, table, places, scale=width**-0.5), k, v

    module = to_module(
        step,
        arguments,
        name="attend",
        result_names=["out", "k", "v"],
        updates={"k": "k", "v": "v"},
    )
    executable = NativeTarget().compile(module, CompileOptions(threads=2, extra={"isa": isa}))
    assert executable.coverage.count("native") == executable.coverage.total
    random = np.random.default_rng(1)
    arrays = [random.standard_normal(a.shape).astype(np.float32) for a in arguments[:5]]
    arrays[:2] = [a.astype(np.float16) for a in arrays[:2]]
    table = random.permutation(14)[:12].reshape(3, 4).astype(np.int32)
    out, k, v = executable.run(*arrays, table, places)
    want = [
        _np_update(old, new.astype(np.float16), table, places)
        for old, new in zip(arrays[:2], arrays[3:5], strict=True)
    ]
    assert (np.asarray(k) == want[0]).all()
    assert (np.asarray(v) == want[1]).all()
    wide = [w.astype(np.float64) for w in want]
    expected = _np_paged(arrays[2].astype(np.float64), *wide, table, places, scale=width**-0.5)
    np.testing.assert_allclose(out, expected, rtol=5e-5, atol=5e-5)


class Session:
    """A model's caches between steps."""

    def __init__(self, executable, context):
        self.signature, self.context = executable.signature, context
        self.state = [
            np.zeros([int(d) for d in a.shape], np.float32)
            for a in executable.signature.named("state")
        ]

    def step(self, executable, tokens, start):
        rows = np.asarray(tokens, np.int32).reshape(executable.signature.named("input")[0].shape)
        begin = np.broadcast_to(np.asarray(start, np.int32), (len(rows),))
        logits, *self.state = executable.run(*self.state, rows, np.ascontiguousarray(begin))
        return np.asarray(logits)


def build(target, model: LanguageModel, length: int, context: int, threads=2, batch=1, **extra):
    make = model.prefill if length > 1 else None
    module = make(batch, length, context, STORED) if make else model.decode(batch, context, STORED)
    options = CompileOptions(threads=threads, extra=extra)
    return target.compile(module.with_weights(model.bind(STORED)), options)


def need(isa: str) -> None:
    try:
        choose(isa)
    except SetupError as error:
        pytest.skip(str(error))


@pytest.fixture
def tiny(tiny_gguf) -> LanguageModel:
    return load(tiny_gguf(format=["q4_0", "q8_0", "q4_1"]))


STEPS = [3, 9, 200, 17, 40]


@pytest.fixture(scope="module")
def logits_of_xla() -> Callable[[str, LanguageModel], list[np.ndarray]]:
    """Those of `STEPS`, once for each of the models, which are the same in every test."""
    made: dict[str, list[np.ndarray]] = {}

    def logits(arch: str, model: LanguageModel) -> list[np.ndarray]:
        if arch not in made:
            xla = build(QuickXla(), model, 1, 64)
            theirs = Session(xla, 64)
            made[arch] = [theirs.step(xla, [token], i) for i, token in enumerate(STEPS)]
        return made[arch]

    return logits


@pytest.mark.parametrize("isa", NAMES)
@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_tiny_models_give_nearly_the_logits_of_xla(tiny_gguf, logits_of_xla, arch, isa):
    need(isa)
    model = load(tiny_gguf(format=["q4_0", "q8_0", "q4_1", "f16"], arch=arch))
    native = build(NativeTarget(), model, 1, 64, isa=isa)
    ours = Session(native, 64)
    wanted = logits_of_xla(arch, model)
    for position, (token, b) in enumerate(zip(STEPS, wanted, strict=True)):
        a = ours.step(native, [token], position)
        # Rounding activations to 8 bits: 1/254 of a group's largest number at most, each product.
        assert np.abs(a - b).max() < 0.05 * np.abs(b).max()
    assert native.coverage.count("native") == native.coverage.total


READ_AT_ONCE = [(2, "avx512vnni", 1e-4), (5, "avx512vnni", 1e-4), (16, "amx", 1e-2)]
"""(tokens, instructions, how near). Sixteen queries go on tile registers, right to 2^-17: then some
activations round to the other of two neighbours among 8 bits."""


@pytest.mark.parametrize(("length", "isa", "near"), READ_AT_ONCE)
def test_a_prompt_read_at_once_is_the_prompt_read_token_by_token(tiny, length, isa, near):
    need(isa)
    target = NativeTarget()
    decode, prefill = (build(target, tiny, n, 64, isa=isa) for n in (1, length))
    tokens = np.random.default_rng(0).integers(3, 250, length)
    one, many = Session(decode, 64), Session(prefill, 64)
    for position, token in enumerate(tokens):
        last = one.step(decode, [token], position)
    at_once = many.step(prefill, tokens, 0)
    np.testing.assert_allclose(at_once, last, rtol=near, atol=near * np.abs(last).max())
    for a, b in zip(one.state, many.state, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=near, atol=near)
    # and the caches go on
    following = many.step(decode, [7], length), one.step(decode, [7], length)
    np.testing.assert_allclose(*following, rtol=near, atol=near * np.abs(last).max())


def test_sequences_in_a_batch_do_not_see_each_other(tiny):
    target = NativeTarget()
    alone, both = build(target, tiny, 1, 64), build(target, tiny, 1, 64, batch=3)
    rows = [[5, 6, 7], [100, 3, 9], [8, 8, 8]]
    together = Session(both, 64)
    for position in range(3):
        logits = together.step(both, [r[position] for r in rows], position)
    for index, row in enumerate(rows):
        single = Session(alone, 64)
        for position, token in enumerate(row):
            last = single.step(alone, [token], position)
        np.testing.assert_allclose(logits[index], last[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_runs_repeat_bit_for_bit(tiny, threads):
    executable = build(NativeTarget(), tiny, 1, 64, threads)

    def logits():
        session = Session(executable, 64)
        return [session.step(executable, [t], i) for i, t in enumerate([4, 5, 6])]

    for a, b in zip(logits(), logits(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_the_state_a_run_returns_is_updated_in_place_and_what_one_gave_is_not(tiny):
    executable = build(NativeTarget(), tiny, 1, 64)
    session = Session(executable, 64)
    given = session.state
    session.step(executable, [3], 0)
    assert all((one == 0).all() for one in given)
    first = session.state
    session.step(executable, [4], 1)
    assert all(a is b for a, b in zip(first, session.state, strict=True))


def test_wrong_arrays_are_refused_by_name(tiny):
    executable = build(NativeTarget(), tiny, 1, 64)
    session = Session(executable, 64)
    session.step(executable, [3], 0)
    tokens, start = np.zeros((1, 1), np.int32), np.zeros(1, np.int32)
    with pytest.raises(UsageError, match=r"takes \d+ arrays"):
        executable.run(*session.state)
    with pytest.raises(UsageError, match=r"tokens .* should be"):
        executable.run(*session.state, tokens.astype(np.int64), start)
    with pytest.raises(UsageError, match="same array"):
        executable.run(session.state[0], session.state[0], *session.state[2:], tokens, start)


def test_a_start_beyond_the_cache_stays_inside_it(tiny):
    executable = build(NativeTarget(), tiny, 1, 64)
    session = Session(executable, 64)
    for start in (64, 10**9, -5, -(10**9)):
        assert np.isfinite(session.step(executable, [3], start)).all()
    for state in session.state:
        assert not np.asarray(state)[:, :, 1:63].any()


def test_a_plan_and_its_code_can_be_looked_at(tiny):
    executable = build(NativeTarget(), tiny, 1, 64)
    kinds = set(executable.artifacts)
    assert {"plan", "llvm_ir", "assembly", "packed", "seconds", "stablehlo"} <= kinds
    assert "matmul_q8_0" in executable.artifacts["plan"]
    assert "MB of weights, in huge pages: " in executable.artifacts["memory"]
    assert 'define void @"step"' in executable.artifacts["llvm_ir"]
    assert "step:" in executable.artifacts["assembly"]


def test_a_trace_has_a_span_for_each_kernel_on_each_thread(tiny):
    executable = build(NativeTarget(), tiny, 1, 64, threads=2)
    session = Session(executable, 64)
    arrays = (*session.state, np.zeros((1, 1), np.int32), np.zeros(1, np.int32))
    trace = executable.trace(*arrays)
    kernels = [s for s in trace.spans if s.op != "wait"]
    assert trace.kind == "measured"
    assert len(kernels) == 2 * len(executable.plan.tasks)
    assert {s.resource for s in trace.spans} == {"thread 0", "thread 1"}
    assert any(s.read_bytes for s in kernels)
    assert any(s.origin.layer.startswith("layers.1") for s in kernels)
    assert all((a == 0).all() for a in session.state)


def test_executables_share_packed_weights_and_leave_no_threads(tiny):
    import threading

    target = NativeTarget()
    decode, prefill = build(target, tiny, 1, 64), build(target, tiny, 4, 64)
    assert decode.pool is prefill.pool
    del decode, prefill, target
    gc.collect()
    assert not [t for t in threading.enumerate() if t.name.startswith("anychip-native")]


def test_what_has_no_kernel_is_listed_with_its_place(tiny_gguf):
    model = load(tiny_gguf(format="q8_0", arch="llama", experts=4))
    with pytest.raises(UnsupportedError, match="no kernel") as caught:
        build(NativeTarget(), model, 1, 64)
    assert any(row.origin.layer.startswith("layers.0") for row in caught.value.report)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (CompileOptions(extra={"isa": "sse9"}), UsageError, "instruction set"),
        (CompileOptions(extra={"fast": "yes"}), UsageError, "option of cpu:native"),
        (CompileOptions(threads=0), UsageError, "threads"),
    ],
)
def test_bad_options_are_refused(tiny, options, error, text):
    module = tiny.decode(1, 64, STORED).with_weights(tiny.bind(STORED))
    with pytest.raises(error, match=text):
        NativeTarget().compile(module, options)


def test_a_model_known_by_shape_only_says_so():
    from anychip.frontends.llm.catalogue import model

    published = model("smollm2-135m")
    precision = PRECISIONS["q8_0"]
    with pytest.raises(InputError, match="shape only"):
        NativeTarget().compile(published.decode(1, 64, precision), CompileOptions())


PROMPTS = [
    "The capital of France is",
    "Once upon a time there was a",
    "def fibonacci(n):",
    "Water boils at a temperature of",
    "The three primary colours are",
]
NEW = 12


def test_the_real_model_chooses_the_tokens_xla_chooses(smollm2: Path, tmp_path):
    """Greedy, same weights; XLA reads what was chosen at once. Where it would choose another token,
    the two candidates' logits are closer to each other than 8-bit activations move logits."""
    model = load(smollm2)
    assert model.tokenizer is not None
    native = build(NativeTarget(packed=tmp_path), model, 1, 128)
    texts, ours = [model.tokenizer.encode(text) for text in PROMPTS], []
    given = [len(ids) for ids in texts]
    longest = max(given) + NEW
    for ids in texts:
        session = Session(native, 128)
        made = []
        for position in range(longest):
            made.append(session.step(native, [ids[position]], position)[0])
            if position + 1 == len(ids):
                ids.append(int(made[-1].argmax()))
        ours.append(made)
    module = model.score(len(texts), longest, STORED).with_weights(model.bind(STORED))
    tokens = np.array([ids[:longest] for ids in texts], np.int32)
    xla = QuickXla().compile(module, CompileOptions(threads=2))
    theirs = Session(xla, longest).step(xla, tokens, 0)
    parted = 0
    for ids, length, one, other in zip(texts, given, ours, theirs, strict=True):
        choices = []
        for position, (a, b) in enumerate(zip(one, other, strict=True)):
            moved = np.abs(a - b).max()
            assert moved < 0.1 * np.abs(b).max()
            if position + 1 >= length:
                mine, its = int(a.argmax()), int(b.argmax())
                assert ids[position + 1] == mine
                assert b[its] - b[mine] <= 2 * moved
                choices.append(mine == its)
        assert len(choices) >= NEW
        parted += not all(choices[:NEW])
    assert parted <= 2


def test_every_format_with_a_kernel_runs_natively(tiny_gguf):
    model = load(tiny_gguf(format=["q4_K", "q6_K", "q4_1", "f16", "bf16", "f32"]))
    native, xla = (build(t, model, 1, 64) for t in (NativeTarget(), QuickXla()))
    ours, theirs = Session(native, 64), Session(xla, 64)
    for position, token in enumerate([3, 9, 200]):
        a, b = ours.step(native, [token], position), theirs.step(xla, [token], position)
        assert np.abs(a - b).max() < 0.05 * np.abs(b).max()
    assert native.coverage.count("native") == native.coverage.total


@pytest.mark.parametrize("form", ["q5_0"])
def test_formats_without_a_kernel_fall_back_piece_by_piece_and_the_ledger_says_so(tiny_gguf, form):
    model = load(tiny_gguf(format=[form, "q8_0"]))
    native, xla = (build(t, model, 1, 64) for t in (NativeTarget(), QuickXla()))
    ours, theirs = Session(native, 64), Session(xla, 64)
    for position, token in enumerate([3, 9, 200]):
        a, b = ours.step(native, [token], position), theirs.step(xla, [token], position)
        assert np.abs(a - b).max() < 0.05 * np.abs(b).max()
    fallen = [row for row in native.coverage.rows if row.fate == "fallback"]
    assert fallen
    assert all(row.falls_back_to == "cpu:xla" and row.why for row in fallen)
    assert native.coverage.count("unsupported") == 0
    trace = native.trace(*ours.state, np.zeros((1, 1), np.int32), np.zeros(1, np.int32))
    assert any(span.op.startswith("xla_") for span in trace.spans)


@pytest.mark.parametrize(("name", "number"), [("anychip.gelu", 1), ("anychip.layer_norm", 0)])
def test_composites_without_a_kernel_are_done_by_xla(name, number):
    composite = COMPOSITES[name]
    example = composite.examples[number]
    arrays = example.arrays()
    executable = compiled(composite, example)
    (got,) = executable.run(*arrays)
    rtol, atol = tolerance("f32", example.reduced)
    np.testing.assert_allclose(got, example.expected(arrays), rtol=rtol, atol=atol)
    assert [row.op for row in executable.coverage.rows if row.fate == "fallback"] == [name]


def test_too_many_pieces_are_refused_with_the_list(monkeypatch):
    from anychip.compilers.native import target

    monkeypatch.setattr(target, "MOST_PIECES", 0)
    gelu = COMPOSITES["anychip.gelu"]
    with pytest.raises(UnsupportedError, match="one by one") as caught:
        compiled(gelu, gelu.examples[1])
    assert {row.op for row in caught.value.report} == {"anychip.gelu"}
    assert {row.fate for row in caught.value.report} == {"unsupported"}
