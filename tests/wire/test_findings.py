"""The kinds of findings: each has one name, and what it says and what an operator does stand beside it."""

from __future__ import annotations

import ast
from itertools import pairwise

import pytest

from klagg.wire.fields import RawFields, upgraded
from klagg.wire.findings import FindingKind, Severity, finding_entry
from tests.test_architecture import MODULES, ROOT, texts_of

HOMES = {"klagg/wire/findings.py", "klagg/wire/fields.py"}
"""Where the kinds are declared, and where those of version 1 are put into today's words."""


def test_a_kind_is_named_by_its_enumeration_everywhere() -> None:
    kinds = {kind.value for kind in FindingKind}
    found = [
        f"{path}:{line} {text}"
        for path, tree in MODULES.items()
        if path not in HOMES
        for line, text in texts_of(tree)
        if text in kinds
    ]
    assert found == []


def test_a_bare_kind_would_be_found() -> None:
    tree = ast.parse('def find():\n    """OVERFLOW"""\n    return finding_entry("OVERFLOW")\n')
    assert [text for _, text in texts_of(tree) if text in set(FindingKind)] == ["OVERFLOW"]


def test_every_kind_has_its_sentences() -> None:
    tree = MODULES["klagg/wire/findings.py"]
    (body,) = (node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "FindingKind")
    explained = {
        each.targets[0].id: text.value.value
        for each, text in pairwise(body)
        if isinstance(each, ast.Assign)
        and isinstance(each.targets[0], ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }
    assert explained.keys() == {kind.name for kind in FindingKind}
    assert all(str(text).strip().endswith(".") for text in explained.values())


@pytest.mark.parametrize("kind", FindingKind)
def test_a_kind_is_spelt_as_it_is_named(kind: FindingKind) -> None:
    assert kind.value == kind.name
    assert kind.in_ids.isupper()


def test_an_entry_holds_plain_texts() -> None:
    entry = finding_entry(FindingKind.OVERFLOW, Severity.ERROR, "too large", symbol="A", time_ms=5)
    assert entry == {"kind": "OVERFLOW", "severity": "error", "symbol": "A", "time": "5", "evidence": "too large"}
    assert {type(value) for value in entry.values()} == {str}


def test_ids_hold_the_words_of_version_1() -> None:
    """What version 1 called otherwise is exactly what an entry of version 1 is given another word for."""
    renamed = {kind.in_ids: kind.value for kind in FindingKind if kind.in_ids != kind}
    assert renamed == {"GAP": "MISSING_KLINE", "EXCHANGE_HOLE": "EXCHANGE_GAP"}
    for old, new in renamed.items():
        raw: RawFields = {b"v": b"1", b"kind": old.encode()}
        assert upgraded(raw)[b"kind"].decode() == new


def test_the_walk_sees_the_files() -> None:
    assert set(MODULES) >= HOMES
    assert (ROOT / "klagg/wire/findings.py").exists()
