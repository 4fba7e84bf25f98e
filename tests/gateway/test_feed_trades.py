"""What entries of the feed hold, what an answer is made of, and the order of a stream."""

from __future__ import annotations

from typing import Any

import pytest
import ujson
from hypothesis import given
from hypothesis import strategies as st

from gateway import feed_trades
from gateway.feed_trades import FeedTrade, Found, Gathered, InOrder, Wanted, time_in, trades_in
from klagg.errors import ContractError
from klagg.wire.entries import TradeRow, tick_entry, trades_entry_of_rows, watermark_entry
from klagg.wire.fields import stamp

BIG = 2**53 + 1


def trade(number: int, time: int | None = None, price: str = "64111.10") -> FeedTrade:
    """The trade with this id; its time is that of its id in seconds, unless it is given."""
    time = number * 1000 if time is None else time
    return FeedTrade(number, price, "0.120", number * 2, number * 2 + 1, time, False, time + 5)


def raw(fields: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in stamp(fields, "ingest-A@1", 1).items()}


def entry(*rows: TradeRow, ids: str = "agg") -> dict[bytes, bytes]:
    return raw(trades_entry_of_rows(rows, line="A", ids=ids, recv_ms=77))


def row(symbol: str, number: int = BIG) -> TradeRow:
    return TradeRow(symbol, number, "0.10", "5.0", 7, 9, 66, True)


def gathered(wanted: Wanted, *trades: FeedTrade) -> Gathered:
    found = Gathered(wanted)
    for each in trades:
        found.add(each)
    return found


def ids_of(found: Found) -> tuple[list[int], int, bool]:
    return [each.id for each in found.trades], found.missing, found.begun


def test_an_entry_gives_the_trades_of_the_symbols_that_are_asked_for_exactly() -> None:
    fields = entry(row("BTCUSDT"), row("BTCUSDT1", 3), row("币USDT", 4))
    names = {each.encode(): each for each in ("BTCUSDT", "币USDT")}
    (one, first), (other, second) = trades_in(fields, names)
    assert (one, other, second.id) == ("BTCUSDT", "币USDT", 4)
    assert first == FeedTrade(BIG, "0.10", "5.0", 7, 9, 66, True, 77)
    assert first.row() == {"a": BIG, "p": "0.10", "q": "5.0", "f": 7, "l": 9, "T": 66, "m": True}
    event = ujson.loads(first.event("BTCUSDT"))
    assert event == {"e": "aggTrade", "E": 77, "s": "BTCUSDT", **first.row(), "st": 1}
    assert list(event) == ["e", "E", "a", "s", "p", "q", "f", "l", "T", "m", "st"], "in Binance's order"
    assert (time_in(fields), time_in(raw(tick_entry(5))), time_in(raw(watermark_entry("A", ["B"], 4)))) == (77, 5, 0)


@pytest.mark.parametrize("change", [{b"id": b"1"}, {b"time": b"x,y"}, {b"v": b"9"}, {b"recv": b""}])
def test_an_entry_that_cannot_be_read_is_an_error(change: dict[bytes, bytes]) -> None:
    fields = {**entry(row("BTCUSDT"), row("BTCUSDT")), **change}
    with pytest.raises(ContractError):
        list(trades_in(fields, {b"BTCUSDT": "BTCUSDT"}))


def test_fills_and_other_entries_have_no_agg_trades() -> None:
    names = {b"BTCUSDT": "BTCUSDT"}
    assert list(trades_in(entry(row("BTCUSDT"), ids="trade"), names)) == []
    assert list(trades_in(raw(tick_entry(5)), names)) == []
    assert time_in({b"kind": b"tick"}) == 0


LAST = Wanted(3)
FROM = Wanted(3, from_id=5)
TIMES = Wanted(3, start_ms=5000, end_ms=8000)


@pytest.mark.parametrize(
    ("wanted", "ids", "found", "enough"),
    [
        (LAST, [9, 8, 9, 7], ([7, 8, 9], 0, True), True),
        (LAST, [9, 7, 6], ([6, 7, 9], 1, True), False),
        (LAST, [9, 8], ([8, 9], 0, False), False),
        (LAST, [2, 1], ([1, 2], 0, True), True),
        (LAST, [], ([], 0, False), False),
        (FROM, [4, 5, 6, 7, 8], ([5, 6, 7], 0, True), True),
        (FROM, [5, 6, 7], ([5, 6, 7], 0, True), True),
        (FROM, [4, 7, 8, 9], ([7, 8, 9], 2, True), False),
        (FROM, [6, 7, 8], ([6, 7, 8], 0, False), False),
        (FROM, [4], ([], 0, True), False),
        (TIMES, [4, 5, 6, 9], ([5, 6], 2, True), False),
        (TIMES, [4, 5, 6, 7, 8, 9], ([5, 6, 7], 0, True), True),
        (TIMES, [3, 9], ([], 5, True), False),
        (TIMES, [6, 7], ([6, 7], 0, False), False),
        (Wanted(9, start_ms=5000, end_ms=8000), [4, 8, 7, 6, 5, 9], ([5, 6, 7, 8], 0, True), True),
        (Wanted(2, end_ms=8000), [9, 8, 7, 6], ([7, 8], 0, True), True),
        (Wanted(2, end_ms=8000), [9, 7, 6], ([6, 7], 1, True), False),
    ],
)
def test_ids_decide_what_an_answer_holds(
    wanted: Wanted, ids: list[int], found: tuple[list[int], int, bool], enough: bool
) -> None:
    each = gathered(wanted, *map(trade, ids))
    assert (ids_of(each.found()), each.enough) == (found, enough)


@given(
    held=st.sets(st.integers(1, 40), min_size=1),
    order=st.randoms(use_true_random=False),
    wanted=st.one_of(
        st.builds(Wanted, st.integers(1, 12)),
        st.builds(Wanted, st.integers(1, 12), from_id=st.integers(0, 45)),
        st.builds(Wanted, st.integers(1, 12), start_ms=st.integers(0, 45_000), end_ms=st.just(50_000)),
    ),
)
def test_the_order_of_the_feed_and_repetitions_change_nothing(held: set[int], order: Any, wanted: Wanted) -> None:
    twice = [trade(each) for each in [*held, *held]]
    order.shuffle(twice)
    inside = sorted(each for each in held if not wanted.is_before(trade(each)))
    chosen = inside[-wanted.limit :] if wanted.newest else inside[: wanted.limit]
    found = gathered(wanted, *twice).found()
    assert [each.id for each in found.trades] == chosen
    if chosen:
        assert found.missing >= chosen[-1] - chosen[0] + 1 - len(chosen)


def test_ids_that_began_anew_are_another_listing() -> None:
    old, new = [trade(each) for each in (500, 501)], [trade(1, 600_000), trade(2, 601_000)]
    for wanted in (Wanted(5), Wanted(5, onboard_ms=599_000)):
        for trades in ([*old, *new], [*new, *old], [new[0], *old, new[1]]):
            assert ids_of(gathered(wanted, *trades).found()) == ([1, 2], 0, True)


@pytest.mark.parametrize("newest", [False, True])
def test_what_is_gathered_has_a_limit(monkeypatch: pytest.MonkeyPatch, newest: bool) -> None:
    monkeypatch.setattr(feed_trades, "ROWS_MAX", 20)
    wanted = Wanted(5) if newest else Wanted(5, from_id=11)
    found = gathered(wanted, *(trade(each) for each in range(10, 90)))
    assert len(found._rows) <= 20
    assert ids_of(found.found()) == ([*range(85, 90)] if newest else [*range(11, 16)], 0, True)


def sent(order: InOrder, *trades: FeedTrade, now_ms: float = 0) -> list[int]:
    return [each.id for one in trades for each in order.add(one, now_ms)]


def test_a_stream_goes_on_in_the_order_of_ids_and_waits_for_what_is_late() -> None:
    order = InOrder(1000, 100)
    assert sent(order, trade(7), trade(7), trade(6), trade(8)) == [7, 8]
    assert sent(order, trade(10), trade(11), trade(10)) == []
    assert order.overdue(999) == []
    assert sent(order, trade(9), now_ms=999) == [9, 10, 11]
    assert (order.overdue(5000), order.skipped) == ([], 0)


def test_a_gap_that_stays_is_skipped_for_good_and_counted() -> None:
    order = InOrder(1000, 100)
    assert sent(order, trade(7), trade(10), trade(12), now_ms=50) == [7]
    assert [each.id for each in order.overdue(1050)] == [10]
    assert order.skipped == 2
    assert sent(order, trade(8), trade(9), now_ms=1060) == [], "never backwards"
    assert [each.id for each in order.overdue(2050)] == [12], "the next gap is waited for anew"
    assert order.skipped == 3


def test_few_trades_wait() -> None:
    order = InOrder(1000, 3)
    assert sent(order, trade(1), *(trade(each) for each in range(3, 7))) == [1, 3, 4, 5, 6]
    assert order.skipped == 1


def test_a_symbol_that_is_listed_again_begins_anew() -> None:
    order = InOrder(1000, 100)
    new = [trade(each, 600_000 + each) for each in (1, 2)]
    assert sent(order, trade(500), trade(502), *new) == [500, 502, 1, 2]
    assert sent(order, trade(501), trade(503)) == [], "a late one of the listing before"


@given(ids=st.permutations(range(1, 15)), lost=st.sets(st.integers(2, 14)))
def test_a_stream_never_goes_backwards_and_accounts_for_every_id(ids: list[int], lost: set[int]) -> None:
    order, now_ms = InOrder(50, 100), 0.0
    found = sent(order, trade(0, 0))
    for each in ids:
        now_ms += 10
        if each not in lost:
            found += sent(order, trade(each, 0), now_ms=now_ms)
        found += [late.id for late in order.overdue(now_ms)]
    for _ in ids:
        now_ms += 50
        found += [late.id for late in order.overdue(now_ms)]
    assert found == sorted(set(found))
    assert len(found) + order.skipped == found[-1] + 1
