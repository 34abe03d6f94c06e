"""core/config.py: every setting is declared, and a wrong one names its variable."""

from pathlib import Path

import pytest

from anychip.core import KNOBS, UsageError
from anychip.core.config import check_environment, read


@pytest.mark.parametrize("knob", KNOBS, ids=lambda knob: knob.name)
def test_unset_setting_has_its_default(knob):
    assert read(knob.name, {}) == knob.default
    assert knob.help


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("threads", "3", 3),
        ("child_timeout", "2.5", 2.5),
        ("huge_pages", "no", False),
        ("runs", "~/results", Path.home() / "results"),
    ],
)
def test_setting_is_parsed(name, text, value):
    assert read(name, {f"ANYCHIP_{name.upper()}": text}) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("threads", "many"),
        ("threads", "0"),
        ("threads", "-2"),
        ("child_timeout", "0"),
        ("child_timeout", "nan"),
        ("child_timeout", "soon"),
        ("huge_pages", "maybe"),
        ("home", __file__),
    ],
)
def test_unusable_value_names_the_variable_and_the_text(name, text):
    variable = f"ANYCHIP_{name.upper()}"
    with pytest.raises(UsageError) as caught:
        read(name, {variable: text})
    assert str(caught.value).startswith(f"{variable}={text!r} is not usable: ")
    with pytest.raises(UsageError, match=variable):
        check_environment({variable: text})


def test_unknown_variable_is_an_error_with_the_nearest_name():
    with pytest.raises(UsageError, match=r"ANYCHIP_THREAD.*Did you mean 'ANYCHIP_THREADS'"):
        check_environment({"ANYCHIP_THREAD": "2"})


def test_variables_of_others_are_left_alone():
    check_environment({"JAX_PLATFORMS": "cpu", "ANYCHIPS": "x"})


def test_unknown_setting_is_an_error():
    with pytest.raises(UsageError, match="no setting named 'thread'"):
        read("thread", {})
