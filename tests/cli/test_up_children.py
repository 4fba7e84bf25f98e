"""Children of `klagg up`: logs, restarts, and the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from klagg.cli.up.children import DEFAULT_LIMITS, LATER_S, Child, ChildFailed, ChildLimits, drain, environment
from klagg.errors import ConfigError
from klagg.process.service import Deadline
from tests.conftest import ROOT
from tests.kit import eventually, is_alive

OBEDIENT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
print("ready", flush=True)
while True:
    time.sleep(0.05)
"""
DEAF = OBEDIENT.replace("lambda *_: sys.exit(0)", "signal.SIG_IGN")
LEAVES_SOMETHING = OBEDIENT.replace("sys.exit(0)", "(print('WARNING 7 entries are left', flush=True), sys.exit(3))")
UNPREPARED = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"

Make = Callable[..., Child]


@pytest.fixture
def heard() -> list[str]:
    """What children said aloud."""
    return []


@pytest.fixture
def make(tmp_path: Path, heard: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes a child that runs a program text, and ends it after the test whatever it does."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    made = []

    def one(name: str, program: str, *arguments: str, limits: ChildLimits = DEFAULT_LIMITS) -> Child:
        (tmp_path / f"program_{name}.py").write_text(program, encoding="utf-8")
        made.append(Child(name, f"program_{name}", arguments, tmp_path, heard.append, limits))
        return made[-1]

    yield one
    for child in made:
        child.kill()
        child.close()


def ready(child: Child) -> Child:
    child.start()
    eventually(lambda: "ready" in child.last_lines)
    return child


def drained(*stages: list[Child], seconds: float = 10, forced: bool = False, later_s: float = LATER_S) -> list[str]:
    return list(drain(stages, Deadline(seconds), lambda: forced, later_s))


def test_what_a_child_says_is_logged_and_what_is_loud_is_heard(make: Make, heard: list[str], tmp_path: Path) -> None:
    child = make(
        "one", "import sys\nprint('quiet', *sys.argv[1:])\nprint('x ERROR é', file=sys.stderr)\n", "--of", "it"
    )
    child.start()
    assert child.wait(10)
    assert (tmp_path / "one.log").read_text(encoding="utf-8") == "quiet --of it\nx ERROR é\n"
    assert heard == ["x ERROR é"]
    assert child.last_words() == "x ERROR é"


def test_a_log_is_bounded(make: Make, tmp_path: Path) -> None:
    program = "for n in range(1000): print('line', n)\n"
    child = make("talker", program, limits=ChildLimits(log_bytes=1000, log_files=2))
    child.start()
    assert child.wait(10)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("talker.log*")}
    assert set(sizes) == {"talker.log", "talker.log.1", "talker.log.2"}
    assert max(sizes.values()) <= 1000


def test_a_child_that_dies_starts_again_after_a_pause(make: Make, heard: list[str]) -> None:
    child = ready(make("one", OBEDIENT, limits=ChildLimits(restart_first_s=0.05)))
    first = child.pid
    assert first
    os.kill(first, signal.SIGKILL)

    def again() -> bool:
        child.tend()
        return child.pid not in (None, first)

    eventually(again)
    assert child.restarts == 1
    assert heard == ["one ended with exit code -9; it starts again in 0.1 s"]


def test_a_child_that_dies_again_and_again_is_given_up_with_its_last_lines(make: Make) -> None:
    program = "print('one thing')\nprint('another')\nraise SystemExit(7)\n"
    child = make("one", program, limits=ChildLimits(restart_first_s=0.001))
    child.start()

    def tended() -> None:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            child.tend()

    with pytest.raises(ChildFailed) as failed:
        tended()
    assert str(failed.value).splitlines()[0] == "one died 6 times within 60 s; it said:"
    assert str(failed.value).splitlines()[-2:] == ["  one thing", "  another"]
    assert child.restarts == DEFAULT_LIMITS.deaths_max


def test_a_child_that_cannot_use_its_configuration_is_not_tried_again(make: Make) -> None:
    child = make("one", "print('CRITICAL no such setting')\nraise SystemExit(2)\n")
    child.start()
    assert child.wait(10)
    with pytest.raises(ConfigError, match=r"^one cannot run: CRITICAL no such setting$"):
        child.tend()
    assert child.restarts == 0


def test_stages_end_one_after_the_other(make: Make) -> None:
    first, second = ready(make("first", OBEDIENT)), ready(make("second", OBEDIENT))
    steps = drain([[first], [second]], Deadline(10), lambda: False)
    assert next(steps) == "first drained"
    assert second.pid is not None
    assert list(steps) == ["second drained"]
    assert second.pid is None


def test_a_child_that_hangs_leaves_time_to_those_behind_it(make: Make) -> None:
    deaf, other = ready(make("deaf", DEAF)), ready(make("other", OBEDIENT))
    before = time.monotonic()
    assert drained([deaf], [other], seconds=4, later_s=3.0) == [
        "! deaf did not end in time and was killed",
        "other drained",
    ]
    assert time.monotonic() - before < 4


def test_whoever_is_in_a_hurry_waits_for_nobody(make: Make) -> None:
    before = time.monotonic()
    assert drained([ready(make("deaf", DEAF))], seconds=60, forced=True) == [
        "! deaf did not end in time and was killed"
    ]
    assert time.monotonic() - before < 5


def test_what_was_left_is_said(make: Make) -> None:
    assert drained([ready(make("one", LEAVES_SOMETHING))]) == [
        "! one ended with exit code 3: WARNING 7 entries are left"
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_child_that_had_not_begun_is_no_failure(make: Make, number: signal.Signals) -> None:
    unprepared = f"import signal\nsignal.signal({number:d}, signal.SIG_DFL)\n{UNPREPARED}"  # it may come ignored
    child = ready(make("one", unprepared))
    pid = child.pid
    assert pid
    os.kill(pid, number)
    assert drained([child]) == ["one ended before it had begun"]


def test_a_child_never_started_is_drained(make: Make) -> None:
    assert drained([make("one", OBEDIENT)]) == ["one drained"]


def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(OBEDIENT, encoding="utf-8")
    parent = (
        "import sys, time\nfrom pathlib import Path\nfrom klagg.cli.up.children import Child\n"
        f"child = Child('one', 'program', [], Path({str(tmp_path)!r}), print)\nchild.start()\n"
        "while 'ready' not in child.last_lines: time.sleep(0.01)\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    path = os.pathsep.join([str(ROOT), str(tmp_path)])
    with subprocess.Popen(
        [sys.executable, "-c", parent], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
        eventually(lambda: not is_alive(pid))


def test_what_children_see_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "KLAGG_REDIS__URL": "redis://elsewhere",
        "KLAGG_SHARDS": "3",
        "KLAGG_CACHE": "/kept",
        "PYTHONPATH": "/more",
        "NO_PROXY": "example.org",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("no_proxy", raising=False)
    seen = environment()
    assert {"KLAGG_REDIS__URL", "KLAGG_SHARDS"}.isdisjoint(seen)
    assert seen["KLAGG_CACHE"] == "/kept"
    assert seen["PYTHONPATH"] == f"{ROOT}{os.pathsep}/more"
    assert seen["PYTHONSAFEPATH"] == "1"
    assert seen["no_proxy"] == seen["NO_PROXY"] == "example.org,127.0.0.1,localhost"
