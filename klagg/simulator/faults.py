"""Fault scripts of the simulator: what goes wrong, when, and for whom. Pure: TOML text in, values out.

A script is TOML: an optional `seed` and one `[[fault]]` table per fault. Times are exchange time, counted from the
exchange's start. `KINDS` says what each kind does and which keys it takes; `config/faults/example.toml` shows them all.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Literal, NoReturn, cast, get_args

Where = Literal["stream", "rest"]
"""Which tickers a fault takes: those of `!ticker@arr`, or those of `GET /fapi/v1/ticker/24hr`."""
Reach = Literal["open", "new", "all"]
"""Which connections a fault takes: those open when it begins, those that open while it lasts, or both."""

DAY_MS: Final = 86_400_000
LINE: Final = re.compile(r"klagg-ingest-([A-Za-z0-9_]{1,20})")
"""How a line names itself in its `User-Agent`; the query parameter `line` does as well."""

_TIME = ("at_s", "for_s", "every_s")
_WHOM = ("line", "connections", "reach")
_TICKERS = (*_TIME, "symbols", "where")


@dataclass(frozen=True, slots=True)
class FaultKind:
    """A kind of fault: what it does on the wire, the keys it takes beside `kind`, and whom it takes by default."""

    does: str
    keys: tuple[str, ...]
    needs: tuple[str, ...] = ()
    reach: Reach = "all"


KINDS: Final[Mapping[str, FaultKind]] = {
    "disconnect": FaultKind("closes connections; with for_s also those that open meanwhile", (*_TIME, *_WHOM)),
    "refuse": FaultKind("refuses handshakes: HTTP `status`, a reset without it", (*_TIME, "line", "share", "status")),
    "silent": FaultKind(
        "subscriptions are acknowledged and pings answered, no data comes", (*_TIME, *_WHOM, "symbols"), reach="open"
    ),
    "stale_route": FaultKind("new connections are accepted and stay silent for good", (*_TIME, *_WHOM), reach="new"),
    "dead_symbol": FaultKind(
        "trade streams of `symbols` stay silent, their tickers go on", (*_TIME, *_WHOM, "symbols"), ("symbols",)
    ),
    "stall": FaultKind("sockets are neither read nor written, no pongs", (*_TIME, *_WHOM), reach="open"),
    "duplicate": FaultKind("frames come twice", (*_TIME, *_WHOM, "symbols", "share")),
    "reorder": FaultKind("frames within `within_ms` are shuffled", (*_TIME, *_WHOM, "symbols", "share", "within_ms")),
    "lose": FaultKind("frames are dropped", (*_TIME, *_WHOM, "symbols", "share")),
    "malformed": FaultKind("frames hold broken JSON", (*_TIME, *_WHOM, "symbols", "share")),
    "truncated": FaultKind("frames end too early", (*_TIME, *_WHOM, "symbols", "share")),
    "wrong_wrapper": FaultKind("raw instead of combined frames, or the reverse", (*_TIME, *_WHOM, "symbols", "share")),
    "huge_frame": FaultKind("frames are padded to `size_bytes`", (*_TIME, *_WHOM, "symbols", "share", "size_bytes")),
    "rest_429": FaultKind("REST answers 429 with Retry-After", (*_TIME, "paths", "share", "retry_after_s", "header")),
    "rest_418": FaultKind("REST answers 418 with Retry-After", (*_TIME, "paths", "share", "retry_after_s", "header")),
    "rest_down": FaultKind("REST answers HTTP `status`, resets without it", (*_TIME, "paths", "share", "status")),
    "cut_24h": FaultKind(
        "connections are closed in order at the age of `age_s`", (*_TIME, *_WHOM, "age_s"), ("age_s",)
    ),
    "clock_skew": FaultKind("the server time that REST tells is off by `jump_ms`", (*_TIME, "jump_ms"), ("jump_ms",)),
    "late_ticker": FaultKind(
        "24 hour tickers come with the ids and the times of `late_ms` ago", (*_TICKERS, "late_ms"), ("late_ms",)
    ),
    "frozen_ticker": FaultKind("24 hour tickers keep the ids of when it began, their times go on", _TICKERS),
    "wrong_ticker": FaultKind("24 hour tickers claim `ids` fills too many or too few", (*_TICKERS, "ids"), ("ids",)),
    "missing_ticker": FaultKind("24 hour tickers of `symbols` are left out", _TICKERS, ("symbols",)),
    "status": FaultKind(
        "exchangeInfo lists `symbols` with the status `word`, and nothing else tells of it",
        (*_TIME, "symbols", "word", "contract_type"),
        ("symbols", "word"),
    ),
    "pause": FaultKind(
        "`symbols` do not trade for `for_s`", ("at_s", "for_s", "symbols"), ("at_s", "for_s", "symbols")
    ),
    "listing": FaultKind("`symbols` are not there before at_s", ("at_s", "symbols", "pending_s"), ("at_s", "symbols")),
    "delisting": FaultKind(
        "`symbols` trade no more and are gone after `settle_s`", ("at_s", "symbols", "settle_s"), ("at_s", "symbols")
    ),
    "relisting": FaultKind(
        "delisted `symbols` come back, ids from 1", ("at_s", "symbols", "pending_s"), ("at_s", "symbols")
    ),
    "tick_size": FaultKind("prices get `digits` more decimals", ("at_s", "symbols", "digits"), ("at_s", "symbols")),
}
MARKET_KINDS: Final = frozenset({"pause", "listing", "delisting", "relisting", "tick_size"})
TICKER_KINDS: Final = frozenset({"late_ticker", "frozen_ticker", "wrong_ticker", "missing_ticker"})
REST_KINDS: Final = frozenset({"rest_429", "rest_418", "rest_down"})
STREAM_KINDS: Final = frozenset(
    {
        "silent",
        "stale_route",
        "dead_symbol",
        "duplicate",
        "reorder",
        "lose",
        "malformed",
        "truncated",
        "wrong_wrapper",
        "huge_frame",
    }
)
CONNECTION_KINDS: Final = STREAM_KINDS | {"disconnect", "stall", "cut_24h"}
"""The kinds that take connections; the others act on handshakes, on REST and on the market."""
_SILENCING: Final = frozenset({"silent", "stale_route", "dead_symbol", "lose"})


class FaultScriptError(ValueError):
    """A fault script cannot be read; the sentence names the table and the key."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `number` counts the script's tables from 1; times in ms of exchange time since the exchange's start.

    `for_ms` None lasts for ever (a `disconnect`: is over at once); `every_ms` None happens once. `symbols` and `paths`
    None are all, `where` None is both, `contract_type` None is the symbol's own. `connections` is a number of them, a
    tuple of their places in the order of arrival (from 1; among those of `line` where that is given), or None for all.
    `share` is a probability. `status` None is a reset.
    `header` False: a refusal has no Retry-After, and its sentence alone says until when.
    """

    number: int
    kind: str
    at_ms: int = 0
    for_ms: int | None = None
    every_ms: int | None = None
    line: str | None = None
    connections: int | tuple[int, ...] | None = None
    reach: Reach = "all"
    symbols: frozenset[str] | None = None
    share: float = 1.0
    paths: frozenset[str] | None = None
    status: int | None = None
    retry_after_s: int = 60
    header: bool = True
    within_ms: int = 1_000
    size_bytes: int = 100_000
    age_ms: int = 0
    jump_ms: int = 0
    pending_ms: int = 0
    settle_ms: int = 60_000
    digits: int = 1
    word: str = ""
    contract_type: str | None = None
    where: Where | None = None
    late_ms: int = 0
    ids: int = 0

    def occurrence(self, elapsed_ms: int) -> int | None:
        """The number (from 0) of the occurrence that began last; None before the first."""
        if elapsed_ms < self.at_ms:
            return None
        return 0 if self.every_ms is None else (elapsed_ms - self.at_ms) // self.every_ms

    def lasts_ms(self, elapsed_ms: int) -> int:
        """How long ago the occurrence began that began last; 0 before the first."""
        occurrence = self.occurrence(elapsed_ms)
        return 0 if occurrence is None else elapsed_ms - self.at_ms - occurrence * (self.every_ms or 0)

    def is_active(self, elapsed_ms: int) -> bool:
        """Whether it goes on at this time. What is over at once is never going on."""
        occurrence = self.occurrence(elapsed_ms)
        if occurrence is None:
            return False
        if self.for_ms is None:
            return self.kind != "disconnect"
        return self.lasts_ms(elapsed_ms) < self.for_ms

    def concerns(self, stream: str) -> bool:
        """Whether it touches a stream of this name."""
        if self.symbols is None:
            return True
        symbol, at, channel = stream.partition("@")
        if symbol.upper() not in self.symbols or not at:
            return False
        return self.kind != "dead_symbol" or channel in {"aggTrade", "trade"}


@dataclass(frozen=True, slots=True)
class FaultScript:
    """The faults of a script, in its order, and the seed of all that is left to chance."""

    faults: tuple[Fault, ...] = ()
    seed: int = 1
    changes: tuple[Fault, ...] = field(init=False)
    """Those that change the market, by time."""

    def __post_init__(self) -> None:
        changes = [fault for fault in self.faults if fault.kind in MARKET_KINDS]
        object.__setattr__(self, "changes", tuple(sorted(changes, key=lambda fault: fault.at_ms)))


def read_faults(text: str) -> FaultScript:
    """The script in `text`. Raises FaultScriptError with a sentence naming the table (counted from 1) and the key."""
    try:
        script = tomllib.loads(text)
    except tomllib.TOMLDecodeError as bad:
        raise FaultScriptError(f"The fault script is no TOML: {bad}.") from None
    for key in script:
        if key not in {"seed", "fault"}:
            raise FaultScriptError(f"The fault script has an unknown key {key}: it takes seed and [[fault]] tables.")
    seed = script.get("seed", 1)
    if type(seed) is not int or seed < 0:
        raise FaultScriptError(f"The fault script's seed must be an integer of 0 or more, not {seed!r}.")
    tables = script.get("fault", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise FaultScriptError("The fault script's faults must be [[fault]] tables.")
    return FaultScript(tuple(_fault(number, table) for number, table in enumerate(tables, 1)), seed)


def line_of(user_agent: str, query: Mapping[str, str]) -> str:
    """The line that a client says it is, "" if it says none."""
    named = LINE.search(user_agent)
    return query.get("line", "") or (named[1] if named else "")


def altered(fault: Fault, text: str, other: str, chance: Random) -> list[str]:
    """What becomes of a frame's `text`; `other` is the same event in the other wrapper. Empty: it is dropped."""
    if fault.kind in _SILENCING:
        return []
    if fault.kind == "duplicate":
        return [text, text]
    if fault.kind == "wrong_wrapper":
        return [other]
    if fault.kind == "truncated":
        return [text[: chance.randrange(1, len(text))]]
    if fault.kind == "malformed":
        broken = chance.choice('":')  # an odd number of quotes, or a name without its colon
        places = [place for place, letter in enumerate(text) if letter == broken]
        place = chance.choice(places)
        return [text[:place] + text[place + 1 :]]
    if fault.kind == "huge_frame":
        head, foot = (',"pad":"', '"') if text.endswith("}") else ("", "")
        room = max(fault.size_bytes - len(text.encode()) - len(head + foot), 0)
        filling = head + ("x" if head else " ") * room + foot
        return [text[:-1] + filling + text[-1]]
    return [text]


def _fault(number: int, table: Mapping[str, Any]) -> Fault:
    name = table.get("kind")
    if not isinstance(name, str) or name not in KINDS:
        _refuse(number, "fault", "kind", f"must be one of {', '.join(KINDS)}, not {name!r}")
    kind = KINDS[name]
    for key in table:
        if key != "kind" and key not in kind.keys:
            _refuse(number, name, key, f"is no key of this kind: it takes {', '.join(kind.keys)}")
    for key in kind.needs:
        if key not in table:
            _refuse(number, name, key, "is missing")
    values: dict[str, Any] = {"reach": kind.reach}
    for key in kind.keys:
        if key in table:
            target, read = _READERS[key]
            try:
                values[target] = read(table[key])
            except ValueError as bad:
                _refuse(number, name, key, f"must be {bad}, not {json.dumps(table[key], default=str)}")
    if name == "disconnect" and "for_ms" not in values and "reach" not in table:
        values["reach"] = "open"
    fault = Fault(number, name, **values)
    if fault.every_ms is not None:
        if fault.for_ms is None and name != "disconnect":
            _refuse(number, name, "for_s", "is missing: what is repeated must end")
        if fault.for_ms is not None and fault.for_ms >= fault.every_ms:
            _refuse(number, name, "for_s", "must be less than every_s")
    return fault


def _refuse(number: int, kind: str, key: str, sentence: str) -> NoReturn:
    raise FaultScriptError(f"Fault {number} ({kind}): {key} {sentence}.")


def _integer(least: int, most: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"an integer from {least} to {most}")
        return value

    return read


def _milliseconds(least_ms: int) -> Callable[[object], int]:
    def read(value: object) -> int:
        if type(value) not in {int, float} or not math.isfinite(value) or round(value * 1000) < least_ms:  # type: ignore[arg-type,operator]
            raise ValueError("a number of seconds above 0" if least_ms else "a number of seconds of 0 or more")
        return round(value * 1000)  # type: ignore[operator]

    return read


def _share(value: object) -> float:
    if type(value) not in {int, float} or not 0 < value <= 1:  # type: ignore[operator]
        raise ValueError("a share above 0 and not above 1")
    return float(value)  # type: ignore[arg-type]


def _texts(what: str) -> Callable[[object], frozenset[str]]:
    def read(value: object) -> frozenset[str]:
        if not isinstance(value, list) or not value or not all(isinstance(each, str) and each for each in value):
            raise ValueError(f"a list of {what}")
        return frozenset(value)

    return read


def _symbols(value: object) -> frozenset[str]:
    symbols = _texts("symbols in capitals")(value)
    if any(symbol != symbol.upper() for symbol in symbols):
        raise ValueError("a list of symbols in capitals")
    return symbols


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def _line(value: object) -> str:
    if not isinstance(value, str) or not LINE.fullmatch(f"klagg-ingest-{value}"):
        raise ValueError("the name of a line, such as A")
    return value


def _connections(value: object) -> int | tuple[int, ...] | None:
    if value == "all":
        return None
    if type(value) is int and value > 0:
        return value
    if isinstance(value, list) and value and all(type(each) is int and each > 0 for each in value):
        return tuple(value)
    raise ValueError('"all", how many, or a list of places in the order of arrival from 1')


def _reach(value: object) -> Reach:
    if isinstance(value, str) and value in get_args(Reach):
        return cast("Reach", value)
    raise ValueError('"open", "new" or "all"')


def _where(value: object) -> Where:
    if isinstance(value, str) and value in get_args(Where):
        return cast("Where", value)
    raise ValueError('"stream" or "rest"')


def _off(value: object) -> int:
    if type(value) is not int or value == 0 or abs(value) > 1_000_000:
        raise ValueError("an integer other than 0, at most a million")
    return value


def _flag(value: object) -> bool:
    if type(value) is not bool:
        raise ValueError("true or false")
    return value


def _jump(value: object) -> int:
    if type(value) is not int or value == 0 or abs(value) > DAY_MS:
        raise ValueError("an integer other than 0, at most a day")
    return value


_READERS: Final[Mapping[str, tuple[str, Callable[[object], Any]]]] = {
    "at_s": ("at_ms", _milliseconds(0)),
    "for_s": ("for_ms", _milliseconds(1)),
    "every_s": ("every_ms", _milliseconds(1)),
    "line": ("line", _line),
    "connections": ("connections", _connections),
    "reach": ("reach", _reach),
    "symbols": ("symbols", _symbols),
    "share": ("share", _share),
    "paths": ("paths", _texts("names of endpoints such as aggTrades")),
    "status": ("status", _integer(400, 599)),
    "retry_after_s": ("retry_after_s", _integer(1, 259_200)),
    "header": ("header", _flag),
    "within_ms": ("within_ms", _integer(1, 1_000)),
    "size_bytes": ("size_bytes", _integer(65_537, 16_777_216)),
    "age_s": ("age_ms", _milliseconds(1)),
    "jump_ms": ("jump_ms", _jump),
    "pending_s": ("pending_ms", _milliseconds(0)),
    "settle_s": ("settle_ms", _milliseconds(0)),
    "digits": ("digits", _integer(1, 4)),
    "word": ("word", _text),
    "contract_type": ("contract_type", _text),
    "where": ("where", _where),
    "late_ms": ("late_ms", _integer(1, 600_000)),
    "ids": ("ids", _off),
}
