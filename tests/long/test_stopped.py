"""Every process stands still for a minute (SIGSTOP), with the settings as they come: under `klagg up` and supervisord.

It is shown as silent within 15 s and runs again within 90 s; afterwards the table is the exchange's record. `make
test-long` runs it: it takes about ten minutes.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import ujson

from klagg.cli.main import main as klagg
from klagg.drivers.postgres import Database
from klagg.intervals import MINUTE_MS
from klagg.kline import NINE_VALUES
from klagg.settings import Audit, to_toml
from tests.cli.test_supervisord import supervised
from tests.cli.upkit import data_directory, environment, up
from tests.endtoend.kit import stack, table
from tests.endtoend.test_faults import OFFICIAL
from tests.kit import eventually

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.servers,
    pytest.mark.timeout(1_200),
    pytest.mark.skipif("KLAGG_LONG" not in os.environ, reason="takes ten minutes: make test-long runs it"),
]

TOGETHER = 3
"""Processes that stand still at the same time."""
STOPPED_S, SILENT_WITHIN_S, RUNNING_WITHIN_S = 60, 15, 90
MARKET = ["--symbols", "20", "--rate", "100", "--edges", "0"]
"""Without an aggTrade across a close, the exchange's own klines are those of its aggTrades."""

Nine = tuple[Decimal, ...]


def report(config: Path) -> dict[str, dict[str, Any]]:
    """What `klagg status` says of each process."""
    command = [sys.executable, "-m", "klagg", "status", "--json", "--config", str(config)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    found = ujson.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    return {each["process"]: each for each in found["processes"]}


def stop_each(config: Path) -> None:
    """Let every process stand still, a few at a time, and see that `klagg status` shows it and that it comes back."""
    names = sorted(eventually(lambda: all_run(report(config)), 120, 0.5))
    for at in range(0, len(names), TOGETHER):
        stop(config, names[at : at + TOGETHER])


def stop(config: Path, group: list[str]) -> None:
    """Let these processes stand still for a minute, unless they are ended before."""
    before = {name: int(each["pid"]) for name, each in report(config).items() if name in group}
    began = time.monotonic()
    for pid in before.values():
        os.kill(pid, signal.SIGSTOP)

    def all_shown() -> bool:
        found = report(config)
        return all(found[name]["state"] == "silent" for name in group)

    shown = when(began, all_shown)
    assert shown <= SILENT_WITHIN_S, (group, shown)
    eventually(lambda: time.monotonic() - began >= STOPPED_S, STOPPED_S + 1, 0.5)
    for pid in before.values():
        with suppress(ProcessLookupError):  # it may have been ended meanwhile
            os.kill(pid, signal.SIGCONT)
    again = when(began, lambda: all_run(report(config)))
    print(f"{', '.join(group)}: shown as silent after {shown:.1f} s, all run after {again:.1f} s")
    assert again <= RUNNING_WITHIN_S, (group, again)


def all_run(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names, if every process runs and has no alarm."""
    return list(found) if all(each["state"] == "running" and not each["alarms"] for each in found.values()) else []


def when(began: float, condition: Callable[[], Any]) -> float:
    """The seconds since `began` at which a condition is true."""
    eventually(condition, 2 * RUNNING_WITHIN_S, 0.2)
    return time.monotonic() - began


def compare(rest_url: str, database: Database) -> None:
    """Every minute of every symbol until now is in the table, as the exchange has it."""

    def ask(path: str) -> Any:
        with urllib.request.urlopen(rest_url + path, timeout=10) as answer:
            return ujson.loads(answer.read())

    def nine(row: list[Any]) -> Nine:
        return tuple(Decimal(str(row[at])) for at in OFFICIAL)

    first = MINUTE_MS * (1 + min(open_ms for _, open_ms in table(database)) // MINUTE_MS)

    def passed_ms() -> int:
        return int(ask("/fapi/v1/time")["serverTime"]) // MINUTE_MS * MINUTE_MS - 1

    eventually(lambda: passed_ms() > first, 2 * MINUTE_MS / 1000, 1)
    last = passed_ms()
    names = [each["symbol"] for each in ask("/fapi/v1/exchangeInfo")["symbols"]]
    record = {
        (name, row[0]): nine(row)
        for name in names
        for row in ask(f"/fapi/v1/klines?symbol={quote(name)}&interval=1m&startTime={first}&endTime={last}&limit=500")
    }

    def equal() -> bool:
        rows = table(database)
        held = {key: tuple(Decimal(row[each]) for each in NINE_VALUES) for key, row in rows.items()}
        wrong = [(key, rows.get(key), wanted) for key, wanted in record.items() if held.get(key) != wanted]
        assert not wrong, f"{len(wrong)} of {len(record)} minutes differ: {wrong[:3]}"
        return True

    eventually(equal, 240, 1)
    sources = [table(database)[key]["source"] for key in record]
    print(f"{len(record)} minutes equal the exchange's record, {sources.count('own')} of own trades")


def test_under_klagg_up() -> None:
    with data_directory() as data, up(data, "--plain", "--source", "sim", *MARKET) as running:
        settings = running.settings()
        stop_each(running.folder / "klagg.toml")
        database = Database(settings.database.url)
        compare(settings.exchange.rest_url, database)
        database.close()
        assert running.end(signal.SIGTERM) == 0


def test_under_supervisord(tmp_path: Path, redis_url: str, database_url: str) -> None:
    with stack(tmp_path, redis_url, database_url, MARKET, gateway={"port": 0}) as running:
        config = tmp_path / "klagg.toml"
        migration = tmp_path / "migrate.toml"
        migration.write_text(to_toml(replace(running.settings, audit=Audit())), encoding="utf-8")
        assert klagg(["migrate", "--config", str(migration)]) == 0
        database = Database(database_url)
        with supervised(running, tmp_path) as supervisor:
            stop_each(config)
            compare(running.rest_url, database)
            assert "Shut down" in supervisor.control("shutdown")
            assert supervisor.process.wait(90) == 0
        database.close()
