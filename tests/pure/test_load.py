"""What `anychip.load` says before any format's own loader has a word."""

from __future__ import annotations

import numpy as np
import pytest

import anychip
from anychip.core.errors import InputError, UsageError


def test_a_misspelt_option_is_refused_with_the_nearest_there_is() -> None:
    with pytest.raises(UsageError, match=r"option of a JAX function .*'shape'.*mean 'shapes'"):
        anychip.load(lambda x: x, [np.ones(2)], shape={"x": ("n",)})


def test_trust_remote_code_is_refused_with_the_way_round_it(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "own"}')
    with pytest.raises(UsageError, match=r"never run.*make the nn.Module with"):
        anychip.load(tmp_path, trust_remote_code=True)


@pytest.mark.parametrize(
    ("name", "instead"),
    [("model.safetensors", "folder"), ("old.h5", "load_model"), ("x.pb", "folder")],
)
def test_a_file_beside_a_model_says_what_to_give_instead(tmp_path, name, instead) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=f"{name}: .*{instead}"):
        anychip.load(tmp_path / name)
