"""The endpoints of klagg's own API as data: their parameters, which are checked here, and answers, for OpenAPI.
Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

from klagg.binance.serving.payloads import compact
from klagg.intervals import DAY_MS
from klagg.wire.findings import Severity

TEXT, INTEGER, BOOLEAN, TIME = "string", "integer", "boolean", "time"

TIME_MAX: Final = 253_402_300_799_999
"""The last millisecond of the year 9999."""

SCOREBOARD_DAYS: Final = 30
"""Days of the scoreboard if the request names none."""
SCOREBOARD_DAYS_MAX: Final = 366

SYMBOLS_CHARS_MAX: Final = 32_000
"""Of the names in one download, which are some 3,000."""

JSON: Final = "application/json"


class Decimals(StrEnum):
    """How decimals stand in a file."""

    EXACT = "exact"
    TEXT = "text"
    FLOAT = "float"


DECIMALS_SAID: Final = (
    "How prices and volumes stand in the file. exact: in Arrow and Parquet decimal128, prices and quote volumes with "
    "18 digits and the symbol's own scale, base volumes with 19 digits and the scale of price times quantity, so that "
    "close * volume is exact in pyarrow, DuckDB, polars, DataFusion and chDB (values that need more digits get 38); "
    "in JSON texts. text: texts in each format. float: the nearest 64-bit floats. CSV has the exact digits always."
)

EVERYWHERE: Final = frozenset({"token"})
"""Parameters that every query may have."""

_INTEGER: Final = re.compile(r"-?[0-9]{1,18}", re.ASCII)
_ISO: Final = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})"
    r"(?:[Tt ]([0-9]{2}:[0-9]{2})(?::([0-9]{2})(?:\.([0-9]{1,30}))?)?(?:[Zz]|([-+ ])([0-9]{2}):?([0-9]{2}))?)?",
    re.ASCII,
)
"""A date, or a date and a time as RFC 3339 (section 5.6) has them; seconds and zone may be left out. A plus that was
not escaped arrives as a space."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)


def time_of(text: str, *, ends: bool = False) -> int | None:
    """UTC ms of an ISO date or time, None if it is neither. A time without a zone is UTC, a date is its first
    millisecond, or its last one if it `ends` a range. What is outside 0 … TIME_MAX becomes the nearer of the two."""
    match = _ISO.fullmatch(text)
    if match is None:
        return None
    day, clock, seconds, fraction, sign, hours, minutes = match.groups()
    year_0 = day.startswith("0000")  # datetime begins with the year 1; the year 4 is a leap year too
    try:
        parsed = datetime.fromisoformat(
            f"{day.replace('0000', '0004', 1) if year_0 else day}T{clock or '00:00'}:00+00:00"
        )
    except ValueError:
        return None
    if int(seconds or 0) > 60 or int(hours or 0) > 23 or int(minutes or 0) > 59:  # 60: a leap second
        return None
    found = (parsed - _EPOCH) // _MILLISECOND + int(seconds or 0) * 1000 + int((fraction or "0")[:3].ljust(3, "0"))
    offset_ms = (int(hours or 0) * 60 + int(minutes or 0)) * 60_000
    found += offset_ms if sign == "-" else -offset_ms
    if ends and clock is None:
        found += DAY_MS - 1
    return 0 if year_0 else min(max(found, 0), TIME_MAX)


class ApiProblem(Exception):
    """A request to klagg's own API fails: HTTP `status`, `error` for programs, `message` (a sentence) for people."""

    def __init__(self, status: int, error: str, message: str) -> None:
        super().__init__(message)
        self.status, self.error, self.message = status, error, message

    def body(self) -> str:
        """The JSON of the answer."""
        return compact({"error": self.error, "message": self.message})


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a query. A TIME is ms since 1970 UTC, or an ISO date or time; `ends`: a date means its end."""

    name: str
    description: str
    kind: str = TEXT
    required: bool = False
    default: Any = None
    least: int | None = None
    most: int | None = None
    choices: tuple[str, ...] = ()
    chars_max: int = 64
    ends: bool = False

    def schema(self) -> dict[str, Any]:
        """Its JSON schema."""
        if self.kind == TIME:
            number = {"type": INTEGER, "minimum": 0, "maximum": TIME_MAX}
            return {"anyOf": [number, *({"type": TEXT, "format": name} for name in ("date", "date-time"))]}
        schema: dict[str, Any] = {"type": self.kind}
        if self.choices:
            schema["enum"] = list(self.choices)
        elif self.kind == TEXT:
            schema |= {"minLength": 1, "maxLength": self.chars_max, "pattern": r"^[^\x00]+$"}
        bounds = {"minimum": self.least, "maximum": self.most, "default": self.default}
        return schema | {name: value for name, value in bounds.items() if value is not None}

    def read(self, text: str) -> Any:
        """The value of a text; ApiProblem (400) if it is not valid."""
        if self.kind == INTEGER:
            return self._integer(text)
        if self.kind == TIME:
            return self._time(text)
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

    def _time(self, text: str) -> int:
        if _INTEGER.fullmatch(text):
            value = int(text)
            if not 0 <= value <= TIME_MAX:
                raise self._bad(f"must be between 0 and {TIME_MAX}")
            return value
        found = time_of(text, ends=self.ends)
        if found is None:
            raise self._bad(
                "must be a whole number of ms, or a date or time such as 2026-11-29 or 2026-11-29T12:00:00Z"
            )
        return found

    def _bad(self, what: str) -> ApiProblem:
        return ApiProblem(400, "bad_parameter", f"the parameter {self.name} {what}")


@dataclass(frozen=True, slots=True)
class ApiEndpoint:
    """One path, GET only. `schema` names the component of its JSON answer; `media` are further media types of answers;
    `problems` are the statuses of its errors beside 400 and 401."""

    path: str
    summary: str
    schema: str
    parameters: Sequence[Parameter] = ()
    media: Sequence[str] = ()
    problems: Sequence[int] = ()

    def read(self, query: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """The values of all parameters by name. Raises ApiProblem (400)."""
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
    """The parameters that name a series."""
    return (
        Parameter("symbol", "Name of the symbol, such as BTCUSDT.", required=True),
        Parameter("interval", "Length of the bars.", required=True, choices=tuple(intervals)),
    )


_TIMES: Final = " (UTC ms, an ISO date or an ISO time)"
_TIMES_END: Final = " (UTC ms, an ISO time, or an ISO date, which means its last millisecond)"

START: Final = Parameter(
    "start",
    f"Bars that open at or after this time{_TIMES}; the earliest come first.",
    TIME,
)
END: Final = Parameter("end", f"Bars that open at or before this time{_TIMES_END}.", TIME, ends=True)
SYMBOL: Final = Parameter("symbol", "Only this symbol.")


def limit(default: int, most: int) -> Parameter:
    """The parameter for the largest number of items."""
    return Parameter("limit", "The largest number of items.", INTEGER, default=default, least=1, most=most)


def endpoints(intervals: Sequence[str], formats: Mapping[str, str]) -> Mapping[str, ApiEndpoint]:
    """All endpoints by name, for the configured intervals and the available file formats (with their media types)."""
    return {
        **_endpoints_of_bars(intervals, formats),
        **_endpoints_of_records(intervals),
        "status": ApiEndpoint("/api/status", "Processes, streams, and how old the live state is.", "Status"),
        "openapi": ApiEndpoint("/api/openapi.json", "This OpenAPI description.", "Anything"),
    }


def _endpoints_of_bars(intervals: Sequence[str], formats: Mapping[str, str]) -> dict[str, ApiEndpoint]:
    series = range_parameters(intervals)
    return {
        "klines": ApiEndpoint(
            "/api/klines",
            "Klines with their provenance; without start the newest ones.",
            "Klines",
            (*series, START, END, limit(500, 5000)),
            problems=(404, 503),
        ),
        "download": ApiEndpoint(
            "/api/download",
            "All klines of a range as a file, of one symbol or of many. Up to 64 MiB it comes with its length, and in "
            "parts on request (Range); a longer file is sent as it is made. In Arrow and Parquet times are timestamps "
            "in ms, UTC, and ids are int64, null where they are not known.",
            "KlineRows",
            (
                Parameter(
                    "symbol",
                    "Name of the symbol, or several with commas between them, or * for all. A file of several has the "
                    "column symbol, and the bars come symbol by symbol.",
                    required=True,
                    chars_max=SYMBOLS_CHARS_MAX,
                ),
                series[1],
                replace(START, description=f"Bars that open at or after this time{_TIMES}.", required=True),
                END,
                Parameter(
                    "format",
                    "The file format; arrow and parquet need pyarrow on the server.",
                    default="csv",
                    choices=tuple(formats),
                ),
                Parameter("decimals", DECIMALS_SAID, default=Decimals.EXACT.value, choices=tuple(Decimals)),
            ),
            media=tuple(media for media in formats.values() if media != JSON),
            problems=(404, 503),
        ),
        "symbols": ApiEndpoint(
            "/api/symbols", "Every symbol, with its price and its current UTC day.", "Symbols", problems=(503,)
        ),
    }


def _endpoints_of_records(intervals: Sequence[str]) -> dict[str, ApiEndpoint]:
    """Gaps, findings and the scoreboard: what is kept in tables beside the klines."""
    unavailable = (503,)
    return {
        "gaps": ApiEndpoint(
            "/api/gaps",
            "Gaps: ids of trades that are or were missing, the newest first.",
            "Gaps",
            (SYMBOL, Parameter("open", "Only gaps that are still open.", BOOLEAN, default=False), limit(100, 1000)),
            problems=unavailable,
        ),
        "findings": ApiEndpoint(
            "/api/findings",
            "What auditors and other processes found, the newest first.",
            "Findings",
            (
                SYMBOL,
                Parameter("severity", "Only this severity.", choices=tuple(Severity)),
                Parameter("open", "Only findings that are open.", BOOLEAN, default=False),
                limit(100, 1000),
            ),
            problems=unavailable,
        ),
        "scoreboard": ApiEndpoint(
            "/api/scoreboard",
            "Completeness and correctness: how many bars exist, and how they compare with the exchange's own klines, "
            "by UTC day (newest first) and by symbol (worst first). Of a longer range the first "
            f"{SCOREBOARD_DAYS_MAX} days.",
            "Scoreboard",
            (
                SYMBOL,
                Parameter("interval", "Only bars of this length; without it all lengths.", choices=tuple(intervals)),
                replace(
                    START,
                    description=f"A time in the first day{_TIMES}; without it the range has {SCOREBOARD_DAYS} days.",
                ),
                replace(END, description=f"A time in the last day{_TIMES}; without it today."),
                limit(50, 1000),
            ),
            problems=unavailable,
        ),
    }
