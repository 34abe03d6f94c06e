"""Lines of code per folder against the budget of each: code that carries tokens, not comments.

Exits 1 when a folder is over its budget, so growth is a decision seen in review.
"""

from __future__ import annotations

import sys
import tokenize
from pathlib import Path

BUDGETS = {
    "core": 2120,
    "ops": 7000,
    "frontends": 14200,
    "profile": 900,
    "passes": 1400,
    "compilers": 12550,
    "twin": 6000,
    "debug": 600,
    "chips": 950,
    "mapper": 2600,
    "validate": 1350,
    "llm": 2400,
    "testing": 1000,
    "zoo": 500,
    "cli": 4300,
    ".": 500,
}
NOISE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def code_lines(path: Path) -> int:
    """Lines with at least one token that is neither comment, docstring nor layout."""
    lines: set[int] = set()
    previous = tokenize.NEWLINE
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            starts_statement = previous in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
            is_docstring = token.type == tokenize.STRING and starts_statement
            if token.type not in NOISE and not is_docstring:
                lines.update(range(token.start[0], token.end[0] + 1))
            if token.type not in (tokenize.COMMENT, tokenize.NL, tokenize.ENCODING):
                previous = token.type
    return len(lines)


def main() -> int:
    root = Path(__file__).parent.parent / "src" / "anychip"
    sizes: dict[str, int] = {}
    for path in root.rglob("*.py"):
        parts = path.relative_to(root).parts
        folder = parts[0] if len(parts) > 1 else "."
        sizes[folder] = sizes.get(folder, 0) + code_lines(path)
    over = False
    print(f"{'folder':<12}{'lines':>7}{'budget':>8}")
    for folder, lines in sorted(sizes.items()):
        budget = BUDGETS.get(folder)
        mark = "" if budget is not None and lines <= budget else "  over budget"
        over |= bool(mark)
        print(f"{folder:<12}{lines:>7}{budget or 0:>8}{mark}")
    print(f"{'total':<12}{sum(sizes.values()):>7}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
