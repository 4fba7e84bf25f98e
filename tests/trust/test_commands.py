"""What `replay`, `rollup` and `audit --summary` conclude, each with a fault that ends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from aggregator.replay import replay
from gateway.files import FileLayout, encoder
from klagg.cli.main import main as klagg
from klagg.drivers.postgres import Database
from klagg.intervals import DAY_MS, MINUTE
from klagg.kline import Kline
from klagg.wire.entries import TradeRow
from tests.aggregator.kit import T0, newest, trade
from tests.cli.filekit import write_hours, write_lines, write_minutes
from tests.trust.boardkit import Fault, a_bar_of_the_exchange, a_lost_bar, a_wrong_volume, fill_table, nothing
from tests.trust.catalogue import Sentence


def concluded(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command says, and its exit code."""
    code = klagg(list(words))
    return f"{capsys.readouterr().out.rstrip()}\nexit code {code}"


# --- replay ---

TRADES = [trade(number, T0 + number * 5000, "10.00", "1.000") for number in range(120)]
"""Ten minutes with a trade every five seconds."""
HEAD = "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"

Rows = Sequence[TradeRow]
Bars = Sequence[Kline]


def write_trades(path: Path, rows: Rows) -> str:
    lines = [f"{each.id},{each.price},{each.qty},{each.first},{each.last},{each.time},false" for each in rows]
    return write_lines(path, [HEAD, *lines])


def write_klines(path: Path, bars: Bars) -> str:
    file = encoder("csv", FileLayout())
    path.write_bytes(file.page(list(bars)) + file.end())
    return str(path)


class Replayed(NamedTuple):
    """A row of the catalogue: what `klagg replay` concludes of trades and the exchange's klines."""

    sentence: Sentence
    trades: Callable[[Rows], Rows] = lambda rows: rows
    klines: Callable[[Bars], Bars] = lambda bars: bars


EXACT = '{"bars":10,"exact":9,"different":0,"partial":1}\nexit code 0'


def replayed(fault: str, then: str) -> Sentence:
    return Sentence("klagg replay", EXACT, fault, then)


REPLAYED = [
    Replayed(
        replayed("trades in the middle are missing", '"gap":2,"missing":15}\nexit code 1'),
        trades=lambda rows: [each for each in rows if not 50 <= each.id < 65],
    ),
    Replayed(
        replayed("trades in the middle are missing", "\nmissing: BTCUSDT trade ids 50 to 64 (15), between "),
        trades=lambda rows: [each for each in rows if not 50 <= each.id < 65],
    ),
    Replayed(
        replayed("a volume is another one", '"exact":8,"different":1,"partial":1,"refused":1}\nexit code 1'),
        klines=lambda bars: [*bars[:4], replace(bars[4], volume="13.000"), *bars[5:]],
    ),
    Replayed(
        replayed("a volume is another one", "volume 12 instead of 13.000\n"),
        klines=lambda bars: [*bars[:4], replace(bars[4], volume="13.000"), *bars[5:]],
    ),
    Replayed(
        replayed("the exchange's file lacks a bar", '"unmatched":1}\nexit code 1'),
        klines=lambda bars: [*bars[:4], *bars[5:]],
    ),
    Replayed(
        replayed("the exchange's file is of another time", "\nnothing was compared: "),
        klines=lambda bars: [
            replace(each, open_time=each.open_time - DAY_MS, close_time=each.close_time - DAY_MS) for each in bars
        ],
    ),
    Replayed(
        replayed("the exchange's file is of another time", '"nothing_compared":true}\nexit code 1'),
        klines=lambda bars: [
            replace(each, open_time=each.open_time - DAY_MS, close_time=each.close_time - DAY_MS) for each in bars
        ],
    ),
]


@pytest.mark.parametrize("row", REPLAYED, ids=lambda row: f"{row.sentence.fault}: {row.sentence.then[:20]!r}")
def test_the_conclusion_of_replay_is_true(tmp_path: Path, capsys: pytest.CaptureFixture[str], row: Replayed) -> None:
    found = newest(replay(TRADES, "agg", MINUTE))
    bars = [found[key] for key in sorted(found)]

    def said(rows: Rows, theirs: Bars) -> str:
        trades = write_trades(tmp_path / "BTCUSDT-aggTrades-2023-11-14.csv", rows)
        return concluded(capsys, "replay", "--trades", trades, "--klines", write_klines(tmp_path / "k.csv", theirs))

    without_fault = said(TRADES, bars)
    assert row.sentence.wrong(without_fault, said(row.trades(TRADES), row.klines(bars))) == []


# --- rollup ---


class RolledUp(NamedTuple):
    """A row of the catalogue: what `klagg rollup` concludes of these minutes and the exchange's hours."""

    sentence: Sentence
    minutes: Sequence[int] = range(180)
    hours: Sequence[str | None] = ("60.000", "60.000", "60.000")


ALL_EXACT = '{"bars":3,"exact":3,"different":0,"partial":0}\nexit code 0'


def rolled_up(fault: str, then: str) -> Sentence:
    return Sentence("klagg rollup", ALL_EXACT, fault, then)


ROLLED_UP = [
    RolledUp(
        rolled_up("minutes in the middle are missing", '"gap":1,"missing":20}\nexit code 1'),
        minutes=[*range(70), *range(90, 180)],
    ),
    RolledUp(
        rolled_up("minutes in the middle are missing", "missing: 1m klines 2026-11-28 21:10 to 2026-11-28 21:29 (20)"),
        minutes=[*range(70), *range(90, 180)],
    ),
    RolledUp(rolled_up("the end is missing", '"exact":2,"different":0,"partial":1}\nexit code 0'), minutes=range(150)),
    RolledUp(
        rolled_up("an hour is another one", '"exact":2,"different":1,"partial":0,"refused":1}\nexit code 1'),
        hours=("60.000", "61.000", "60.000"),
    ),
    RolledUp(
        rolled_up("the exchange's file lacks an hour", '"unmatched":1}\nexit code 1'), hours=("60.000", None, "60.000")
    ),
    RolledUp(
        rolled_up(
            "nothing can be compared",
            "hours.csv holds no bar of the time that the source covers",
        ),
        hours=(*[None] * 9, "60.000"),
    ),
    RolledUp(
        rolled_up("nothing can be compared", '"nothing_compared":true}\nexit code 1'), hours=(*[None] * 9, "60.000")
    ),
]


@pytest.mark.parametrize("row", ROLLED_UP, ids=lambda row: f"{row.sentence.fault}: {row.sentence.then[:20]!r}")
def test_the_conclusion_of_rollup_is_true(tmp_path: Path, capsys: pytest.CaptureFixture[str], row: RolledUp) -> None:
    well = RolledUp(row.sentence)

    def said(of: RolledUp) -> str:
        source = write_minutes(tmp_path / "minutes.csv", of.minutes)
        official = write_hours(tmp_path / "hours.csv", of.hours)
        return concluded(capsys, "rollup", "--klines", source, "--to", "1h", "--compare", official)

    assert row.sentence.wrong(said(well), said(row)) == []


# --- audit --summary ---

SETTLED = (
    "Of 30 audited bars 13.33 % are exact (4 at once, 0 after adoption), 86.66 % differ and are explained "
    "(edge shift 26, exchange gap 0), 0.00 % are unexplained, and 0 are not settled (local gap 0, late 0)."
)

SUMMARY: list[tuple[Sentence, Fault]] = [
    (
        Sentence("klagg audit --summary", SETTLED, "a bar was lost", "18 are not settled (local gap 18, late 0)."),
        a_lost_bar,
    ),
    (Sentence("klagg audit --summary", "exit code 0", "a bar has a wrong volume", "exit code 1"), a_wrong_volume),
    (
        Sentence(
            "klagg audit --summary",
            '"complete":30,"official":0,',
            "one is the exchange's",
            '"complete":29,"official":1,',
        ),
        a_bar_of_the_exchange,
    ),
    (Sentence("klagg audit --summary", '"missing":0,', "a bar was lost", '"missing":1,'), a_lost_bar),
    (
        Sentence("klagg audit --summary", '"unexplained":0,', "a bar has a wrong volume", '"unexplained":5,'),
        a_wrong_volume,
    ),
]


@pytest.mark.servers
def test_the_words_of_the_summary_are_true(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KLAGG_DATABASE__URL", database_url)

    def said() -> str:
        return concluded(capsys, "audit", "--summary", "--from", "2023-11-14", "--to", "2023-11-14")

    fill_table(database, database_url, nothing)
    without_fault, wrong = said(), []
    for sentence, fault in SUMMARY:
        fill_table(database, database_url, fault)
        wrong += sentence.wrong(without_fault, said())
    assert wrong == []
