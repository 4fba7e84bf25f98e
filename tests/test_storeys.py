"""The storeys of `pyproject.toml` hold, and a violation would be seen: import-linter over copies of the packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("klagg", "ingest", "aggregator", "gateway", "writers", "auditors")


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """import-linter over the packages in FOLDER, with this project's contracts."""
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of all packages' modules."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=lambda _, names: {"web", "__pycache__"} & set(names))
    return tmp_path


def test_no_import_is_ignored() -> None:
    assert "ignore_imports" not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("path", "planted"),
    [
        pytest.param("ingest/batch.py", "import writers.batch", id="a service imports another"),
        pytest.param("klagg/clock.py", "import ingest.clock", id="a word imports a service"),
    ],
)
def test_a_planted_violation_breaks_the_storeys(copied: Path, path: str, planted: str) -> None:
    module = copied / path
    module.write_text(f"{module.read_text(encoding='utf-8')}\n{planted}\n", encoding="utf-8")
    found = lint(copied)
    assert found.returncode == 1, found.stdout + found.stderr
    assert "Storeys: each module imports only from those below it BROKEN" in found.stdout
    assert path.replace("/", ".").removesuffix(".py") in found.stdout
