"""The soak's own parts, and a short soak of a small market."""

from __future__ import annotations

import tomllib
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from klagg.embedded import PostgresServer, RedisServer
from klagg.intervals import MINUTE_MS
from klagg.simulator import read_faults
from klagg.wire.entries import TradeRow
from tests.aggregator.oracle import fold
from tests.endtoend.kit import FLOOR_S
from tests.soak.expected import Market, expected
from tests.soak.memory import is_flat, thirds
from tests.soak.plan import CALM_S, END_S, KINDS, plan
from tests.soak.run import Soak

T0 = 1_795_000_200_000


@hypothesis_settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), minutes=st.integers(3, 60))
def test_every_plan_is_a_script_that_begins_and_ends_calm(
    tmp_path_factory: pytest.TempPathFactory, seed: int, minutes: int
) -> None:
    path = tmp_path_factory.mktemp("plan") / "faults.toml"
    path.write_text(plan(seed, minutes * 60), encoding="utf-8")
    read_faults(path.read_text(encoding="utf-8"))
    faults = tomllib.loads(path.read_text(encoding="utf-8")).get("fault", [])
    assert all(
        each["at_s"] >= CALM_S and each["at_s"] + each.get("for_s", 0) <= minutes * 60 - END_S for each in faults
    )
    assert minutes < 30 or {each["kind"] for each in faults} == set(KINDS)


def test_bars_by_minutes_are_those_of_the_oracle_over_everything() -> None:
    market = Market(6, 12.0, 3)
    end_ms = T0 + 15 * MINUTE_MS
    rows = [
        TradeRow(each.symbol, each.id, each.price, each.qty, each.first, each.last, each.time_ms, each.maker)
        for each in market.source().aggregates(T0 - 1, end_ms + 1000)
        if T0 <= each.time_ms < end_ms
    ]
    whole = {key: tuple(map(Decimal, values[:9])) for key, values in fold(rows, ("1m", "5m"), end_ms - 1).items()}
    found = {key: tuple(map(Decimal, values)) for key, values in expected(market, T0, end_ms).bars.items()}
    assert {key for key in found if key[1] == "1m"} == {key for key in whole if key[1] == "1m"}
    assert all(found[key] == whole[key] for key in found)
    assert sum(key[1] == "5m" for key in found) >= 10


def test_memory_is_flat_or_not() -> None:
    assert thirds([500, 100, 110, 105, 111, 109]) == (110, 111)
    assert is_flat(100, 117)
    assert not is_flat(100, 119)


@pytest.mark.endtoend
@pytest.mark.servers
@pytest.mark.timeout(900)
def test_a_short_soak_is_sound(tmp_path: Path, redis_server: RedisServer, postgres_server: PostgresServer) -> None:
    redis_server.command("FLUSHALL")
    url = postgres_server.create_database("soak")
    soak = Soak(tmp_path, Market(40, 150, 4, FLOOR_S), minutes=8, speed=6, calm_s=20)
    assert soak.run(redis_server.url, url) == []
    postgres_server.drop_database("soak")
