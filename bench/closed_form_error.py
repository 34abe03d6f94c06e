"""How far is the closed form from published figures?

    python bench/closed_form_error.py results.csv [--rows] [-o out.json]

Reads a CSV of published results (columns id, model, precision, chip, chips, batch, prompt_len,
gen_len, metric, value, unit), predicts every row it can express and prints, per chip family and
metric, the median and 90th-percentile absolute relative error and the share of rows inside their
80 % interval. Rows that a chip's spec names as a source are marked `used_for_fit`.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from anychip.core import AnychipError, Registry, SystemSpec, UnsupportedError, discover
from anychip.core.quantity import Estimate
from anychip.mapper import Question, Surfaces, Workload, estimates, search

MODELS = {
    r"llama-?2-70b(-hf)?|llama-70b": "llama-2-70b",
    r"llama-?2-7b(-hf)?|llama-7b": "llama-2-7b",
    r"(meta-)?llama-?3(\.1)?-8b": "llama-3.1-8b",
    r"(meta-)?llama-?3(\.1|\.3)?-70b|deepseek-r1-distill-llama-70b": "llama-3.1-70b",
    r"llama-?3\.1-405b": "llama-3.1-405b",
    r"llama-?3\.2-1b": "llama-3.2-1b",
    r"mixtral-8x7b(-v0\.1)?( decode)?": "mixtral-8x7b",
    r"mistral-7b": "mistral-7b",
    r"qwen3-32b": "qwen3-32b",
    r"deepseek-r1": "deepseek-v3",
}
"""Published names → catalogue names of the same shape (fine-tunes have their base's shape)."""

CHIPS = {
    r"nvidia a100-sxm-80gb( \(330w cap\))?": "a100",  # Argonne's "Nvidia A100 GPU" has 40 GB
    r"nvidia h100(-sxm)?(-80gb)?( gpu)?": "h100",
    r"nvidia h200(-sxm-141gb)?": "h200",
    r"nvidia b200(-sxm-180gb)?( \(preview\))?": "b200",
    r"nvidia gb200": "gb200",
    r"nvidia l40s": "l40s",
    r"nvidia l4": "l4",
    r"amd mi300x|amd instinct mi300x.*": "mi300x",
    r"amd instinct mi325x 256gb hbm3e": "mi325x",
    r"aws inferentia2": "inferentia2",
    r"aws trainium1": "trainium1",
    r"intel gaudi2( 96gb)?": "gaudi2",
    r"intel gaudi3": "gaudi3",
    r"sambanova sn40l": "sn40l",
    r"groq lpu v1": "groq-lpu",
    r"cerebras wse-3": "cerebras-wse3",
    r"cerebras wse-2": "cerebras-wse2",
    r"d-matrix corsair card": "dmatrix-corsair",
    r"rebellions rebel-quad.*": "rebel-quad",
    r"tenstorrent wormhole (n300|\(quietbox.*|\(t3000\)|\(galaxy\))": "wormhole-n300",
    r"tenstorrent blackhole (p150|\(quietbox\))": "blackhole-p150",
    r"apple m1 max.*": "m1-max",
    r"apple m2 ultra.*": "m2-ultra",
    r"apple m3 max.*": "m3-max",
    r"cpu:intel\(r\) xeon\(r\) 6980p": "xeon-6980p-2s",
}

PRECISIONS = {
    r"fp8|8-bit|not stated \(fp8 implied\)|bfp8/bfp4 mix.*": "fp8",
    r"fp16|fp16/bf16|bf16|weights bf16|f16.*": "bf16",
    r"int8|int8/fp16 mix": "int8",
    r"weights int8|q8_0.*": "int8-weights",
    r"int4.*|uint4|q4_k_m.*": "q4_0",
    r"fp4|nvfp4.*": "nvfp4",
    r"mxint8": "mxint8",
}
"""The nearest precision that is built. Tenstorrent's block formats count as fp8, as its chips'
specs do; 4-bit files as q4_0."""

NATIVE = {"dmatrix-corsair": {"fp8": "mxint8"}, "groq-lpu": {"fp8": "int8"}}
"""What a chip's "8-bit" is, where that is not fp8."""

METRICS = {
    "tok_s_user": ("user_tok_s", 1.0),
    "tpot_mean": ("tpot_s", 1e3),
    "tpot_p50": ("tpot_s", 1e3),
    "ttft": ("ttft_s", 1e3),
    "ttft_p50": ("ttft_s", 1e3),
    "e2e_latency": ("latency_s", 1.0),
    "throughput_output_per_gpu": ("chip_tok_s", 1.0),
    "throughput_output_system": ("chip_tok_s", 1.0),  # times the chips
    "energy_per_output_token": ("j_per_tok", 1.0),
    "prefill_tok_s": ("ttft_s", 1.0),
}
"""Published metric → (our quantity, factor to its unit)."""

PROMPTS = {"AA": (1000, 150)}
"""Named workloads whose sizes are known: (prompt, generate)."""
PROMPT = GENERATE = 128
"""Lengths where a row states none; a prompt only for decode rates, which hardly depend on it."""
DECODE_ONLY = ("tok_s_user", "tpot_mean", "tpot_p50")


@dataclass(frozen=True)
class Skip(Exception):
    """A row that cannot be expressed, and why."""

    why: str


def lookup(table: dict[str, str], text: str, what: str) -> str:
    for pattern, name in table.items():
        if re.fullmatch(pattern, text.strip().lower()):
            return name
    raise Skip(f"{what} {text!r} is not known")


def whole(text: str, what: str) -> int:
    try:
        return int(float(text))
    except ValueError:
        raise Skip(f"{what} is {text!r}, not a number") from None


def workload(row: dict[str, str]) -> Workload:
    if row["prompt_len"] in PROMPTS:
        prompt, generate = PROMPTS[row["prompt_len"]]
    elif not row["prompt_len"] and row["metric"] in DECODE_ONLY:
        prompt, generate = PROMPT, GENERATE
    else:
        prompt = whole(row["prompt_len"], "prompt_len")
        generate = whole(row["gen_len"], "gen_len") if row["gen_len"] else GENERATE
    batch = whole(row["batch"], "batch")
    if row["metric"].startswith("ttft") and row["who"].startswith("Tenstorrent"):
        batch = 1  # its READMEs give one user's time to first token, whatever the batch
    return Workload(prompt, max(generate, 2), batch)


def systems(registry: Registry, chip: str, count: str) -> tuple[SystemSpec, ...]:
    """The chip's systems with just this count, or all of them when the row states none."""
    known = registry.systems(chip)
    if not count:
        return known
    n = whole(count, "chips")
    n = n // 2 if chip == "wormhole-n300" and n > 1 else n  # a card of that spec is two chips
    able = [s for s in known if s.counts[-1] >= n]
    if not able:
        raise Skip(f"no system of {chip} has {n} chips")
    return (replace(min(able, key=lambda s: s.counts[-1]), counts=(n,)),)


def fitted(chip_file: str) -> set[str]:
    """Row ids a spec names as sources, ranges such as "GQ02-GQ04" written out."""
    ids = set(re.findall(r"\b[A-Z][A-Z0-9]*\d+[a-z]?\b", chip_file))
    for prefix, low, last, high in re.findall(r"\b([A-Z]+)(\d+)p?-([A-Z]+)(\d+)p?\b", chip_file):
        if prefix == last:
            ids |= {f"{prefix}{i:0{len(low)}d}" for i in range(int(low), int(high) + 1)}
    return ids


def predict(row: dict[str, str], registry: Registry, kept: dict[Any, Any]) -> dict[str, Any]:
    """The row of the report. Raises Skip."""
    from anychip.api import load
    from anychip.frontends.llm import PRECISIONS as BUILT

    if row["metric"] not in METRICS:
        raise Skip(f"metric {row['metric']} is not predicted")
    if row.get("speculative") == "yes":
        raise Skip("speculative decoding")
    chip = lookup(CHIPS, row["chip"], "chip")
    name = lookup(MODELS, row["model"], "model")
    precision = lookup(PRECISIONS, row["precision"], "precision")
    precision = NATIVE.get(chip, {}).get(precision, precision)
    work = workload(row)
    spec = registry.chip(chip).spec
    key = (chip, name, precision, work, row["chips"])
    if key not in kept:
        if name not in kept:
            kept[name] = load(name)
            kept[name, "surfaces"] = Surfaces()
            kept[name, "surfaces"].at(kept[name], BUILT[precision], 1)
        question = Question(
            model=kept[name],
            workload=work,
            precisions=BUILT,
            objective="latency",
            precision=precision,
            surfaces=kept[name, "surfaces"],
        )
        try:
            found = search(question, spec, systems(registry, chip, row["chips"]))
        except UnsupportedError as error:
            raise Skip(str(error)) from None
        kept[key] = (found, estimates(found, kept[name]))
    found, values = kept[key]
    quantity, factor = METRICS[row["metric"]]
    estimate = values[quantity]
    if not isinstance(estimate, Estimate):
        raise Skip(f"{chip} has no {quantity}")
    if row["metric"] == "throughput_output_system":
        factor *= found.option.shards.chips
    ends = [estimate.value, estimate.low, estimate.high]
    if row["metric"] == "prefill_tok_s" or "TTFT probably included" in row.get("notes", ""):
        tokens = work.prompt if row["metric"] == "prefill_tok_s" else work.generate
        of = estimate if row["metric"] == "prefill_tok_s" else values["latency_s"]
        ends = [work.batch * tokens / seconds for seconds in (of.value, of.high, of.low)]
    ends = [end * factor for end in ends]
    published = float(row["value"])
    return {
        "id": row["id"],
        "chip": chip,
        "family": spec.family,
        "model": name,
        "metric": row["metric"],
        "unit": row["unit"],
        "shards": str(found.option.shards),
        "published": published,
        "predicted": ends[0],
        "low": ends[1],
        "high": ends[2],
        "error": ends[0] / published - 1,
        "used_for_fit": row["id"] in kept.setdefault(("fit", chip), fitted(spec_text(chip))),
    }


def spec_text(chip: str) -> str:
    folder = discover().chip(chip).folder
    return (folder / "spec.toml").read_text(encoding="utf-8") if folder else ""


def summary(rows: list[dict[str, Any]], by: tuple[str, ...]) -> list[dict[str, Any]]:
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[name] for name in by)].append(row)
    made = []
    for key, some in sorted(groups.items()):
        errors = np.abs([row["error"] for row in some])
        made.append(
            {
                **dict(zip(by, key, strict=True)),
                "n": len(some),
                "median_abs_error": float(np.median(errors)),
                "p90_abs_error": float(np.percentile(errors, 90)),
                "median_error": float(np.median([row["error"] for row in some])),
                "coverage": float(np.mean([r["low"] <= r["published"] <= r["high"] for r in some])),
            }
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("--rows", action="store_true", help="print every row, not summaries only")
    parser.add_argument("-o", "--output", type=Path)
    args = parser.parse_args()
    registry, kept = discover(), {}
    rows: list[dict[str, Any]] = []
    skipped: list[dict[str, str]] = []
    with open(args.results, encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                rows.append(predict(row, registry, kept))
            except Skip as skip:
                skipped.append({"id": row["id"], "why": skip.why})
            except AnychipError as error:
                skipped.append({"id": row["id"], "why": str(error)})
    unseen = [row for row in rows if not row["used_for_fit"]]
    report = {
        "rows": rows,
        "not_expressible": skipped,
        "summary": summary(rows, ("family", "metric")),
        "by_family": summary(rows, ("family",)),
        "by_chip": summary(rows, ("chip", "metric")),
        "by_family_not_used_for_fit": summary(unseen, ("family",)),
        "all": summary([{**row, "all": "all"} for row in rows], ("all",)),
    }
    if args.output:
        args.output.write_text(json.dumps(report, indent=1), encoding="utf-8")
    shown = report if args.rows else {k: v for k, v in report.items() if k not in HIDDEN}
    print(json.dumps({**shown, "not_expressible_rows": len(skipped)}, indent=1))


HIDDEN = ("rows", "not_expressible")

if __name__ == "__main__":
    main()
