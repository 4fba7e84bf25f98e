"""The command `klagg`: usage, errors as sentences, exit codes."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from klagg.cli import main as command
from klagg.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def klagg(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "klagg", *words], capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip


@pytest.mark.parametrize("name", command.COMMANDS)
def test_every_command_registers_and_has_help(name: str) -> None:
    module = importlib.import_module(f"klagg.cli.{name}")
    commands = argparse.ArgumentParser().add_subparsers()
    module.register(commands)
    assert name in commands.choices


def test_known_errors_are_one_sentence_and_their_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_: argparse.Namespace) -> int:
        raise ConfigError("the moon is wrong")

    monkeypatch.setattr("klagg.cli.replay.run", refuse)
    assert command.main(["replay", "--trades", "x"]) == 2
    assert capsys.readouterr().err == "klagg: the moon is wrong\n"


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: argparse.Namespace) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("klagg.cli.replay.run", interrupt)
    assert command.main(["replay", "--trades", "x"]) == 130


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--version"], 0, "klagg 0."),
        ([], 2, "COMMAND"),
        (["fly"], 2, "invalid choice"),
        (["replay", "--trades", "none.txt"], 1, "none.txt"),
        (["replay", "--trades", "none.txt", "--interval", "7m"], 2, "unknown interval '7m'"),
        (["up", "--config", "none.toml"], 2, "cannot be read"),
        (["up", "--symbols", "5"], 2, "--symbols shapes a local exchange"),
        (["up", "--source", "sim", "--trades", "none.txt"], 2, "there is no recording"),
        (["status", "--data-dir", "/nonexistent"], 1, "nothing of klagg runs"),
    ],
)
def test_mistakes_are_named(words: list[str], code: int, sentence: str) -> None:
    done = klagg(*words)
    assert done.returncode == code, done.stderr
    assert sentence in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    recording = tmp_path / "BTCUSDT-aggTrades.csv"
    rows = "".join(f"{at},1,1,{at},{at},{1_700_000_000_000 + at * 60_000},true\n" for at in range(1, 5_000))
    recording.write_text(rows, encoding="utf-8")
    pipe = f"{sys.executable} -m klagg replay --trades {recording} | head -n 1"
    done = subprocess.run(
        pipe, shell=True, capture_output=True, text=True,
        check=False, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stdout.startswith("symbol=BTCUSDT")
    assert done.stderr == ""
