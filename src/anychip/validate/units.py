"""Units of published figures: many spellings, one unit a metric, so that equal things are compared.

`tok/s/GPU` of a throughput per GPU is `tok/s`; of a whole system's throughput it would contradict
the metric, and the row is left as it is, to be listed as not expressible.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_TIMES = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6}
_RATES = {"tok/s": 1.0, "tokens/s": 1.0, "token/s": 1.0, "tokens/sec": 1.0, "t/s": 1.0, "tps": 1.0}
_JOULES = {"j/tok": 1.0, "j/token": 1.0, "mj/tok": 1e-3, "mj/token": 1e-3, "wh/tok": 3600.0}
_WATTS = {"w": 1.0, "kw": 1e3}

UNITS: Mapping[str, str] = {
    "tok_s_user": "tok/s",
    "tpot_mean": "ms",
    "tpot_p50": "ms",
    "ttft": "ms",
    "ttft_p50": "ms",
    "e2e_latency": "s",
    "throughput_output_per_gpu": "tok/s",
    "throughput_output_system": "tok/s",
    "energy_per_output_token": "J/tok",
    "system_wall_power": "W",
    "prefill_tok_s": "tok/s",
    "op_latency": "us",
}
"""Metric → the unit its figures have once read."""

_OF = {
    "throughput_output_per_gpu": r"/(gpu|chip|device|accelerator)",
    "tok_s_user": r"/(user|request|stream)",
}
"""What a unit may say after the rate, where the metric says the same."""


def normalised(metric: str, value: float, unit: str) -> tuple[float, str]:
    """The figure in its metric's unit. One whose metric or unit is not known here comes back as
    it is."""
    wanted = UNITS.get(metric)
    if wanted is None:
        return value, unit
    text = unit.strip().lower()
    if metric in _OF:
        text = re.sub(_OF[metric] + "$", "", text)
    for scale in (_TIMES, _RATES, _JOULES, _WATTS):
        if wanted.lower() in scale and text in scale:
            same = scale[text] == scale[wanted.lower()]
            return (value if same else value * scale[text] / scale[wanted.lower()]), wanted
    return value, unit
