"""How well a model foretells a text: what a precision costs in quality, as one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from anychip.core import (
    CompileOptions,
    LanguageModel,
    PagedShape,
    Precision,
    Target,
    UsageError,
)
from anychip.llm.paged import PagedSteps, Row

_PIECE, _PAGE = 64, 16


def perplexity(
    model: LanguageModel,
    target: Target,
    precision: Precision,
    tokens: Sequence[int],
    *,
    options: CompileOptions | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> float:
    """exp of the mean of -ln p of each token but the first, given all before it.

    Raises UsageError for fewer than two tokens, or more than the model's context.
    """
    if not 2 <= len(tokens) <= model.facts.context:
        raise UsageError(
            f"perplexity of {model.name} needs 2 to {model.facts.context} tokens, got {len(tokens)}"
        )
    pages = -(-len(tokens) // _PAGE)
    shape = PagedShape(
        tokens=_PIECE, rows=_PIECE, sequences=2, pages=pages + 1, page_tokens=_PAGE, table=pages
    )
    steps = PagedSteps(model, target, shape, precision, options or CompileOptions(), progress)
    table = np.array([list(range(pages)), [steps.scratch] * pages], np.int32)
    lost = 0.0
    for start in range(0, len(tokens) - 1, _PIECE):
        progress(f"perplexity in {precision.name}: token {start} of {len(tokens)}")
        piece = range(start, min(start + _PIECE, len(tokens) - 1))
        logits = steps.run([Row(tokens[at], 0, at) for at in piece], len(piece), table)
        wide = logits.astype(np.float64)
        top = wide.max(axis=1)
        total = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
        next_ones = [tokens[at + 1] for at in piece]
        lost += float((total - wide[np.arange(len(piece)), next_ones]).sum())
    return float(np.exp(lost / (len(tokens) - 1)))
