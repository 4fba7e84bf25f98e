"""Batches: when they close, and the entries that they yield."""

from __future__ import annotations

import random

import pytest

from ingest.batch import Batch
from klagg.binance.endpoints import Endpoint
from klagg.wire.entries import TRADE_COLUMNS
from klagg.wire.fields import Fields
from klagg.wire.keys import shard_of
from tests.ingest.kit import NOW_MS, SYMBOLS, agg_trade, fill, frame_of, rules


def batch(source: str = "aggTrade", shards: int = 1, rows: int = 512) -> Batch:
    """A batch for frames that come at NOW_MS, local time 1000."""
    return Batch(
        rules(source=source),
        line="A",
        shards=shards,
        batch_ms=5,
        batch_rows=rows,
        exchange_ms={1000.0: NOW_MS}.__getitem__,
    )


def now() -> float:
    """The local time of all frames."""
    return 1000.0


def columns_of(fields: Fields) -> dict[str, list[str]]:
    return {name: fields[name].split(",") for name in TRADE_COLUMNS}


def test_an_entry_holds_its_trades_in_columns() -> None:
    some = batch()
    some.add(frame_of(agg_trade(7)), now)
    some.add(frame_of(agg_trade(8, s="ETHUSDT", p="1.50", q="2", m=True)), now)
    closed = some.close()
    assert closed.entries == [
        (
            0,
            {
                "kind": "trades",
                "n": "2",
                "line": "A",
                "ids": "agg",
                "recv": str(NOW_MS),
                "symbol": "BTCUSDT,ETHUSDT",
                "id": "7,8",
                "price": "85266.00,1.50",
                "qty": "0.158,2",
                "first": "21,24",
                "last": "23,26",
                "time": f"{NOW_MS - 200},{NOW_MS - 200}",
                "maker": "0,1",
                "counts": "1,1",
            },
        )
    ]
    assert (closed.frames, closed.trades, closed.recv_ms, closed.newest_ms) == (2, 2, NOW_MS, NOW_MS - 200)
    assert closed.frame_bytes == len(frame_of(agg_trade(7))) + len(
        frame_of(agg_trade(8, s="ETHUSDT", p="1.50", q="2", m=True))
    )


def test_fills_have_an_id_space_of_their_own() -> None:
    some = batch("trade")
    some.add(frame_of(fill(4)), now)
    some.add(frame_of(fill(5, X="INSURANCE_FUND")), now)
    ((_, fields),) = some.close().entries
    columns = columns_of(fields)
    assert fields["ids"] == "trade"
    assert columns["id"] == columns["first"] == columns["last"] == ["4", "5"]
    assert columns["counts"] == ["1", "0"]


def test_it_closes_with_its_last_row() -> None:
    some = batch(rows=3)
    for _ in range(2):
        assert [some.add(frame_of(agg_trade(each)), now) for each in range(2)] == [None, None]
        assert len(some) == 2
        closed = some.add(frame_of(agg_trade(2)), now)
        assert closed
        assert closed.trades == closed.frames == 3
        assert len(some) == 0
    assert some.close().entries == []


def test_the_first_frame_of_each_batch_begins_it() -> None:
    begun: list[float] = []
    local = iter((1000.0, 2000.0))
    some = Batch(
        rules(),
        line="A",
        shards=1,
        batch_ms=5,
        batch_rows=2,
        exchange_ms=lambda local_ms: NOW_MS + int(local_ms),
        on_begin=lambda: begun.append(some.due_in_ms(2001.0)),
    )
    closed = [some.add(frame_of(agg_trade(each)), local.__next__) for each in range(4)]
    assert [each.recv_ms for each in closed if each] == [NOW_MS + 1000, NOW_MS + 2000]
    assert begun == [-996.0, 4.0]


def test_it_is_due_after_its_time() -> None:
    some = batch()
    some.add(b"?", now)
    assert some.due_in_ms(1000.0) == 5.0
    assert some.due_in_ms(1004.0) == 1.0
    assert some.due_in_ms(1006.0) < 0
    # A clock that was set back must not keep a batch open for as long.
    assert some.due_in_ms(400.0) == 0.0


def test_what_is_no_trade_is_handed_on_and_the_rest_stays() -> None:
    some = batch()
    for frame in (b'{"result":null,"id":1}', frame_of(agg_trade(1)), b"?", frame_of(agg_trade(2, p="abc"))):
        some.add(frame, now)
    closed = some.close()
    assert [each.kind for each in closed.rejections] == ["not_json", "bad_price"]
    assert [each.error for each in closed.replies] == [""]
    assert [columns_of(fields)["id"] for _, fields in closed.entries] == [["1"]]
    assert (closed.frames, closed.trades) == (4, 1)


def test_a_batch_without_trades_yields_no_entry() -> None:
    some = batch()
    some.add(b"?", now)
    closed = some.close()
    assert (closed.entries, closed.newest_ms, closed.frames) == ([], 0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_each_shard_gets_its_own_trades_in_order(seed: int) -> None:
    chance = random.Random(seed)
    some = batch(shards=4)
    trades = [(chance.choice(SYMBOLS), number) for number in range(100)]
    for symbol, number in trades:
        some.add(frame_of(agg_trade(number, s=symbol), Endpoint.COMBINED), now)
    entries = some.close().entries
    assert [shard for shard, _ in entries] == sorted({shard_of(symbol, 4) for symbol in SYMBOLS})
    for shard, fields in entries:
        columns = columns_of(fields)
        pairs = list(zip(columns["symbol"], map(int, columns["id"]), strict=True))
        assert pairs == [each for each in trades if shard_of(each[0], 4) == shard]
        assert fields["n"] == str(len(pairs))
