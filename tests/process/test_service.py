"""The shell of every process, proven on real processes: signals, exit codes, the heartbeat, one sentence of error."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from klagg.drivers.redis_streams import Streams
from klagg.embedded import RedisServer
from klagg.process.service import Deadline
from tests.contract.kit import closed_port
from tests.kit import eventually

ROOT = Path(__file__).resolve().parent.parent.parent
LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (\w+) +([\w-]+): (.*)")

FIRST_OR_LAST = re.compile(r"begins: |ends after ")

pytestmark = pytest.mark.servers


def environment(redis_url: str, **more: str) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("KLAGG_")},
        "PYTHONPATH": str(ROOT),
        "KLAGG_REDIS__URL": redis_url,
        "KLAGG_SERVICE__HEARTBEAT_MS": "100",
        **more,
    }


@contextmanager
def running(which: str, redis_url: str, *words: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A process of tests.process.services; killed at the end if it is still there."""
    command = [sys.executable, "-m", "tests.process.services", which, *words]
    with subprocess.Popen(
        command, cwd=ROOT, env=environment(redis_url, **more), text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finished(which: str, redis_url: str, *words: str, **more: str) -> tuple[int, str, list[tuple[str, ...]]]:
    """Exit code, standard output, and (level, process, sentence) per line of standard error between the first and the
    last of a run."""
    code, out, lines = everything(which, redis_url, *words, **more)
    return code, out, [each for each in lines if not FIRST_OR_LAST.match(each[2])]


def everything(which: str, redis_url: str, *words: str, **more: str) -> tuple[int, str, list[tuple[str, ...]]]:
    """Exit code, standard output, and (level, process, sentence) per line of standard error."""
    with running(which, redis_url, *words, **more) as process:
        out, said = process.communicate(timeout=30)
    return process.returncode, out, [match.groups() for match in map(LINE.fullmatch, said.splitlines()) if match]


def begun(process: subprocess.Popen[str]) -> None:
    """Read the first line of a run."""
    assert process.stderr
    assert " begins: klagg " in process.stderr.readline()


def heartbeat(streams: Streams, name: str = "test-A") -> dict[str, object]:
    """The process's heartbeat, empty if there is none."""
    text = streams.values_like(f"heartbeat:{name}").get(f"heartbeat:{name}", "{}")
    found: dict[str, object] = json.loads(text)
    return found


@pytest.fixture
def streams(redis_url: str) -> Iterator[Streams]:
    client = Streams(redis_url)
    yield client
    client.close()


@pytest.mark.parametrize("which", ["blocking", "blocking_on_redis", "asynchronous"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_in_order(redis_url: str, streams: Streams, which: str, number: signal.Signals) -> None:
    with running(which, redis_url) as process:
        eventually(lambda: heartbeat(streams).get("state") == "running", 20)
        assert heartbeat(streams)["pid"] == process.pid
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in said
    assert heartbeat(streams) == {}
    if which != "blocking_on_redis":
        assert [entry.fields for entry in streams.range("ended")] == [{b"state": b"stopping"}]


def test_a_signal_in_the_middle_of_a_beat_ends_it_in_order_too(redis_url: str, streams: Streams) -> None:
    code, _, _ = finished("blocking_stopped_in_a_beat", redis_url, KLAGG_SERVICE__STATISTICS_S="1")
    assert code == 0
    assert [entry.fields for entry in streams.range("ended")] == [{b"state": b"stopping"}]


@pytest.mark.parametrize("which", ["blocking", "asynchronous"])
def test_a_killed_process_leaves_a_heartbeat_that_ends(redis_url: str, streams: Streams, which: str) -> None:
    with running(which, redis_url, KLAGG_SERVICE__HEARTBEAT_TTL_S="2") as process:
        eventually(lambda: heartbeat(streams).get("state") == "running", 20)
        process.kill()
        process.communicate(timeout=20)
    assert process.returncode == -signal.SIGKILL
    eventually(lambda: heartbeat(streams) == {}, 10)


@pytest.mark.parametrize("which", ["blocking", "asynchronous"])
def test_the_statistics_line_is_logged(redis_url: str, streams: Streams, which: str) -> None:
    with running(which, redis_url, KLAGG_SERVICE__STATISTICS_S="1") as process:
        begun(process)
        assert process.stderr
        line = process.stderr.readline().strip()
        match = LINE.fullmatch(line)
        assert match
        assert match.groups() == ("INFO", "test-A", "statistics: nothing yet")
        process.terminate()
        process.communicate(timeout=20)


def test_a_process_is_named_after_its_arguments(redis_url: str, streams: Streams) -> None:
    with running("blocking", redis_url, "--line", "B") as process:
        eventually(lambda: heartbeat(streams, "test-B").get("process") == "test-B", 20)
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize("which", ["stopping_itself", "asynchronous_that_is_done"])
def test_a_process_that_is_done_ends_with_0(redis_url: str, streams: Streams, which: str) -> None:
    assert finished(which, redis_url) == (0, "", [])
    assert heartbeat(streams) == {}


def test_a_dying_task_ends_the_process(redis_url: str) -> None:
    code, _, lines = finished("asynchronous_with_a_dying_task", redis_url)
    assert code == 70
    assert lines == [("CRITICAL", "test-A", "unexpected error, the process ends")]


def test_an_error_in_a_task_that_klagg_knows_is_one_sentence(redis_url: str) -> None:
    code, _, lines = finished("asynchronous_that_refuses", redis_url)
    assert (code, lines) == (1, [("CRITICAL", "test-A", "an entry lacks the field n")])


def test_an_unexpected_error_shows_its_traceback(redis_url: str) -> None:
    with running("broken", redis_url) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 70
    assert "unexpected error, the process ends\nTraceback" in said
    assert said.endswith("ZeroDivisionError: a mistake\n")


def test_an_error_of_the_configuration_has_its_own_code(redis_url: str) -> None:
    code, _, lines = finished("unusable", redis_url)
    assert (code, lines) == (
        2,
        [("CRITICAL", "test-A", "aggregator.intervals is empty: name at least one interval")],
    )


@pytest.mark.parametrize("which", ["blocking", "asynchronous"])
@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"KLAGG_REDIS__URL": "localhost"}, "redis.url 'localhost' cannot be used: "),
        ({"KLAGG_REDIS__TIMEOUT_MS": "soon"}, "KLAGG_REDIS__TIMEOUT_MS must be a whole number, not 'soon'"),
        ({"KLAGG_REDIS__TYPO": "1"}, "the environment variable KLAGG_REDIS__TYPO names no setting"),
    ],
)
def test_settings_that_cannot_be_used_end_the_start(which: str, more: dict[str, str], sentence: str) -> None:
    code, _, lines = finished(which, "redis://127.0.0.1:1/0", **more)
    assert (code, len(lines)) == (2, 1)
    assert lines[0][:2] == ("CRITICAL", "test-A")
    assert lines[0][2].startswith(sentence)


@pytest.mark.parametrize("which", ["blocking", "asynchronous"])
def test_a_configuration_that_is_not_there_ends_the_start(redis_url: str, tmp_path: Path, which: str) -> None:
    code, _, lines = finished(which, redis_url, "--config", str(tmp_path / "none.toml"))
    assert code == 2
    assert [line[2] for line in lines] == [
        f"the configuration {tmp_path / 'none.toml'} cannot be read: No such file or directory"
    ]


@pytest.mark.parametrize("which", ["blocking_on_redis", "asynchronous_that_is_done"])
def test_without_redis_it_says_so_and_ends(which: str) -> None:
    code, _, lines = finished(which, f"redis://127.0.0.1:{closed_port()}/0")
    assert code == 1
    assert lines[-1][0] == "CRITICAL"
    assert lines[-1][2].startswith("Redis does not answer while ")
    assert all(level == "WARNING" and "heartbeat could not be written" in text for level, _, text in lines[:-1])


def test_a_heart_that_cannot_beat_does_not_stop_the_work() -> None:
    """A process that has no need of Redis at the moment lives on and warns; it still ends when asked."""
    with running("asynchronous", f"redis://127.0.0.1:{closed_port()}/0") as process:
        begun(process)
        assert process.stderr
        match = LINE.fullmatch(process.stderr.readline().strip())
        assert match
        assert match[1] == "WARNING"
        assert match[3].startswith("the heartbeat could not be written: Redis does not answer")
        assert process.poll() is None
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 1


@pytest.mark.parametrize("which", ["blocking_on_redis", "asynchronous"])
def test_a_heartbeat_that_redis_refuses_for_want_of_memory_does_not_stop_the_work(
    redis_server: RedisServer, redis_url: str, streams: Streams, which: str
) -> None:
    """Whoever reads and acknowledges has to live on: only that frees memory."""
    most = redis_server.command("CONFIG", "GET", "maxmemory").split()[-1]
    with running(which, redis_url) as process:
        try:
            eventually(lambda: heartbeat(streams).get("state") == "running", 20)
            redis_server.command("CONFIG", "SET", "maxmemory", "1")
            begun(process)
            assert process.stderr
            match = LINE.fullmatch(process.stderr.readline().strip())
            assert match
            assert match[1] == "WARNING"
            assert match[3].startswith("the heartbeat could not be written: Redis refused while writing a heartbeat: ")
        finally:
            redis_server.command("CONFIG", "SET", "maxmemory", most)
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_unknown_arguments_are_refused(redis_url: str) -> None:
    with running("blocking", redis_url, "--colour") as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "unrecognized arguments: --colour" in said


def test_a_deadline_passes_once_and_for_all() -> None:
    deadline = Deadline(60)
    assert 59 < deadline.remaining_s <= 60
    assert not deadline.passed
    over = Deadline(0)
    assert over.passed
    assert over.remaining_s == 0


@pytest.mark.parametrize("which", ["stopping_itself", "asynchronous_that_is_done", "broken"])
def test_the_first_line_says_what_begins_and_the_last_what_was_read(redis_url: str, which: str) -> None:
    _, _, lines = everything(which, redis_url)
    said = [(level, sentence) for level, _, sentence in lines if level == "INFO"]
    _, first = said[0]
    assert re.fullmatch(r"begins: klagg \S+, pid \d+, settings of the defaults and the environment", first)
    assert re.fullmatch(r"ends after \d+ s: nothing was read", said[-1][1])
