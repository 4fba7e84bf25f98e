"""Trims a shard's streams: behind everyone who still reads, and, whatever happens, down to their caps.

Every stream is trimmed behind its oldest reader, minus a retention for people who look into it. A stream over its cap
is cut even if somebody has not read it, because at maxmemory Redis refuses the commit too; what was cut unread is a
finding with its exact numbers, and finding and cut go out in one commit. Everything else is trimmed in slices so small
that no other client of Redis waits for one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from aggregator.commit import after
from aggregator.publisher import Outputs
from klagg.drivers.redis_streams import Entry, Streams, Trim, Write
from klagg.errors import ContractError
from klagg.process.alarms import AlarmKind, Alarms
from klagg.settings import Settings
from klagg.wire.entry_id import PART_MAX, EntryId, milliseconds_of, next_id
from klagg.wire.fields import Fields, integer_of, text_of
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.groups import groups_of
from klagg.wire.keys import FEED, Keys

EVERY_S: Final = 10.0
KEPT_MS: Final = 600_000
"""What stays behind the oldest reader of a stream, for people who look into it."""

KEPT_ENTRIES: Final = {"klines": 100_000, "live": 600, "events": 50_000, "findings": 10_000, "dead": 10_000}
"""About how many entries stay of a stream that no group reads; no reader of `live` needs more to find its place."""
KEPT_READ: Final = ("events", "findings")
"""Streams of which so many entries stay even if a group has read them."""

SLICE_ENTRIES: Final = 10_000
SLICE_BYTES: Final = 16 << 20
"""What goes with one XTRIM; Redis takes about 2 ms for it."""
NODE_ENTRIES: Final = 100
"""Entries that Redis keeps together at most (stream-node-max-entries); slices leave a node whole."""
BUDGET_S: Final = 0.05
"""How long one round may take; what is left then is due at once."""
HELD_PERCENT: Final = 95
"""A stream over its cap is brought down to this much of it, so that the next entry is not one too many."""
FEED_PERCENT: Final = 70
"""The feed is brought down to this much of its cap, if what is kept for people can go: ingest stops at the cap."""
CUT_ENTRIES: Final = 500
"""Entries that are cut unread in one commit."""
LIVE_BURST: Final = 600
BURST: Final = 20_000
"""Entries after which a round is due before its time: an aggregator that catches up appends as fast as it can."""

_END: Final = str(EntryId(PART_MAX, PART_MAX))


@dataclass(frozen=True, slots=True)
class Trimmed:
    """One stream: the groups that must have read an entry before it goes, and its cap in percent of maxmemory."""

    name: str
    key: str
    groups: tuple[str, ...]
    cap_percent: int


def streams_of(settings: Settings, keys: Keys) -> list[Trimmed]:
    """The streams of one shard."""
    config, groups = settings.streams, groups_of(settings)
    caps = {
        FEED: config.feed_percent,
        "klines": config.klines_percent,
        "events": config.events_percent,
        "live": config.live_percent,
        "requests": config.requests_percent,
        "findings": config.findings_percent,
        "dead": config.dead_percent,
    }
    return [Trimmed(name, getattr(keys, name), groups.get(name, ()), percent) for name, percent in caps.items()]


def back(entry_id: str, by_ms: int) -> str:
    """The lowest stream id that is `by_ms` (ms of the Redis server's clock) before this one."""
    return str(EntryId(max(0, milliseconds_of(entry_id) - by_ms), 0))


def oldest(ids: Iterable[str]) -> str:
    """The lowest of these ids; beyond all ids if there is none."""
    lowest = _END
    for each in ids:
        lowest = each if after(lowest, each) else lowest
    return lowest


def ranges(entries: Sequence[Entry]) -> str:
    """Which entries these are: for each writer its lowest and highest number, in the order of the stream."""
    found: dict[str, list[int]] = {}
    for entry in entries:
        try:
            found.setdefault(text_of(entry.fields, "writer"), []).append(integer_of(entry.fields, "seq"))
        except ContractError:
            found.setdefault("an unknown writer", []).append(0)
    return ", ".join(f"seq {min(numbers)} to {max(numbers)} of {writer}" for writer, numbers in found.items())


class Trimmer:
    """Trims one shard's streams. `round` when `due`; what `drain` gives goes into the next commit."""

    def __init__(self, streams: Streams, keys: Keys, settings: Settings, log: logging.Logger, alarms: Alarms) -> None:
        self._streams, self._keys, self._log, self._alarms = streams, keys, log, alarms
        self._trimmed = streams_of(settings, keys)
        self._shards, self._maxmemory_mb = settings.shards, settings.redis.maxmemory_mb
        self._due_s = 0.0
        self._end_s = 0.0
        self.pressed = False
        """Whether the feed is large, and only a newer checkpoint lets more of it go."""
        self._appended = self._appended_live = 0
        self._unknown: set[tuple[str, str]] = set()
        self._findings: list[Fields] = []
        self._cuts: list[Write] = []

    def ensure_groups(self) -> None:
        """Every configured group, at the very beginning of its stream."""
        for stream in self._trimmed:
            for group in stream.groups:
                self._streams.ensure_group(stream.key, group)

    def due(self, now_s: float) -> bool:
        """Whether a round is due at `now_s` (of time.monotonic())."""
        return now_s >= self._due_s or self._appended >= BURST or self._appended_live >= LIVE_BURST

    def hurry(self) -> None:
        """The next round is due at once."""
        self._due_s = 0.0

    def note(self, outputs: Outputs) -> None:
        """Note that these outputs were committed."""
        self._appended += len(outputs.klines) + len(outputs.events) + len(outputs.requests)
        self._appended_live += len(outputs.live)

    def drain(self) -> tuple[list[Fields], list[Write]]:
        """The findings and the cuts that they report, since the last call; both go into one commit."""
        findings, cuts, self._findings, self._cuts = self._findings, self._cuts, [], []
        if cuts:
            self.hurry()
        return findings, cuts

    def round(self, now_s: float, checkpoint_id: str, time_ms: int) -> None:
        """Trim what may go. `checkpoint_id` is where a restart reads the feed on; `now_s` is of time.monotonic(),
        `time_ms` is exchange time, for findings. RedisUnavailable or RedisRefused as of any read."""
        self._due_s, self._end_s = now_s + EVERY_S, time.monotonic() + BUDGET_S
        self._appended = self._appended_live = 0
        information = self._streams.information("memory")
        maxmemory = int(information.get("maxmemory", 0)) or self._maxmemory_mb << 20
        for stream in self._trimmed:
            cap = maxmemory * stream.cap_percent // 100 // self._shards
            self._trim(stream, checkpoint_id, cap, time_ms)

    def _trim(self, stream: Trimmed, checkpoint_id: str, cap: int, time_ms: int) -> None:
        needed = self._needed(stream, time_ms)
        length = self._streams.length(stream.key)
        if not length:
            return
        excess = length
        if stream.name == FEED:
            floor = back(checkpoint_id, KEPT_MS)
        elif stream.groups:
            floor = back(needed, KEPT_MS)
        else:
            floor = self._live_floor() if stream.name == "live" else _END
        if not stream.groups or stream.name in KEPT_READ:
            excess -= KEPT_ENTRIES.get(stream.name, 0)
        used = self._streams.memory(stream.key)
        if self._slices(stream.key, floor, excess, used // length):
            used = self._streams.memory(stream.key)
        low = cap * FEED_PERCENT // 100
        if used > low and stream.name == FEED:
            excess = -(-length * (used - low) // used)
            if self._slices(stream.key, checkpoint_id, excess, used // length):
                used = self._streams.memory(stream.key)
        if stream.name == FEED:
            self.pressed = used > low
        if used >= cap and stream.name == FEED:
            # Cut by nobody: it is the only copy of trades that are not folded yet.
            sentence = (
                f"{stream.key} takes {used >> 20} MB of its cap of {cap >> 20} MB (streams.feed_percent), so trades "
                "are held back: the aggregator falls behind"
            )
            self._alarms.raise_(AlarmKind.FEED_FULL, sentence, stream.key)
        elif stream.name == FEED:
            self._alarms.clear(AlarmKind.FEED_FULL, stream.key)
        elif used > cap:
            self._hold(stream, needed, used, cap, time_ms)

    def _needed(self, stream: Trimmed, time_ms: int) -> str:
        """The lowest id that a configured group still needs. Unknown groups are reported, once, and do not count."""
        groups = self._streams.groups(stream.key)
        for group in stream.groups:
            if group not in groups:  # destroyed by hand, or this Redis is older than the group
                self._log.error("the group %s of %s was gone: it begins anew", group, stream.key)
                self._streams.ensure_group(stream.key, group)
                groups[group] = "0-1"
        for group in sorted(groups.keys() - set(stream.groups)):
            if (stream.key, group) not in self._unknown:
                self._unknown.add((stream.key, group))
                evidence = f"{stream.key} has a group {group!r} that is not configured: nothing is kept for it"
                self._findings.append(
                    finding_entry(FindingKind.UNKNOWN_GROUP, Severity.WARNING, evidence, time_ms=time_ms)
                )
        return oldest(groups[group] for group in stream.groups)

    def _live_floor(self) -> str:
        """The oldest position that a reader of `live` has published."""
        positions = []
        for key, value in self._streams.values_like(self._keys.reader("*")).items():
            try:
                positions.append(str(EntryId.of(value)))
            except ContractError:
                self._log.warning("%s holds no stream id: %r", key, value[:40])
        return oldest(positions)

    def _slices(self, key: str, floor: str, excess: int, entry_bytes: int) -> int:
        """Drop at most `excess` entries older than `floor`, by whole nodes of the stream; how many went.

        `entry_bytes` is about what an entry takes.
        """
        slice_entries = max(1, min(SLICE_ENTRIES, SLICE_BYTES // max(1, entry_bytes)))
        gone = 0
        while gone < excess and (part := self._streams.trim_slice(key, floor, min(excess - gone, slice_entries))):
            gone += part
            if time.monotonic() > self._end_s:
                self.hurry()
                break
        return gone

    def _hold(self, stream: Trimmed, needed: str, used: int, cap: int, time_ms: int) -> None:
        """Bring a stream down to its cap: first what is kept for people, then, if it must be, what was not read."""
        length = self._streams.length(stream.key)
        excess = -(-length * (used - cap * HELD_PERCENT // 100) // used)
        gone = self._slices(stream.key, needed, excess, used // length)
        if not stream.groups:
            if excess - gone <= NODE_ENTRIES:
                self._streams.trim_to(stream.key, length - excess)
            self._log.warning("%s was over its cap of %d bytes: %d entries went early", stream.key, cap, excess)
        elif gone < excess and not self._cuts and (used := self._streams.memory(stream.key)) > cap:
            self._cut(stream, needed, min(excess - gone, CUT_ENTRIES), f"it takes {used} bytes of its {cap}", time_ms)

    def _cut(self, stream: Trimmed, needed: str, count: int, why: str, time_ms: int) -> None:
        """Let the next commit cut the oldest entries, with a finding if they were not read."""
        entries = self._streams.range(stream.key, count=count)
        if not entries:
            return
        self._cuts.append(Trim(stream.key, next_id(entries[-1].id)))
        unread = [entry for entry in entries if not after(needed, entry.id)]
        if unread:
            evidence = (
                f"{len(unread)} entries of {stream.key} are cut that {' or '.join(stream.groups)} had not done with "
                f"({why}): {ranges(unread)}, ids {unread[0].id} to {unread[-1].id}"
            )
            self._findings.append(finding_entry(FindingKind.DATA_LOSS, Severity.ERROR, evidence, time_ms=time_ms))
