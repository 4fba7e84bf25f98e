"""Who is frozen, as somebody outside sees it, and the end of it."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import ujson

from klagg.process import freeze
from klagg.process.freeze import MARGIN_S, FreezeWatch
from klagg.settings import Service
from klagg.wire.keys import heartbeat_key

SERVICE = Service(silent_s=2, freeze_s=5)
LIMIT_S = SERVICE.freeze_s + MARGIN_S


def beats(**time_ms: int) -> dict[str, str]:
    """Heartbeats of processes with the id 1 each."""
    return {heartbeat_key(name): ujson.dumps({"pid": 1, "time_ms": time}) for name, time in time_ms.items()}


class Looks:
    """A watch that looks every second."""

    def __init__(self) -> None:
        self.watch, self.now_s = FreezeWatch(SERVICE), 0

    def look(self, texts: dict[str, str], **pids: int) -> dict[str, int]:
        self.now_s += 1
        return self.watch.look(texts, pids or {"clock": 1}, self.now_s * 1000)

    def looks(self, number: int, texts: dict[str, str], **pids: int) -> list[dict[str, int]]:
        return [self.look(texts, **pids) for _ in range(number)]


def test_a_heartbeat_that_stays_the_same_is_frozen() -> None:
    looks = Looks()
    assert not any(looks.looks(int(LIMIT_S) + 1, beats(clock=7)))
    assert looks.look(beats(clock=7)) == {"clock": 1}
    assert looks.look(beats(clock=8)) == {}


def test_a_heartbeat_that_is_gone_is_frozen_too() -> None:
    looks = Looks()
    looks.look(beats(clock=7))
    found = looks.looks(int(LIMIT_S) + 3, {})
    assert found[-1] == {"clock": 1}


def test_who_never_had_a_heartbeat_starts_and_an_earlier_run_says_nothing() -> None:
    looks = Looks()
    assert not any(looks.looks(60, {}))
    assert not any(looks.looks(60, beats(clock=7), clock=2))


def test_a_new_process_is_judged_anew() -> None:
    looks = Looks()
    looks.looks(int(LIMIT_S), beats(clock=7))
    assert not any(looks.looks(60, beats(clock=7), clock=2))


@pytest.mark.parametrize("text", ["", "{", "[]", "7"])
def test_a_heartbeat_that_cannot_be_read_is_no_sign_of_life(text: str) -> None:
    looks = Looks()
    looks.look(beats(clock=7))
    assert looks.looks(int(LIMIT_S) + 3, {heartbeat_key("clock"): text})[-1] == {"clock": 1}


def test_time_without_a_look_does_not_count() -> None:
    looks = Looks()
    looks.look(beats(clock=7))
    looks.now_s += 3_600
    assert looks.look(beats(clock=7)) == {}


PROGRAM = "import faulthandler, threading; faulthandler.enable(); print('ready', flush=True); threading.Event().wait()"


def test_a_process_is_ended_with_its_stacks_and_a_stopped_one_all_the_same() -> None:
    command = [sys.executable, "-c", PROGRAM]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as well:
        with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as stopped:
            for each in (well, stopped):
                assert each.stdout
                assert each.stdout.readline() == "ready\n"
            stopped.send_signal(signal.SIGSTOP)
            freeze.end([well.pid, stopped.pid])
            assert stopped.wait(10) == -signal.SIGKILL
        assert well.wait(10) == -signal.SIGABRT
        assert well.stderr
        assert "most recent call first" in well.stderr.read()
    freeze.end([stopped.pid])  # it is gone: nothing happens
