"""What bench/cpu_models.py shows people: a line a row, and bars of the ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines: list[str] = []
    for row in rows:
        low, high = row["ratio_quartiles"]
        known = {**row.get("far_behind_when_prepared_s", {}), **row["median_s"]}  # of older rows
        times = ", ".join(
            f"{k} {v * 1e3:.2f}" for k, v in sorted(known.items(), key=lambda i: i[1])
        )
        lines.append(
            f"{row['model']} ×{row['batch']} {row['precision']}: {row['ratio']:.3f} "
            f"[{low:.3f}, {high:.3f}] against {row['best_peer']}, by {row['chosen']}; ms: {times}"
        )
        if row.get("others_cpu") is not None:
            lines[-1] += f"; others had {row['others_cpu']:.0%} of the CPUs"
        if row.get("unlike"):
            lines.append(f"  not like against like: bf16 {row['unlike']}")
        lines += [f"  {peer}: {why}" for peer, why in row["failed"].items()]
    return "\n".join(lines)


def chart(rows: Sequence[dict[str, Any]]) -> str:
    """Bars of the ratio with their quartiles, one a row; the line is 1."""
    bars: list[str] = []
    for i, row in enumerate(r for r in rows if not r.get("unlike")):
        y, width = 24 + i * 22, row["ratio"] * 200
        low, high = (200 * edge for edge in row["ratio_quartiles"])
        fill = "#4878a8" if row["precision"] == "f32" else "#a87848"
        bars.append(
            f'<text x="4" y="{y + 12}">{row["model"]} ×{row["batch"]} {row["precision"]}</text>'
            f'<rect x="190" y="{y}" width="{width:.1f}" height="16" fill="{fill}"/>'
            f'<line x1="{190 + low:.1f}" x2="{190 + high:.1f}" y1="{y + 8}" y2="{y + 8}" '
            'stroke="#000"/>'
            f'<text x="{200 + max(width, high):.1f}" y="{y + 12}">{row["ratio"]:.2f} against '
            f"{row['best_peer']}, by {row['chosen']}</text>"
        )
    height = 34 + len(rows) * 22
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="820" height="{height}" '
        'font-family="sans-serif" font-size="12">'
        '<rect width="100%" height="100%" fill="#fff"/>'
        '<text x="190" y="14">best peer ÷ cpu:auto (above 1: cpu:auto is faster)</text>'
        + "".join(bars)
        + f'<line x1="390" y1="18" x2="390" y2="{height - 8}" stroke="#c00"/></svg>\n'
    )
