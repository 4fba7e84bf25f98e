"""What exchangeInfo says of a symbol's status, from its rows to the bars: the universe and the core together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from aggregator.core import Core
from aggregator.ring import ENDLESS
from ingest.timings import DEFAULT_TIMINGS
from ingest.universe import STATUS, Doubts, Universe
from klagg import settings
from klagg.intervals import DAY_MS, HOUR_MS, MINUTE_MS
from klagg.kline import Kline
from klagg.wire.entries import EVENT_DELISTED, EVENT_GENESIS, EVENT_LISTED
from tests.aggregator.kit import T0, feed, klines, new_core, newest, steps, tick, trade, watermark
from tests.aggregator.listingkit import FAR, LONG, events, list_

EXCHANGE = settings.Exchange()
LOOK_MS = settings.Clock().statuses_s * 1000
INTERVALS = ("1m", "5m", "1h", "1d")

Status = Mapping[str, str] | None
"""A symbol's status and contract type in exchangeInfo; None: it is not listed."""


@dataclass
class Path:
    """A symbol's way through universe and core, a second after the other; `during` is said in [from_ms, to_ms)."""

    symbol: str
    before: Status
    during: Status
    after: Status
    from_ms: int
    to_ms: int
    quiet: bool
    """Whether nothing trades while `during` is said; otherwise a trade comes every ten seconds."""
    universe: Universe = field(default_factory=Universe)
    core: Core = field(default_factory=lambda: new_core(*INTERVALS))
    said: list[Kline] = field(default_factory=list)
    events: list[dict[str, str]] = field(default_factory=list)
    words: list[tuple[str, str, str]] = field(default_factory=list)
    """Kind, word and symbol of the new words, each as often as it was told anew."""
    carried: dict[int, bool] = field(default_factory=dict)
    trades: int = 0

    def status(self, time_ms: int) -> Status:
        """What exchangeInfo says at a time."""
        if self.from_ms <= time_ms < self.to_ms:
            return self.during
        return self.before if time_ms < self.from_ms else self.after

    def look(self, time_ms: int) -> None:
        """An answer of exchangeInfo, as the clock takes it and writes its listings."""
        row = {"quoteAsset": "USDT", "contractType": "PERPETUAL", "pricePrecision": 2, "quantityPrecision": 3}
        row |= {"onboardDate": LONG, "deliveryDate": FAR, "symbol": "BTCUSDT", "status": "TRADING"}
        rows: list[dict[str, Any]] = [row]
        if (status := self.status(time_ms)) is not None:
            rows.append(row | {"symbol": self.symbol} | dict(status))
        answer = self.universe.read({"symbols": rows}, EXCHANGE, time_ms)
        self.words += [(each.kind, each.word, each.symbol) for each in answer.words if each.times]
        list_(self.core, *answer.chosen.listings, *self.universe.gone.values())

    def run(self, until_ms: int, step_ms: int = 1000) -> None:
        """Play until a time."""
        for time_ms in range(T0, until_ms, step_ms):
            if (time_ms - T0) % LOOK_MS == 0:
                self.look(time_ms)
            carried = self.symbol in self.universe.carried
            self.carried[time_ms] = carried
            pauses = self.quiet and self.from_ms <= time_ms < self.to_ms
            lives = self.status(time_ms) is not None
            if lives and not pauses and (time_ms - T0) % 10_000 == 0:
                self.trades += 1
                if carried:
                    feed(self.core, [trade(self.trades, time_ms, str(100 + self.trades % 7), symbol=self.symbol)])
            if carried:
                watermark(self.core, time_ms, self.symbol)
            for outputs in steps(self.core, time_ms):
                self.said += [each for each in klines(outputs) if each.symbol == self.symbol]
                for kind in (EVENT_LISTED, EVENT_DELISTED, EVENT_GENESIS):
                    self.events += [
                        row | {"kind": kind} for row in events(outputs, kind) if row["symbol"] == self.symbol
                    ]

    def told(self, *kinds: str) -> list[str]:
        """The statuses of the events, in their order."""
        return [each["status"] for each in self.events if each["kind"] in kinds]


def path(symbol: str, before: Status, during: Status, after: Status, minutes: int, *, trades: bool) -> Path:
    """A path whose `during` begins after ten and a half minutes."""
    began = T0 + 10 * MINUTE_MS + 30_000
    return Path(symbol, before, during, after, began, began + minutes * MINUTE_MS, quiet=not trades)


LIVING = {"status": "TRADING", "contractType": "PERPETUAL"}


@pytest.mark.parametrize(
    ("symbol", "status", "minutes", "words"),
    [
        pytest.param("ETHUSDT", "TRADING_HALT", 2, [], id="halt of a trading symbol"),
        pytest.param("ADAUSDT", "BREAK_2027", 5, [(STATUS, "BREAK_2027", "ADAUSDT")], id="a status nobody has seen"),
    ],
)
def test_a_halt_in_which_trades_come_is_as_if_it_had_not_been(
    symbol: str, status: str, minutes: int, words: list[tuple[str, str, str]]
) -> None:
    halted = path(symbol, LIVING, {"status": status}, LIVING, minutes, trades=True)
    plain = path(symbol, LIVING, LIVING, LIVING, minutes, trades=True)
    for each in (halted, plain):
        each.run(T0 + HOUR_MS + 2 * MINUTE_MS)
    assert halted.said == plain.said, "no bar is closed early, and none is different"
    assert newest(halted.said)[(symbol, "1h", T0)].complete
    assert all(halted.carried.values()), "the subscription stays"
    assert halted.told(EVENT_DELISTED) == []
    assert halted.told(EVENT_LISTED) == ["TRADING", status, "TRADING"], "told once when it begins and when it ends"
    assert (halted.words, halted.universe.halted) == (words, {})


def test_a_halt_that_lasts_has_the_flat_bars_that_the_exchange_has() -> None:
    halted = path("ETHUSDT", LIVING, {"status": "TRADING_HALT"}, LIVING, 150, trades=False)
    halted.run(T0 + 175 * MINUTE_MS)
    bars = newest(halted.said)
    close = bars["ETHUSDT", "1m", T0 + 10 * MINUTE_MS].close
    for minute in range(11, 160):
        bar = bars["ETHUSDT", "1m", T0 + minute * MINUTE_MS]
        assert (bar.open, bar.high, bar.low, bar.close, bar.trades) == (*[close] * 4, 0)
    minutes = [bars["ETHUSDT", "1m", T0 + minute * MINUTE_MS] for minute in range(170)]
    assert all(each.complete for each in minutes), "the first trade after it proves the silence by its id"
    assert bars["ETHUSDT", "1h", T0].complete
    assert all(halted.carried.values())
    assert halted.told(EVENT_LISTED, EVENT_DELISTED) == ["TRADING", "TRADING_HALT", "TRADING"]
    assert halted.core.ring.end_ms[halted.core.symbols.index[b"ETHUSDT"]] == ENDLESS


def test_one_that_is_not_open_yet_is_carried_from_its_first_ticker_on() -> None:
    """Not by the next look at exchangeInfo, and not before: the doubt asks at once."""
    new = path("SOLUSDT", None, {"status": "PENDING_TRADING", "contractType": ""}, LIVING, 15, trades=False)
    doubts, opened_ms = Doubts(), new.to_ms
    new.run(opened_ms)
    assert not any(new.carried.values())
    assert new.universe.pending == ["SOLUSDT"]
    assert (new.said, new.told(EVENT_GENESIS)) == ([], [])
    doubts.requested(opened_ms / 1000 - 3600)
    doubts.traded(["SOLUSDT"], new.universe, EXCHANGE, opened_ms / 1000)
    assert doubts.due(opened_ms / 1000)
    new.look(opened_ms)
    doubts.answered(new.universe, EXCHANGE)
    assert "SOLUSDT" in new.universe.carried
    assert not doubts.due(opened_ms / 1000 + DEFAULT_TIMINGS.request_most_s)
    feed(new.core, [trade(1, opened_ms, symbol="SOLUSDT"), trade(2, opened_ms + 60_000, symbol="SOLUSDT")])
    outputs = tick(new.core, opened_ms + 60_000)
    assert [each["id"] for each in events(outputs, EVENT_GENESIS)] == ["1"]
    assert [(each.symbol, each.interval, each.trades, each.complete) for each in klines(outputs)] == [
        ("SOLUSDT", "1m", 1, 1)
    ]


def test_the_known_end_ends_a_symbol() -> None:
    ending = path("XEMUSDT", LIVING, {"status": "SETTLING"}, None, 5, trades=False)
    ending.run(T0 + 30 * MINUTE_MS)
    assert ending.told(EVENT_LISTED, EVENT_DELISTED) == ["TRADING", "SETTLING"]
    assert {each.interval for each in ending.said} == set(INTERVALS), "the open bars are closed at the end"
    assert max(each.open_time for each in ending.said if each.interval == "1m") == T0 + 10 * MINUTE_MS
    assert not ending.carried[ending.from_ms + LOOK_MS]


@pytest.mark.parametrize("delivery", [FAR, T0 - DAY_MS])
@pytest.mark.parametrize("status", ["TRADING_HALT", "TRADING_CANCEL_ONLY", "BREAK", "SETTLED_2027", "PENDING_TRADING"])
def test_only_a_named_status_ends_whatever_the_delivery_time(status: str, delivery: int) -> None:
    during = {"status": status, "deliveryDate": delivery}
    odd = Path("ETHUSDT", LIVING, during, LIVING, T0 + MINUTE_MS, T0 + 3 * MINUTE_MS, quiet=False)  # type: ignore[arg-type]
    odd.run(T0 + 6 * MINUTE_MS)
    assert odd.told(EVENT_DELISTED) == []
    assert odd.told(EVENT_LISTED) == ["TRADING", status, "TRADING"]
    assert all(odd.carried.values()), "also what is pending again once it has opened"
    assert odd.core.ring.end_ms[odd.core.symbols.index[b"ETHUSDT"]] == ENDLESS


def test_rows_that_come_and_go_between_answers_end_nothing() -> None:
    """A row that cannot be used is no end either: the symbol stays as it was."""
    rows: Sequence[dict[str, Any]] = [{"status": None}, {"status": 5}, {"onboardDate": None}, {"contractType": None}]
    for odd in rows:
        way = Path("ETHUSDT", LIVING, odd, LIVING, T0 + MINUTE_MS, T0 + 4 * MINUTE_MS, quiet=False)
        way.run(T0 + 6 * MINUTE_MS)
        assert way.told(EVENT_DELISTED) == []
        assert all(way.carried.values())
