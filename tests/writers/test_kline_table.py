from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from klagg.drivers.postgres import Database
from klagg.errors import DatabaseRefused
from klagg.kline import DECIMAL_FIELDS, Kline
from tests.writers.support import OPEN_TIME, accepted, amendments, kline, minutes, newer, stored
from writers.batch import resolve
from writers.kline_table import upsert, value_is_to_blame

pytestmark = pytest.mark.servers

on_a_server = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_every_field_comes_back_to_the_last_digit(database: Database) -> None:
    klines = [
        kline(),
        kline(
            symbol="币安人生USDT", interval="1w", open_time=0, open="0.00000010", high="0", low="0.000", close="1000"
        ),
        kline(symbol="A", interval="1M", volume="99999999999999999999.00000000000000000001", quote_volume="9" * 38),
        kline(symbol="B", open_time=OPEN_TIME + 1, close_time=253_402_300_799_999, trades=2**63 - 1, epoch=2**63 - 1),
        kline(symbol="C", trades=0, first_agg_id=-1, last_agg_id=-1, first_trade_id=-1, last_trade_id=-1, complete=0),
        kline(symbol="D", source="mixed", edge="123,456", revision=2**31 - 1),
    ]
    assert upsert(database, klines) == len(klines)
    assert stored(database) == sorted(klines, key=lambda each: each.key)


decimals = st.from_regex(r"\A[0-9]{1,38}(\.[0-9]{1,38})?\Z")


@on_a_server
@given(texts=st.lists(decimals, min_size=len(DECIMAL_FIELDS), max_size=len(DECIMAL_FIELDS)), time=st.integers(0, 2**42))
def test_any_decimal_and_any_millisecond_come_back(database: Database, texts: list[str], time: int) -> None:
    database.execute("TRUNCATE klines_minutes")
    each = kline(open_time=time, **dict(zip(DECIMAL_FIELDS, texts, strict=True)))
    upsert(database, [each])
    (back,) = stored(database)
    assert back.open_time == time
    for name in DECIMAL_FIELDS:
        text = getattr(each, name)
        whole, dot, fraction = text.partition(".")
        assert getattr(back, name) == (whole.lstrip("0") or "0") + dot + fraction


VERSIONS = [
    kline(epoch=epoch, revision=revision, complete=int(whole == "own"), official=int(whole == "exchange"), trades=1 + n)
    for n, (epoch, revision, whole) in enumerate(itertools.product((1, 2), (1, 2), ("", "own", "exchange")))
]


@on_a_server
@given(order=st.permutations(VERSIONS))
def test_the_highest_version_wins_in_any_order(database: Database, order: list[Kline]) -> None:
    database.execute("TRUNCATE klines_minutes, amendments")
    best = None
    for each in order:
        higher = best is None or each.version > best.version
        assert upsert(database, [each]) == higher
        best = each if best is None or higher else best
        assert stored(database) == [best]


any_version = st.builds(
    lambda symbol, epoch, revision, whole, last, trades: kline(
        symbol=symbol,
        epoch=epoch,
        revision=revision,
        complete=int(revision > 0 and whole == "own"),
        official=int(revision > 0 and whole == "exchange"),
        last_trade_id=last,
        trades=trades,
    ),
    st.sampled_from(["A", "B"]),
    st.integers(1, 2),
    st.integers(0, 3),
    st.sampled_from(["", "own", "exchange"]),
    st.integers(-1, 2),
    st.integers(0, 3),
)
batches = st.lists(st.lists(any_version, min_size=1, max_size=6), min_size=1, max_size=6)


@on_a_server
@given(batches=batches)
def test_table_and_history_are_what_a_slow_oracle_says(database: Database, batches: list[list[Kline]]) -> None:
    """Finals, amendments, confirmations and snapshots of several epochs, in batches of any order; all of it twice."""
    database.execute("TRUNCATE klines_minutes, amendments")
    table: dict[tuple[str, str, int], Kline] = {}
    history: dict[tuple[object, ...], tuple[int, int, int, int] | None] = {}
    for batch in batches:
        written = 0
        rows = [entry.kline for entry in resolve(accepted(batch))]
        for each in rows:
            held = table.get(each.key)
            if held is None or newer(each, held):
                table[each.key] = each
                written += 1
                over = held.version if held and held.revision else None
                if over or each.revision > 1:
                    history[each.key, each.version] = over
        assert upsert(database, rows) == written
    for _ in range(2):
        assert stored(database) == [table[key] for key in sorted(table)]
        assert {(each.key, each.version): each.replaced for each in amendments(database)} == history
        for batch in batches:
            assert upsert(database, [entry.kline for entry in resolve(accepted(batch))]) == 0


def test_the_history_tells_what_changed_to_the_last_digit(database: Database) -> None:
    first = kline(complete=0, close="64111.10", trades=321)
    confirmed = kline(complete=1, close="64111.10", trades=321)
    amended = kline(revision=2, close="64112.00", high="64120.00", trades=322, source="mixed", complete=0, official=1)
    assert upsert(database, [first, confirmed]) == 2
    assert upsert(database, [confirmed, amended]) == 1
    confirmation, amendment = amendments(database)
    assert (confirmation.version, confirmation.replaced) == ((1, 1, 1, 0), (1, 1, 0, 0))
    assert confirmation.was == confirmation.became == {}
    assert (amendment.version, amendment.replaced, amendment.source) == ((1, 2, 0, 1), (1, 1, 1, 0), "mixed")
    assert amendment.was == {"close": "64111.10", "trades": "321", "source": "own"}
    assert amendment.became == {"close": "64112.00", "trades": "322", "source": "mixed"}


EDGE = "7:20:23:1:9.0:4:0"
"""Evidence of an aggTrade at the close."""


@pytest.mark.parametrize(
    ("was", "became", "why"),
    [
        (EDGE, f">7:2:1.5:9.0;{EDGE}", "edge"),
        ("", "<7:2:1.5:9.0", "edge"),
        ("<7:2:1.5:9.0", f"<7:2:1.5:9.0;>9:1:0.5:8.0;{EDGE}", "edge"),
        (EDGE, f"{EDGE};8:24:25:2:9.0:1:0", "amended"),
        ("<7:2:1.5:9.0", f"<7:2:1.5:9.0;{EDGE}", "amended"),
        ("<7:2:1.5:9.0", "<7:2:1.5:9.0", "amended"),
        ("", "", "amended"),
    ],
)
def test_an_adopted_split_is_why(database: Database, was: str, became: str, why: str) -> None:
    """And the evidence is in the same row."""
    upsert(database, [kline(edge=was, trades=9)])
    upsert(database, [kline(edge=became, revision=2, trades=8)])
    (row,) = database.query("SELECT why, was ->> 'edge' AS was, became ->> 'edge' AS became FROM amendments")
    assert row["why"] == why
    assert (row["was"], row["became"]) == ((was, became) if was != became else (None, None))
    (told,) = database.query("SELECT why FROM klines_amended")
    assert (told["why"] == "fills at a close count where the exchange counts them") is (why == "edge")


def test_the_history_does_not_depend_on_how_versions_were_batched(database: Database) -> None:
    steps = [kline(complete=0), kline(), kline(revision=2, close="1"), kline(revision=3, close="2")]
    histories = []
    for cuts in ([4], [1, 1, 1, 1], [2, 2], [1, 3]):
        database.execute("TRUNCATE klines_minutes, amendments")
        left = iter(steps)
        for size in cuts:
            upsert(database, list(itertools.islice(left, size)))
        histories.append(amendments(database))
    assert len(histories[0]) == 3
    assert all(history == histories[0] for history in histories)


def test_a_snapshot_leaves_no_history_and_is_no_obstacle(database: Database) -> None:
    running = kline(revision=0, complete=0, last_trade_id=5, trades=5, epoch=9)
    assert upsert(database, [running]) == 1
    assert upsert(database, [kline(revision=0, complete=0, last_trade_id=4, trades=9, epoch=9)]) == 0
    assert upsert(database, [kline(epoch=1)]) == 1, "a final of an earlier epoch too"
    assert upsert(database, [running]) == 0
    assert stored(database) == [kline(epoch=1)]
    assert amendments(database) == []


def test_rows_and_history_are_one_transaction(database: Database) -> None:
    upsert(database, minutes(3))
    database.execute("ALTER TABLE amendments ADD CONSTRAINT none CHECK (revision <> 3)")
    with pytest.raises(DatabaseRefused, match="none"):
        upsert(database, [*minutes(2, revision=2), *minutes(3, revision=3)[2:]])
    assert stored(database) == minutes(3)
    assert amendments(database) == []


def test_a_row_that_was_deleted_may_come_again(database: Database) -> None:
    """As retention deletes it, and a redelivery brings it back: its history is there already."""
    upsert(database, [kline(), kline(revision=2)])
    database.execute("TRUNCATE klines_minutes")
    assert upsert(database, [kline(revision=2)]) == 1
    assert len(amendments(database)) == 1


def test_the_same_rows_again_touch_nothing(database: Database) -> None:
    klines = minutes(50)
    assert upsert(database, klines) == 50
    before = database.query("SELECT xmin::text, ctid::text FROM klines_minutes ORDER BY open_time")
    assert upsert(database, klines) == 0
    assert database.query("SELECT xmin::text, ctid::text FROM klines_minutes ORDER BY open_time") == before


def test_symbols_and_intervals_do_not_get_mixed_up(database: Database) -> None:
    klines = [
        kline(symbol=symbol, interval=interval, trades=n)
        for n, (symbol, interval) in enumerate(itertools.product(("BTCUSDT", "ETHUSDT"), ("1m", "5m", "1d")))
    ]
    upsert(database, klines)
    assert stored(database) == sorted(klines, key=lambda each: each.key)


@pytest.mark.parametrize(
    "changes",
    [{"symbol": "a\0b"}, {"open_time": 2**62}, {"revision": 2**31}, {"close": "NaN?"}, {"symbol": "X" * 100_000}],
)
def test_a_value_that_the_database_cannot_take_is_to_blame(database: Database, changes: dict[str, object]) -> None:
    if "symbol" in changes and len(str(changes["symbol"])) > 100:
        changes = {"symbol": "".join(chr(0x4E00 + n % 20_000) for n in range(20_000))}  # does not compress
    with pytest.raises(DatabaseRefused) as caught:
        upsert(database, [kline(trades=7), kline(**{"close_time": 0, **changes})])
    assert value_is_to_blame(caught.value)
    assert stored(database) == []


def test_a_missing_table_is_no_value_to_blame(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(DatabaseRefused, match="klines") as caught:
        upsert(database, [kline()])
    assert not value_is_to_blame(caught.value)
    database.close()
