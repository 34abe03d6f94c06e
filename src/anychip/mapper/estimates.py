"""The quantities of a found plan as Estimates: value, interval, provenance, and what would refute
them."""

from __future__ import annotations

from anychip.core import LanguageModel, Quantity
from anychip.mapper.falsify import command
from anychip.mapper.search import Found
from anychip.twin import facts_of, own_error, spreads
from anychip.twin.left_out import left_out

QUANTITIES = (
    "ttft_s",
    "tpot_s",
    "latency_s",
    "user_tok_s",
    "chip_tok_s",
    "j_per_tok",
    "usd_per_mtok",
)
"""Time to first token, time per output token, whole request (seconds); tokens a second that one
user sees while the answer streams; and of whole requests, prompts included, generated tokens a
second and chip, joules a generated token, dollars a million of them."""

_PRICES = ("usd_per_hour", "purchase_usd", "system.usd_per_hour")


def estimates(found: Found, model: LanguageModel) -> dict[str, Quantity | None]:
    """Every quantity, None where the spec does not tell (no power, no price)."""
    option, piece = found.option, found.plan.pieces[0]
    facts = {
        key: fact
        for key, fact in facts_of(found.spec, option.system).items()
        if key not in _PRICES
        # What a chip is made of is known, but for what its spec gives a range.
        and (not key.startswith("about.") or (found.is_simulated and fact.low is not None))
    }
    spread = spreads(found.values, facts, own_error(found.spec.family, QUANTITIES))
    values = found.values()
    hour = option.price
    if hour is not None and "usd_per_mtok" in spread:
        wider = spread["usd_per_mtok"].also(
            "the price", hour.low / hour.value, hour.high / hour.value
        )
        spread["usd_per_mtok"] = wider
    proof = command(model, found.spec, piece.shards, piece.precision.matmul, found.plan.workload)
    subject = f"{found.spec.name} x {piece.chips} ({piece.shards}, {piece.precision.name})"
    made: dict[str, Quantity | None] = {}
    for name in QUANTITIES:
        value, part = values[name], spread.get(name)
        made[name] = None
        if value is not None and part is not None:
            made[name] = part.estimate(
                value,
                subject=subject,
                falsify=proof,
                is_simulated=found.is_simulated,
                evidence=left_out(found.spec.family, name).evidence,
            )
    return made
