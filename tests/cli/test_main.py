"""The command `klagg`: subcommands, exit codes, and errors as sentences."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from klagg import __version__
from klagg.cli import doctor
from klagg.cli.main import COMMANDS, main
from tests.conftest import ROOT


def klagg(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "klagg", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def command(monkeypatch: pytest.MonkeyPatch, run: Callable[[], int]) -> int:
    """The exit code of `klagg doctor` if that did RUN."""
    monkeypatch.setattr(doctor, "run", lambda _args: run())
    return main(["doctor"])


def test_python_m_klagg_is_the_command() -> None:
    with klagg("--version") as process:
        assert process.communicate() == (f"klagg {__version__}\n", "")
    assert process.returncode == 0


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert [name for name in COMMANDS if f"\n    {name} " not in said] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: klagg {name} ")


@pytest.mark.parametrize("words", [[], ["no-such-command"], ["replay", "--no-such-option"]])
def test_bad_usage_is_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2


def test_a_known_error_is_one_sentence_and_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.csv"
    assert main(["replay", "--trades", str(missing)]) == 1
    replay = capsys.readouterr()
    assert main(["rollup", "--klines", str(missing), "--to", "7m"]) == 2
    rollup = capsys.readouterr()
    assert replay.out == rollup.out == ""
    assert replay.err.startswith(f"klagg: {missing}")
    assert rollup.err.startswith("klagg: unknown interval '7m'")
    assert [text.count("\n") for text in (replay.err, rollup.err)] == [1, 1]


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["up", "--config", "none.toml"], 2, "cannot be read"),
        (["up", "--source", "sim", "--trades", "none.txt"], 2, "there is no recording"),
        (["status", "--data-dir", "/nonexistent"], 1, "nothing of klagg runs"),
    ],
)
def test_mistakes_are_named(words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    said = capsys.readouterr().err
    assert sentence in said
    assert said.startswith("klagg: ")
    assert said.count("\n") == 1


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert command(monkeypatch, interrupted) == 130


def test_an_unknown_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command(monkeypatch, broken)


def test_a_reader_who_leaves_is_no_error() -> None:
    with klagg("doctor") as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) == 141
