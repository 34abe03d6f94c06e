"""core/signature.py: names, shapes and roles fit together, and survive JSON."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anychip.core import DTYPES, Argument, InputError, Result, Signature, UsageError

CACHE = Argument("k", (2, "batch"), "f32", "state")


def test_arguments_are_found_by_role_in_order():
    signature = Signature(
        (
            Argument("b", (), "f32"),
            CACHE,
            Argument("a", (), "f32"),
            Argument("w", (), "f32", "weight"),
        ),
        (Result("k_next", (2, "batch"), "f32", "k"),),
    )
    assert [a.name for a in signature.named("input")] == ["b", "a"]
    assert signature.named("state") == (CACHE,)
    assert [a.name for a in signature.named("weight")] == ["w"]


def test_symbols_are_named_once_and_sorted():
    signature = Signature(
        (Argument("x", ("length", "batch"), "f32"), Argument("y", ("batch", 3), "f32")), ()
    )
    assert signature.symbols == ("batch", "length")


def test_doubled_names_are_refused():
    with pytest.raises(InputError, match="doubled: x"):
        Signature(
            (Argument("x", (), "f32"), Argument("x", (), "f32"), Argument("y", (), "f32")), ()
        )


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (Result("n", (2, "batch"), "f32", "v"), "updates 'v', which is no state"),
        (Result("n", (2, "batch"), "f32", "x"), "updates 'x', which is no state"),
        (Result("n", (3, "batch"), "f32", "k"), r"f32\[3, 'batch'\] and cannot update k"),
        (Result("n", (2, "batch"), "bf16", "k"), "cannot update k"),
    ],
)
def test_result_that_cannot_be_the_next_state_is_refused(result, message):
    with pytest.raises(InputError, match=message):
        Signature((CACHE, Argument("x", (2, "batch"), "f32")), (result,))


def test_two_results_cannot_update_one_state():
    results = tuple(Result(n, (2, "batch"), "f32", "k") for n in "ab")
    with pytest.raises(InputError, match=r"result b updates 'k'.*another result updates too"):
        Signature((CACHE,), results)


def test_unknown_element_type_and_negative_size_are_refused():
    with pytest.raises(UsageError, match="no element type named 'f33'"):
        Signature((Argument("x", (), "f33"),), ())
    with pytest.raises(InputError, match="y has a negative size"):
        Signature((), (Result("y", (2, -1), "f32"),))


def test_bytes_need_sizes():
    assert Argument("x", (2, 3), "i4").nbytes == 3
    with pytest.raises(InputError, match="k has symbolic shape"):
        _ = CACHE.nbytes


_NAME = st.text("abc.", min_size=1, max_size=3)
_SHAPE = st.lists(st.integers(0, 9) | st.sampled_from(["batch", "length"]), max_size=3).map(tuple)
_ELEMENT = st.sampled_from(sorted(DTYPES))


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    names = draw(st.lists(_NAME, max_size=4, unique=True))
    roles = st.sampled_from(["weight", "state", "input"])
    arguments = tuple(Argument(n, draw(_SHAPE), draw(_ELEMENT), draw(roles)) for n in names)
    updated = tuple(
        Result(f"{a.name}'", a.shape, a.dtype, a.name) for a in arguments if a.role == "state"
    )
    return Signature(arguments, (*updated, Result("y", draw(_SHAPE), draw(_ELEMENT))))


@given(signatures())
def test_json_round_trip_is_the_identity(signature):
    assert Signature.from_json(signature.to_json()) == signature


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"arguments": 3}', '{"arguments": [{}], "results": []}', "null"]
)
def test_other_json_is_no_signature(text):
    with pytest.raises(ValueError, match=r"."):
        Signature.from_json(text)


def test_unknown_field_of_an_argument_is_refused():
    raw = json.loads(Signature((Argument("x", (), "f32"),), ()).to_json())
    raw["arguments"][0]["colour"] = "red"
    with pytest.raises(ValueError, match="colour"):
        Signature.from_json(json.dumps(raw))
