"""Live state: versions, finals that stay for a while, what counts as a change."""

from __future__ import annotations

import pytest

from gateway.live import LiveState, bar_of, series_of
from klagg.errors import ContractError
from klagg.intervals import INTERVALS
from tests.gateway.kit import FINAL, MINUTE_MS, NOW_MS, bar, kline, value

BTC = "BTCUSDT:1m"


def entry(*values: tuple[str, str], time_ms: int = NOW_MS) -> dict[str, str]:
    return {"v": "2", "writer": "aggregator-0@1", "seq": "1", "time": str(time_ms), **dict(values)}


def test_a_value_becomes_a_bar() -> None:
    found = bar(closed=1, revision=2, complete=1, at_ms=5, redis_ms=7)
    assert (found.open_time, found.close, found.trades, found.last_trade_id) == (NOW_MS, "64111.10", 321, 420)
    assert (found.closed, found.version, found.at_ms, found.redis_ms) == (True, (2, 1, 0), 5, 7)
    wire = found.wire(INTERVALS["1m"])
    assert (wire.close_time, wire.taker_buy_quote_volume, wire.first_id) == (NOW_MS + 59_999, "384570.00000", 100)


@pytest.mark.parametrize("text", ["", "1,2", value(trades="x"), value(open_time="")])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ContractError, match="a live value has"):
        bar_of(text, 0, 0)


def test_fields_that_hold_no_bar_are_passed_over_and_others_refused() -> None:
    assert [series_of(name) for name in ("time", "v", "@live", "BTCUSDT:1m", "币安人生USDT:1M")] == [
        None,
        None,
        None,
        ("BTCUSDT", "1m"),
        ("币安人生USDT", "1M"),
    ]
    for name in ("BTCUSDT", ":1m", "BTCUSDT:7m"):
        with pytest.raises(ContractError, match="holds the field"):
            series_of(name)


def test_a_bar_in_progress_grows_and_is_closed_and_the_next_opens() -> None:
    state = LiveState()
    (first,) = state.apply_entry(entry((BTC, value(trades=1))), 1)
    (grown,) = state.apply_entry(entry((BTC, value(trades=2)), time_ms=NOW_MS + 250), 2)
    (closed,) = state.apply_entry(entry((BTC, value(trades=2, **FINAL))), 3)
    state.apply_entry(entry((BTC, value(open_time=NOW_MS + MINUTE_MS))), 4)
    assert (first.before, grown.before, closed.before) == (None, first.bar, grown.bar)
    assert [each.closed for each in state.bars("BTCUSDT", "1m")] == [True, False]
    assert state.newest("BTCUSDT", "1m") == state.bars("BTCUSDT", "1m")[-1]
    assert (state.time_ms, state.symbols(), len(state)) == (NOW_MS + 250, {"BTCUSDT"}, 2)


def test_what_is_told_again_after_a_load_changes_nothing() -> None:
    state = LiveState()
    change = state.apply_final(kline(revision=2), 9)
    assert change is not None
    assert change.bar.closed
    for again in ({}, FINAL, {**FINAL, "revision": 2}):
        assert state.apply_entry(entry((BTC, value(**again))), 10) == []
    (amended,) = state.apply_entry(entry((BTC, value(**{**FINAL, "revision": 3}))), 11)
    assert amended.before == change.bar


def test_finals_stay_until_they_are_released_and_the_bar_in_progress_for_ever() -> None:
    state = LiveState()
    for number in range(4):
        at = NOW_MS + number * MINUTE_MS
        state.apply_entry(entry((BTC, value(open_time=at, **(FINAL if number < 3 else {})))), 100 + number)
    assert state.release(102) == 2
    assert [each.redis_ms for each in state.bars("BTCUSDT", "1m")] == [102, 103]
    assert state.release(1000) == 1
    assert [each.closed for each in state.bars("BTCUSDT", "1m")] == [False]


def test_a_series_that_ended_with_a_final_goes_as_a_whole() -> None:
    state = LiveState()
    state.apply_entry(entry((BTC, value(**FINAL))), 100)
    assert (state.release(101), state.symbols(), state.has("BTCUSDT")) == (1, set(), False)


def test_the_difference_of_two_states() -> None:
    old, new = LiveState(), LiveState()
    old.apply_entry(entry((BTC, value()), ("ETHUSDT:1m", value())), 1)
    new.apply_entry(entry((BTC, value(**FINAL)), ("ETHUSDT:1m", value()), ("ADAUSDT:1m", value())), 2)
    assert [(each.symbol, each.before is None) for each in new.changes_since(old)] == [
        ("BTCUSDT", False),
        ("ADAUSDT", True),
    ]
    old.replace_with(new)
    assert new.changes_since(old) == []


def test_an_entry_without_a_time_is_refused() -> None:
    with pytest.raises(ContractError, match="no usable time"):
        LiveState().apply_entry({BTC: value()}, 1)
