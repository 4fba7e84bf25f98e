"""What klagg says while no trade comes, and while a process is frozen: `klagg up` as a whole, on real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import ujson

from klagg.process.alarms import AlarmKind
from tests.cli.upkit import Running, data_directory, environment, up
from tests.kit import eventually, is_alive

pytestmark = [pytest.mark.endtoend, pytest.mark.servers]

SILENT_S = 10
FAULT = """
[[fault]]
kind = "silent"
at_s = 20
for_s = 45
reach = "all"
"""


@contextmanager
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: int) -> Iterator[Running]:
    """A `klagg up` without a database over a small market; `settings` are of the environment."""
    for name, value in settings.items():
        monkeypatch.setenv(f"KLAGG_{name}", str(value))
    script = tmp_path / "faults.toml"
    script.write_text(FAULT if "INGEST__SILENT_S" in settings else "", encoding="utf-8")
    arguments = ["--plain", "--no-database", "--source", "sim", "--symbols", "4", "--rate", "50"]
    with data_directory() as data, up(data, *arguments, "--faults", str(script)) as running:
        yield running


def status(running: Running) -> tuple[int, str]:
    """The exit code of `klagg status`, and what it says."""
    command = [sys.executable, "-m", "klagg", "status", "--config", str(running.folder / "klagg.toml")]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout + done.stderr


def answer(running: Running, path: str) -> tuple[Any, str]:
    """What the gateway answers, and its header about alarms."""
    port = running.settings().gateway.port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as found:
        return ujson.loads(found.read()), found.headers.get("X-Klagg-Alarm", "")


def test_a_silent_market_is_said_everywhere_and_it_ends_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with market(tmp_path, monkeypatch, INGEST__SILENT_S=SILENT_S) as running:
        eventually(lambda: status(running)[0] == 0, 60, 0.5)
        assert answer(running, "/fapi/v1/ping") == ({}, "")

        def silent() -> bool:
            code, said = status(running)
            assert (code == 0) is ("processes are alive, and no alarm stands" in said)
            return "no market data comes: no trade of any symbol has come for " in said

        eventually(silent, 90, 0.5)
        code, said = status(running)
        assert code == 1
        assert "ALARM gateway: no_market_data: " in said
        assert "ALARM ingest-A: " in said
        told, header = answer(running, "/api/status")
        assert told["market"].startswith("no market data comes: ")
        assert told["ok"] is False
        assert AlarmKind.NO_MARKET_DATA in header.split(", ")
        assert AlarmKind.NO_MARKET_DATA in answer(running, "/fapi/v1/klines?symbol=BTCUSDT&interval=1m")[1]
        eventually(lambda: "no market data comes: " in running.said(), 20)

        def over() -> bool:
            told, header = answer(running, "/api/status")
            return status(running)[0] == 0 and (told["market"], told["alarms"], header) == ("", [], "")

        eventually(over, 120, 0.5)
        assert running.end(signal.SIGTERM) == 0


STOPPED = ("aggregator-0", "ingest-A", "clock", "gateway", "auditor-lifecycle")


def test_a_stopped_process_is_shown_as_silent_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with market(tmp_path, monkeypatch, SERVICE__SILENT_S=3, SERVICE__FREEZE_S=10) as running:
        before = running.pids(set(STOPPED))
        eventually(lambda: status(running)[0] == 0, 60, 0.5)
        for name in STOPPED:
            os.kill(before[name], signal.SIGSTOP)

        def shown() -> bool:
            return all(f"{name} silent" in running.said() for name in STOPPED)

        eventually(shown, 30)
        code, said = status(running)
        assert code == 1
        assert all(f"ALARM {name}: process_silent: its last heartbeat is " in said for name in STOPPED), said

        def replaced() -> bool:
            now = {name: beat["pid"] for name, beat in running.beats().items() if beat["state"] == "running"}
            return all(now.get(name, before[name]) != before[name] for name in STOPPED)

        eventually(replaced, 60, 0.2)
        assert not any(is_alive(pid) for pid in (before[name] for name in STOPPED))
        eventually(lambda: status(running)[0] == 0, 60, 0.5)
        for name in STOPPED:
            assert f"{name} gives no sign of life and is frozen (service.freeze_s): it is ended" in running.said()
            assert running.said().count(f"{name} ended with exit code") == 1
        assert running.end(signal.SIGTERM) == 0
