"""Twenty writers of everything there is, over the same keys at once."""

from __future__ import annotations

import itertools
import random
import threading

import pytest

from klagg.drivers.postgres import Database
from klagg.kline import Kline
from tests.writers.support import MINUTE_MS, OPEN_TIME, accepted, amendments, kline, newer, stored
from writers.batch import resolve
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

WRITERS, KEYS, TURNS, BATCH = 20, 40, 8, 60


def every_version() -> list[Kline]:
    """Snapshots, finals, confirmations and amendments of two epochs for every key; the values tell which is which."""
    found = []
    for minute, epoch in itertools.product(range(KEYS), (1, 2)):
        interval = ("1m", "1h", "1d")[minute % 3]  # they are in tables of their own
        key = {"open_time": OPEN_TIME + minute * MINUTE_MS, "interval": interval, "epoch": epoch}
        found += [
            kline(**key, revision=0, complete=0, last_trade_id=n, trades=n, close=f"{epoch}.{n}") for n in range(4)
        ]
        found += [
            kline(**key, revision=revision, complete=complete, close=f"{epoch}.{revision}{complete}")
            for revision, complete in itertools.product((1, 2, 3), (0, 1))
        ]
    return found


@pytest.mark.parametrize("seed", [1, 20261121])
def test_no_deadlock_no_final_lost_and_the_highest_version_wins(
    database: Database, database_url: str, seed: int
) -> None:
    rng = random.Random(seed)
    versions = every_version()
    shares: list[list[Kline]] = [[] for _ in range(WRITERS)]
    for each in versions:
        for share in rng.sample(shares, rng.choice((1, 1, 2, 4))):
            share.append(each)  # given to several: redelivered
    errors: list[BaseException] = []
    together = threading.Barrier(WRITERS)

    def write(mine: list[Kline], order: random.Random) -> None:
        connection = Database(database_url)
        try:
            for _ in range(TURNS):
                order.shuffle(mine)
                together.wait(60)
                for start in range(0, len(mine), BATCH):
                    upsert(connection, [entry.kline for entry in resolve(accepted(mine[start : start + BATCH]))])
        except BaseException as bad:
            errors.append(bad)
            together.abort()
        finally:
            connection.close()

    threads = [threading.Thread(target=write, args=(share, random.Random(rng.random()))) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    best: dict[tuple[str, str, int], Kline] = {}
    for each in versions:
        if each.key not in best or newer(each, best[each.key]):
            best[each.key] = each
    assert stored(database) == [best[key] for key in sorted(best)]
    told = amendments(database)
    for key, group in itertools.groupby(told, key=lambda each: each.key):
        history = list(group)
        assert history[-1].version == best[key].version
        for before, after in itertools.pairwise(history):
            assert after.replaced == before.version, "the chain of what was replaced has no gap and no branch"
        for replaced in filter(lambda each: each.replaced, history):
            version = replaced.version
            assert replaced.became["close"] == f"{version[0]}.{version[1]}{version[2]}"
    assert len(told) >= KEYS
