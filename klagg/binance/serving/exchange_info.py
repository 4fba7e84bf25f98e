"""The exchange's exchangeInfo as klagg serves it: the text that came, with three stated changes. Pure.

The text of every symbol that klagg carries, and of every other member, is cut out of the answer and never written anew,
so no digit changes and a field that nobody has seen goes through. The changes: `serverTime` is the time of the
request; symbols that klagg does not carry are left out; the limit of REQUEST_WEIGHT a minute is the one in force here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from klagg.binance.payloads import steps_of
from klagg.binance.serving.payloads import compact
from klagg.wire.exchange_info import KeptExchangeInfo

_SPACE: Final = re.compile(r"[ \t\r\n]*")
"""Whitespace of JSON (RFC 8259, section 2)."""

_WEIGHT: Final = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1}


class ListedSymbol(NamedTuple):
    """status, tickSize and stepSize of a symbol as the exchange writes them; None where it names none.

    `onboard_ms` is its onboardDate (exchange ms), 0 where it names none: ids begin anew with each listing.
    """

    status: str | None
    tick_size: str | None
    step_size: str | None
    onboard_ms: int = 0


@dataclass(frozen=True, slots=True)
class ServedExchangeInfo:
    """`symbols` are the carried ones, by name, in the exchange's order; `left_out` counts the others of the answer that
    was `kept`."""

    kept: KeptExchangeInfo
    symbols: Mapping[str, ListedSymbol]
    left_out: int
    before: str
    after: str

    def body(self, server_ms: int) -> str:
        """The JSON of the answer at this exchange time."""
        return f'{self.before}"serverTime":{server_ms}{self.after}'


def _status_of(row: Mapping[str, Any]) -> str | None:
    status = row.get("status")
    return status if isinstance(status, str) and status else None


def _onboard_of(row: Mapping[str, Any]) -> int:
    onboard = row.get("onboardDate")
    return onboard if type(onboard) is int and onboard > 0 else 0


def served_exchange_info(kept: KeptExchangeInfo, weight_per_minute: int) -> ServedExchangeInfo:
    """The answer for clients, from the one that was kept.

    ValueError if the text is no JSON object with a list of symbols.
    """
    text, carried = kept.body, frozenset(kept.carried)
    document = _Document(text)
    names = [each.name for each in document.members]
    if names.count("symbols") != 1:
        raise ValueError("the answer has no list of symbols, or two")
    symbols: dict[str, ListedSymbol] = {}
    left_out = 0
    parts = []
    for each in document.members:
        if each.name == "symbols":
            rows = []
            for row, row_text in document.elements(each):
                symbol = row.get("symbol") if isinstance(row, dict) else None
                if isinstance(symbol, str) and symbol in carried and symbol not in symbols:
                    symbols[symbol] = ListedSymbol(_status_of(row), *steps_of(row), _onboard_of(row))
                    rows.append(row_text)
                else:
                    left_out += 1
            parts.append(f'"symbols":[{",".join(rows)}]')
        elif each.name == "rateLimits":
            parts.append(f'"rateLimits":{_limits(each.value, text[each.value_at : each.end], weight_per_minute)}')
        elif each.name != "serverTime":
            parts.append(text[each.at : each.end])
    at = next((place for place, name in enumerate(names) if name == "serverTime"), 0)
    before, after = parts[:at], parts[at:]
    return ServedExchangeInfo(
        kept,
        symbols,
        left_out,
        "{" + "".join(f"{each}," for each in before),
        "".join(f",{each}" for each in after) + "}",
    )


def _limits(value: Any, text: str, weight_per_minute: int) -> str:
    """The limits as they came, but for that of the weight a minute, which is this server's own."""
    limits = value if isinstance(value, list) else []
    own = {**_WEIGHT, "limit": weight_per_minute}
    places = [
        place
        for place, each in enumerate(limits)
        if isinstance(each, dict) and {name: each.get(name) for name in _WEIGHT} == _WEIGHT
    ]
    if len(places) == 1 and limits[places[0]].get("limit") == weight_per_minute:
        return text
    others = [each for place, each in enumerate(limits) if place not in places]
    return compact([own, *others])


class _Member(NamedTuple):
    """A member of a JSON object, and where its text begins, that of its value begins, and both end."""

    name: str
    value: Any
    at: int
    value_at: int
    end: int


class _Document:
    """The members of a JSON object; ValueError if the text is none."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._decoder = json.JSONDecoder(parse_constant=_refuse)
        self.members: list[_Member] = []
        at = self._expect(self._skip(0), "{")
        if text[at : at + 1] == "}":
            return
        while True:
            name, end = self._value(at)
            if not isinstance(name, str):
                raise ValueError("a member of the answer has no name")
            value_at = self._expect(self._skip(end), ":")
            value, end = self._value(value_at)
            self.members.append(_Member(name, value, at, value_at, end))
            at = self._skip(end)
            if text[at : at + 1] == "}":
                break
            at = self._expect(at, ",")
        if self._skip(at + 1) != len(text):
            raise ValueError("something stands behind the answer")

    def elements(self, member: _Member) -> list[tuple[Any, str]]:
        """The elements of a list that is the value of a member, each with its text."""
        at = self._expect(member.value_at, "[")
        found: list[tuple[Any, str]] = []
        while self._text[at] != "]":
            value, end = self._value(at)
            found.append((value, self._text[at:end]))
            at = self._skip(end)
            if self._text[at] == ",":
                at = self._skip(at + 1)
        return found

    def _value(self, at: int) -> tuple[Any, int]:
        try:
            return self._decoder.raw_decode(self._text, at)
        except RecursionError:
            raise ValueError("the answer is nested too deeply") from None

    def _skip(self, at: int) -> int:
        match = _SPACE.match(self._text, at)
        return match.end() if match else at

    def _expect(self, at: int, sign: str) -> int:
        """The place of what follows `sign`."""
        if self._text[at : at + 1] != sign:
            raise ValueError(f"the answer has no {sign!r} at character {at}")
        return self._skip(at + 1)


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")
