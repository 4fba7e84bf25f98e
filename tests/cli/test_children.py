"""Children of `klagg up`: restarted with patience, given up with a reason, never left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from klagg.cli import children
from klagg.cli.children import Child, ChildFailed, drain, environment
from klagg.errors import ConfigError
from klagg.service import Deadline
from tests.kit import eventually

Make = Callable[[str], Child]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """A child that runs this program text."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(children, "RESTART_FIRST_S", 0.01)
    made: list[Child] = []

    def one(program: str) -> Child:
        name = f"program{len(made)}"
        (tmp_path / f"{name}.py").write_text(program, encoding="utf-8")
        child = Child(name, name, [], tmp_path, heard.append)
        made.append(child)
        return child

    heard: list[str] = []
    yield one
    for child in made:
        child.kill()
        child.close()


def test_a_dead_child_starts_again_and_its_words_are_kept(make: Make, tmp_path: Path) -> None:
    child = make("import sys, time; print('ERROR no luck', flush=True); time.sleep(60)")
    child.start()
    first = child.pid
    eventually(lambda: child.last_lines)
    child.kill()
    eventually(lambda: child.tend() or child.pid not in (None, first))
    assert child.restarts == 1
    eventually(lambda: (tmp_path / "program0.log").read_text(encoding="utf-8").count("ERROR no luck") == 2)


def test_a_child_that_dies_again_and_again_is_given_up_with_its_last_words(make: Make) -> None:
    child = make("print('ERROR the moon is wrong'); raise SystemExit(1)")
    child.start()

    failures: list[ChildFailed] = []

    def given_up() -> bool:
        try:
            child.tend()
        except ChildFailed as failed:
            failures.append(failed)
        return bool(failures)

    eventually(given_up, 30)
    assert "died 6 times within 60 s; it said:\n  ERROR the moon is wrong" in str(failures[0])


def test_a_child_that_cannot_use_its_configuration_is_not_tried_again(make: Make) -> None:
    child = make("print('CRITICAL unknown setting'); raise SystemExit(2)")
    child.start()
    eventually(lambda: child.exit_code == 2)
    with pytest.raises(ConfigError, match="program0 cannot run: CRITICAL unknown setting"):
        child.tend()


AT_TERM = """import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: {answer})
print("up", flush=True)
while True:
    time.sleep(1)
"""


def test_draining_says_what_had_to_be_killed_and_what_was_left(make: Make) -> None:
    stubborn = make(AT_TERM.format(answer="None"))
    left = make(AT_TERM.format(answer="sys.exit(3)"))
    good = make(AT_TERM.format(answer="sys.exit(0)"))
    for child in (stubborn, left, good):
        child.start()
    eventually(lambda: all(child.last_lines for child in (stubborn, left, good)))
    said = list(drain([[good, left], [stubborn]], Deadline(1.5), lambda: False))
    assert said[0] == "program2 drained"
    assert said[1].startswith("! program1 ended with exit code 3")
    assert said[2] == "! program0 did not end in time and was killed"


def test_settings_of_the_environment_do_not_reach_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLAGG_EXCHANGE__REST_URL", "x")
    monkeypatch.setenv("KLAGG_SHARDS", "7")
    monkeypatch.setenv("KLAGG_CACHE", "kept")
    seen = environment()
    assert "KLAGG_EXCHANGE__REST_URL" not in seen
    assert "KLAGG_SHARDS" not in seen
    assert seen["KLAGG_CACHE"] == "kept"
    assert seen["PYTHONSAFEPATH"] == "1"


def test_a_child_ends_when_its_parent_is_gone(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "import time\nprint('up', flush=True)\nwhile True: time.sleep(1)", encoding="utf-8"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "klagg.cli.child", "endless"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        env={**environment(), "PYTHONPATH": os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    process.stdin.close()
    assert process.wait(20) == -15
    process.stdout.close()
