from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath

import pytest

from klagg.errors import ConfigError
from klagg.intervals import DAY_MS, INTERVALS, MINUTE_MS
from tests.writers.backfillkit import END_MS, EVER_MS, START_MS
from writers.backfill_parts import (
    Loaded,
    Part,
    in_order,
    is_coin_margined,
    other_kind,
    part_of_file,
    parts_of_range,
    resumed,
    span_of,
)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("2024-09", (1_725_148_800_000, 1_727_740_800_000)),
        ("2024-12", (1_733_011_200_000, 1_735_689_600_000)),
        ("2024", (1_704_067_200_000, 1_735_689_600_000)),
        ("2024-09-30", (1_727_654_400_000, 1_727_740_800_000)),
        ("2024-09-30T12:00", (1_727_697_600_000, 1_727_697_600_000)),
        ("2024-09-30T12:00+02:00", (1_727_690_400_000, 1_727_690_400_000)),
    ],
)
def test_times_as_people_write_them(text: str, span: tuple[int, int]) -> None:
    assert span_of(text) == span


@pytest.mark.parametrize("text", ["", "yesterday", "2024-13", "2024-02-30", "24-09", "2024-09-30T25:00"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time"):
        span_of(text)


@pytest.mark.parametrize(
    ("name", "symbol", "interval", "bars"),
    [
        ("BTCUSDT-1m-2024-09.zip", "BTCUSDT", "1m", 30 * 1440),
        ("BTCUSDT-1m-2024-09-03.csv.gz", "BTCUSDT", "1m", 1440),
        ("币安人生USDT-4h-2024-09.csv", "币安人生USDT", "4h", 180),
        ("BTCUSDT_240927-1d-2024-09.csv", "BTCUSDT_240927", "1d", 30),
        ("1000SHIBUSDT-1mo-2024-09.csv.zip", "1000SHIBUSDT", "1M", 1),
        ("BTCUSDT-1w-2024-09.zip", "BTCUSDT", "1w", 6),  # the one of Aug 26 holds the month's first day
    ],
)
def test_names_of_dumps(name: str, symbol: str, interval: str, bars: int) -> None:
    part = part_of_file(Path(name), 0, EVER_MS)
    assert part is not None
    assert (part.symbol, part.interval.name, part.bars) == (symbol, interval, bars)


@pytest.mark.parametrize(
    "name",
    [
        "BTCUSDT-aggTrades-2024-09.zip",
        "BTCUSDT-1m-2024-13.zip",
        "BTCUSDT-1m.csv",
        "BTCUSDT-7m-2024-09.csv",
        "BTCUSDT-1m-2024-09.zip.CHECKSUM",
        "-1m-2024-09.zip",
    ],
)
def test_names_of_other_files(name: str) -> None:
    assert part_of_file(Path(name), 0, EVER_MS) is None


def test_a_file_holds_no_more_than_is_asked_for() -> None:
    path = Path("BTCUSDT-1m-2024-09.zip")
    part = part_of_file(path, START_MS + DAY_MS, START_MS + DAY_MS + 90_000)
    assert part is not None
    assert (part.from_ms, part.to_ms, part.bars) == (START_MS + DAY_MS, START_MS + DAY_MS + 90_000, 2)
    beside = part_of_file(path, END_MS, EVER_MS)
    assert beside is not None
    assert beside.bars == 0


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("data/futures/um/monthly/klines/BTCUSDT/1m", ""),
        ("", ""),
        ("data/spot", "of the spot market"),
        ("data/spot/monthly/klines/BTCUSDT/1m", "of the spot market"),
        ("Data/Spot/daily", "of the spot market"),
        ("data/futures/cm", "of the COIN-M futures"),
        ("data/futures/cm/monthly/klines/BTCUSD_PERP/1m", "of the COIN-M futures"),
        ("data/option/daily", "of options"),
        ("data/futures/um/monthly/markPriceKlines/BTCUSDT/1m", "of mark prices"),
        ("data/futures/um/daily/indexPriceKlines", "of index prices"),
        ("futures/um/daily/premiumIndexKlines/BTCUSDT", "of the premium index"),
        ("home/spot/data/futures/um/monthly/klines/BTCUSDT/1m", ""),
        ("home/um/data/spot/monthly", "of the spot market"),
    ],
)
def test_the_archive_has_other_files_of_the_same_names(folder: str, kind: str) -> None:
    assert other_kind(PurePath("/", folder)) == kind


@pytest.mark.parametrize(
    ("symbol", "coin"),
    [
        ("BTCUSD_PERP", True),
        ("ETHUSD_240628", True),
        ("BTCUSDT_240628", False),
        ("BTCUSDT", False),
        ("BTCUSDC_240628", False),
        ("币安人生USDT", False),
    ],
)
def test_names_of_contracts_that_are_margined_in_coins(symbol: str, coin: bool) -> None:
    assert is_coin_margined(symbol) is coin


def test_rest_asks_by_the_month_and_for_long_bars_by_the_year() -> None:
    start, end = span_of("2023-11-15")[0], span_of("2024-02-10")[0]
    minutes = parts_of_range("BTCUSDT", INTERVALS["1m"], start, end)
    assert [part.name for part in minutes] == ["REST 2023-11", "REST 2023-12", "REST 2024-01", "REST 2024-02"]
    assert [part.from_ms for part in minutes[1:]] == [part.to_ms for part in minutes[:-1]]
    assert (minutes[0].from_ms, minutes[-1].to_ms) == (start, end)
    assert sum(part.bars for part in minutes) == (end - start) // MINUTE_MS
    days = parts_of_range("BTCUSDT", INTERVALS["1d"], start, end)
    assert [(part.name, part.bars) for part in days] == [("REST 2023", 47), ("REST 2024", 40)]
    assert parts_of_range("BTCUSDT", INTERVALS["1d"], end, start) == []


PART = Part("BTCUSDT", INTERVALS["1m"], "REST 2024-09", START_MS, END_MS, mark="5")


@pytest.mark.parametrize(
    ("loaded", "left"),
    [
        (Loaded("5", START_MS, END_MS), None),
        (Loaded("5", START_MS - 1, END_MS + 1), None),
        (Loaded("5", START_MS, END_MS - MINUTE_MS), 1),
        (Loaded("4", START_MS, END_MS), PART.bars),  # another state of the file
        (Loaded("5", START_MS + 1, END_MS), PART.bars),  # something before it is missing
        (Loaded("5", START_MS - 9, START_MS - 1), PART.bars),  # something in between is missing
    ],
)
def test_what_an_earlier_run_has_left(loaded: Loaded, left: int | None) -> None:
    found = resumed([PART], {PART.key: loaded})
    assert [part.bars for part in found] == ([] if left is None else [left])


def test_what_goes_on_remembers_where_it_began() -> None:
    (part,) = resumed([replace(PART, from_ms=START_MS + DAY_MS)], {PART.key: Loaded("5", START_MS, END_MS - MINUTE_MS)})
    assert (part.from_ms, part.start_ms) == (START_MS, END_MS - MINUTE_MS)


def test_oldest_first() -> None:
    early = replace(PART, from_ms=START_MS - DAY_MS)
    other = replace(PART, symbol="AUSDT")
    assert in_order([PART, other, early]) == [early, other, PART]
