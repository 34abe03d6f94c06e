"""A self-contained HTML report of comparisons and a generated answer: no network, one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from anychip.cli.charts import interval_chart, scatter_chart

OBJECTIVE_COLUMNS = (
    ("ttft_s", "TTFT", "ms", 1e3),
    ("tpot_s", "TPOT", "ms", 1e3),
    ("user_tok_s", "tok/s per user", "", 1.0),
    ("chip_tok_s", "tok/s per chip", "", 1.0),
    ("j_per_tok", "J per token", "", 1.0),
    ("usd_per_mtok", "$ per Mtok", "", 1.0),
)


def render_report(
    title: str,
    comparisons: Sequence[Mapping[str, Any]],
    *,
    transcript: Mapping[str, Any] | None = None,
    machine: str = "",
    made: str = "",
    command: str = "",
) -> str:
    """HTML from `compare` JSON documents (DESIGN's shape) and an optional generation transcript.

    `transcript` has model, target, prompt, answer, and `figures` (label → text).
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["number"] = _number
    template = environment.from_string(
        (files("anychip.cli") / "report.html.j2").read_text(encoding="utf-8")
    )
    return template.render(
        title=title,
        sections=[_section(comparison) for comparison in comparisons],
        columns=OBJECTIVE_COLUMNS,
        transcript=transcript,
        machine=machine,
        made=made,
        command=command,
    )


def _section(comparison: Mapping[str, Any]) -> dict[str, Any]:
    fitting = [row for row in comparison["rows"] if row["fits"]]
    return {
        **comparison,
        "fitting": fitting,
        "left_out": [row for row in comparison["rows"] if not row["fits"]],
        "tpot": interval_chart(
            fitting, "tpot_s", "Time per output token (shorter is better)", "ms", 1e3
        ),
        "scatter": scatter_chart(fitting, "Speed for one user against cost"),
    }


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1e5:
        return f"{value / 1000:,.0f}k"
    text = f"{value:.3g}"
    return f"{float(text):,.0f}" if abs(value) >= 100 else (f"{value:.2g}" if "e" in text else text)
