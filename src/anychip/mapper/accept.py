"""What is accepted of guesses ahead (speculative decoding, multi-token prediction), as people say
it: the rate of each guess, or the mean number of tokens a step gives."""

from __future__ import annotations

import math
from itertools import pairwise

from anychip.core import UsageError


def accepted(text: str, guesses: int | None = None) -> tuple[float, ...]:
    """The probabilities that a step gives 1, 2, … tokens.

    "0.8,0.6": the first guess is taken in 0.8 of the steps, the second in 0.6 (servers log these as
    acceptance rates by position; a guess is taken only with those before it, so they never rise).
    "0.85": one guess. "2.4": so many tokens a step in the mean, from `guesses` guesses (by default
    the fewest that can give it), each as likely as the last given those before it (Leviathan et
    al., "Fast Inference from Transformers via Speculative Decoding", ICML 2023).
    """
    try:
        said = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"acceptance {text!r}: expected rates such as 0.8,0.6 or a mean") from None
    if len(said) == 1 and said[0] > 1:
        rates = _even(said[0], guesses or math.ceil(said[0] - 1))
    else:
        rates = said
        if guesses is not None and guesses != len(rates):
            raise UsageError(f"{len(rates)} acceptance rates are not those of {guesses} guesses")
    if any(not 0 <= rate <= 1 for rate in rates) or sorted(rates, reverse=True) != rates:
        raise UsageError(f"acceptance {text!r}: rates lie between 0 and 1 and do not rise")
    reached = [1.0, *rates, 0.0]
    return tuple(a - b for a, b in pairwise(reached))


def _even(mean: float, guesses: int) -> list[float]:
    """Rates a, a², … of `guesses` guesses whose sum is `mean` - 1."""
    if not math.isfinite(mean) or guesses < 1 or mean - 1 > guesses:
        raise UsageError(f"{guesses} guesses give at most {guesses + 1} tokens a step, not {mean}")
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if sum(middle**i for i in range(1, guesses + 1)) < mean - 1:
            low = middle
        else:
            high = middle
    return [high**i for i in range(1, guesses + 1)]
