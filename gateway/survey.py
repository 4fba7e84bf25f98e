"""What the gateway looks up in Redis now and then, in a thread: processes, streams, and how far the table has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import ujson

from klagg.contract import GROUP_WRITERS, HEARTBEAT_PATTERN, Keys, texts_of
from klagg.redisio import Streams

FINDINGS_SHOWN: Final = 200
"""The newest findings of each shard that are looked up."""

STREAMS: Final = ("feed", "klines", "live", "events", "requests", "findings", "dead")


@dataclass(frozen=True, slots=True)
class Survey:
    """`heartbeats` are what processes say of themselves, `lengths` entries by stream, `unwritten_ms` by shard the time
    of Redis of the oldest final that the table lacks (None: it lacks none); a shard that nobody writes is not there."""

    heartbeats: Sequence[dict[str, Any]] = ()
    lengths: dict[str, int] = field(default_factory=dict)
    findings: Sequence[dict[str, str]] = ()
    unwritten_ms: dict[int, int | None] = field(default_factory=dict)


def survey(streams: Streams, shards: int) -> Survey:
    """Look it all up. RedisUnavailable, RedisRefused."""
    heartbeats = [_decoded(text) for text in streams.values_like(HEARTBEAT_PATTERN).values()]
    lengths: dict[str, int] = {}
    findings: list[dict[str, str]] = []
    unwritten: dict[int, int | None] = {}
    for shard in range(shards):
        keys = Keys(shard)
        for name in STREAMS:
            key = getattr(keys, name)
            lengths[key] = streams.length(key)
        newest = streams.newest(keys.findings, count=FINDINGS_SHOWN)
        findings += ({"stream": keys.findings, "id": entry.id, **texts_of(entry.fields)} for entry in newest)
        if GROUP_WRITERS in streams.groups(keys.klines):
            unwritten[shard] = oldest_unwritten_ms(streams, keys)
    return Survey([each for each in heartbeats if each], lengths, findings, unwritten)


def oldest_unwritten_ms(streams: Streams, keys: Keys) -> int | None:
    """The time of Redis of the oldest entry of `klines` that the group of the writers has not done with."""
    needed = streams.groups(keys.klines).get(GROUP_WRITERS)
    if needed is None:
        return None
    waiting = streams.range(keys.klines, needed, count=1)
    return int(waiting[0].id.partition("-")[0]) if waiting else None


def findings_of(found: Survey, symbol: str | None, severity: str | None) -> list[dict[str, Any]]:
    """The findings of a survey as the table would have them, the newest first; of one symbol or severity, or all."""
    rows = []
    for each in found.findings:
        if symbol in (None, each.get("symbol")) and severity in (None, each.get("severity")):
            shard = int(each["stream"].partition("{")[2].rstrip("}"))
            said_ms = each.get("time", "0")
            rows.append({
                "id": f"{shard}:{each.get('writer')}:{each.get('seq')}", "shard": shard, "kind": each.get("kind", ""),
                "severity": each.get("severity", ""), "symbol": each.get("symbol") or None, "interval": None,
                "open_time": None, "said_at": int(said_ms) if said_ms.isdigit() and said_ms != "0" else None,
                "closed_at": None, "evidence": each.get("evidence"),
            })  # fmt: skip
    return sorted(rows, key=lambda row: row["said_at"] or 0, reverse=True)


def _decoded(text: str) -> dict[str, Any]:
    try:
        found = ujson.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
