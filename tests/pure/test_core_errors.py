"""core/errors.py: the tree, its exit codes, and how unknown names are explained."""

import pickle

import pytest

from anychip.core import (
    AnychipError,
    CompileError,
    InputError,
    PluginError,
    SetupError,
    UnsupportedError,
    UsageError,
    errors,
    missing_extra,
    unknown,
)


@pytest.mark.parametrize(
    ("leaf", "parent", "exit_code"),
    [
        (UsageError, AnychipError, 2),
        (InputError, UsageError, 2),
        (SetupError, AnychipError, 2),
        (PluginError, AnychipError, 2),
        (UnsupportedError, AnychipError, 1),
        (CompileError, AnychipError, 1),
    ],
)
def test_tree_and_exit_codes_are_as_drawn(leaf, parent, exit_code):
    assert leaf.__base__ is parent
    assert leaf.exit_code == exit_code
    assert f"{leaf.__name__} " in (errors.__doc__ or "")


def test_drawing_names_every_error():
    drawn = {word for word in (errors.__doc__ or "").split() if word.endswith("Error")}
    defined = {n for n, v in vars(errors).items() if isinstance(v, type) and n.endswith("Error")}
    assert drawn == defined


def test_input_error_says_file_and_field_first():
    assert str(InputError("bad", path="a.gguf", field="rope")) == "a.gguf, rope: bad"
    assert str(InputError("bad", path="a.gguf")) == "a.gguf: bad"
    assert str(InputError("bad")) == "bad"


@pytest.mark.parametrize(
    "error",
    [InputError("bad", path="a", field="b"), CompileError("no", log="why"), UsageError("x")],
)
def test_errors_cross_processes_whole(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_unknown_name_suggests_the_nearest_and_lists_all():
    message = str(unknown("chip", "h10", ["tpu-v5e", "h100", "h200"]))
    assert message.startswith("no chip named 'h10'. Did you mean 'h100'")
    assert message.endswith("Known: h100, h200, tpu-v5e.")


def test_unknown_name_far_from_all_suggests_none():
    message = str(unknown("chip", "zzzzzz", ["h100"]))
    assert "Did you mean" not in message
    assert "Known: h100." in message
    assert "Known: none." in str(unknown("chip", "x", []))


def test_missing_extra_says_what_to_install():
    error = missing_extra("torch", "torch", "loading a .pt2 file")
    assert isinstance(error, SetupError)
    assert "pip install 'anychip[torch]'" in str(error)
