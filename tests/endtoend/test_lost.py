"""A kline that is deleted from the stream while another consumer of the group holds it: the writer notices, the
aggregator says it again, and the row is in the table within a minute. Real processes on real servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import redis

from klagg.kline import Kline
from klagg.wire.keys import GROUP_WRITERS, Keys
from klagg.wire.klines import is_again, kline_of
from tests.endtoend.kit import FLOOR, migrated, stack, table
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(300)]

KEYS: Final = Keys(0)
IN_THE_TABLE_S: Final = 60
GHOST: Final = "writer-final-gone"


def test_a_kline_deleted_while_another_consumer_holds_it_comes_again(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    database = migrated(database_url)
    client = redis.Redis.from_url(redis_url, protocol=2)
    market = ["--symbols", "4", "--rate", "20", "--speed", "10", "--wait", *FLOOR]
    with stack(tmp_path, redis_url, database_url, market) as running:
        running.start("clock", "repair", "aggregator", "writer", "ingest")
        running.wait_until(lambda: len(table(database)) > 8, 60)
        running.stop("writer")
        del running.children["writer"]
        streams = running.streams()
        running.wait_until(lambda: (streams.group_lag(KEYS.klines, GROUP_WRITERS) or 0) >= 12, 60)
        held = streams.read_group([KEYS.klines], GROUP_WRITERS, GHOST, count=8)[KEYS.klines]
        lost = [kline_of(each.fields) for each in held[1:4:2]]
        for each in held[1:4:2]:
            client.xdel(KEYS.klines, each.id)
        client.xgroup_delconsumer(KEYS.klines, GROUP_WRITERS, GHOST)
        running.start("writer")

        running.wait_until(
            lambda: all(_is_there(table(database, each.interval), each) for each in lost), IN_THE_TABLE_S, 0.2
        )
        again = [kline_of(each.fields) for each in streams.range(KEYS.klines) if is_again(each.fields)]
        assert {each.key for each in lost} <= {each.key for each in again}
        assert {each.version for each in lost} <= {each.version for each in again}, "in the same version"
        text = running.children["writer"].text()
        assert "are asked for again" in text
        eventually(lambda: "came when they were asked for again" in running.children["writer"].text(), 60)
        streams.close()
    client.close()
    database.close()


def _is_there(rows: dict[tuple[str, int], dict[str, Any]], kline: Kline) -> bool:
    row = rows.get((kline.symbol, kline.open_time))
    return row is not None and (row["epoch"], row["revision"]) >= (kline.epoch, kline.revision)
