from __future__ import annotations

from decimal import Decimal

from klagg.simulator.bars import empty_bar, fold
from tests.simulator.kit import trade


def test_a_bar_by_hand() -> None:
    bar = fold(
        0,
        59_999,
        [
            trade(5, "10.0", "2", maker=True),
            trade(6, "12.5", "1"),
            trade(7, "99.0", "9", execution="INSURANCE_FUND"),
            trade(9, "8.0", "0.5", fills=2),
        ],
    )
    assert bar is not None
    assert (bar.open, bar.high, bar.low, bar.close) == ("10.0", "12.5", "8.0", "8.0")
    assert (bar.volume, bar.quote_volume, bar.trades) == (Decimal("3.5"), Decimal("36.5"), 4)
    assert (bar.taker_buy_volume, bar.taker_buy_quote_volume) == (Decimal("1.5"), Decimal("16.5"))
    assert (bar.first_id, bar.last_id) == (5, 9)


def test_a_bar_without_trades_carries_the_last_price() -> None:
    assert fold(0, 59_999, [], "7.5") == empty_bar(0, 59_999, "7.5")
    assert fold(0, 59_999, [trade(1, execution="NA")], "7.5") == empty_bar(0, 59_999, "7.5")
    assert fold(0, 59_999, []) is None


def test_prices_are_compared_as_numbers() -> None:
    bar = fold(0, 59_999, [trade(1, "9.5"), trade(2, "10.5")])
    assert bar is not None
    assert (bar.high, bar.low) == ("10.5", "9.5")


def test_minutes_appended_equal_one_fold() -> None:
    trades = [
        trade(number, f"{10 + number % 7}.{number % 10}", f"0.{number}1", maker=number % 3 == 0)
        for number in range(1, 40)
    ]
    whole = fold(0, 99, trades)
    parts = [fold(0, 9, trades[:13]), fold(10, 19, trades[13:14]), fold(20, 29, trades[14:])]
    total = empty_bar(0, 99, "1")
    for part in parts:
        assert part is not None
        total.append(part)
    assert total == whole


def test_sums_are_never_rounded() -> None:
    bar = fold(0, 1, [trade(number, "99999999.9999999", "99999999.999") for number in range(1, 1001)])
    assert bar is not None
    assert bar.quote_volume == 1000 * (999999999999999 * 99999999999) * Decimal("1e-10")
