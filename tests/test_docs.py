"""The documents hold together: every link has a target, every file that they name is there, no word is of yesterday."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

LINK = re.compile(r"\]\(([^)]+)\)")
FILE = re.compile(r"`([\w./-]+\.(?:py|sql|toml|md|js|yml|conf|lua|txt|sh))`")
FENCE = re.compile(r"```.*?```", re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)

OLD_WORDS = re.compile(r"\bDESIGN\b|\bholes?\b|localexchange|\bmark_ms\b|grace_unmarked_ms")
"""Words that have gone: gap, simulator, watermark_ms and grace_without_watermark_ms stand in their places."""

WITH_OLD_WORDS = {"CHANGELOG.md", "style.md"}
"""Documents that say what was renamed."""


def prose_of(path: Path) -> str:
    """A document without its blocks of code."""
    return FENCE.sub("", path.read_text(encoding="utf-8"))


def anchors_of(path: Path) -> set[str]:
    """What can stand behind # in a link to a document: its headings as GitHub names them, and ids that it sets."""
    text = path.read_text(encoding="utf-8")
    headings = (re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"[`*]", "", each)) for each in HEADING.findall(text))
    slugs = {re.sub(r"[^\w\- ]", "", each.strip().lower()).replace(" ", "-") for each in headings}
    return slugs | set(re.findall(r'id="([^"]+)"', text))


def links_of(path: Path) -> Iterator[tuple[str, Path, str]]:
    """Links to files of the project: as written, the file, the anchor."""
    for link in LINK.findall(prose_of(path)):
        if not link.startswith(("http://", "https://")):
            name, _, anchor = link.partition("#")
            yield link, (path.parent / name).resolve() if name else path, anchor


def test_the_documents_are_found() -> None:
    assert {"README.md", "ARCHITECTURE.md", "docs/glossary.md"} <= {
        each.relative_to(ROOT).as_posix() for each in DOCUMENTS
    }


def test_every_link_has_a_target() -> None:
    dead = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in DOCUMENTS
        for link, target, anchor in links_of(path)
        if not target.exists() or (anchor and anchor not in anchors_of(target))
    ]
    assert dead == []


def test_every_file_that_is_named_is_there() -> None:
    folders = ("klagg", "ingest", "aggregator", "gateway", "writers", "auditors", "config", "tests", "docs", "findings")
    there = {each.relative_to(ROOT).as_posix() for folder in folders for each in (ROOT / folder).rglob("*.*")}
    there |= {each.name for each in ROOT.iterdir() if each.is_file()}
    missing = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in DOCUMENTS
        if path.name not in WITH_OLD_WORDS
        for name in FILE.findall(prose_of(path))
        if not any(each == name or each.endswith(f"/{name}") for each in there)
    ]
    assert missing == []


@pytest.mark.parametrize(
    "path", [each for each in DOCUMENTS if each.name not in WITH_OLD_WORDS], ids=lambda each: each.name
)
def test_no_old_word_is_left(path: Path) -> None:
    assert OLD_WORDS.findall(path.read_text(encoding="utf-8")) == []
