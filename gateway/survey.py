"""A survey of Redis: processes, streams, and how far the table has come. The gateway runs it in a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from klagg.drivers.redis_streams import Entry, Streams
from klagg.wire.entries import REST_LINE, TRADES
from klagg.wire.entry_id import milliseconds_of
from klagg.wire.fields import texts_of, upgraded
from klagg.wire.keys import GROUP_WRITERS, HEARTBEAT_PATTERN, Keys

FINDINGS_SHOWN: Final = 200
"""How many of each shard's newest findings are read."""

FEED_LOOKED: Final = 100
"""So many of a feed's newest entries are looked at for trades: while a line brings some, most entries are such."""

STREAMS: Final = ("feed", "klines", "live", "events", "requests", "findings", "dead")


@dataclass(frozen=True, slots=True)
class Survey:
    """`beats` are the heartbeats of all processes (JSON by key), `lengths` entries by stream, `findings` the newest
    entries of each shard, newest first (as `_finding_of`). `unwritten_ms` by shard is the time (ms by the clock of
    Redis) of the oldest final that the table lacks, None if it lacks none; a shard without a writer is absent. `fed`
    are the ids of the newest trades that a line brought, by feed. `made`: it was read from
    Redis."""

    beats: Mapping[str, str] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    findings: Sequence[dict[str, str]] = ()
    unwritten_ms: dict[int, int | None] = field(default_factory=dict)
    fed: dict[str, str] = field(default_factory=dict)
    made: bool = False


def survey(streams: Streams, shards: int, before: Survey | None = None) -> Survey:
    """Read everything; `before` is the survey before. Raises RedisUnavailable, RedisRefused."""
    beats = streams.values_like(HEARTBEAT_PATTERN)
    fed = dict(before.fed) if before else {}
    lengths: dict[str, int] = {}
    findings: list[dict[str, str]] = []
    unwritten: dict[int, int | None] = {}
    for shard in range(shards):
        keys = Keys(shard)
        for name in STREAMS:
            key = getattr(keys, name)
            lengths[key] = streams.length(key)
        for entry in streams.newest(keys.feed, count=FEED_LOOKED):
            if entry.fields.get(b"kind") == TRADES.encode() and entry.fields.get(b"line") != REST_LINE.encode():
                fed[keys.feed] = entry.id
                break
        newest = streams.newest(keys.findings, count=FINDINGS_SHOWN)
        findings += map(_finding_of, (keys.findings for _ in newest), newest)
        if GROUP_WRITERS in streams.groups(keys.klines):
            unwritten[shard] = oldest_unwritten_ms(streams, keys)
    return Survey(beats, lengths, findings, unwritten, fed, made=True)


def _finding_of(stream: str, entry: Entry) -> dict[str, str]:
    """An entry with its stream and its id in the stream; the id of the finding itself is called `finding`."""
    texts = texts_of(upgraded(entry.fields))
    return {**texts, "stream": stream, "id": entry.id, "finding": texts.get("id", "")}


def oldest_unwritten_ms(streams: Streams, keys: Keys) -> int | None:
    """The time (ms by the clock of Redis) of the oldest entry of `klines` that the writers' group has not
    acknowledged."""
    needed = streams.groups(keys.klines).get(GROUP_WRITERS)
    if needed is None:
        return None
    waiting = streams.range(keys.klines, needed, count=1)
    return milliseconds_of(waiting[0].id) if waiting else None


def findings_of(
    found: Survey, symbol: str | None, severity: str | None, open_only: bool = False
) -> list[dict[str, Any]]:
    """The findings of a survey as the table would have them, the newest first; of one symbol or severity, or all;
    `open_only`: only open ones. Of a finding with several entries the newest entry counts."""
    rows: dict[str, dict[str, Any]] = {}
    for each in found.findings:  # of each stream the newest entry first
        row = _row_of_finding(each)
        newer = rows.setdefault(row["id"], row)
        if newer is not row:
            newer["said_at"] = min(filter(None, (newer["said_at"], row["said_at"])), default=None)
            if newer["evidence"] is None and row["evidence"] is not None:
                newer |= {name: row[name] for name in ("evidence", "severity")}
    for row in rows.values():
        row["evidence"] = row["closed_by"] if row["evidence"] is None else row["evidence"]
    wanted = [
        row
        for row in rows.values()
        if symbol in (None, row["symbol"])
        and severity in (None, row["severity"])
        and not (open_only and (row["closed_at"] or not row["standing"]))
    ]
    return sorted(wanted, key=lambda row: row["said_at"] or 0, reverse=True)


def _row_of_finding(each: dict[str, str]) -> dict[str, Any]:
    """An entry as a row of the table, except that an entry which closes a finding has no evidence."""
    shard = int(each["stream"].partition("{")[2].rstrip("}"))
    closed, said_ms, entry_ms = each.get("closed") == "1", _time_of(each, "time"), milliseconds_of(each["id"])
    name = each["finding"] or f"{each.get('writer')}:{each.get('seq')}"
    return {
        "id": f"{shard}:{name}",
        "shard": shard,
        "kind": each.get("kind", ""),
        "severity": each.get("severity", ""),
        "symbol": each.get("symbol") or None,
        "interval": each.get("interval") or None,
        "open_time": _time_of(each, "open_time"),
        "said_at": said_ms,
        "standing": bool(each["finding"]),
        "closed_at": (said_ms or entry_ms) if closed else None,
        "evidence": None if closed else each.get("evidence"),
        "closed_by": each.get("evidence") if closed else None,
    }


def _time_of(entry: dict[str, str], name: str) -> int | None:
    text = entry.get(name, "0")
    return int(text) if text.isdecimal() and text.isascii() and text != "0" else None
