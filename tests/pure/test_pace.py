"""How long steps take by their tokens, as the engine knows when it weighs guesses."""

import pytest

from anychip.llm.paged import Pace


def test_what_was_measured_counts_before_the_line_through_it():
    bent = Pace({1: 3.0, 2: 3.1, 8: 9.0})
    assert bent.seconds(2) == 3.1
    assert bent.seconds(4) == pytest.approx(5.3337, abs=0.001)  # least squares, worked by hand
    assert Pace({1: 3.0, 64: 2.0}).seconds(32) == pytest.approx(3.0159, abs=1e-4)
