"""A process whose main loop stands still ends itself, on real processes."""

from __future__ import annotations

import signal

import pytest

from klagg.clock import local_ms
from klagg.drivers.redis_streams import Streams
from klagg.process.watchdog import EXIT_FROZEN
from tests.kit import eventually
from tests.process.test_service import heartbeat, running

pytestmark = pytest.mark.servers

FREEZES = {"KLAGG_SERVICE__SILENT_S": "1", "KLAGG_SERVICE__FREEZE_S": "2"}


@pytest.mark.parametrize("which", ["blocking_that_freezes", "asynchronous_that_freezes"])
def test_it_ends_with_the_stacks_of_all_threads_in_its_log(redis_url: str, which: str) -> None:
    with running(which, redis_url, **FREEZES) as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == EXIT_FROZEN == 75
    assert "in _stand_still" in said
    assert f"in {which}" in said
    assert "Current thread" in said, "the stack of the watchdog itself"
    (sentence,) = [line for line in said.splitlines() if "CRITICAL" in line]
    assert "the main loop stands still for more than 2 s (service.freeze_s): the process ends" in sentence


@pytest.mark.parametrize("which", ["blocking", "asynchronous"])
def test_time_in_which_the_whole_process_was_stopped_does_not_count(redis_url: str, which: str) -> None:
    with running(which, redis_url, **FREEZES) as process:
        streams = Streams(redis_url)
        eventually(lambda: heartbeat(streams))
        process.send_signal(signal.SIGSTOP)
        stopped = heartbeat(streams)["time_ms"]
        eventually(lambda: _silent_ms(streams) > 4_000)
        process.send_signal(signal.SIGCONT)
        eventually(lambda: heartbeat(streams)["time_ms"] != stopped)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def _silent_ms(streams: Streams) -> float:
    time_ms = heartbeat(streams)["time_ms"]
    assert isinstance(time_ms, int)
    return local_ms() - time_ms


def test_a_shutdown_has_a_deadline_of_its_own(redis_url: str) -> None:
    with running("blocking_that_ends_slowly", redis_url, **FREEZES) as process:
        streams = Streams(redis_url)
        eventually(lambda: heartbeat(streams))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
