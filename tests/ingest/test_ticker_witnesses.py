"""Which tickers become witnesses: those that no trade has outdated."""

from __future__ import annotations

from ingest.ticker_witnesses import PERIOD_MS, TickerWitnesses
from klagg.binance.payloads import Ticker
from klagg.wire.entries import Witness

T0 = 1_791_271_560_000
CARRIED = {"AUSDT", "BUSDT", "CUSDT"}


def ticker(symbol: str, time_ms: int, last_fill: int = 7) -> Ticker:
    return Ticker(symbol, time_ms, "1.5", 1.0, last_fill, time_ms - 2)


def traded(**times_ms: int) -> dict[str, tuple[int, str, str]]:
    """The newest trades of these symbols."""
    return {name: (time_ms, "1.5", "1") for name, time_ms in times_ms.items()}


def begun() -> TickerWitnesses:
    """One whose first period begins at T0."""
    witnesses = TickerWitnesses(CARRIED.__contains__)
    witnesses.observe([ticker("OTHERUSDT", T0)])
    assert witnesses.drain({}) == []
    return witnesses


def test_a_ticker_waits_for_the_trades_that_are_on_their_way_and_a_later_one_outdates_it() -> None:
    witnesses = begun()
    rows = [ticker(name, T0 + 1_000) for name in ("CUSDT", "AUSDT", "BUSDT")]
    witnesses.observe(rows)
    assert witnesses.drain({}) == []
    witnesses.observe([ticker("OTHERUSDT", T0 + PERIOD_MS)])
    assert witnesses.drain({}) == [], "it is held for a period more"
    witnesses.observe([ticker("OTHERUSDT", T0 + 2 * PERIOD_MS - 1)])
    assert witnesses.drain({}) == []
    witnesses.observe([ticker("OTHERUSDT", T0 + 2 * PERIOD_MS)])
    newest = traded(AUSDT=T0 + 999, BUSDT=T0 + 998)
    expected = [Witness("BUSDT", 7, T0 + 998), Witness("CUSDT", 7, T0 + 998)]
    assert witnesses.drain(newest) == expected, "a trade of the ticker's own time may not be the last"
    witnesses.observe([ticker("OTHERUSDT", T0 + 3 * PERIOD_MS)])
    assert witnesses.drain({}) == [], "each is told once"


def test_of_a_symbol_without_trades_the_newest_ticker_of_each_period_is_told() -> None:
    witnesses = begun()
    told = []
    for second in range(1, 13):
        witnesses.observe([ticker("AUSDT", T0 + second * 1_000, second)])
        told += witnesses.drain(traded(AUSDT=T0))
    assert [each.id for each in told] == [2, 4, 6, 8, 10]


def test_what_names_no_fill_and_what_is_not_carried_is_left_out() -> None:
    witnesses = begun()
    witnesses.observe([Ticker("AUSDT", T0 + 1_000, "1.5", 1.0), ticker("OTHERUSDT", T0 + 1_000)])
    for period in (1, 2, 3):
        witnesses.observe([ticker("OTHERUSDT", T0 + period * PERIOD_MS)])
        assert witnesses.drain({}) == []
