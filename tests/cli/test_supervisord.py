"""config/supervisord.conf for real: every process under supervisord, one killed and back, then drained in order."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from klagg.cli.main import main as klagg
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.kline import Kline
from klagg.settings import Audit, Service, Settings, to_toml
from klagg.wire.fields import texts_of
from klagg.wire.keys import GROUP_WRITERS, Keys
from tests.endtoend.kit import ROOT, Stack, stack, table
from tests.kit import eventually

CONFIGURATION = ROOT / "config" / "supervisord.conf"
SCRIPTS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
NAMES = (
    "klagg-writer-final",
    "klagg-writer-snapshot",
    "klagg-auditor-completeness",
    "klagg-auditor-lifecycle",
    "klagg-auditor-exchange",
    "klagg-gateway",
    "klagg-aggregator:klagg-aggregator-0",
    "klagg-clock",
    "klagg-repair",
    "klagg-ingest-A",
    "klagg-ingest-B",
)
"""In the order of their priorities."""
AGGREGATOR = NAMES[6]


def parsed() -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(CONFIGURATION.read_text(encoding="utf-8"))
    return parser


def programs() -> dict[str, configparser.SectionProxy]:
    """The sections of the programs by name."""
    parser = parsed()
    return {name.partition(":")[2]: parser[name] for name in parser.sections() if name.startswith("program:")}


def test_every_service_of_the_project_has_a_program_and_a_script() -> None:
    parser = parsed()
    sections = [*programs().values(), parser["eventlistener:klagg-listener"]]
    called = {section["command"].split()[0].rpartition("/")[2] for section in sections}
    assert called == set(SCRIPTS) - {"klagg"}


def test_a_process_has_longer_to_end_than_its_own_deadline() -> None:
    for section in programs().values():
        assert int(section["stopwaitsecs"]) > Settings().service.shutdown_s
        assert (section["stopsignal"], section["autorestart"]) == ("TERM", "true")


def test_the_last_to_stop_are_the_writers_and_the_first_is_ingest() -> None:
    # supervisord stops from the highest priority to the lowest.
    by_priority = sorted(programs(), key=lambda name: -int(programs()[name]["priority"]))
    assert by_priority == [
        "klagg-ingest-A",
        "klagg-ingest-B",
        "klagg-repair",
        "klagg-clock",
        "klagg-aggregator",
        "klagg-gateway",
        "klagg-auditor-exchange",
        "klagg-auditor-lifecycle",
        "klagg-auditor-completeness",
        "klagg-writer-snapshot",
        "klagg-writer-final",
    ]


def bin_folder(folder: Path) -> Path:
    """Where the console scripts are: those of this environment if klagg is installed in it, else the same by hand."""
    installed = Path(sys.executable).parent
    if all((installed / name).exists() for name in SCRIPTS):
        return installed
    folder.mkdir()
    for name, target in SCRIPTS.items():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
        script = folder / name
        script.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
            f"from {module} import {function}\nsys.exit({function}())\n",
            encoding="utf-8",
        )
        script.chmod(0o755)
    return folder


class Supervisor:
    """A running supervisord and its supervisorctl."""

    def __init__(self, environment: dict[str, str], logs: Path) -> None:
        self._environment, self._logs = environment, logs
        self.process = subprocess.Popen(
            [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(CONFIGURATION)],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.STDOUT,
        )

    def control(self, *words: str) -> str:
        command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(CONFIGURATION), *words]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr

    def status(self) -> dict[str, list[str]]:
        """The words after each name: `RUNNING pid 12, uptime 0:00:05`."""
        lines = [line.split() for line in self.control("status").splitlines()]
        return {words[0]: words[1:] for words in lines if words and words[0] in NAMES}

    def pids(self) -> dict[str, int]:
        """The process ids, once every program is RUNNING."""
        status = self.status()
        if set(status) != set(NAMES) or any(words[0] != "RUNNING" for words in status.values()):
            return {}
        return {name: int(words[2].rstrip(",")) for name, words in status.items()}

    def log(self) -> str:
        return (self._logs / "supervisord.log").read_text(encoding="utf-8")

    def logs(self) -> str:
        """The end of everything that was said, for a test that fails."""
        return "\n".join(f"== {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self._logs.glob("*.log")))


@contextmanager
def supervised(running: Stack, folder: Path, service: Service | None = None) -> Iterator[Supervisor]:
    """supervisord with the configuration of the project, on the servers and the exchange of `running`."""
    logs, config = folder / "logs", folder / "klagg.toml"
    logs.mkdir()
    settings = replace(running.settings, audit=Audit(), service=service or running.settings.service)
    config.write_text(to_toml(settings), encoding="utf-8")
    variables = {"KLAGG_BIN": bin_folder(folder / "bin"), "KLAGG_CONFIG": config, "KLAGG_LOGS": logs}
    supervisor = Supervisor({**os.environ, **{name: str(value) for name, value in variables.items()}}, logs)
    try:
        yield supervisor
    except BaseException:
        print(supervisor.logs())
        raise
    finally:
        if supervisor.process.poll() is None:
            supervisor.process.terminate()
            supervisor.process.wait(90)


def newest(streams: Streams) -> Kline:
    return Kline.from_fields(texts_of(streams.newest(Keys(0).klines)[0].fields))


@pytest.mark.endtoend
@pytest.mark.servers
def test_a_killed_process_comes_back_and_shutdown_drains(tmp_path: Path, redis_url: str, database_url: str) -> None:
    market = ["--symbols", "10", "--rate", "100", "--speed", "10"]
    intervals = {"intervals": ("5s", "1m")}
    with stack(tmp_path, redis_url, database_url, market, aggregator=intervals, gateway={"port": 0}) as running:
        config = tmp_path / "migrate.toml"
        config.write_text(to_toml(replace(running.settings, audit=Audit())), encoding="utf-8")
        assert klagg(["migrate", "--config", str(config)]) == 0
        database, streams = Database(database_url), running.streams()
        with supervised(running, tmp_path) as supervisor:
            before = eventually(supervisor.pids, 40, 0.2)
            eventually(lambda: table(database, "1m") and table(database, "5s"), 40, 0.2)

            name = AGGREGATOR
            os.kill(before[name], signal.SIGKILL)
            eventually(lambda: supervisor.status()[name][0] != "RUNNING" or supervisor.pids() != before, 20)
            killed_ms = max(open_ms for _, open_ms in table(database, "5s"))
            after = eventually(supervisor.pids, 40, 0.2)
            assert {each for each in NAMES if after[each] != before[each]} == {name}
            eventually(lambda: max(open_ms for _, open_ms in table(database, "5s")) > killed_ms + 60_000, 40, 0.2)

            assert "Shut down" in supervisor.control("shutdown")
            assert supervisor.process.wait(90) == 0
            said = supervisor.log()
        assert streams.pending_count(Keys(0).klines, GROUP_WRITERS) == 0
        assert streams.group_lag(Keys(0).klines, GROUP_WRITERS) == 0
        last = newest(streams)
        stored = table(database, last.interval)[last.symbol, last.open_time]
        assert (stored["close"], stored["epoch"], stored["revision"]) == (
            Decimal(last.close),
            last.epoch,
            last.revision,
        )
        assert streams.values_like("heartbeat:*") == {}
        streams.close()
        database.close()

    ended = re.findall(r"stopped: (\S+) \((.*?)\)", said)
    assert ended == [(each.rpartition(":")[2], "exit status 0") for each in (*reversed(NAMES), "klagg-listener")]
    assert "killing" not in said
    assert said.count("exited: ") == 1, "only the killed aggregator ended by itself"


FROZEN = (AGGREGATOR, "klagg-writer-final", "klagg-ingest-A")


@pytest.mark.endtoend
@pytest.mark.servers
def test_a_stopped_process_is_ended_by_the_listener_and_comes_back(
    tmp_path: Path, redis_url: str, database_url: str
) -> None:
    market = ["--symbols", "4", "--rate", "50", "--floor", "5"]
    with stack(tmp_path, redis_url, database_url, market, gateway={"port": 0}) as running:
        config = tmp_path / "migrate.toml"
        config.write_text(to_toml(replace(running.settings, audit=Audit())), encoding="utf-8")
        assert klagg(["migrate", "--config", str(config)]) == 0
        with supervised(running, tmp_path, Service(silent_s=3, freeze_s=10)) as supervisor:
            before = eventually(supervisor.pids, 60, 0.2)
            streams = running.streams()
            eventually(lambda: len(streams.values_like("heartbeat:*")) == len(NAMES), 60, 0.2)
            for name in FROZEN:
                os.kill(before[name], signal.SIGSTOP)
            told = tmp_path / "logs" / "listener.log"
            eventually(lambda: told.read_text(encoding="utf-8").count("is frozen (service.freeze_s)") == 3, 60, 0.2)

            def back() -> bool:
                after = supervisor.pids()
                return bool(after) and all(after[name] != before[name] for name in FROZEN)

            eventually(back, 60, 0.2)
            after = supervisor.pids()
            assert {name for name in NAMES if after[name] != before[name]} == set(FROZEN)
            eventually(lambda: klagg(["status", "--config", str(tmp_path / "klagg.toml")]) == 0, 60, 0.5)
            streams.close()
            assert "Shut down" in supervisor.control("shutdown")
            assert supervisor.process.wait(90) == 0


@pytest.mark.endtoend
def test_supervisord_says_which_variable_is_missing(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KLAGG_")}
    done = subprocess.run(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(CONFIGURATION)],
        env={**environment, "KLAGG_LOGS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert "ENV_KLAGG_BIN" in done.stdout + done.stderr
