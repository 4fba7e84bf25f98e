"""The questions of the README are understood by the real database."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from klagg.drivers.postgres import Database

pytestmark = pytest.mark.servers

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
QUESTIONS = [
    question.strip()
    for block in re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    for question in re.sub(r"^--.*$", "", block, flags=re.MULTILINE).split(";")
    if question.strip()
]


def test_there_are_some() -> None:
    assert len(QUESTIONS) >= 5


@pytest.mark.parametrize("question", QUESTIONS)
def test_each_runs(database: Database, question: str) -> None:
    with database.transaction():
        assert database.query(question.replace("%", "%%")) == []
