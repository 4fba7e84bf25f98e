"""The endpoints of klagg's own API as data: what they take, checked here, and what they answer, for OpenAPI. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from klagg.binance.serving.payloads import compact
from klagg.wire.findings import Severity

TEXT, INTEGER, BOOLEAN = "string", "integer", "boolean"

TIME_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""

BOARD_DAYS: Final = 30
"""So many days of the scoreboard, where none are named."""
BOARD_DAYS_MAX: Final = 366

JSON: Final = "application/json"

EVERYWHERE: Final = frozenset({"token"})
"""What may stand in any query."""

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)


class ApiProblem(Exception):
    """A request of klagg's own API that gets an error: HTTP `status`, a word for programs, a sentence for people."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status, self.error, self.message = status, error, message

    def body(self) -> str:
        """The JSON of the answer."""
        return compact({"error": self.error, "message": self.message})


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a query. Times are UTC ms."""

    name: str
    description: str
    kind: str = TEXT
    required: bool = False
    default: Any = None
    least: int | None = None
    most: int | None = None
    choices: tuple[str, ...] = ()
    chars_max: int = 64

    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        schema: dict[str, Any] = {"type": self.kind}
        if self.choices:
            schema["enum"] = list(self.choices)
        elif self.kind == TEXT:
            schema |= {"minLength": 1, "maxLength": self.chars_max, "pattern": r"^[^\x00]+$"}
        bounds = {"minimum": self.least, "maximum": self.most, "default": self.default}
        return schema | {name: value for name, value in bounds.items() if value is not None}

    def read(self, text: str) -> Any:
        """The value in a text; ApiProblem (400) if it is none."""
        if self.kind == INTEGER:
            return self._integer(text)
        if self.kind == BOOLEAN:
            if text not in ("true", "false"):
                raise self._bad("must be true or false")
            return text == "true"
        if self.choices and text not in self.choices:
            raise self._bad(f"must be one of {', '.join(self.choices)}")
        if not text or len(text) > self.chars_max:
            raise self._bad(f"must have 1 to {self.chars_max} characters")
        if "\0" in text:
            raise self._bad("must not hold a NUL")
        return text

    def _integer(self, text: str) -> int:
        if not _INTEGER.fullmatch(text):
            raise self._bad("must be a whole number")
        value = int(text)
        if (self.least is not None and value < self.least) or (self.most is not None and value > self.most):
            raise self._bad(f"must be between {self.least} and {self.most}")
        return value

    def _bad(self, what: str) -> ApiProblem:
        return ApiProblem(400, "bad_parameter", f"the parameter {self.name} {what}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path, GET only. `schema` names the component of its JSON answer; `media` are further types that it may have;
    `problems` are the statuses of its errors beside 400 and 401."""

    path: str
    summary: str
    schema: str
    parameters: Sequence[Parameter] = ()
    media: Sequence[str] = ()
    problems: Sequence[int] = ()

    def read(self, query: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """The values of all parameters; ApiProblem (400) says what is wrong with a query."""
        known = {each.name: each for each in self.parameters}
        texts: dict[str, str] = {}
        for name, text in query:
            if name in EVERYWHERE:
                continue
            if name not in known:
                names = ", ".join(known) or "none"
                raise ApiProblem(400, "unknown_parameter", f"unknown parameter {name[:40]!r}; known here: {names}")
            if name in texts:
                raise ApiProblem(400, "bad_parameter", f"the parameter {name} is there twice")
            texts[name] = text
        for each in self.parameters:
            if each.required and each.name not in texts:
                raise ApiProblem(400, "missing_parameter", f"the parameter {each.name} is missing")
        return {name: each.read(texts[name]) if name in texts else each.default for name, each in known.items()}


def range_parameters(intervals: Sequence[str]) -> tuple[Parameter, ...]:
    """What says which series."""
    return (
        Parameter("symbol", "Name of the symbol, such as BTCUSDT.", required=True),
        Parameter("interval", "Length of the bars.", required=True, choices=tuple(intervals)),
    )


START: Final = Parameter(
    "start", "The first bars that open from this time on, in UTC ms.", INTEGER, least=0, most=TIME_MAX
)
END: Final = Parameter("end", "No bar that opens behind this time, in UTC ms.", INTEGER, least=0, most=TIME_MAX)
SYMBOL: Final = Parameter("symbol", "Of this symbol alone.")


def limit(default: int, most: int) -> Parameter:
    """How many items at most."""
    return Parameter("limit", "How many at most.", INTEGER, default=default, least=1, most=most)


def endpoints(intervals: Sequence[str], formats: Mapping[str, str]) -> Mapping[str, Endpoint]:
    """All endpoints by name, for the intervals that there are and the formats of files (with their media types)."""
    series = range_parameters(intervals)
    unavailable = (503,)
    return {
        "klines": Endpoint(
            "/api/klines",
            "Klines with their provenance: without start the newest.",
            "Klines",
            (*series, START, END, limit(500, 5000)),
            problems=(404, 503),
        ),
        "download": Endpoint(
            "/api/download",
            "All klines of a range as a file.",
            "KlineRows",
            (
                *series,
                replace(START, description="All bars that open from then on, in UTC ms.", required=True),
                END,
                Parameter(
                    "format",
                    "Of the file; arrow and parquet are there where pyarrow is installed.",
                    default="csv",
                    choices=tuple(formats),
                ),
            ),
            media=tuple(media for media in formats.values() if media != JSON),
            problems=(404, 503),
        ),
        "symbols": Endpoint("/api/symbols", "Every symbol, with its price and its day so far (UTC).", "Symbols"),
        "gaps": Endpoint(
            "/api/gaps",
            "Trades that were missing, the newest first.",
            "Gaps",
            (SYMBOL, Parameter("open", "Only those that are still missing.", BOOLEAN, default=False), limit(100, 1000)),
            problems=unavailable,
        ),
        "findings": Endpoint(
            "/api/findings",
            "What auditors and other processes found, the newest first.",
            "Findings",
            (
                SYMBOL,
                Parameter("severity", "Of this severity alone.", choices=tuple(Severity)),
                Parameter("open", "Only those that stand and are not settled.", BOOLEAN, default=False),
                limit(100, 1000),
            ),
            problems=unavailable,
        ),
        "scoreboard": Endpoint(
            "/api/scoreboard",
            "Completeness and truth: what is there and what the exchange's own klines say of it, by UTC day (newest "
            f"first) and by symbol (worst first), over the first {BOARD_DAYS_MAX} days of a range at most.",
            "Scoreboard",
            (
                SYMBOL,
                Parameter("interval", "Of these bars alone; without it of all.", choices=tuple(intervals)),
                replace(START, description=f"A time of the first day, in UTC ms; else it is {BOARD_DAYS} days."),
                replace(END, description="A time of the last day, in UTC ms; else today."),
                limit(50, 1000),
            ),
            problems=unavailable,
        ),
        "status": Endpoint("/api/status", "Processes, streams and how live the live state is.", "Status"),
        "openapi": Endpoint("/api/openapi.json", "This description.", "Anything"),
    }
