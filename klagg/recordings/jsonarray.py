"""Reads a long JSON array item by item, without holding the whole text."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

ITEM_LENGTH_MAX = 1024 * 1024
"""Characters; no item of a trades or klines array comes near."""

_SPACE = " \t\r\n"


class ArrayError(ValueError):
    """The text is not a JSON array. Its text is a clause."""


# Numbers with a fraction keep the text they were written with: prices never pass through binary floats. So do NaN and
# Infinity, which are no JSON, though tools write them: they are no decimals, and cost their row alone.
DECODER = json.JSONDecoder(parse_float=str, parse_constant=str)
"""The JSON decoder of all recordings."""


def array_items(chunks: Iterable[str]) -> Iterator[tuple[int, Any]]:
    """(number from 1, value) of each item of the array that `chunks` spell, whatever it is. Raises ArrayError."""
    source = iter(chunks)
    text, at = _skip_space(source, "", 0)
    if text[at : at + 1] != "[":
        raise ArrayError("does not begin with '['")
    text, at = _skip_space(source, text, at + 1)
    number = 0
    while text[at : at + 1] != "]":
        if number:
            if text[at : at + 1] != ",":
                raise ArrayError(f"item {number} is not followed by ',' or ']'" if at < len(text) else "is cut off")
            text, at = _skip_space(source, text, at + 1)
        number += 1
        item, text, at = _item(source, text, at, number)
        yield number, item
        text, at = _skip_space(source, text, at)
    text, at = _skip_space(source, text, at + 1)
    if at < len(text):
        raise ArrayError("text follows the end of the array")


def _skip_space(source: Iterator[str], text: str, at: int) -> tuple[str, int]:
    """Moves to the next character that is no space, reading on where needed; at the end `at == len(text)`."""
    while True:
        while at < len(text) and text[at] in _SPACE:
            at += 1
        if at < len(text):
            return text, at
        more = next(source, "")
        if not more:
            return text, at
        text, at = more, 0


def _item(source: Iterator[str], text: str, at: int, number: int) -> tuple[Any, str, int]:
    while True:
        try:
            item, end = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            if len(text) - at > ITEM_LENGTH_MAX:
                raise ArrayError(f"item {number} is not JSON or longer than {ITEM_LENGTH_MAX:,} characters") from error
            more = next(source, "")
            if not more:
                raise ArrayError(f"item {number} is not JSON or cut off") from error
            text, at = text[at:] + more, 0
        else:
            more = next(source, "") if end == len(text) and text[at] not in "{[" else ""
            if not more:  # a number may go on in the next chunk
                return item, text, end
            text, at = text[at:] + more, 0
