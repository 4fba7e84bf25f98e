"""What `klagg backfill` loads, cut into parts: which bars of which file, or of which month asked of REST. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Final

from klagg.errors import ConfigError
from klagg.intervals import HOUR_MS, INTERVALS, Interval

OfficialRow = tuple[str, str, str, str, str, str, str, str, str, str, str]
"""A kline as the exchange writes it, in the order of its dumps: open_time, open, high, low, close, volume, close_time
(both in ms), quote_volume, trades, taker_buy_volume, taker_buy_quote_volume."""

_INTERVAL_NAMES: Final = {**{name: name for name in INTERVALS}, "1mo": "1M"}
"""How file names say intervals: months are 1mo, because not every file system tells 1M from 1m."""

_DUMP: Final = re.compile(
    rf"(?P<symbol>[^\W_][\w.-]{{0,63}})-(?P<interval>{'|'.join(_INTERVAL_NAMES)})-"
    r"(?P<date>[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?)(?:\.csv|\.csv\.gz|\.csv\.zip|\.zip|\.json|\.arrow|\.parquet)"
)
_DATE: Final = re.compile(r"([0-9]{4})(?:-([0-9]{1,2})(?:-([0-9]{1,2}))?)?")

OTHER_KINDS: Final = {
    "spot": "of the spot market",
    "cm": "of the COIN-M futures",
    "option": "of options",
    "markpriceklines": "of mark prices",
    "indexpriceklines": "of index prices",
    "premiumindexklines": "of the premium index",
}
"""Folders of the exchange's archive with files of the very same names that hold something else, in small letters, and
what that is (binance-public-data, README: data/spot, data/futures/um, data/futures/cm, data/option)."""

OWN_MARKET: Final = "um"
"""The folder of the USDⓈ-M futures in the exchange's archive: what lies above it says nothing of its files."""

_COIN_MARGINED: Final = re.compile(r"\w+USD_(?:PERP|[0-9]{6})", re.IGNORECASE)
"""Contracts of the COIN-M futures, like BTCUSD_PERP and BTCUSD_240628 (Binance COIN-M docs, "Exchange Information").
BTCUSDT_240628, which ends in its quote asset, is one of the USDⓈ-M futures."""


@dataclass(frozen=True, slots=True)
class Part:
    """The bars of a symbol and interval that open in [from_ms, to_ms), out of one file or asked of REST.

    `mark` tells one state of a file from another, `span` is when its bars may open by its name. What opens before
    `start_ms` has been loaded by an earlier run.
    """

    symbol: str
    interval: Interval
    name: str
    from_ms: int
    to_ms: int
    path: Path | None = None
    mark: str = ""
    span: tuple[int, int] = (0, 0)
    start_ms: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What the table backfilled knows it by: symbol, interval, name."""
        return self.symbol, self.interval.name, self.name

    @property
    def bars(self) -> int:
        """How many bars are left to load if none is missing."""
        bars = self.interval
        return max(0, bars.bucket_of(self.to_ms - 1) - bars.bucket_of(max(self.start_ms, self.from_ms) - 1))


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be a kline and was left out: its line or item, why, and the bar that it lacks (UTC ms)."""

    line: int
    open_time: int
    why: str


BAD_KEPT_MAX: Final = 100
"""So many bad rows of a part are remembered; the others are counted."""


@dataclass(frozen=True, slots=True)
class HistoryRows:
    """Rows of a part, open times ascending; with them everything of it that opens before `until_ms` is loaded.

    `bad` holds the first BAD_KEPT_MAX of the `bad_rows` bad rows of the part until there.
    """

    part: Part
    rows: Sequence[OfficialRow]
    until_ms: int
    bad: tuple[BadRow, ...] = ()
    bad_rows: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A part that could not be loaded to its end, and why, in one sentence; or, with `row`, one row of it that cannot
    be a kline, while the others are loaded."""

    part: Part
    reason: str
    row: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """What an earlier run has loaded of a part: bars that open in [from_ms, until_ms), without `bad_rows` bad rows, of
    which `bad` holds the first."""

    mark: str
    from_ms: int
    until_ms: int
    bad: tuple[BadRow, ...] = ()
    bad_rows: int = 0


def span_of(text: str) -> tuple[int, int]:
    """[start, end) in UTC ms of a year, a month, a day (2024, 2024-09, 2024-09-30); of a time both are that time.

    ConfigError if it is none of these.
    """
    date = _DATE.fullmatch(text)
    try:
        if date is None:
            moment = datetime.fromisoformat(text)
            at_ms = round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
            return at_ms, at_ms
        year, month, day = int(date[1]), int(date[2] or 1), int(date[3] or 1)
        start_ms = _ms(year, month, day)
        if date[3]:
            return start_ms, start_ms + 24 * HOUR_MS
        return start_ms, _ms(year + month // 12, month % 12 + 1, 1) if date[2] else _ms(year + 1, 1, 1)
    except ValueError:
        raise ConfigError(f"{text!r} is no time: write 2024, 2024-09, 2024-09-30 or 2024-09-30T12:00 (UTC)") from None


def _ms(year: int, month: int, day: int) -> int:
    return round(datetime(year, month, day, tzinfo=UTC).timestamp() * 1000)


def other_kind(folder: PurePath) -> str:
    """What the files of a folder are of, by its path, if not of the trades of USDⓈ-M futures; empty if they may be.

    What lies above a folder `um` does not count: a person's own folders may be named anything.
    """
    parts = [each.casefold() for each in folder.parts]
    if OWN_MARKET in parts:
        parts = parts[len(parts) - parts[::-1].index(OWN_MARKET) :]
    return next((OTHER_KINDS[each] for each in parts if each in OTHER_KINDS), "")


def is_coin_margined(symbol: str) -> bool:
    """Whether a name is that of a contract of the COIN-M futures."""
    return _COIN_MARGINED.fullmatch(symbol) is not None


def part_of_file(path: Path, from_ms: int, to_ms: int, mark: str = "") -> Part | None:
    """What a file named like BTCUSDT-1m-2024-09.zip holds of [from_ms, to_ms); None if that is no name of a dump.

    It may be nothing (`bars` 0).
    """
    named = _DUMP.fullmatch(path.name)
    if named is None:
        return None
    bars = INTERVALS[_INTERVAL_NAMES[named["interval"]]]
    try:
        start_ms, end_ms = span_of(named["date"])
    except ConfigError:
        return None
    # A week may have opened before the month does.
    span = bars.open_time(start_ms), end_ms
    return Part(named["symbol"], bars, path.name, max(from_ms, span[0]), min(to_ms, span[1]), path, mark, span)


def parts_of_range(symbol: str, bars: Interval, from_ms: int, to_ms: int) -> list[Part]:
    """[from_ms, to_ms) as parts for REST: a month each, or a year where a month has few bars."""
    found = []
    digits = len("2024-09") if bars.shortest_ms < HOUR_MS else len("2024")
    while from_ms < to_ms:
        name = datetime.fromtimestamp(from_ms / 1000, UTC).strftime("%Y-%m")[:digits]
        end_ms = min(span_of(name)[1], to_ms)
        found.append(Part(symbol, bars, f"REST {name}", from_ms, end_ms))
        from_ms = end_ms
    return found


def resumed(parts: Iterable[Part], loaded: Mapping[tuple[str, str, str], Loaded]) -> list[Part]:
    """What earlier runs have left to do, where they were ended."""
    found = []
    for part in parts:
        known = loaded.get(part.key)
        if known and known.mark == part.mark and known.from_ms <= part.from_ms <= known.until_ms:
            if known.until_ms >= part.to_ms:
                continue
            part = replace(part, start_ms=known.until_ms, from_ms=known.from_ms)
        found.append(part)
    return found


def in_order(parts: Iterable[Part]) -> list[Part]:
    """Oldest first, so that the chunks that are written to stay few; a month before its days."""
    return sorted(parts, key=lambda part: (part.from_ms, part.symbol, part.interval.shortest_ms, part.name))
