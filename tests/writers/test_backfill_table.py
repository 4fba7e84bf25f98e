"""Official rows against bars of klagg's own, in the real database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from klagg.drivers.postgres import Database
from klagg.errors import DatabaseRefused
from klagg.kline import NINE_VALUES, Kline
from klagg.wire.findings import FindingKind
from tests.writers.backfillkit import CLOSED_MS, START_MS, minute, official, part_of, rows, write_dump
from tests.writers.support import stored
from writers.backfill_parts import HistoryRows, OfficialRow, Part
from writers.backfill_table import DIFFERENT, REVISED, Disagreement, HistoryTable, Stored
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

LIVE_EPOCH = 1_790_000_000_000


@pytest.fixture
def part(tmp_path: Path) -> Part:
    return part_of(write_dump(tmp_path, rows(10)))


def kline_of(row: OfficialRow, **changes: Any) -> Kline:
    """An official row as it stands in the table, or, with changes, a bar of klagg's own."""
    opened, open_, high, low, close, volume, closes, quote, trades, taker, taker_quote = row
    values: dict[str, Any] = {
        "symbol": "BTCUSDT",
        "interval": "1m",
        "open_time": int(opened),
        "close_time": int(closes),
        "open": open_,
        "high": high,
        "low": low,
        "close": close,
        "volume": volume,
        "quote_volume": quote,
        "trades": int(trades),
        "taker_buy_volume": taker,
        "taker_buy_quote_volume": taker_quote,
        "first_agg_id": -1,
        "last_agg_id": -1,
        "first_trade_id": -1,
        "last_trade_id": -1,
        "complete": 0,
        "official": 1,
        "epoch": 0,
        "revision": 1,
        "source": "exchange",
        "edge": "",
    }
    return Kline(**{**values, **changes})


def own(at: int, **changes: Any) -> Kline:
    """A complete bar of klagg's own with the official values, unless changed."""
    live = {"epoch": LIVE_EPOCH, "source": "own", "first_agg_id": 5, "last_agg_id": 6, "first_trade_id": 7}
    live |= {"complete": 1, "official": 0}
    return kline_of(official(at), **{**live, "last_trade_id": 8, **changes})


def put(database: Database, part: Part, given: list[OfficialRow], settled_ms: int = CLOSED_MS) -> Stored:
    """Store rows of a part; what is said equals what is found."""
    said: list[Disagreement] = []
    found = HistoryTable(database, settled_ms).store(HistoryRows(part, given, part.to_ms), said.extend)
    assert said == found.disagreements
    return found


def test_official_rows_are_the_lowest_version_of_a_bar(database: Database, part: Part) -> None:
    assert put(database, part, rows(10)) == Stored(rows=10, written=10)
    assert stored(database) == [kline_of(row) for row in rows(10)]
    assert put(database, part, rows(10)) == Stored(rows=10, known=10)


@pytest.mark.parametrize("changes", [{}, {"complete": 0}, {"epoch": 1}, {"revision": 5}])
def test_any_live_final_wins_over_them(database: Database, part: Part, changes: dict[str, Any]) -> None:
    live = own(3, **changes)
    put(database, part, rows(10))
    assert upsert(database, [live]) == 1
    assert stored(database)[3] == live


def test_complete_bars_stay_and_are_compared(database: Database, part: Part) -> None:
    bars = [own(2), own(3, volume="4.6000", trades=8, edge="17:3:5"), own(4, high="1.640"), own(20)]
    upsert(database, bars)
    found = put(database, part, rows(10))
    assert (found.written, found.own, found.known, found.healed, found.incomplete) == (7, 3, 0, 0, 0)
    assert [each for each in stored(database) if each.epoch] == bars
    (difference,) = found.disagreements
    assert (difference.kind, difference.symbol, difference.interval) == (DIFFERENT, "BTCUSDT", "1m")
    assert (difference.open_time, difference.fields) == (minute(3), ("volume", "trades"))
    assert (difference.own["volume"], difference.official["volume"]) == ("4.6000", "4.500")
    assert (difference.own["trades"], difference.official["trades"]) == (8, 7)
    assert set(difference.own) == set(difference.official) == set(NINE_VALUES)
    assert (difference.version, difference.source, difference.edge) == ((LIVE_EPOCH, 1, 1, 0), "own", "17:3:5")


def test_every_value_is_compared(database: Database, part: Part) -> None:
    for at, name in enumerate(NINE_VALUES):
        upsert(database, [own(at, **{name: 9 if name == "trades" else "1.45"})])
    found = put(database, part, rows(10))
    assert [each.fields for each in found.disagreements] == [(name,) for name in NINE_VALUES]


def test_a_flat_row_beside_own_trades_is_named_and_replaces_nothing(database: Database, part: Part) -> None:
    bars = [own(1), own(2, complete=0), own(3, trades=0, complete=0)]
    upsert(database, bars)
    given = [official(at, trades=0) for at in range(5)]
    found = put(database, part, given)
    assert [(each.kind, each.open_time) for each in found.disagreements] == [
        (FindingKind.EXCHANGE_GAP, minute(1)),
        (FindingKind.EXCHANGE_GAP, minute(2)),
    ]
    assert stored(database)[1:3] == bars[:2]
    assert (found.healed, stored(database)[3]) == (1, kline_of(given[3]))


def test_old_incomplete_bars_are_replaced_and_young_ones_left_to_the_aggregator(database: Database, part: Part) -> None:
    bars = [own(1, complete=0, trades=1), own(6, complete=0), own(7, revision=0, complete=0)]
    upsert(database, bars)
    found = put(database, part, rows(10), settled_ms=minute(5))
    assert (found.written, found.healed, found.own, found.incomplete, found.disagreements) == (9, 2, 1, 1, [])
    expected = [kline_of(row) for row in rows(10)]
    expected[6] = bars[1]
    assert stored(database) == expected
    assert upsert(database, [replace(bars[0], complete=1, trades=2)]) == 1, "a final that comes live still wins"


def test_what_is_replaced_is_noted_among_the_amendments(database: Database, part: Part) -> None:
    upsert(database, [own(1, complete=0, trades=1, volume="0.50", edge="9:2:1"), own(2, complete=0), own(3)])
    put(database, part, rows(10))
    noted = database.query("SELECT * FROM amendments WHERE epoch = 0 ORDER BY open_time")
    assert [(row["symbol"], row["interval"], row["source"]) for row in noted] == [("BTCUSDT", "1m", "exchange")] * 2
    version = ("epoch", "revision", "complete", "official")
    assert [tuple(row[name] for name in version) for row in noted] == [(0, 1, False, True)] * 2
    assert [tuple(row[f"replaced_{name}"] for name in version) for row in noted] == [(LIVE_EPOCH, 1, False, False)] * 2
    ids = {"first_agg_id": 5, "last_agg_id": 6, "first_trade_id": 7, "last_trade_id": 8}
    assert noted[1]["was"] == {**ids, "source": "own"}
    assert noted[1]["became"] == {**dict.fromkeys(ids, -1), "source": "exchange"}
    assert noted[0]["was"] == {**noted[1]["was"], "trades": 1, "volume": 0.5, "edge": "9:2:1"}
    assert noted[0]["became"] == {**noted[1]["became"], "trades": 7, "volume": 2.5, "edge": ""}
    upsert(database, [own(1, epoch=LIVE_EPOCH + 1, complete=0)])
    put(database, part, rows(10))
    noted = database.query("SELECT * FROM amendments WHERE epoch = 0 ORDER BY open_time, replaced_epoch")
    assert [each["replaced_epoch"] for each in noted] == [LIVE_EPOCH, LIVE_EPOCH + 1, LIVE_EPOCH]
    assert {each["why"] for each in noted} == {"healed"}


def test_a_later_official_row_corrects_an_earlier_one(database: Database, part: Part) -> None:
    put(database, part, [official(0), official(1, trades=0), official(2)])
    found = put(database, part, rows(3))
    assert (found.rows, found.written, found.known) == (3, 1, 2)
    assert [(each.kind, each.open_time) for each in found.disagreements] == [(REVISED, minute(1))]
    assert stored(database) == [kline_of(row) for row in rows(3)]


def test_a_bar_that_comes_between_the_look_and_the_insert(
    database: Database, database_url: str, part: Part, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, other = own(4, trades=9), Database(database_url)
    look = database.query

    def look_and_be_overtaken(sql: str, parameters: Any = None) -> Any:
        seen = look(sql, parameters)
        if "AS there" in sql:
            upsert(other, [live])
        return seen

    monkeypatch.setattr(database, "query", look_and_be_overtaken)
    found = put(database, part, rows(10))
    other.close()
    assert (found.written, found.own, len(found.disagreements)) == (9, 1, 1)
    assert stored(database)[4] == live


def test_beside_live_writers_nothing_of_theirs_is_lost(database: Database, database_url: str, part: Part) -> None:
    """Several writers of live versions and several backfills over the same keys, all at once."""
    given = rows(300)
    wide = replace(part, to_ms=minute(300))
    live = [kline_of(row, epoch=LIVE_EPOCH + at, source="own", complete=at % 2) for at in range(6) for row in given]

    def write(at: int) -> None:
        with closing(Database(database_url)) as mine:
            for start in range(0, 300, 20):
                upsert(mine, live[at * 300 + start : at * 300 + start + 40][: 300 - start])

    def backfill(at: int) -> None:
        with closing(Database(database_url)) as mine:
            table = HistoryTable(mine, 0)
            for start in range(0, 300, 30):
                table.store(
                    HistoryRows(replace(wide, name=f"{at}"), given[start : start + 60], wide.to_ms), lambda _: None
                )

    with ThreadPoolExecutor(12) as pool:
        works = [pool.submit(work, at) for at in range(6) for work in (write, backfill)]
        for work in works:
            work.result()
    assert stored(database) == live[-300:]


def test_rows_and_the_note_of_them_go_together(database: Database, part: Part) -> None:
    table = HistoryTable(database, CLOSED_MS)

    class Crash(Exception):
        pass

    def crash(_: object) -> None:
        raise Crash

    with pytest.raises(Crash):
        table.store(HistoryRows(part, rows(10), minute(10)), crash)
    assert (stored(database), table.loaded()) == ([], {})
    table.store(HistoryRows(part, rows(10), minute(10)), lambda _: None)
    loaded = table.loaded()[part.key]
    assert (loaded.mark, loaded.from_ms, loaded.until_ms) == (part.mark, START_MS, minute(10))
    table.store(HistoryRows(part, [], part.to_ms), lambda _: None)
    assert table.loaded()[part.key].until_ms == part.to_ms


def test_what_the_database_refuses_is_said(database: Database, part: Part) -> None:
    with pytest.raises(DatabaseRefused, match="invalid input syntax"):
        put(database, part, [changed(official(0), 1, "abc")])
    assert stored(database) == []


def changed(row: OfficialRow, place: int, value: str) -> OfficialRow:
    return tuple(value if at == place else cell for at, cell in enumerate(row))  # type: ignore[return-value]
