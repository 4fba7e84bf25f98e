"""Statements and scripts in files of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from klagg.drivers.statements import load_statements
from tests.test_architecture import MODULES, ROOT, texts_of


def test_statements_come_by_name_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "some.sql"
    file.write_text("-- About the file.\n\n-- name: one\nSELECT 1;\n\n-- name: two\n-- Why.\nSELECT\n    2;\n")
    assert load_statements(file) == {"one": "SELECT 1;", "two": "-- Why.\nSELECT\n    2;"}
    file.write_text("-- name: one\nSELECT 1;\n-- name: one\nSELECT 2;\n")
    with pytest.raises(ValueError, match="a name repeats"):
        load_statements(file)


@pytest.mark.parametrize("path", ["klagg/binance/weight_account.lua", "ingest/feed_capacity.lua"])
def test_scripts_of_redis_are_named_and_explained(path: str) -> None:
    scripts = load_statements(ROOT / path)
    assert scripts
    for text in scripts.values():
        assert text.startswith("-- ")
        assert "return" in text


def test_scripts_stand_in_lua_files() -> None:
    found = [
        f"{path}:{line}" for path, tree in MODULES.items() for line, text in texts_of(tree) if "redis.call" in text
    ]
    assert found == []
