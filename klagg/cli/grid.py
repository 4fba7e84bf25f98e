"""Whether klines of a file are on klagg's grid of an interval: which interval they are of, and where its bars open."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Final

from klagg.cli.missing import moment
from klagg.errors import ConfigError
from klagg.intervals import DAY_MS, HOUR_MS, INTERVALS, MINUTE_MS, SECOND_MS, Interval
from klagg.recordings import OfficialKline

_ENOUGH_ROWS: Final = 4
"""From so many rows on the distance of the closest two tells the interval; fewer may be what gaps have left."""


def check_grid(rows: Sequence[OfficialKline], kind: Interval, path: str) -> None:
    """ConfigError, in one sentence, if the rows are not klines of `kind` that open where klagg's do."""
    times = sorted(row.open_time_ms for row in rows)
    off = [each for each in times if kind.open_time(each) != each]
    length = _usual_length(rows)
    other = _other_by_distance(times, kind) if length is None else None if _is_of(length, kind) else length
    if other is not None:
        raise ConfigError(f"{path} does not hold {kind.name} klines: its bars are {spell(other)} long")
    if off and len(off) == len(times):
        shifts = [_shift(each, kind) for each in off]
        least, most = min(shifts), max(shifts)
        by = _side(least) if least == most else f"between {_side(least)} and {_side(most)}"
        raise ConfigError(
            f"{path} is on another grid: its {kind.name} bars open {by} than klagg's (the first at {moment(off[0])}, "
            f"klagg's at {moment(off[0] - shifts[0])}), so that no bar of one is a bar of the other"
        )
    if off:
        raise ConfigError(f"{path}: no {kind.name} bar opens at {moment(off[0])}, as its row of {off[0]} says")
    for row in rows:
        # Those a little shorter or longer are the exchange's own: its spot dumps have bars that an outage cut.
        if row.close_time_ms is not None and row.close_time_ms >= row.open_time_ms + 2 * kind.shortest_ms - 1:
            raise ConfigError(
                f"{path}: the row that opens at {moment(row.open_time_ms)} is longer than a {kind.name} bar: it closes "
                f"at {moment(row.close_time_ms)}"
            )


def step_of(rows: Sequence[OfficialKline], path: str) -> Interval:
    """The interval of klines, from their close times or else from the distance of the closest two.

    ConfigError if it cannot be told, is none that klagg knows, or the rows are not on its grid.
    """
    if not rows:
        raise ConfigError(f"{path} holds no klines of bars that are over")
    times = sorted({row.open_time_ms for row in rows})
    length = _usual_length(rows) or min((late - early for early, late in itertools.pairwise(times)), default=0)
    if not length:
        raise ConfigError(f"{path}: one row without a close time does not tell its interval")
    step = next((each for each in INTERVALS.values() if _is_of(length, each)), None)
    if step is None:
        raise ConfigError(f"{path}: its rows are {spell(length)} apart, which is no interval that klagg knows")
    check_grid(rows, step, path)
    return step


def spell(length_ms: int) -> str:
    """A length of time in the largest units that it fills."""
    parts = []
    for unit_ms, name in ((DAY_MS, "day"), (HOUR_MS, "hour"), (MINUTE_MS, "minute"), (SECOND_MS, "second"), (1, "ms")):
        count, length_ms = divmod(length_ms, unit_ms)
        if count:
            parts.append(f"{count} {name}{'s' if count > 1 and name != 'ms' else ''}")
    return " ".join(parts)


def _usual_length(rows: Sequence[OfficialKline]) -> int | None:
    """The length that most rows have by their close times; None if these are not known."""
    lengths = Counter(row.close_time_ms + 1 - row.open_time_ms for row in rows if row.close_time_ms is not None)
    return lengths.most_common(1)[0][0] if lengths else None


def _is_of(length_ms: int, kind: Interval) -> bool:
    return length_ms == kind.length_ms or (kind.length_ms == 0 and kind.shortest_ms <= length_ms <= 31 * DAY_MS)


def _other_by_distance(times: Sequence[int], kind: Interval) -> int | None:
    """The length of the bars if their distance says that they are not of `kind`; None if they may be. Bars further
    apart may be what gaps have left, unless all of them open where those of a longer interval do."""
    closest = min((late - early for early, late in itertools.pairwise(times) if late > early), default=0)
    if len(times) < _ENOUGH_ROWS or _is_of(closest, kind):
        return None
    if closest < kind.shortest_ms:
        return closest
    longer = next((each for each in INTERVALS.values() if each.length_ms == closest), None)
    return closest if longer and all(longer.open_time(each) == each for each in times) else None


def _shift(time_ms: int, kind: Interval) -> int:
    """How much later (or earlier, below 0) than the nearest bar's a time is, in ms."""
    opened = kind.open_time(time_ms)
    following = kind.close_time(opened) + 1
    return time_ms - opened if time_ms - opened <= following - time_ms else time_ms - following


def _side(shift_ms: int) -> str:
    return f"{spell(abs(shift_ms))} {'later' if shift_ms > 0 else 'earlier'}"
