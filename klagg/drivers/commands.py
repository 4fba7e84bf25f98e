"""What klagg.drivers.redis_streams reads from Redis and writes to it, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from klagg.wire.fields import Fields, RawFields


@dataclass(frozen=True, slots=True)
class Entry:
    """One stream entry: its id (`ms-n`) and its fields as Redis holds them."""

    id: str
    fields: RawFields


@dataclass(frozen=True, slots=True)
class Append:
    """XADD of `fields` to `key`; `maxlen` trims to about that many entries (0: never)."""

    key: str
    fields: Fields
    maxlen: int = 0


@dataclass(frozen=True, slots=True)
class HashUpdate:
    """HSET and HDEL on the hash `key`."""

    key: str
    put: Mapping[str, str] = field(default_factory=dict)
    remove: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Trim:
    """XTRIM of `key`: everything older than the id `before` goes."""

    key: str
    before: str


@dataclass(frozen=True, slots=True)
class Delete:
    """DEL of `keys`, at least one."""

    keys: Sequence[str]


Write = Append | HashUpdate | Trim | Delete


class Pending(NamedTuple):
    """A page of entries that were delivered to a consumer and never acknowledged, the ids of those that are gone, and
    the highest id of both (empty: there are no more)."""

    entries: list[Entry]
    gone: list[str]
    last: str


class Claim(NamedTuple):
    """Entries that were taken over from other consumers: where to go on (`0-0`: all was looked at), the entries, and
    the ids of those that are gone."""

    start: str
    entries: list[Entry]
    gone: list[str]


def entries_of(reply: Any) -> list[tuple[str, list[Entry]]]:
    """The reply of XREAD and XREADGROUP: per stream its entries, in the order of the stream."""
    pairs = reply.items() if isinstance(reply, dict) else (reply or [])
    return [(key.decode(), entry_list(items)) for key, items in pairs]


def entry_list(items: Any) -> list[Entry]:
    """Entries of one stream; one that was deleted while pending comes without fields and is left out."""
    return [Entry(entry_id.decode(), fields) for entry_id, fields in items if entry_id is not None and fields]


def pending_of(reply: Any) -> Pending:
    """The reply of XREADGROUP for entries that were delivered before; one that was deleted comes without fields."""
    items = [item for _, part in (reply.items() if isinstance(reply, dict) else reply or []) for item in part]
    gone = [entry_id.decode() for entry_id, fields in items if not fields]
    return Pending(entry_list(items), gone, items[-1][0].decode() if items else "")


def claim_of(reply: Any) -> Claim:
    """The reply of XAUTOCLAIM; its third element, the ids that were deleted, is missing before Redis 7.0."""
    start, items, *gone = reply
    return Claim(start.decode(), entry_list(items), [each.decode() for ids in gone for each in ids])
