"""Puts the newest figures of bench/results into the docs.

    python bench/tables.py [--check]

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what stood there is replaced.
`--check` writes nothing and exits with 1 when a table is not that of its JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"
DOCS = (
    "docs/compilers.md",
    "docs/engine.md",
    "docs/native.md",
    "docs/host-targets.md",
    "docs/twins/cpu.md",
    "docs/twins/simt.md",
    "docs/twins/validation.md",
)


def llm(report: dict[str, Any]) -> str:
    """Every case of every model and thread count."""
    parts = [_machine(report["machine"])]
    for result in report["results"]:
        versions = ", ".join(result.get("versions", {}).values())
        parts.append(f"**{result['model']}**, threads: {result['threads']} ({versions}):")
        rows = [
            (
                row["case"],
                _rate(row["native_tok_s"]),
                _rate(row["llama_cpp_tok_s"]),
                _rate(row["openvino_tok_s"]),
                _spread(row["ratio_vs_llama_cpp"]),
                _spread(row["ratio_vs_openvino"]),
                _share(row),
                f"{row['others_cpus']:.2f}",
            )
            for row in result["rows"]
        ]
        head = "case|cpu:native tok/s|llama.cpp|OpenVINO|× llama.cpp|× OpenVINO"
        parts.append(_table(f"{head}|share of the read pace, llama.cpp's|CPUs of others", rows))
    return "\n\n".join(parts)


def gemv(report: dict[str, Any]) -> str:
    """Formats down, shapes across."""
    shapes = list(dict.fromkeys(row["shape"] for row in report["rows"]))
    cells = {(row["format"], row["shape"]): row for row in report["rows"]}
    rows: list[tuple[str, ...]] = []
    for form in dict.fromkeys(row["format"] for row in report["rows"]):
        line = [form]
        for shape in shapes:
            row = cells.get((form, shape))
            line.append("–" if row is None else _pace(row))
        rows.append(tuple(line))
    threads = report["rows"][0]["threads"]
    head = f"{report['isa']}, threads: {threads}, load before: {report['load']:.1f}. GB/s, then the"
    note = f"{head} share of the sum's pace and the middle half of its rounds."
    return f"{note}\n\n{_table('format|' + '|'.join(shapes), rows)}"


_STARTS = {
    "warm": "packed weights and compiled steps kept",
    "packed": "packed weights kept, steps compiled anew",
    "first": "nothing kept",
    "llama.cpp": "llama-cpp-python",
}


def cold(report: dict[str, Any]) -> str:
    """Every kind of start, then what one decode step's code takes."""
    rows = [
        (told, f"{statistics.median(all_):.2f} ({min(all_):.2f}–{max(all_):.2f})")
        for name, told in _STARTS.items()
        if (all_ := report["starts"].get(name))
    ]
    ms = report["codegen_ms"]
    written = f"{ms['writing the IR']:.0f} ms to write the IR, {ms['LLVM']:.0f} ms in LLVM"
    told = f"Code generation of one decode step: {written}; planning before it takes "
    return f"{_table('start|seconds', rows)}\n\n{told}{ms['planning']:.0f} ms."


def context(report: dict[str, Any]) -> str:
    found = report["context"]
    rows = [
        (
            str(row["context"]),
            _rate(row["tok_s"]),
            _rate(row.get("llama_cpp_tok_s")),
            f"{row['tok_s'] / row['llama_cpp_tok_s']:.2f}" if "llama_cpp_tok_s" in row else "–",
            f"{row['others_cpus']:.2f}" if "others_cpus" in row else "–",
        )
        for row in found["curve"]
    ]
    told = f"{found['tokens']} tokens in one answer, threads: {report['threads']}, "
    told += f"KV cache of {found['kv_mb']:.0f} MB said before the start"
    peer = f"; {found['peer']} beside it" if "peer" in found else ""
    head = "tokens before|cpu:native tok/s|llama.cpp|×|CPUs of others"
    return f"{told}{peer}.\n\n{_table(head, rows)}"


def guess(report: dict[str, Any]) -> str:
    rows = [
        (
            name,
            _quartiles(one["rounds"]),
            f"{one['mean_accepted_length']:.2f}",
        )
        for name, one in report["guess"].items()
    ]
    return _table("text|× without guessing|tokens a step", rows)


def requests(report: dict[str, Any]) -> str:
    one = report["requests"]
    rows = [
        ("requests, of them cancelled", f"{one['requests']}, {one['cancelled']}"),
        ("pages of the cache, pages all need", f"{one['pages']}, {one['pages_needed']}"),
        ("preempted", str(one["preempted"])),
        ("finished with the tokens they get alone", f"{one['as_alone']} of {one['finished']}"),
    ]
    return _table("what|how many", rows)


def kv(report: dict[str, Any]) -> str:
    one = report["kv"]
    wide = one["caches"]["f32"]
    rows = [
        (
            cache,
            f"{held['kv_mb']:.1f}",
            _rate(held["tok_s"]),
            _quartiles([a / b for a, b in zip(wide["seconds"], held["seconds"], strict=True)]),
            *(
                f"{held[name]:.3f} ({held[name] / wide[name] - 1:+.2%})"
                for name in ("perplexity", "perplexity_exact")
            ),
            str(held["greedy_as_f32"]),
        )
        for cache, held in one["caches"].items()
    ]
    told = f"Behind {one['behind']:,} tokens, threads: {report['threads']}; perplexity of "
    told += f"{one['text_tokens']:,} tokens; {one['greedy_tokens']:,} greedy tokens, "
    told += "of which those before the first that f32 would not have chosen."
    head = "cache|MB|tok/s|× f32|perplexity|with exact activations|tokens before another"
    return f"{told}\n\n{_table(head, rows)}"


def _quartiles(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def validated(report: dict[str, Any]) -> str:
    """Every family and metric, and how many rows are predicted."""
    rows = [
        (
            one["family"],
            one["metric"],
            str(one["n"]),
            f"{one['median_abs_error']:.0%}",
            f"{one['p90_abs_error']:.0%}",
            f"{one['median_error']:+.0%}",
            f"{one['coverage']:.0%}",
        )
        for one in report["summary"]
    ]
    head = "family|metric|rows|median|90th percentile|bias|in interval"
    counts = report["validated"]
    return (
        f"{_table(head, rows)}\n\n{counts['rows']:,} rows are predicted, "
        f"{counts['not_expressible']} cannot be expressed; `validate.json` says why of each."
    )


def goals(report: dict[str, Any]) -> str:
    """What the twins were asked on systems left out, what they reach, and each part alone."""
    rows: list[tuple[str, ...]] = []
    for goal in report["goals"]:
        asked = goal["asked"]
        limit = f"{asked['median_abs_error']:.0%}"
        limit += f" / {asked['p90_abs_error']:.0%}" if asked["p90_abs_error"] else ""
        rows.append((f"**{goal['goal']}**", limit, *_reached(goal)))
        rows += [(part["part"], "", *_reached(part)) for part in goal["parts"]]
    return _table("goal, part|asked|rows|median / 90th percentile|reached|in 80 % interval", rows)


def _reached(one: dict[str, Any]) -> tuple[str, ...]:
    if not one["n"]:
        return ("0", "–", "–", "–")
    held = "–" if one["coverage"] is None else f"{one['coverage']:.0%}"
    errors = f"{one['median_abs_error']:.1%} / {one['p90_abs_error']:.0%}"
    return (str(one["n"]), errors, "yes" if one["reached"] else "no", held)


def beside(report: dict[str, Any]) -> str:
    """The twin and the roofline on the serving points that both predict."""
    rows = [
        (
            one["metric"],
            str(one["baseline"]["n"]),
            *(
                f"{one['baseline'][f'{whose}median_abs_error']:.1%} / "
                f"{one['baseline'][f'{whose}p90_abs_error']:.1%}"
                for whose in ("twin_", "")
            ),
        )
        for one in report["summary"]
        if one["baseline"]
    ]
    return _table("metric|rows|simulated server|five-parameter roofline", rows)


def cpu_twin(report: dict[str, Any]) -> str:
    """Every kernel and model of the cpu twin."""
    rows = [
        (
            row["name"],
            f"{row['measured_s'] * 1e3:.3f}",
            f"{row['twin_s'] * 1e3:.3f}",
            f"{row['error']:+.0%}",
        )
        for row in report["rows"]
    ]
    return _table("kernel or model|measured ms|twin ms|error", rows)


def models(report: dict[str, Any]) -> str:
    """cpu:auto beside the best peer, the worst ratio first within a precision."""
    means = ", ".join(f"{one:.3f} in {p}" for p, one in sorted(report["geometric_mean"].items()))
    rows = [
        (
            row["model"],
            str(row["batch"]),
            row["precision"],
            row["best_peer"],
            f"{row['ratio']:.2f} ({row['ratio_quartiles'][0]:.2f}–{row['ratio_quartiles'][1]:.2f})",
            row["chosen"],
            "–" if row.get("others_cpu") is None else f"{row['others_cpu']:.0%}",
        )
        for row in sorted(report["rows"], key=lambda r: (r["precision"] != "f32", r["ratio"]))
        if not row.get("unlike")
    ]
    head = "model|batch|precision|best peer|ratio (quartiles)|cpu:auto took|CPUs of others"
    missing = "".join(
        f" {f['model']} ×{f['batch']} {f['precision']}: {f['error']}." for f in report["failed"]
    )
    told = f"{report['machine']}; geometric mean {means}.{missing}"
    return f"{told}\n\n{_table(head, rows)}"


def whole_steps(report: dict[str, Any]) -> str:
    """Closed form, machine model and both on whole steps: median, 90th percentile, bias."""
    rows = [
        (
            one["family"],
            one["metric"],
            str(one["n"]),
            *(
                f"{one[how]['median_abs_error']:.0%} / {one[how]['p90_abs_error']:.0%} "
                f"({one[how]['median_error']:+.0%})"
                for how in ("closed_form", "machine_model", "mixed")
            ),
        )
        for one in report["summary"]
    ]
    return _table(
        "family|metric|rows|closed form|machine model|prompts closed form, tokens simulated", rows
    )


def tpu(report: dict[str, Any]) -> str:
    """Programs down, chips across: estimates of the vendor's compiler."""
    rows = {(row["kind"], row["chip"], row.get("module")): row for row in report["rows"]}
    chips = ("tpu-v5e", "tpu-v5p", "tpu-v6e", "tpu-v4", "tpu-v7x")
    layer = "llama-3.1-8b-layer-batch"

    def line(kind: str, module: str, say: Callable[[dict[str, Any]], str]) -> list[str]:
        found = [rows.get((kind, chip, module)) for chip in chips]
        return ["–" if row is None else say(row) for row in found]

    def over(row: dict[str, Any]) -> str:
        return f"{row['over_roofline']:.3f}{' (HLO estimate)' * _is_hlo(row)}"

    def micro(row: dict[str, Any]) -> str:
        return f"{row['seconds'] * 1e6:.0f}"

    def linked(row: dict[str, Any]) -> str:
        return f"{row['seconds'] * 1e6:.1f} ({row['link_s'] * 1e6:.1f})"

    lines = [
        ("4096³ bf16, over the published peak's time", line("product", "product-4096", over)),
        *(
            (
                f"Llama-3.1-8B decode layer, batch {n}, context 2048, {what}",
                line("layer", name, say),
            )
            for n in (1, 8)
            for name in (f"{layer}{n}-decode",)
            for what, say in (("µs", micro), ("over its bytes at the published bandwidth", over))
        ),
        (
            "gated MLP over 8 chips, 64 tokens, µs (all-reduce)",
            line("sharded", "mlp-over-8", linked),
        ),
    ]
    refused = next(row["refused"] for row in report["rows"] if row["kind"] == "memory")
    note = f"{report['toolchain']}, {report['kind']}; v7x is half a chip. Too large: {refused}"
    head = "program|" + "|".join(chip.removeprefix("tpu-") for chip in chips)
    return f"{note.splitlines()[0]}\n\n{_table(head, [(name, *cells) for name, cells in lines])}"


def _is_hlo(row: dict[str, Any]) -> bool:
    """A product has one op, which its note says the source of."""
    return row["kind"] == "product" and "HLO estimate" in row["note"]


TABLES: dict[str, tuple[str, Callable[[dict[str, Any]], str]]] = {
    "cpu-models": ("cpu-models.json", models),
    "tpu": ("tpu.json", tpu),
    "llm": ("llm.json", llm),
    "cold": ("cold-start.json", cold),
    "llm-1": ("llm-1-thread.json", llm),
    "gemv": ("native-gemv.json", gemv),
    "gemv-1": ("native-gemv-1-thread.json", gemv),
    "context": ("engine.json", context),
    "guess": ("engine-guess.json", guess),
    "requests": ("engine-requests.json", requests),
    "kv": ("engine-kv.json", kv),
    "validated": ("left-out.json", validated),
    "goals": ("left-out.json", goals),
    "beside": ("left-out.json", beside),
    "whole-steps": ("whole-steps.json", whole_steps),
    "cpu-twin": ("cpu-twin.json", cpu_twin),
}
"""The name in the docs: the file of bench/results, and what makes a table of it."""


def filled(text: str, made: Callable[[str], str | None]) -> str:
    """The text with `made(name)` in each table's place; what `made` has nothing for is left."""
    parts = text.split("<!-- table: ")
    for i, part in enumerate(parts[1:], 1):
        name, rest = part.split(" -->", 1)
        _, end, after = rest.partition("<!-- end -->")
        if not end:
            raise SystemExit(f"table {name} has no <!-- end -->")
        table = made(name)
        if table is not None:
            parts[i] = f"{name} -->\n{table}\n{end}{after}"
    return "<!-- table: ".join(parts)


def _made(name: str) -> str | None:
    if name not in TABLES:
        raise SystemExit(f"no table is called {name}; there are {', '.join(TABLES)}")
    file, make = TABLES[name]
    path = RESULTS / file
    return make(json.loads(path.read_text())) if path.exists() else None


def _table(head: str, rows: list[tuple[str, ...]]) -> str:
    names = head.split("|")
    lines = [" | ".join(names), "|".join("---" for _ in names), *map(" | ".join, rows)]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


def _machine(one: dict[str, Any]) -> str:
    return f"{one['cpu']}, {one['cpus']} CPUs; load average at the end {one['load']:.1f}."


def _rate(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _spread(ratio: dict[str, float] | None) -> str:
    return f"{ratio['value']:.2f} ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else "–"


def _share(row: dict[str, Any]) -> str:
    if "batch" in row["case"] or "ratio_of_bandwidth" not in row:
        return "–"
    seconds, peer = row["samples_s"], "–"
    if "llama_cpp" in seconds:
        pairs = zip(seconds["read"], seconds["llama_cpp"], strict=True)
        peer = f"{statistics.median(a / b for a, b in pairs):.2f}"
    return f"{row['ratio_of_bandwidth']:.2f}, {peer} of {row['bandwidth_gb_s']:.1f} GB/s"


def _pace(row: dict[str, Any]) -> str:
    return f"{row['gb_s']:.1f}, {row['ratio']:.2f} ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = 0
    for name in DOCS:
        path = ROOT / name
        before = path.read_text()
        after = filled(before, _made)
        if after != before:
            stale += 1
            print(f"{name}: {'not' if options.check else 'now'} as in bench/results")
            if not options.check:
                path.write_text(after)
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
