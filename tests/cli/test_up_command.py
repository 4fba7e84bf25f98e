"""`klagg up` with everything real: the simulator, Redis, TimescaleDB and every process."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import socket
import struct
import termios
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.embedded import running_url
from klagg.embedded.traces import free_port
from klagg.wire.keys import Keys
from tests.cli.upkit import MARKET, PIPELINE, data_directory, refused, up
from tests.kit import eventually, is_alive

pytestmark = pytest.mark.endtoend

BANNER = "THE MARKET IS SIMULATED"
ROWS = """
SELECT symbol, (extract(epoch FROM open_time) * 1000)::bigint AS open_ms, open, close, volume, trades, complete
FROM klines WHERE "interval" = '1m'
"""
HYPERTABLE = (
    "SELECT count(*) AS found FROM timescaledb_information.hypertables WHERE hypertable_name = 'klines_minutes'"
)


@pytest.fixture
def data() -> Iterator[Path]:
    with data_directory() as folder:
        yield folder


def rows(database: Database) -> dict[tuple[str, int], dict[str, object]]:
    """The one-minute klines in the table that are complete, by symbol and open time."""
    return {(row["symbol"], row["open_ms"]): row for row in database.query(ROWS) if row["complete"]}


def in_order(text: str, *parts: str) -> bool:
    places = [text.find(part) for part in parts]
    return -1 not in places and places == sorted(places)


def test_finals_reach_the_table_and_a_second_start_goes_on(data: Path) -> None:
    with up(data, "--plain", *MARKET) as first:
        database = Database(first.settings().database.url)
        before = eventually(lambda: found if len(found := rows(database)) >= 10 else None, 40, every_s=0.2)
        assert database.query(HYPERTABLE)[0]["found"] == 1
        everything = {*PIPELINE, "writer-final", "writer-snapshot", "auditor-exchange"}
        assert set(first.pids(everything)) == everything
        database.close()
        last = first.kline()
        password = urlsplit(first.settings().database.url).password
        assert first.end(signal.SIGINT) == 0
    said = first.said()
    assert BANNER in said
    assert "with TimescaleDB" in said
    assert in_order(
        said,
        "ingest-A drained",
        "aggregator-0 drained",
        "writer-snapshot drained",
        "exchange drained",
        "PostgreSQL stopped",
        "Redis stopped",
    )
    assert (first.folder / "klagg.toml").stat().st_mode & 0o777 == 0o600
    logs = {path.name: path.read_text(encoding="utf-8") for path in (first.folder / "logs").iterdir()}
    assert BANNER in logs["up.log"]
    assert password
    assert password not in said + "".join(logs.values())
    assert running_url(first.folder / "redis") is None
    with up(data, "--plain", *MARKET) as second:
        kline = second.kline(behind=last.epoch)
        database = Database(second.settings().database.url)
        stored = eventually(
            lambda: found if max(found := rows(database))[1] >= kline.open_time else None, 40, every_s=0.2
        )
        database.close()
        assert stored
        assert before
        assert {key: stored.get(key) for key in before} == before
        assert second.end(signal.SIGTERM) == 0


def test_a_killed_process_comes_back_and_nobody_else_may_start(data: Path) -> None:
    with up(data, "--plain", "--no-database", *MARKET) as running:
        pids = running.pids(PIPELINE)
        assert set(pids) == PIPELINE
        assert not (running.folder / "postgres").exists()
        before = running.kline()
        os.kill(pids["aggregator-0"], signal.SIGKILL)
        assert refused(data, "--no-database", *MARKET) == (
            1,
            f"klagg: klagg is already up with the data directory {running.folder}",
        )
        running.kline(behind=before.epoch, after=before)
        assert running.pids(PIPELINE)["aggregator-0"] != pids["aggregator-0"]
        assert "aggregator-0 ended with exit code -9; it starts again in 0.5 s" in running.said()
        assert running.end(signal.SIGTERM) == 0


def test_without_the_switch_no_auditor_runs_and_nothing_is_kept_for_them(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLAGG_AUDIT__FULL", "false")
    wanted = {name for name in PIPELINE if not name.startswith("auditor")}
    with up(data, "--plain", "--no-database", *MARKET) as running:
        assert set(running.pids(wanted)) == wanted
        running.kline()
        streams = Streams(running.settings().redis.url)
        assert streams.groups(Keys(0).klines) == streams.groups(Keys(0).events) == {}
        assert streams.values_like("heartbeat:auditor*") == {}
        streams.close()
        assert running.end(signal.SIGTERM) == 0
    assert "auditor" not in running.said()


def test_kill_9_of_klagg_ends_its_processes_and_the_next_start_works(data: Path) -> None:
    with up(data, "--plain", "--no-database", *MARKET) as killed:
        pids = killed.pids(PIPELINE)
        before = killed.kline()
        killed.process.kill()
        eventually(lambda: not any(map(is_alive, pids.values())), 20)
    with up(data, "--plain", "--no-database", *MARKET) as running:
        running.kline(behind=before.epoch)
        os.kill(running.pids(PIPELINE)["aggregator-0"], signal.SIGSTOP)
        os.killpg(running.process.pid, signal.SIGINT)
        eventually(lambda: "ingest-A drained" in running.said(), 15)
        assert running.process.poll() is None  # it waits for the aggregator
        assert running.end(signal.SIGINT) == 1  # the second wish
    assert "! aggregator-0 did not end in time and was killed" in running.said()
    assert "Redis stopped" in running.said()


def test_a_screen_shows_the_market_and_ends_with_its_terminal(data: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 80, 0, 0))
    seen = bytearray()

    def read() -> None:
        try:
            while part := os.read(ours, 4096):
                seen.extend(part)
        except OSError:
            return  # closed

    reader = threading.Thread(target=read)
    with up(data, "--no-database", *MARKET, terminal=theirs) as running:
        os.close(theirs)
        reader.start()
        eventually(lambda: "latest finals" in seen.decode(errors="replace"), 30)
        assert BANNER in seen.decode(errors="replace")
        assert running.kline()
        eventually(lambda: re.search(r"USDT +(1m|5m) ", seen.decode(errors="replace")), 60)
        assert running.end(signal.SIGHUP) == 0
    reader.join(5)
    os.close(ours)
    assert "Redis stopped" in seen.decode(errors="replace")


def test_ctrl_c_at_any_moment_of_the_start_ends_in_order(data: Path) -> None:
    for steps in ("klagg: simulator:", "klagg: Redis runs", "klagg: started"):
        with up(data, "--plain", "--no-database", *MARKET, until=steps) as running:
            assert running.end(signal.SIGINT) == 0
        assert "!" not in running.said()
        assert running_url(running.folder / "redis") is None


def test_a_closed_terminal_drains_too(data: Path) -> None:
    ours, theirs = pty.openpty()
    with up(data, "--plain", "--no-database", *MARKET, terminal=theirs) as running:
        os.close(theirs)
        heard = ""
        while "klagg: started " not in heard:
            heard += os.read(ours, 4096).decode(errors="replace")
        os.close(ours)  # nothing can be printed from here on
        assert running.process.wait(40) == 0
    assert "Redis stopped" in (running.folder / "logs" / "up.log").read_text(encoding="utf-8")
    assert running_url(running.folder / "redis") is None


def test_a_live_exchange_out_of_reach_is_said_in_a_sentence(data: Path, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    config = tmp_path / "klagg.toml"
    config.write_text(f'[exchange]\nrest_url = "{url}"\n', encoding="utf-8")
    code, said = refused(data, "--config", str(config))
    assert code == 1
    assert said.startswith(f"klagg: the exchange cannot be reached at {url} (")
    assert said.endswith("`klagg up --source sim` shows a simulated market")
    assert "\n" not in said
    assert not data.exists()


@pytest.mark.parametrize(
    ("settings", "options", "code", "sentence"),
    [
        ('[redis]\nurll = "x"\n', MARKET, 2, "unknown setting redis.urll"),
        ('[redis]\nurl = "redis://127.0.0.1:{closed}/0"\n', MARKET, 1, "Redis does not answer while connecting"),
        ("", ("--source", "sim", "--symbols", "0"), 2, "A market needs at least 1 symbol, not 0."),
        ("", ("--symbols", "3"), 2, "--symbols shapes a simulator"),
    ],
)
def test_what_cannot_run_ends_with_a_sentence(
    data: Path, tmp_path: Path, settings: str, options: tuple[str, ...], code: int, sentence: str
) -> None:
    with socket.socket() as bound:  # bound and never listening: connections are refused
        bound.bind(("127.0.0.1", 0))
        config = tmp_path / "klagg.toml"
        config.write_text(settings.replace("{closed}", str(bound.getsockname()[1])), encoding="utf-8")
        found, said = refused(data, "--no-database", "--config", str(config), *options)
    assert found == code
    assert sentence in said
    assert said.startswith("klagg: ")
    assert "\n" not in said
