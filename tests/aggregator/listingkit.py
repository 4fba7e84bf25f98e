"""What tests of listings share: names, listings as entries, and what a core said."""

from __future__ import annotations

from collections.abc import Iterable

from aggregator.checkpoint import Checkpoint, restore
from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE_MS
from klagg.kline import Kline
from klagg.wire.entries import Listing, event_rows, listing_entries
from tests.aggregator.kit import T0, feed, new_core, raw, tick, trade

NAME = "BTCUSDT"
FAR = 4_133_404_800_000
LONG = T0 - 1_000 * DAY_MS
"""Listed long before klagg began."""


def list_(core: Core, *listings: Listing) -> None:
    """Listings as one entry."""
    for entry in listing_entries(listings):
        assert not list(core.apply("1-1", raw(entry)))


def listed(status: str = "TRADING", generation: int = LONG, delivery: int = FAR, symbol: str = NAME) -> Listing:
    return Listing(symbol, generation, 2, 3, status, delivery)


def events(outputs: Outputs | Iterable[Outputs], kind: str) -> list[dict[str, str]]:
    every = [outputs] if isinstance(outputs, Outputs) else outputs
    return [row for each in every for fields in each.events if fields["kind"] == kind for row in event_rows(fields)]


def findings(outputs: Outputs, kind: str) -> list[str]:
    return [each["symbol"] for each in outputs.findings if each["kind"] == kind]


def copy_of(core: Core, *intervals: str) -> Core:
    """A fresh core with the checkpoint of another."""
    checkpoint, other = Checkpoint(core), new_core(*intervals)
    restore(other, checkpoint.header, [checkpoint.block(number) for number in range(checkpoint.blocks)])
    return other


def brief(found: Iterable[Kline]) -> list[tuple[str, int, int, int, int]]:
    """interval, minutes since T0, trades, revision, complete"""
    return [
        (each.interval, (each.open_time - T0) // MINUTE_MS, each.trades, each.revision, each.complete) for each in found
    ]


def relisted(core: Core) -> int:
    """A core whose BTCUSDT traded from T0, ended two minutes later and is listed anew an hour later: the new onboard
    time."""
    list_(core, listed())
    feed(core, [trade(500 + at, T0 + 1000 + at * 30_000, "5") for at in range(4)])
    tick(core, T0 + 95_000)
    list_(core, listed("CLOSE", delivery=T0 + 100_000))
    tick(core, T0 + 101_000)
    tick(core, T0 + 120_000)
    generation = T0 + HOUR_MS + 10_000
    list_(core, listed("PENDING_TRADING", generation=generation))
    tick(core, T0 + HOUR_MS)
    list_(core, listed("TRADING", generation=generation))
    return generation
