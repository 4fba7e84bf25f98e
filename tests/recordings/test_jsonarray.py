from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.recordings import jsonarray
from klagg.recordings.jsonarray import ArrayError, array_items


def items(text: str, size: int = 4) -> list[Any]:
    return [item for _, item in array_items(text[at : at + size] for at in range(0, len(text), size))]


JSON_ITEMS = st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5) | st.integers(), max_size=3), max_size=6)


@given(JSON_ITEMS, st.integers(1, 20), st.sampled_from([None, 2]))
def test_any_array_is_read_whatever_the_chunks(value: list[Any], size: int, indent: int | None) -> None:
    assert items(json.dumps(value, indent=indent), size) == value


def test_fractions_keep_their_text() -> None:
    assert items("[[0.00141342, 1.50, 7]]") == [["0.00141342", "1.50", 7]]


def test_every_item_comes_as_it_is_and_a_number_whole() -> None:
    text = '[null, 12345, "x", true, {"a":NaN}, [-Infinity], 67890]'
    for size in (1, 2, 1000):
        assert items(text, size) == [None, 12345, "x", True, {"a": "NaN"}, ["-Infinity"], 67890]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", r"does not begin with '\['"),
        ('[{"a":1}', "is cut off"),
        ('[{"a":1},', "item 2 is not JSON or cut off"),
        ('[{"a":1', "item 1 is not JSON or cut off"),
        ('[{"a":1} {"a":2}]', "item 1 is not followed by"),
        ('[{"a":1},]', "item 2 is not JSON or cut off"),
        ('[{"a":nothing}]', "item 1 is not JSON"),
        ('[{"a":1}] tail', "text follows the end"),
        ("[" * 100_000, "item 1 is not JSON"),
    ],
)
def test_what_is_wrong_is_named(text: str, reason: str) -> None:
    with pytest.raises(ArrayError, match=reason):
        items(text, 1000)


def test_an_endless_item_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonarray, "ITEM_LENGTH_MAX", 10)
    with pytest.raises(ArrayError, match="longer than 10 characters"):
        items('[{"a":"' + "x" * 100, 4)
