"""Published results in: every row is predicted or explained, and bad files are named."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from anychip.cli.scatter import scatter_page
from anychip.core import InputError, discover
from anychip.frontends.llm import PRECISIONS, catalogue
from anychip.mapper.deployment import deploy
from anychip.mapper.figures import Limits, figures
from anychip.mapper.serving import closed
from anychip.mapper.stacks import TUNED_ERROR
from anychip.mapper.traffic import run
from anychip.twin.machine import OVERLAP
from anychip.validate import SHIPPED, Predictor, Published, read, validate
from anychip.validate.energy import left_out
from anychip.validate.ops import op_seconds
from anychip.validate.predict import METRICS as METRICS_OF_ROWS
from anychip.validate.units import UNITS

HEAD = "id,model,precision,chip,chips,batch,prompt_len,gen_len,metric,value,unit\n"
POINT = (
    "id,backend,model_path,system,precision,isl,osl,tp_size,concurrency,"
    "silicon_ttft_ms,silicon_tpot_ms\n"
)


@pytest.fixture(scope="module")
def predictor():
    return Predictor(discover(), catalogue.model, PRECISIONS)


def test_shipped_rows_are_read_with_their_sources():
    figures, points = (read(path) for path in SHIPPED)
    assert len({row.id for row in figures}) == len(figures) > 900
    assert all(row.source for row in (*figures, *points))
    assert len(points) == 3 * 244


def test_rows_of_both_layouts_are_predicted_or_explained(tmp_path, predictor):
    figures, points = tmp_path / "figures.csv", tmp_path / "points.csv"
    figures.write_text(
        HEAD
        + "A1,Llama-2-7B,fp16,NVIDIA A100-SXM-80GB,1,1,128,128,tok_s_user,100,tok/s\n"
        + "A2,Llama-2-7B,fp16,NVIDIA Z9,1,1,128,128,tok_s_user,100,tok/s\n"
        + "A3,Llama-2-7B,fp16,NVIDIA A100-SXM-80GB,1,many,128,128,tok_s_user,100,tok/s\n"
        + "A4,Llama-2-7B,fp16,NVIDIA A100-SXM-80GB,1,1,128,128,colour,1,red\n"
    )
    points.write_text(
        POINT + "B1,vllm,meta-llama/Llama-3.1-8B-Instruct,h100_sxm,,512,32,1,4,60,8\n"
        "B2,others,meta-llama/Llama-3.1-8B-Instruct,h100_sxm,,512,32,1,4,60,8\n"
    )
    report = validate([*read(figures), *read(points)], predictor)
    done = {one.row.id: one for one in report.rows}
    assert set(done) == {"A1", *(f"B1:{m}" for m in METRICS)}
    assert all(one.value.low < one.value.value < one.value.high for one in report.rows)
    assert 0.3 < done["A1"].value.value / 100 < 3
    why = {row.id: reason for row, reason in report.not_expressible}
    assert "'NVIDIA Z9' has no spec" in why["A2"]
    assert "batch is 'many'" in why["A3"]
    assert "'colour' is not predicted; known: tok_s_user" in why["A4"]
    assert all("'others' is not modelled" in why[f"B2:{m}"] for m in METRICS)


METRICS = ("ttft", "tpot_mean", "throughput_output_per_gpu")


def test_a_run_of_some_requests_at_once_is_slower_than_its_steady_state(predictor):
    """And its one copy is as wide as the row says, though narrower ones would be faster."""
    row = next(row for row in read(SHIPPED[0]) if row.id == "TL8-H100-SXM-2048-2048")
    assert "1500 equal requests queued at once" in row.notes
    whole = predictor.predict(row)
    steady = predictor.predict(replace(row, notes="TP1"))
    assert 0.7 * steady.value < whole.value < steady.value
    assert predictor.predict(replace(row, notes="TP2", chips="2")).shards == "1 x tp2"
    # Its stack is only named by its author: the interval is not that of the fitted points.
    assert whole.high / whole.value == pytest.approx(np.exp(TUNED_ERROR["chip_tok_s"]))


HEADER = "id,model,precision,chip,chips,batch,prompt_len,gen_len,metric,value,unit"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the file is empty; its first line names the columns: " + HEADER),
        ("id;model\n1;2\n", "fields are separated by commas"),
        (HEADER.replace("gen_len", "gen_length"), "is 'gen_length' meant as 'gen_len'"),
        (HEADER.replace("batch,", ""), "lacks batch; of these, batch may stay empty"),
        (HEADER + "\na,llama-3.1-8b,fp16\n", "csv:2: lacks chip"),
        (HEADER + "\na,b,c,d,1,1,1,1,e,1,s,more\n", "csv:2: has fields beyond the last"),
        (HEADER + "\na,b,c,d,1,1,1,1,e,fast,s\n", "value:2: expected a number above 0"),
    ],
)
def test_a_file_of_someone_else_is_told_what_it_lacks_and_where(tmp_path, text, said):
    path = tmp_path / "theirs.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(said)):
        read(path)


def test_the_report_has_the_agreed_shape_and_a_page(tmp_path, predictor):
    path = tmp_path / "figures.csv"
    path.write_text(HEAD + "A1,Llama-2-7B,fp16,NVIDIA A100-SXM-80GB,1,1,128,128,tpot_mean,9,ms\n")
    document = json.loads(json.dumps(validate(read(path), predictor).to_json()))
    (row,) = document["rows"]
    wanted = "id chip metric unit published predicted low high error used_for_fit".split()
    assert set(wanted) <= set(row)
    (line,) = document["summary"]
    assert set("family metric n median_abs_error p90_abs_error coverage".split()) <= set(line)
    assert row["error"] == pytest.approx(row["predicted"] / 9 - 1)
    page = scatter_page(document)
    assert "A1: a100, llama-2-7b, published 9" in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_spellings_of_a_unit_are_one_metric_and_foreign_units_are_explained(tmp_path, predictor):
    path = tmp_path / "figures.csv"
    start = "A100-SXM-80GB,1,1,128,128,"
    path.write_text(
        HEAD
        + f"A1,Llama-2-7B,fp16,NVIDIA {start}throughput_output_per_gpu,100,tok/s/GPU\n"
        + f"A2,Llama-2-7B,fp16,NVIDIA {start}throughput_output_per_gpu,100,tokens/s\n"
        + f"A3,Llama-2-7B,fp16,NVIDIA {start}tpot_mean,0.009,s\n"
        + f"A4,Llama-2-7B,fp16,NVIDIA {start}throughput_output_system,100,tok/s/GPU\n"
        + f"A5,Llama-2-7B,fp16,NVIDIA {start}tpot_mean,9,parsecs\n"
    )
    read_in = read(path)
    assert [row.unit for row in read_in[:3]] == ["tok/s", "tok/s", "ms"]
    assert read_in[2].value == pytest.approx(9.0)
    report = validate(read_in, predictor)
    assert {one.row.id for one in report.rows} == {"A1", "A2", "A3"}
    why = {row.id: reason for row, reason in report.not_expressible}
    assert "unit 'tok/s/GPU' of throughput_output_system" in why["A4"]
    assert "unit 'parsecs'" in why["A5"]
    page = scatter_page(report.to_json())
    assert (
        page.count("throughput_output_per_gpu, tok/s (2 rows)") == 2
    )  # label and title, one chart


def test_every_shipped_figure_that_is_predicted_has_its_metrics_unit():
    units = {(row.metric, row.unit) for path in SHIPPED for row in read(path)}
    assert {pair for pair in units if pair[0] in UNITS} <= set(UNITS.items())
    assert set(UNITS) == {*METRICS_OF_ROWS, "op_latency"}


def test_the_last_label_of_an_axis_lies_within_the_picture():
    row = {"metric": "m", "unit": "u", "published": 99999.0, "predicted": 99999.0, "family": "simt"}
    row |= {"id": "A", "chip": "c", "model": "m", "error": 0.0}
    page = scatter_page({"rows": [row], "summary": [], "not_expressible": []})
    width = float(re.search(r'<svg [^>]*width="([\d.]+)"', page)[1])
    centre = max(
        float(x) for x in re.findall(r'x="([\d.]+)" y="[\d.]+" text-anchor="middle">1', page)
    )
    assert "100000</text>" in page
    assert centre + 6 * 7.5 / 2 <= width  # digits of 12 px text are under 7.5 px wide


def test_energy_is_judged_on_models_left_out_of_its_fit():
    """Power 100 + 800 x share: at 0.6 the truth of two models, 0.7 that of a third."""

    def line(name, metric, share, divided=1.0):
        return (
            f"{name}:{metric}",
            name,
            metric,
            (100 + 800 * share) / divided,
            lambda at: (100 + 800 * at) / divided,
        )

    power = "system_wall_power"
    rows = [line("a", power, 0.6), line("b", power, 0.6), line("c", power, 0.7)]
    rows.append(line("c", "energy_per_output_token", 0.7, 50))
    found = left_out(rows)
    assert found["share_without"]["c"] == pytest.approx(0.6)
    off = {one["id"]: one["error"] for one in found["rows"]}
    assert off[f"c:{power}"] == off["c:energy_per_output_token"] == pytest.approx(580 / 660 - 1)
    assert found["metrics"][power]["n"] == 3
    assert left_out(rows[:1]) is None


def test_measured_servers_draw_what_is_predicted(predictor):
    rows = [row for row in read(SHIPPED[0]) if row.id in ("EN05w", "EN05j", "EN09w", "ML082t")]
    report = validate(rows, predictor)
    error = {one.row.id: one.error for one in report.rows}
    assert abs(error["EN05w"]) < 0.1
    assert abs(error["EN09w"]) < 0.1
    # Joules a token are power over tokens a second (ML082t, a like server): what they are off by is
    # the rate of 70B in fp4, too low on this chip, and nothing of the power.
    of_rate = (1 + error["EN05w"]) / (1 + error["ML082t"]) - 1
    assert error["EN05j"] == pytest.approx(of_rate, abs=0.05)
    left = report.to_json()["energy_left_out"]
    assert left["metrics"]["system_wall_power"]["max_abs_error"] < 0.2


def test_a_simulated_and_a_validated_server_draw_the_same(predictor):
    """The same requests on the same chips, one through `simulate`, one through a published row."""
    model = catalogue.model("llama-3.1-8b", 0)
    placed = deploy(
        model,
        "dgx-b200",
        predictor.registry,
        PRECISIONS,
        longest=1024,
        precision="fp8",
        tensor=1,
        sequences=64,
    )
    row = Published(
        id="P1",
        model="llama-3.1-8b",
        precision="fp8",
        chip="NVIDIA B200",
        chips="8",
        batch="max_seqs 512",
        prompt="512",
        generate="128",
        metric="system_wall_power",
        value=9000.0,
        unit="W",
        notes="TP1",
    )
    (of_row,) = validate([row], predictor).rows
    fleet = placed.fleet(copies=8)
    demand = closed(512, 128, 512, 5120)
    served = run(fleet, demand)
    limits = Limits(ttft_s=1.0, tpot_s=1.0)
    made = figures(placed, fleet, demand, served, limits, "none")
    assert made["wall_w"].value == pytest.approx(of_row.value.value, rel=0.03)


def test_serving_points_stand_beside_a_roofline_and_other_rows_do_not(tmp_path, predictor):
    path = tmp_path / "points.csv"
    path.write_text(
        POINT + "B1,vllm,meta-llama/Llama-3.1-8B-Instruct,h100_sxm,,512,32,1,4,60,8\n"
        "B2,vllm,mistralai/Mixtral-8x7B,h100_sxm,,512,32,2,4,60,8\n"
    )
    single = [row for row in read(SHIPPED[0]) if row.id == "AN013"]
    document = validate([*read(path), *single], predictor).to_json()
    rows = {row["id"]: row for row in document["rows"]}
    tpot = rows["B1:tpot_mean"]
    # 8 billion bf16 weights at 93 % of 3.35 TB/s, 32 layers of 43 us, and what prompts add.
    assert 5.1 + 1.3 < tpot["baseline"] < 12
    assert tpot["baseline_error"] == pytest.approx(tpot["baseline"] / 8 - 1)
    assert rows["AN013"]["baseline"] is None
    assert all(rows[f"B2:{m}"]["baseline"] is None for m in METRICS if f"B2:{m}" in rows)
    lines = {(one["family"], one["metric"]): one["baseline"] for one in document["summary"]}
    assert lines["simt", "tpot_mean"]["n"] == 1


def test_chips_can_be_chosen(predictor):
    rows = [row for row in read(SHIPPED[0]) if row.id in ("GQ02", "AN013")]
    assert len(rows) == 2
    report = validate(rows, predictor, chips=["groq-lpu"])
    assert [one.row.id for one in report.rows] == ["GQ02"]
    assert report.not_expressible == ()


def test_rows_a_spec_cites_are_marked(predictor):
    rows = [row for row in read(SHIPPED[0]) if row.id in ("GQ02", "AN013")]
    marked = {one.row.id: one.used_for_fit for one in validate(rows, predictor).rows}
    assert marked == {"GQ02": True, "AN013": False}


def test_speculative_rows_are_not_compared(predictor):
    row = Published(
        id="S1",
        model="Llama-2-7B",
        precision="fp16",
        chip="NVIDIA A100-SXM-80GB",
        chips="1",
        batch="1",
        prompt="128",
        generate="128",
        metric="tok_s_user",
        value=300.0,
        unit="tok/s",
        speculative="yes",
    )
    ((_, why),) = validate([row], predictor).not_expressible
    assert "speculative" in why


def test_a_turned_fact_changes_an_op_and_nothing_is_lowered_twice():
    (row,) = (one for one in read(SHIPPED[0]) if one.id == "VD-h100-tp1-n256-up")
    tables = {}
    chip, plain = op_seconds(row, tables=tables)
    kept = dict(tables)
    _, hidden = op_seconds(row, turn=lambda _: {OVERLAP: 1.0}, tables=tables)
    assert chip == "h100"
    assert hidden < plain
    assert [tables[key] is kept[key] for key in tables] == [True]
    assert op_seconds(row) == (chip, plain)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("id,model\nA,B\n", "lacks batch, chip"),
        (HEAD + "A1,m,p,c,1,1,1,1,ttft,fast,ms\n", r"value:2: expected a number above 0.*'fast'"),
        (HEAD + "A1,m,p,c,1,1,1,1,ttft,-1,ms\n", "above 0"),
        (POINT + "B,vllm,m,h100,,512,32,1,0,60,8\n", "concurrency:2"),
    ],
)
def test_bad_files_are_named(tmp_path, text, why):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=why) as error:
        read(path)
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read(tmp_path / "none.csv")


def test_a_version_known_apart_is_a_stack_of_its_own(predictor):
    rows = {(row.stack, row.version): row for row in read(SHIPPED[1])}
    named = {key: predictor.stack_of(row).name for key, row in rows.items()}
    assert named["trtllm", "1.0.0rc3"] == "trtllm 1.0.0rc3"
    assert named["trtllm", ""] == "trtllm"
    assert {name for (stack, _), name in named.items() if stack == "sglang"} == {"sglang"}
