"""Numbers and charts as people see them."""

from __future__ import annotations

import errno
import json
import re
import xml.etree.ElementTree as ET

import pytest

from anychip.cli.charts import interval_chart, scatter_chart
from anychip.cli.output import keep, quantity, scaled
from anychip.cli.report import render_report
from anychip.core import Estimate, RunFolder, measured


def estimate(value: float) -> dict:
    return Estimate(
        value=value, low=value * 0.8, high=value * 1.5, provenance="a & b", falsify="run <it>"
    ).to_json()


def row(chip: str, tpot_s: float, *, fits: bool = True, measured_here: bool = False) -> dict:
    number = measured([tpot_s, tpot_s * 1.1]).to_json() if measured_here else estimate(tpot_s)
    return {
        "chip": chip,
        "system": "box",
        "count": 2,
        "target": f"{chip}:twin",
        "how": "twin",
        "precision": "fp8",
        "fits": fits,
        "why_not": None if fits else "too <small>",
        "ttft_s": number,
        "tpot_s": number if fits else None,
        "user_tok_s": estimate(1 / tpot_s),
        "chip_tok_s": estimate(1 / tpot_s),
        "j_per_tok": None,
        "usd_per_mtok": estimate(tpot_s * 100),
        "notes": [],
        "shards": "",
    }


def document() -> dict:
    return {
        "model": "some <model>",
        "workload": {"prompt": 8, "generate": 4, "batch": 1},
        "objective": "latency",
        "rows": [row("a", 0.001), row("b", 0.02, measured_here=True), row("c", 3.0, fits=False)],
        "what_would_change": [{"kind": "margin", "text": "a & b overlap"}],
    }


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (0.0123, "s", "12.3 ms"),
        (9.995e11, "B", "1 TB"),
        (2.1e16, "B/s", "21 PB/s"),
        (4e-12, "J/B", "4 pJ/B"),
        (0.0, "s", "0 s"),
        (-1500.0, "W", "-1.5 kW"),
        (123456.0, "", "123 k"),
    ],
)
def test_scaled_uses_three_digits_and_an_si_prefix(value, unit, shown):
    assert scaled(value, unit) == shown


def test_cell_shows_value_above_interval_and_a_dash_for_nothing():
    assert quantity(estimate(0.01), "s").plain == "10 ms\n8–15"
    assert quantity(estimate(250000.0), "").plain == "250k\n200k–375k"
    assert quantity(None, "s").plain == "–"


def test_measured_cells_look_different_from_estimated_ones():
    assert quantity(measured([1.0]).to_json(), "s").style != quantity(estimate(1.0), "s").style


def test_charts_are_well_formed_and_mark_every_row_with_its_kind():
    rows = [r for r in document()["rows"] if r["fits"]]
    for chart in (interval_chart(rows, "tpot_s", "t & u", "ms", 1e3), scatter_chart(rows, "s")):
        groups = [g.get("class") for g in ET.fromstring(chart).iter("g")]
        assert sorted(groups) in (["estimated", "measured"], ["estimated", "estimated"])


def test_interval_chart_leaves_out_rows_without_the_figure():
    assert interval_chart(document()["rows"], "j_per_tok", "none", "J") == ""


def test_report_is_one_file_without_a_network_and_escapes_names():
    page = render_report("title", [document()], machine="m", made="now", command="cmd")
    assert not re.search(r"(src|href)=|https?://|@import", page)
    assert "some &lt;model&gt;" in page
    assert "too &lt;small&gt;" in page
    assert "a &amp; b overlap" in page
    assert "run &lt;it&gt;" in page
    assert 'class="measured"' in page


def test_report_refuses_a_document_that_lacks_a_field():
    broken = json.loads(json.dumps(document()))
    del broken["rows"][0]["precision"]
    with pytest.raises(Exception, match="precision"):
        render_report("title", [broken])


def test_an_answer_stands_where_its_run_folder_cannot_be_made(tmp_path, monkeypatch, capsys):
    def no_room(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    run = RunFolder(tmp_path / "runs" / "one")
    assert keep(run, {"a.json": {"x": 1}, "b.txt": "b"}) == ""
    assert (run.path / "b.txt").read_text() == "b"
    monkeypatch.setattr("anychip.core.runs.write_atomically", no_room)
    why = keep(run, {"a.json": {}, "b.txt": "b"})
    assert why.startswith("a.json, b.txt not kept: No space left on device")
    assert "ANYCHIP_RUNS" in capsys.readouterr().err

    def refused(path, content):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("anychip.core.runs.write_atomically", refused)
    with pytest.raises(PermissionError):
        keep(run, {"a.json": {}})
