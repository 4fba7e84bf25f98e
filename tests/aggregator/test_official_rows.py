"""Rows of `official` entries: what is refused, which decimals they need, which of two states of a row counts."""

from __future__ import annotations

import numpy as np
import pytest

from aggregator.official_rows import VALUES, OfficialRows, decode
from aggregator.symbols import SymbolTable
from klagg.kline import NINE_VALUES
from klagg.wire.entries import official_entry
from tests.aggregator.kit import T0, feed, klines, new_core, raw, tick, trade
from tests.aggregator.officialkit import MINUTE, exchange_rows, send
from tests.rows import ROW_CASES, RowCase


def test_scales_rise_as_a_row_needs_and_what_does_not_fit_is_refused() -> None:
    core = new_core("1m", "5m")
    feed(core, [trade(1, T0, "5"), trade(3, T0 + 1000, "6"), trade(4, T0 + 2 * MINUTE)])
    tick(core, T0 + 2 * MINUTE)
    send(core, "BTCUSDT", "1m", [(T0, "5.25", "6", "5", "6.0000", "3.5", "18.125", 3, "0", "0")])
    said = klines(tick(core, T0 + 2 * MINUTE + 250))
    assert [(each.open, each.volume, each.quote_volume, each.standing) for each in said] == [
        ("5.25", "3.5", "18.125", "official")
    ]
    send(core, "BTCUSDT", "1m", [(T0 + MINUTE, "6", "6", "6", "6", str(10**17), str(6 * 10**17), 1, "0", "0")])
    assert [each["kind"] for each in tick(core, T0 + 2 * MINUTE + 500).findings] == ["OVERFLOW"]


def test_a_quote_volume_may_need_more_decimals_than_its_volume() -> None:
    """At prices without decimals 0.5 and 0.5 are a volume of 1."""
    core = new_core("1m")
    rows = [trade(1, T0, "5", "1"), *(trade(each, T0 + 1000, price, "0.5") for each, price in ((2, "6"), (3, "7")))]
    feed(core, [rows[0], trade(4, T0 + 2 * MINUTE, "7", "1")])
    tick(core, T0 + 2 * MINUTE)
    send(core, "BTCUSDT", "1m", exchange_rows(rows, "1m", T0, T0 + MINUTE))
    outputs = tick(core, T0 + 2 * MINUTE + 250)
    assert not outputs.findings
    assert [(each.volume, each.quote_volume, each.standing) for each in klines(outputs)] == [
        ("2.0", "11.5", "official")
    ]


GOOD = (T0, "5", "6", "4", "5.5", "2", "10", 2, "1", "5")


@pytest.mark.parametrize(
    "change",
    [
        {0: T0 + 1},
        {0: T0 - MINUTE},
        {0: T0 + MINUTE},
        {1: "x"},
        {5: "-1"},
        {6: "1" * 19},
        {7: "2.5"},
    ],
)
def test_a_bad_row_kills_its_entry_alone(change: dict[int, object]) -> None:
    core = new_core("1m")
    row = [change.get(at, each) for at, each in enumerate(GOOD)]
    core.apply("7-1", raw(official_entry("BTCUSDT", "1m", T0, T0 + MINUTE, [row])))
    core.apply("7-2", raw(official_entry("BTCUSDT", "1m", T0, T0 + MINUTE, [GOOD])))
    outputs = tick(core, T0 + 2 * MINUTE)
    assert [each["id"] for each in outputs.dead] == ["7-1"]
    assert len(core.official.waiting) == 0
    assert core.finality.begun[0] == (T0 + MINUTE) // MINUTE


@pytest.mark.parametrize("case", ROW_CASES, ids=lambda case: case.name)
def test_a_row_that_cannot_be_a_kline_heals_nothing_and_is_told(case: RowCase) -> None:
    """A minute with a gap, whose official row is of each kind, and the minute behind it, whose row is right."""
    core = new_core("1m")
    feed(core, [trade(1, T0, "100.00", "0.001"), trade(3, T0 + 1000, "100.30"), trade(9, T0 + 2 * MINUTE, "100.20")])
    tick(core, T0 + 3 * MINUTE)
    good = (T0 + MINUTE, "100.20", "100.20", "100.20", "100.20", "0.000", "0.00000", 0, "0.000", "0.00000")
    send(core, "BTCUSDT", "1m", [(T0, *(case.row[name] for name in NINE_VALUES)), good])
    outputs = tick(core, T0 + 3 * MINUTE + 250)
    covered = core.ledger.coverage.ranges[0].tolist()
    # A flat row does not replace trades that were seen, and one that is finer than the scales may become does not fit.
    used = case.taken and case.name not in {"empty", "finer_quote"}
    assert covered == ([[T0], [T0 + 2 * MINUTE]] if used else [[T0 + MINUTE], [T0 + 2 * MINUTE]])
    assert not outputs.dead
    told = [each for each in outputs.findings if each["kind"] == "OFFICIAL_REFUSED"]
    assert len(told) == (not case.taken)
    if not case.taken:
        assert f"1 official rows cannot be klines, the first, of open time {T0}, because " in told[0]["evidence"]


@pytest.mark.parametrize("change", [{2: "5.2"}, {3: "5.1"}, {8: "2.1"}, {9: "10.5"}, {7: -1}, {7: 0}])
def test_a_refused_row_proves_nothing_before_the_next_one(change: dict[int, object]) -> None:
    row, other = [change.get(at, each) for at, each in enumerate(GOOD)], (T0 + MINUTE, *GOOD[1:])
    answer = decode(raw(official_entry("BTCUSDT", "1m", T0 - MINUTE, T0 + 2 * MINUTE, [row, other])))
    assert (answer.nothing, answer.rows.open_time.tolist()) == ((T0 - MINUTE, T0), [T0 + MINUTE])
    assert [at for at, _ in answer.refused] == [T0]


def test_rows_of_other_intervals_and_cores_without_minutes_refuse_the_entry() -> None:
    core, coarse = new_core("1m"), new_core("5m")
    core.apply("7-1", raw(official_entry("BTCUSDT", "5m", T0, T0 + 5 * MINUTE, [GOOD])))
    core.apply("7-2", raw(official_entry("BTCUSDT", "1m", T0, T0, [])))
    coarse.apply("7-3", raw(official_entry("BTCUSDT", "1m", T0, T0 + MINUTE, [GOOD])))
    dead = [*tick(core, T0).dead, *tick(coarse, T0).dead]
    assert [each["id"] for each in dead] == ["7-1", "7-2", "7-3"]


def decoded(*rows: tuple[object, ...], name: str = "1m") -> OfficialRows:
    return decode(raw(official_entry("BTCUSDT", name, T0, T0 + 60 * MINUTE, rows))).rows


def test_an_answer_names_the_time_before_its_first_row() -> None:
    late = (T0 + 2 * MINUTE, *GOOD[1:])
    answer = decode(raw(official_entry("BTCUSDT", "1m", T0, T0 + 3 * MINUTE, [late])))
    assert (answer.symbol, answer.nothing) == ("BTCUSDT", (T0, T0 + 2 * MINUTE))
    assert (answer.rows.open_time.tolist(), answer.rows.end.tolist()) == ([T0 + 2 * MINUTE], [T0 + 3 * MINUTE])
    empty = decode(raw(official_entry("BTCUSDT", "1m", T0, T0 + 3 * MINUTE, [])))
    assert (len(empty.rows), empty.nothing) == (0, (T0, T0 + 3 * MINUTE))


def test_of_several_states_of_a_row_the_one_with_most_trades_counts() -> None:
    late = (*GOOD[:7], 3, *GOOD[8:])
    other = (T0 + MINUTE, *late[1:])
    joined = OfficialRows.joined([decoded(late, other).of_slot(3), decoded(GOOD).of_slot(3), decoded(late).of_slot(3)])
    assert joined.trades.tolist() == [2, 3, 3], "each state once, in order"
    assert (joined.best().trades.tolist(), joined.best().slot.tolist()) == ([3, 3], [3, 3])


def test_values_come_at_their_symbols_scales_or_do_not_fit() -> None:
    symbols = SymbolTable()
    symbols.add_all([b"BTCUSDT"])
    symbols.price_scale[0], symbols.qty_scale[0] = 2, 3
    values, unfit = decoded(GOOD).at_scale(symbols)
    expected = dict(zip(VALUES, (500, 600, 400, 550, 2000, 1000000, 1000, 500000), strict=True))
    assert dict(zip(VALUES, values[:, 0].tolist(), strict=True)) == expected
    assert not unfit.any()
    symbols.price_scale[0] = 18
    assert np.array_equal(decoded(GOOD).at_scale(symbols)[1], [True])
