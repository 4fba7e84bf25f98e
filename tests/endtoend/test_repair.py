"""The real klagg-repair, killed again and again: every request is answered, none is lost."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest

from klagg.drivers.redis_streams import Append
from klagg.errors import RedisRefused
from klagg.wire.entries import REQUEST_TRADES, Request, request_entry
from klagg.wire.fields import stamp
from klagg.wire.keys import GROUP_REPAIR, Keys
from tests.endtoend.kit import stack
from tests.kit import eventually

KEYS = Keys(0)
REQUESTS = 40
"""Each costs 20 of weight: all of them, and those asked for twice, stay below a minute's share."""
MARKET = ["--symbols", "5", "--rate", "400"]


@pytest.mark.endtoend
@pytest.mark.servers
def test_killed_again_and_again_it_answers_everything(tmp_path: Path, redis_url: str) -> None:
    with stack(tmp_path, redis_url, "", MARKET, repair={"calls_max": 2}, database={"enabled": False}) as running:
        streams = running.streams()
        now_ms = running.ask("/fapi/v1/time")["serverTime"]
        symbols = [each["symbol"] for each in running.ask("/fapi/v1/exchangeInfo")["symbols"]]

        def first_of(symbol: str) -> int:
            """Of the newest 200: the oldest that the exchange still tells of would be forgotten meanwhile."""
            newest = running.ask(f"/fapi/v1/aggTrades?symbol={quote(symbol)}&limit=200")
            assert len(newest) == 200, symbol
            return int(newest[0]["a"])

        firsts = {symbol: first_of(symbol) for symbol in symbols}
        # 15 ids each with a gap between them, so that each needs a call of its own.
        requests = [
            Request(
                REQUEST_TRADES,
                f"r{number}",
                symbol,
                "",
                firsts[symbol] + 20 * (number // 5),
                firsts[symbol] + 20 * (number // 5) + 14,
                now_ms + 3_600_000,
            )
            for number, symbol in ((number, symbols[number % 5]) for number in range(REQUESTS))
        ]
        for at, each in enumerate(requests, 1):
            streams.write([Append(KEYS.requests, stamp(request_entry(each), "test@1", at))])

        def delivered() -> int:
            return streams.length(KEYS.feed)

        def delivered_at_least(count: int) -> bool:
            return delivered() >= count

        def settled() -> bool:
            try:
                lag = streams.group_lag(KEYS.requests, GROUP_REPAIR)
                return not lag and not streams.pending_count(KEYS.requests, GROUP_REPAIR)
            except RedisRefused:
                return False

        for _ in range(4):
            wanted = delivered() + 3
            running.start("repair")
            eventually(partial(delivered_at_least, wanted), 30)
            assert running.children["repair"].end(signal.SIGKILL) == -signal.SIGKILL
        running.start("repair")
        running.wait_until(settled, 60)
        assert running.stop("repair") == {"repair": 0}
        ids: set[tuple[str, int]] = set()
        for entry in streams.range(KEYS.feed):
            columns = (entry.fields[name].decode().split(",") for name in (b"symbol", b"id"))
            ids |= {(symbol, int(number)) for symbol, number in zip(*columns, strict=True)}
        assert ids == {(each.symbol, number) for each in requests for number in range(each.first, each.last + 1)}
        assert streams.length(KEYS.dead) == 0
        assert "heartbeat:repair" not in streams.values_like("heartbeat:*")
        streams.close()
