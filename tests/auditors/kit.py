"""What the auditors' tests share: an hour from the real aggregator core in virtual time, and judging a log."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from aggregator.core import Core
from auditors.findings import Finding
from auditors.judge import Judge
from klagg import settings
from klagg.intervals import INTERVALS
from klagg.wire.entries import Listing, TradeRow, listing_entries, tick_entry, trades_entry_of_rows, watermark_entry
from klagg.wire.fields import Fields, RawFields, stamp
from tests.aggregator.kit import raw

BEGIN = 1_719_790_200_000
"""Sunday 2024-06-30 23:30 UTC: behind half an hour a day, a week and a month begin at once."""
LASTING_MS = 3_600_000
TICK_MS = 1_000
NAMES = ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT", "EEEUSDT")
QUIET, MIDWAY, BORN, ENDING = "CCCUSDT", "DDDUSDT", "EEEUSDT", "BBBUSDT"
BORN_MS = BEGIN + 600_500
"""When one of the symbols is listed."""
ENDED_MS = BEGIN + 2_700_000
"""When another one is delisted."""
CONFIG = settings.Aggregator(intervals=tuple(name for name in INTERVALS if name not in ("1s", "5s")))
SETTINGS = settings.Settings(aggregator=CONFIG)


@dataclass(frozen=True, slots=True)
class Said:
    """One entry of a stream, not yet numbered."""

    stream: str
    fields: Fields


def listing(name: str, generation: int, status: str = "TRADING") -> Listing:
    return Listing(name, generation, 2, 3, status, 10**13)


def trades_of(name: str, rng: random.Random, from_ms: int, to_ms: int, first_id: int) -> list[TradeRow]:
    """A symbol's trades: some a minute, with minutes that have none; a quiet symbol trades rarely."""
    rows, at_ms, number, fill, price = [], from_ms, first_id, first_id * 3, 10_000
    pause_ms = 240_000 if name == QUIET else 9_000
    while at_ms < to_ms:
        fills = rng.choice((1, 1, 2, 4))
        price = max(100, price + rng.randrange(-30, 31))
        rows.append(
            TradeRow(
                name,
                number,
                f"{price / 100:.2f}",
                f"{rng.randrange(1, 5_000) / 1000:.3f}",
                fill,
                fill + fills - 1,
                at_ms,
                rng.random() < 0.5,
            )
        )
        number, fill = number + 1, fill + fills
        at_ms += rng.randrange(1, 2 * pause_ms) if rng.random() < 0.98 else rng.randrange(60_000, 200_000)
    return rows


def hour_feed() -> list[tuple[int, list[Fields]]]:
    """What the feed brings, by the tick that closes it."""
    rng = random.Random(7)
    end_ms = BEGIN + LASTING_MS
    rows: list[TradeRow] = []
    for name in NAMES:
        from_ms, first_id = BEGIN + rng.randrange(20_000), rng.randrange(10, 10**6)
        if name == BORN:
            from_ms, first_id = BORN_MS + 300, 1
        rows += trades_of(name, rng, from_ms, ENDED_MS if name == ENDING else end_ms, first_id)
    rows.sort(key=lambda row: row.time)
    carried = [name for name in NAMES if name != BORN]
    feed, at = [], 0
    for time_ms in range(BEGIN, end_ms + 40_000, TICK_MS):
        entries: list[Fields] = []
        if time_ms == BEGIN:
            entries += listing_entries([listing(name, BEGIN - 10**9) for name in carried])
        if BORN_MS <= time_ms < BORN_MS + TICK_MS:
            entries += listing_entries([listing(BORN, BORN_MS)])
            carried = list(NAMES)
        if time_ms == ENDED_MS:
            entries += listing_entries([listing(ENDING, BEGIN - 10**9, "SETTLING")])
        first = at
        while at < len(rows) and rows[at].time <= time_ms:
            at += 1
        if first < at:
            entries.append(trades_entry_of_rows(rows[first:at], line="A", ids="agg", recv_ms=time_ms))
        entries.append(watermark_entry("A", carried, time_ms))
        feed.append((time_ms, entries))
    return feed


@functools.cache
def clean_hour() -> tuple[Said, ...]:
    """An hour of klines and events as the aggregator commits them: of each tick the klines, then the events."""
    core = Core(CONFIG, epoch=1)
    said: list[Said] = []
    for time_ms, entries in hour_feed():
        for fields in (*entries, tick_entry(time_ms)):
            for each in core.apply("1-1", raw(fields)):
                outputs = each.encode()
                assert not outputs.findings, outputs.findings
                said += [Said("klines", entry) for entry in outputs.klines]
                said += [Said("events", entry) for entry in outputs.events]
    return tuple(said)


def numbered(said: Iterable[Said]) -> list[tuple[str, str, RawFields]]:
    """The entries as Redis gives them: stream, id, fields with version, writer and running number."""
    numbers = {"klines": 0, "events": 0}
    entries: list[tuple[str, str, RawFields]] = []
    for at, each in enumerate(said):
        numbers[each.stream] += 1
        stamped = stamp(each.fields, "aggregator-0@1", numbers[each.stream])
        entries.append((each.stream, f"{BEGIN + at}-0", {n.encode(): v.encode() for n, v in stamped.items()}))
    return entries


def judged(judge: Judge, entries: Iterable[tuple[str, str, RawFields]]) -> list[Finding]:
    """What a judge finds in a log."""
    for stream, entry_id, fields in entries:
        if stream in judge.streams:
            judge.receive(stream, entry_id, fields)
    return judge.drain_findings()


def judged_with_restarts(
    make: Callable[[], Judge], entries: Sequence[tuple[str, str, RawFields]], every: int
) -> list[Finding]:
    """The same, with a new judge from what the one before wrote down, behind each `every`th tick."""
    saved: dict[str, str] = {}
    found: list[Finding] = []
    judge, ticks = make(), 0
    for stream, entry_id, fields in entries:
        if stream not in judge.streams:
            continue
        judge.receive(stream, entry_id, fields)
        if fields.get(b"kind") == b"tick":
            ticks += 1
            if ticks % every == 0:
                found += judge.drain_findings()
                put, gone = judge.dump()
                saved = {name: text for name, text in (saved | put).items() if name not in gone}
                judge = make()
                judge.restore(saved)
    return found + judge.drain_findings()


def symbol_of(said: Said) -> str:
    return said.fields.get("symbol", "")
