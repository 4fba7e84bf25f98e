"""A market for the auditor of the exchange: our table and the exchange's rows, both in memory, and laps over them."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from auditors.day_counts import DayCounts, JudgedBar
from auditors.exchange import ExchangeAudit
from auditors.findings import Finding
from auditors.schedule import Look, SeriesKey
from klagg.intervals import INTERVALS, MINUTE_MS
from klagg.kline import Kline, Values
from klagg.settings import Aggregator, Settings
from klagg.wire.entries import BarKey, Listing, Request
from klagg.wire.findings import FindingKind
from tests.aggregator.kit import T0
from tests.auditors.test_classify import LASTING, folded, market, official

SETTINGS = Settings(aggregator=Aggregator(intervals=("1m",)))
END = T0 + LASTING * MINUTE_MS
"""When the last bar closes."""
NAMES = ("AAAUSDT", "BBBUSDT", "CCCUSDT", "币安人生USDT")
SOUND_MS = END + 10 * MINUTE_MS


def listing(name: str, generation: int = T0 - 10**9, status: str = "TRADING", delivery: int = 10**14) -> Listing:
    return Listing(name, generation, 2, 3, status, delivery)


@dataclass
class World:
    """`ours` is the table, `theirs` what REST would answer, by symbol and interval, by open time."""

    ours: dict[SeriesKey, dict[int, Kline]] = field(default_factory=dict)
    theirs: dict[SeriesKey, dict[int, Values]] = field(default_factory=dict)
    listings: list[Listing] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    lags: list[Finding] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    again: list[BarKey] = field(default_factory=list)
    edges: list[Sequence[int]] = field(default_factory=list)
    day_counts: dict[SeriesKey, DayCounts] = field(default_factory=dict)
    looks: list[Look] = field(default_factory=list)
    settings: Settings = SETTINGS
    audit: ExchangeAudit = field(init=False)

    def __post_init__(self) -> None:
        self.audit = ExchangeAudit(self.settings)

    def restart(self) -> None:
        """Another process, from what is in the day_counts."""
        self.audit = ExchangeAudit(self.settings)
        for (symbol, name), counts in self.day_counts.items():
            saved = DayCounts.of(INTERVALS[name], counts.saved_ranges, counts.saved_different)
            self.audit.restore(symbol, INTERVALS[name], saved)

    def stored_ms(self, now_ms: int) -> int:
        """As if there were other symbols, whose bars are all there."""
        return now_ms // MINUTE_MS * MINUTE_MS - MINUTE_MS

    def lap(self, now_ms: int, looks_max: int = 10_000) -> list[Finding]:
        """Look until nothing is due; what was found."""
        before = len(self.findings)
        self.audit.update_listings(self.listings, now_ms)
        first: dict[SeriesKey, int] = {}
        for key, bars in self.ours.items():
            since_ms = self.audit.reach_ms(key[0], now_ms)
            found = [each.open_time for each in bars.values() if each.close_time >= since_ms]
            if found:
                first[key] = min(found)
        self.audit.place(first, now_ms)
        for _ in range(looks_max):
            look = self.audit.next(now_ms, self.stored_ms(now_ms))
            if look is None:
                return self.findings[before:]
            self.take(look, now_ms)
        raise AssertionError("a lap does not end")

    def take(self, look: Look, now_ms: int) -> None:
        self.looks.append(look)
        ours = {at: bar for at, bar in self.ours.get(look.key, {}).items() if look.ours_from_ms <= at < look.end_ms}
        rows = {at: row for at, row in self.theirs.get(look.key, {}).items() if look.start_ms <= at < look.end_ms}
        assert len(rows) <= look.rows
        outcome = self.audit.judge(look, ours, rows, now_ms)
        self.findings += [each for each in outcome.findings if each.kind != FindingKind.LAGGING]
        self.lags += [each for each in outcome.findings if each.kind == FindingKind.LAGGING]
        self.requests += outcome.requests
        self.again += outcome.again
        self.edges += outcome.edges
        self.record(look, outcome.judged)

    def record(self, look: Look, judged: Sequence[JudgedBar]) -> None:
        if judged:
            self.day_counts.setdefault(look.key, DayCounts(look.interval)).add(judged)

    def told(self) -> Counter[tuple[str, str, bool]]:
        """The findings by kind, symbol and whether they are closed."""
        return Counter((each.kind, each.symbol, each.closed) for each in self.findings)

    @property
    def counts(self) -> Counter[str]:
        """What the day_counts hold, over all series."""
        total: Counter[str] = Counter()
        for each in self.day_counts.values():
            total.update(each.counts)
        return total


@functools.cache
def half_an_hour(seed: int) -> tuple[dict[int, Kline], dict[int, Values]]:
    """Our bars and the exchange's rows of a market full of shifts."""
    rows, fills = market(seed)
    return folded(rows), official(fills)


def clean(seed: int = 3, names: tuple[str, ...] = NAMES, *, edges: bool = True) -> World:
    """Half an hour of several symbols; with `edges` the exchange counts fills by their own times, so that many bars
    are shifted, else it says what we say."""
    world = World(listings=[listing(each) for each in names])
    for number, name in enumerate(names):
        bars, rows = half_an_hour(seed + number)
        ours = {at: replace(each, symbol=name) for at, each in bars.items()}
        world.ours[name, "1m"] = ours
        world.theirs[name, "1m"] = dict(rows) if edges else {at: exact_of(each) for at, each in ours.items()}
    return world


def exact_of(kline: Kline) -> Values:
    """The exchange's values of a bar that is equal to ours."""
    names = ("open", "high", "low", "close", "volume", "quote_volume", "taker_buy_volume", "taker_buy_quote_volume")
    return {**{name: Decimal(getattr(kline, name)) for name in names}, "trades": kline.trades}


def put(world: World, name: str, at: int, **changes: object) -> None:
    """Change our bar in the table."""
    world.ours[name, "1m"][at] = replace(world.ours[name, "1m"][at], **changes)  # type: ignore[arg-type]


def tell(world: World, name: str, at: int, **changes: object) -> None:
    """Change the exchange's row."""
    row = dict(world.theirs[name, "1m"][at])
    row.update(changes)  # type: ignore[arg-type]
    world.theirs[name, "1m"][at] = row
