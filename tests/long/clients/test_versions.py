"""docs/clients.md names the versions that the lock files pin, and its tests are there."""

from __future__ import annotations

import re
from typing import Final

import ujson

from tests.endtoend.kit import ROOT
from tests.long.clients.kit import HERE

NPM: Final = {"ccxt (JavaScript)": "ccxt"}
"""Clients from npm whose line does not begin with that word, and what they are called there."""
PYPI: Final = {
    "ccxt (Python), REST": "ccxt",
    "ccxt.pro (Python), WebSocket": "ccxt",
    "hummingbot, `BinancePerpetualCandles`": "hummingbot",
}
"""Clients from PyPI whose line names them otherwise."""


def lines() -> list[list[str]]:
    """The cells of each line of the table that names a version."""
    text = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return [row for row in rows[2:] if row[1]]


def pinned() -> set[tuple[str, str]]:
    """Every client and version that is installed, with npm's names as the table has them."""
    found: set[tuple[str, str]] = set()
    for lock in (ROOT / "requirements.lock", *HERE.glob("requirements-*.txt")):
        pairs = re.findall(r"^([\w.-]+)==(\S+)$", lock.read_text(encoding="utf-8"), re.MULTILINE)
        found |= {(name.replace("_", "-").lower(), version) for name, version in pairs}
    packages = ujson.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    return found | {
        (f"npm {path.removeprefix('node_modules/')}", each["version"]) for path, each in packages.items() if path
    }


def test_each_line_has_the_version_that_is_pinned() -> None:
    versions = pinned()
    assert len(lines()) >= 16
    for client, version, *_ in lines():
        name = f"npm {NPM[client]}" if client in NPM else PYPI.get(client, client)
        wanted = name if name.startswith("npm ") else name.replace("_", "-").lower()
        assert (wanted, version.split(" ")[0]) in versions, client


def test_the_lock_file_names_no_registry() -> None:
    packages = ujson.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    assert [path for path, each in packages.items() if "resolved" in each] == []
    assert all("integrity" in each for path, each in packages.items() if path)
