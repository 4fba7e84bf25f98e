"""How the exchange lays out its trades, as one regular expression: frames by the hundred become columns of texts. Pure.

The exchange writes every event of a kind alike: the same fields in the same order. The expression is made from the
field names of one good frame, so it follows when fields come, go or change places. It is narrower than JSON (no blanks,
no escapes, each field once, numbers as JSON allows them): what it matches cannot be misread. What it does not match may
still be a trade, and `ingest.parser.parse` decides. The fields are those of the Binance USDⓈ-M docs, "Aggregate Trade
Streams"; `st` is 1 for USDⓈ-M (docs, "Contract Info Stream": symbol type 1 = UM, 2 = CM).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,32}")
_NAMES_MAX: Final = 32

_TEXT: Final = r'"[^"\\\x00-\x1f]*+"'
_NUMBER: Final = r"-?+(?:0|[1-9][0-9]{0,30}+)(?:\.[0-9]{1,30}+)?+(?:[eE][+-]?+[0-9]{1,3}+)?+"
_ANYTHING: Final = rf"(?:{_TEXT}|{_NUMBER}|true|false|null)"

_WHOLE: Final = "(0|[1-9][0-9]{0,17}+)"
"""An integer below 10^18, which fits in 64 bits."""

_DECIMAL: Final = r'(?=[0-9.]{1,18}+")(?!0+\.0{12})[0-9]++(?:\.[0-9]++)?+'

_VALUES: Final[Mapping[str, str]] = {
    "s": r'"([^"\\\x00-\x1f]++)"',
    "p": rf'"((?=[0.]*+[1-9]){_DECIMAL})"',
    "q": rf'"((?=[0.]*+[1-9]){_DECIMAL})"',
    "T": _WHOLE,
    "m": "(true|false)",
}
_IDS: Final = {"aggTrade": ("a", "f", "l"), "trade": ("t", "t", "t")}
"""Names of id, first and last, by source."""


@dataclass(frozen=True, slots=True)
class Layout:
    """One way to write a trade. `line` matches one on a line of its own."""

    line: re.Pattern[str]
    order: itemgetter[Any]
    """Selects symbol, id, price, qty, first, last, time and maker from the groups of a match."""

    def columns(self, frames: Sequence[bytes]) -> tuple[Sequence[str], ...] | None:
        """Eight columns of N texts for N frames: symbol, id, price, qty, first, last, time (exchange ms) and maker.

        None unless every frame has this layout.
        """
        try:
            text = b"\n".join(frames).decode()
        except UnicodeDecodeError:
            return None
        found = self.line.findall(text)
        # With as many lines as frames, no frame holds a line's end; with as many matches, every line is one.
        if len(found) != len(frames) or text.count("\n") != len(frames) - 1:
            return None
        columns: tuple[Sequence[str], ...] = self.order(tuple(zip(*found, strict=True)))
        return columns


def layout_of(message: Mapping[str, Any], source: str, *, wrapped: bool) -> Layout | None:
    """The layout of a message that is a trade of `source` (aggTrade or trade); None if this module does not cover it.

    `wrapped`: the message comes from a combined endpoint, and the event is in its `data`.
    """
    event = message["data"] if wrapped else message
    return _layout(tuple(message) if wrapped else (), tuple(event), source)


@lru_cache(maxsize=64)
def _layout(outer: tuple[str, ...], inner: tuple[str, ...], source: str) -> Layout | None:
    names = (*outer, *inner)
    if len(names) > _NAMES_MAX or not all(map(_NAME.fullmatch, names)):
        return None
    trade_id, first, last = _IDS[source]
    values = {**_VALUES, trade_id: _WHOLE, first: _WHOLE, last: _WHOLE, "e": f'"{source}"', "st": "1"}
    if source == "trade":
        values["X"] = '"(?:MARKET|RPI)"'
    pattern = _object(inner, values)
    if outer:
        pattern = _object(outer, {"data": pattern})
    captured = [name for name in inner if values.get(name, "").count("(") > values.get(name, "").count("(?")]
    order = itemgetter(*(captured.index(name) for name in ("s", trade_id, "p", "q", first, last, "T", "m")))
    return Layout(re.compile(f"^{pattern}$", re.MULTILINE), order)


def _object(names: Iterable[str], values: Mapping[str, str]) -> str:
    return r"\{" + ",".join(f'"{name}":{values.get(name, _ANYTHING)}' for name in names) + r"\}"
