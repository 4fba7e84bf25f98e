"""The real processes under a fault script, their memory, and the comparison of every bar at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import quote

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.intervals import MINUTE_MS, interval
from klagg.kline import NINE_VALUES
from klagg.wire.entries import EVENT_GAP_CLOSED, EVENT_GAP_OPENED, event_rows
from klagg.wire.fields import texts_of
from tests.endtoend.kit import SILENT_S, Stack, migrated, stack, table
from tests.kit import eventually
from tests.soak.expected import Expected, Market, Nine, expected, joined
from tests.soak.memory import Memory, thirds
from tests.soak.plan import CALM_S, plan

PROCESSES: Final = ("clock", "repair", "aggregator", "writer", "ingest", "ingest-b")
LOOK_S: Final = 5.0
ACT_S: Final = 0.2
TELL_S: Final = 60.0
SETTLE_S: Final = 300.0
"""So long after the last fault everything must be healed and proven."""
FLAT_FROM_S: Final = 1800
"""Memory is judged in soaks of at least this length: Redis keeps ten minutes of the feed for people."""
INTERVALS: Final = ("1m", "5m")
OFFICIAL: Final = (1, 2, 3, 4, 5, 7, 8, 9, 10)
"""Where the nine values stand in a row of the exchange's klines."""
WEIGHT_S: Final = 120.0
MB: Final = 1024 * 1024

Rows = dict[tuple[str, str, int], dict[str, Any]]
Act = Callable[[Stack, float], None]


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


class Soak:
    """`run` plays it and says what is wrong. `script` is a fault script instead of the seeded one; times are exchange
    time, which runs `speed` times as fast as real time."""

    def __init__(
        self,
        folder: Path,
        market: Market,
        minutes: int,
        *,
        script: str = "",
        speed: float = 1.0,
        calm_s: float = CALM_S,
        act: Act | None = None,
    ) -> None:
        """`calm_s` are real seconds: processes need them to start. `act` is called every now and then, with the seconds
        since the exchange began, which is when the first line connects."""
        self._folder, self._market, self._seconds, self._speed = folder, market, minutes * 60, speed
        self._calm_s = int(calm_s * speed)
        self._script, self._act = script or plan(market.seed, self._seconds, self._calm_s), act
        self._memory = Memory()
        self.events: Counter[str] = Counter()
        """Gaps that opened and ended, so far."""
        self._events_from = "-"
        self._spans: dict[tuple[str, str, str], tuple[int, int]] = {}
        self.healed: set[tuple[str, int]] = set()
        """Symbols and minutes that gaps lay in which the exchange's klines healed."""

    def run(self, redis_url: str, database_url: str) -> list[str]:
        """What is wrong, in sentences; nothing if the soak was sound. RuntimeError if a process ends by itself."""
        script = self._folder / "faults.toml"
        script.write_text(self._script, encoding="utf-8")
        market = [*self._market.arguments(), "--speed", str(self._speed), "--faults", str(script), "--wait"]
        database = migrated(database_url)
        with stack(self._folder, redis_url, database_url, market) as running:
            began_ms = int(running.ask("/klagg/state")["startTime"])
            running.start(*PROCESSES)
            end_ms = (began_ms + self._seconds * 1000) // MINUTE_MS * MINUTE_MS
            first_ms = ((began_ms + self._calm_s * 1000) // MINUTE_MS + 1) * MINUTE_MS
            self._last(running, began_ms, end_ms)
            faults: Counter[str] = Counter()
            for each in running.ask("/klagg/state")["faults"]:
                faults[each["kind"]] += each["acted"]
            say(f"the faults are over: {_told(faults)}")
            found = expected(self._market, first_ms - 10 * MINUTE_MS, end_ms)
            say(f"{len(found.bars)} bars expected")
            unproven = self._settle(running, database, found, first_ms, end_ms)
            self._end_gaps(running)
            rows, wrong = self._rows(database), [f"not proven: {each}" for each in unproven]
            sources: Counter[str] = Counter()
            for key in sorted(bar for bar in found.bars if bar[2] >= first_ms):
                row = rows.get(key)
                sources[row["source"] if row else "missing"] += 1
                if row is None:
                    wrong.append(f"missing: {key}")
            wrong += self._differences(running, rows, found, first_ms, end_ms)
            codes = running.stop(*PROCESSES[::-1])
            wrong += [f"{name} ended with {code}" for name, code in codes.items() if code]
        database.close()
        say(f"{sum(sources.values())} bars compared: {_told(sources)}; events: {_told(self.events)}")
        for name, values in sorted(self._memory.samples.items()):
            middle, last = thirds(values)
            say(f"memory of {name}: most {middle:.0f} MB in the middle third, {last:.0f} MB in the last")
        if self._seconds >= FLAT_FROM_S:
            wrong += [f"{name} grew from {a:.0f} to {b:.0f} MB" for name, (a, b) in self._memory.grown().items()]
        return wrong

    def _last(self, running: Stack, began_ms: int, end_ms: int) -> None:
        """Look at the memory of all processes until the end."""
        streams, told_s = running.streams(), time.monotonic()
        while True:
            running.alive()
            now_ms = int(running.ask("/klagg/state")["serverTime"])
            if now_ms >= end_ms:
                break
            pids = {name: child.process.pid for name, child in running.children.items()}
            used = int(streams.information("memory")["used_memory"])
            self._memory.look(pids, {"redis": used / MB})
            if time.monotonic() - told_s >= TELL_S:
                told_s = time.monotonic()
                sizes = ", ".join(f"{name} {values[-1]:.0f}" for name, values in self._memory.samples.items())
                say(f"{(end_ms - now_ms) / 1000:.0f} s left; MB: {sizes}")
            self._count(streams)
            if self._act is not None:
                self._act(running, (now_ms - began_ms) / 1000)
            time.sleep(LOOK_S if self._act is None else ACT_S)
        streams.close()

    def _count(self, streams: Streams) -> None:
        """Gaps so far; the stream is trimmed behind us."""
        for each in streams.range("events:{0}", self._events_from):
            self._events_from, kind = f"({each.id}", each.fields[b"kind"].decode()
            if kind in (EVENT_GAP_OPENED, EVENT_GAP_CLOSED):
                self.events[kind] += int(each.fields[b"n"])
                for row in event_rows(texts_of(each.fields)):
                    self._note(kind, row)

    def _note(self, kind: str, row: dict[str, str]) -> None:
        """A gap that opened, or one that ended."""
        gap = row["symbol"], row["from_id"], row["to_id"]
        if kind == EVENT_GAP_OPENED:
            self._spans[gap] = int(row["before_time"]), int(row["after_time"])
        elif row["reason"] == "healed" and gap in self._spans:
            first_ms, last_ms = self._spans[gap]
            minutes = range(first_ms // MINUTE_MS * MINUTE_MS, last_ms + 1, MINUTE_MS)
            self.healed |= {(row["symbol"], each) for each in minutes}

    def _rows(self, database: Database) -> Rows:
        return {(symbol, name, at): row for name in INTERVALS for (symbol, at), row in table(database, name).items()}

    def _settle(
        self, running: Stack, database: Database, found: Expected, first_ms: int, end_ms: int
    ) -> list[tuple[str, str, int]]:
        """Wait until every bar behind which its symbol traded again is proven; those that are not in time."""
        wanted = [
            key
            for key in found.bars
            if key[2] >= first_ms and key[2] + (interval(key[1]).length_ms or 0) <= found.last_ms[key[0]]
        ]
        lacking = wanted

        def proven() -> bool:
            nonlocal lacking
            running.alive()
            rows = self._rows(database)
            lacking = [key for key in lacking if not ((row := rows.get(key)) and (row["complete"] or row["official"]))]
            return not lacking

        with suppress(AssertionError):  # what is lacking then is told by name
            eventually(proven, SETTLE_S, 1)
        now_ms = int(running.ask("/klagg/state")["serverTime"])
        # The trade that was to prove them may have been lost, too: it is missed when their symbols trade again.
        if not any(running.recorded(name, end_ms, now_ms) for name in {key[0] for key in lacking}):
            with suppress(AssertionError):
                eventually(proven, SILENT_S / self._speed, 1)
        say(f"{len(wanted) - len(lacking)} of {len(wanted)} bars are proven")
        return lacking

    def _end_gaps(self, running: Stack) -> None:
        """Wait until every gap that opened has ended; those of the last moments may lie behind the last bar."""
        streams = running.streams()

        def ended() -> bool:
            running.alive()
            self._count(streams)
            return self.events[EVENT_GAP_CLOSED] >= self.events[EVENT_GAP_OPENED]

        with suppress(AssertionError):  # the caller holds the numbers against each other
            eventually(ended, SETTLE_S, 1)
        streams.close()

    def _differences(self, running: Stack, rows: Rows, found: Expected, first_ms: int, end_ms: int) -> list[str]:
        """Bars that are not what their trades, or the exchange's klines that healed them, say."""
        wrong = []
        for symbol in sorted({key[0] for key in found.bars}):
            for name in INTERVALS:
                official: dict[int, Nine] | None = None
                for key in [each for each in found.bars if each[:2] == (symbol, name) and each[2] >= first_ms]:
                    row = rows.get(key)
                    if row is None or not (row["complete"] or row["official"]):
                        continue  # told already, or not to be known yet: its symbol has not traded again
                    want, length_ms = found.bars[key], interval(name).length_ms or 0
                    minutes = range(key[2], key[2] + length_ms, MINUTE_MS)
                    theirs = row["official"]
                    if theirs and name == "1m":
                        official = official or _official(running, symbol, first_ms, end_ms)
                        want = official[key[2]]
                    elif theirs:  # its minutes are compared by themselves
                        parts = [rows.get((symbol, "1m", at)) for at in minutes]
                        want = joined([_nine(part) for part in parts if part])
                    if _nine(row) != want:
                        wrong.append(f"differs: {key} {row['source']}: {_nine(row)}, expected {want}")
        return wrong


def _nine(row: dict[str, Any]) -> Nine:
    return tuple(row[each] for each in NINE_VALUES)


def _official(running: Stack, symbol: str, first_ms: int, end_ms: int) -> dict[int, Nine]:
    """The exchange's own minutes; waits while repair uses all of the weight."""
    path = f"/fapi/v1/klines?symbol={quote(symbol)}&interval=1m&startTime={first_ms}&endTime={end_ms - 1}"

    def asked() -> list[Any] | None:
        try:
            rows: list[Any] = running.ask(f"{path}&limit={(end_ms - first_ms) // MINUTE_MS}")
        except HTTPError as refused:
            if refused.code not in (418, 429):
                raise
            return None
        return rows

    rows = eventually(asked, WEIGHT_S, 1)
    assert rows is not None
    return {row[0]: tuple(Decimal(str(row[at])) for at in OFFICIAL) for row in rows}


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{key} {count}" for key, count in sorted(counts.items())) or "none"
