"""The chart of docs/twins/validation.md: predicted against published, four of its metrics.

anychip validate -f json > validate.json
python bench/validation_chart.py validate.json [-o docs/twins/validation.svg]
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from anychip.cli.scatter import ABOVE, BELOW, COLOURS, LEFT, RIGHT, SIZE, STYLE, chart

METRICS = ("tok_s_user", "tpot_mean", "throughput_output_per_gpu", "throughput_output_system")
WIDTH, HEIGHT, KEY = LEFT + SIZE + RIGHT, ABOVE + SIZE + BELOW, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("validated", type=Path)
    out = Path(__file__).parent.parent / "docs" / "twins" / "validation.svg"
    parser.add_argument("-o", "--output", type=Path, default=out)
    given = parser.parse_args()
    rows = json.loads(given.validated.read_text(encoding="utf-8"))["rows"]
    rules = "".join(re.findall(r"(?:text|\.title|\.grid|\.same|\.band) \{.*?\}", STYLE))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * WIDTH}" '
        f'height="{2 * HEIGHT + KEY}"><style>{rules}</style>'
        f'<rect width="{2 * WIDTH}" height="{2 * HEIGHT + KEY}" fill="#fff"/>'
    ]
    some = [row for row in rows if row["metric"] in METRICS]
    for index, name in enumerate(n for n in COLOURS if any(row["family"] == n for row in some)):
        x = LEFT + 100 * index
        parts.append(
            f'<circle cx="{x}" cy="20" r="5" fill="{COLOURS[name]}"/>'
            f'<text x="{x + 10}" y="24">{name}</text>'
        )
    for index, metric in enumerate(METRICS):
        mine = [row for row in rows if row["metric"] == metric]
        x, y = index % 2 * WIDTH, KEY + index // 2 * HEIGHT
        drawn = chart(mine, metric, mine[0]["unit"], tips=False)
        parts.append(f'<g transform="translate({x} {y})">{drawn}</g>')
    given.output.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
