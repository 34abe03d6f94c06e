"""Money: what an hour of a chip costs, rented or owned."""

from __future__ import annotations

from dataclasses import dataclass

from anychip.core import ChipSpec, Fact, SystemSpec
from anychip.twin import fact_range

AMORTISED_YEARS = Fact(
    value=4,
    low=3,
    high=6,
    source="assumed: Microsoft, Alphabet and Meta write servers off over 5.5 to 6 years (10-K "
    "2024), buyers of accelerators reckon with 3 to 5",
    confidence="medium",
)
USED_SHARE = Fact(
    value=0.7,
    low=0.4,
    high=0.95,
    source="assumed: share of its life in which a bought chip has work",
    confidence="low",
)
USD_PER_KWH = Fact(
    value=0.08,
    low=0.05,
    high=0.15,
    source="recalled: U.S. Energy Information Administration, industrial average 2024, 0.08",
    confidence="medium",
)
PUE = Fact(
    value=1.3,
    low=1.1,
    high=1.56,
    source="recalled: Uptime Institute, Global Data Center Survey 2024 (average 1.56), Google 1.1",
    confidence="medium",
    note="power usage effectiveness: facility power over machine power",
)
SERVER = Fact(
    value=1.4,
    low=1.15,
    high=2.5,
    source="assumed: a card with its share of server, network and rack costs this many times the "
    "card alone; little for the dearest cards, much for the cheapest",
    confidence="low",
)
WHOLE_MACHINES = ("cpu", "soc", "wafer")
"""Families whose purchase price is that of the machine, not of a card that needs one."""
ASSUMED_PRICE_SPREAD = 0.3
"""Relative range of a price that states none: discounts and dates differ that much. Assumed."""
HOURS_PER_YEAR = 8766


@dataclass(frozen=True, kw_only=True)
class Price:
    """Dollars for an hour of one chip, without its electricity when `owned`."""

    value: float
    low: float
    high: float
    owned: bool
    source: str


def price(spec: ChipSpec, system: SystemSpec | None = None) -> Price | None:
    """A chip's hourly price: of the system if it has one, else the chip's, else its purchase price
    (a card's with its share of a server) spread over the hours it works; None when nobody states
    any.
    """
    rented = (system.usd_per_hour if system is not None else None) or spec.usd_per_hour
    if rented is not None:
        low, high = _range(rented)
        return Price(value=rented.value, low=low, high=high, owned=False, source=rented.source)
    bought = spec.purchase_usd
    if bought is None:
        return None
    low, high = _range(bought)
    is_whole = spec.family in WHOLE_MACHINES
    server = Fact(value=1.0, source="the whole machine") if is_whole else SERVER
    hours = AMORTISED_YEARS.value * HOURS_PER_YEAR * USED_SHARE.value
    most = (AMORTISED_YEARS.high or 0) * HOURS_PER_YEAR * (USED_SHARE.high or 0)
    least = (AMORTISED_YEARS.low or 0) * HOURS_PER_YEAR * (USED_SHARE.low or 0)
    around = "" if is_whole else f" and {server.value:g} times that with a share of a server"
    return Price(
        value=bought.value * server.value / hours,
        low=low * server.range[0] / most,
        high=high * server.range[1] / least,
        owned=True,
        source=f"{bought.value:g} USD{around}, over {AMORTISED_YEARS.value:g} years at "
        f"{USED_SHARE.value:.0%} use, plus electricity ({bought.source})",
    )


def usd_per_mtok(
    usd_per_chip_hour: float, chip_tok_s: float, j_per_tok: float | None, *, owned: bool
) -> float:
    """Dollars for a million generated tokens; electricity is in the price of a rented chip."""
    usd = usd_per_chip_hour / 3600 / chip_tok_s * 1e6
    if owned and j_per_tok is not None:
        usd += j_per_tok * PUE.value * USD_PER_KWH.value / 3.6e6 * 1e6
    return usd


def _range(fact: Fact) -> tuple[float, float]:
    low, high = fact_range(fact)
    if fact.low is None and fact.high is None:
        share = ASSUMED_PRICE_SPREAD
        return fact.value * (1 - share), fact.value * (1 + share)
    return low, high
