"""Files that are not what they should be, as `klagg backfill` and `klagg audit` meet them: the real database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from klagg.cli.main import main as klagg
from klagg.drivers.postgres import Database
from tests.cli.test_backfill_command import counted, database, run, run_json
from tests.cli.test_backfill_contradictions import DAY, bar, flags
from tests.writers.backfillkit import minute, write_dump
from writers.backfill_parts import OfficialRow

__all__ = ["database"]
pytestmark = pytest.mark.servers

WHOLE = [bar(at) for at in range(1440)]


def changed(row: OfficialRow, place: int, value: str) -> OfficialRow:
    return tuple(value if at == place else cell for at, cell in enumerate(row))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (changed(bar(7), 3, "0.00"), "low 0.00"),
        (changed(bar(7), 0, str(minute(7) + 1)), f"open time {minute(7) + 1} is not where a bar of 1m opens"),
        (changed(bar(7), 2, "abc"), "high 'abc' is not a decimal"),
        (changed(bar(7), 8, "0"), "there are 0 trades"),
        (changed(bar(7), 9, "2"), "taker buy volume 2"),
        (changed(bar(7), 7, "0.5"), "quote volume 0.5"),
    ],
)
def test_one_bad_row_of_a_day_costs_itself_and_heals(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: OfficialRow, why: str
) -> None:
    path = write_dump(tmp_path, [*WHOLE[:7], bad, *WHOLE[8:]], DAY)
    said = run(capsys, "--dir", tmp_path, code=1)
    told = f"{path}: 1 of its rows cannot be klines and is left out (line or item 9: {why}"
    todo = "ask REST: klagg backfill --symbols BTCUSDT --intervals 1m --from 2024-09-01T00:07 --to 2024-09-01T00:08"
    assert told in said
    assert todo in said
    assert counted(database) == {("BTCUSDT", "1m"): 1439}
    again = run(capsys, "--dir", tmp_path, code=1)
    assert told in again, "what still lacks is told again"
    assert todo in again
    assert "0 official rows in" in again, "and nothing is read anew for it"
    write_dump(tmp_path / "better", WHOLE[:10], "BTCUSDT-1m-2024-09.csv")
    assert run_json(capsys, "--dir", tmp_path)["problems"] == [], "the bar came from elsewhere: nothing lacks"
    assert counted(database) == {("BTCUSDT", "1m"): 1440}


def test_a_better_file_is_read_by_itself(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dump(tmp_path, [*WHOLE[:7], changed(bar(7), 2, "abc"), *WHOLE[8:]], DAY)
    assert run_json(capsys, "--dir", tmp_path, code=1)["bad_rows"] == 1
    write_dump(tmp_path, WHOLE, DAY)
    found = run_json(capsys, "--dir", tmp_path)
    assert (found["written"], found["problems"], found["contradictions"]) == (1, [], 0)
    assert flags(database) == [(1, False, True)] * 1440


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("data/spot", "of the spot market"),
        ("data/spot/daily/klines/BTCUSDT/1m", "of the spot market"),
        ("data/futures/cm", "of the COIN-M futures"),
        ("data/futures/um/daily/markPriceKlines", "of mark prices"),
        ("data/futures/um/daily/indexPriceKlines/BTCUSDT", "of index prices"),
        ("data/futures/um/daily/premiumIndexKlines/BTCUSDT/1m", "of the premium index"),
        ("data/option", "of options"),
    ],
)
@pytest.mark.parametrize("command", [["backfill", "--dir"], ["audit", "--klines"]])
def test_a_folder_of_another_market_or_price(
    database: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: Sequence[str],
    folder: str,
    kind: str,
) -> None:
    write_dump(tmp_path / folder, WHOLE[:10], DAY)
    (tmp_path / "link").symlink_to(tmp_path / folder)
    for named in (tmp_path / folder, tmp_path / "link"):
        assert klagg([*command, str(named)]) == 1
        said = capsys.readouterr().err
        assert f"{named} is refused, because its klines are {kind}" in said
        assert len(said.splitlines()) == 1
    assert counted(database) == {}


def test_a_general_folder_loads_what_is_ours_and_counts_the_rest(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dump(tmp_path / "data/futures/um/daily/klines/BTCUSDT/1m", WHOLE[:10], DAY)
    for at, folder in enumerate(("spot/daily", "futures/cm/daily", "futures/um/daily/markPriceKlines")):
        write_dump(tmp_path / "data" / folder, [bar(each, 9, 9) for each in range(20)], f"B{at}USDT-1m-2024-09.csv")
    found = run_json(capsys, "--dir", tmp_path)
    assert counted(database) == {("BTCUSDT", "1m"): 10}
    assert any(note.startswith("3 passed over, because they are of another market or price") for note in found["notes"])
    only = tmp_path / "data/futures"
    (only / "um/daily/klines/BTCUSDT/1m" / DAY).unlink()
    assert klagg(["backfill", "--dir", str(only)]) == 1
    assert "2 passed over, because they are of another market or price" in capsys.readouterr().err


def test_rows_betray_other_prices_and_markets_in_a_folder_that_says_nothing(
    database: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mark prices have no volume, the premium index is about 0, volumes of COIN-M futures are contracts of 100 USD."""
    mark = [changed(changed(bar(at), 5, "0"), 7, "0") for at in range(60)]
    coin = [changed(bar(at, 1000, 9, "60000"), 7, "1.66666") for at in range(60)]
    premium = [
        changed(changed(changed(row, 1, "-0.0003"), 3, "-0.0004"), 5, "0") for row in (bar(at) for at in range(60))
    ]
    for symbol, given in (("MARKUSDT", mark), ("COINUSDT", coin), ("PREMUSDT", premium)):
        write_dump(tmp_path, given, f"{symbol}-1m-2024-09-01.csv")
    write_dump(tmp_path, WHOLE[:60], "BTCUSD_PERP-1m-2024-09-01.csv")
    write_dump(tmp_path, WHOLE[:60], "BTCUSDT_240927-1m-2024-09-01.csv")
    said = run(capsys, "--dir", tmp_path, code=1)
    assert said.count("so are 59 others of its 60 rows, so none of them is loaded") == 3
    assert "BTCUSD_PERP-1m-2024-09-01.csv" in said
    assert counted(database) == {("BTCUSDT_240927", "1m"): 60}
