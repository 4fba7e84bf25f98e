"""What klagg.drivers.redis_streams reads from Redis and writes to it, as plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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


def entries_of(reply: Any) -> list[tuple[str, list[Entry]]]:
    """The reply of XREAD and XREADGROUP: per stream its entries, in the order of the stream."""
    pairs = reply.items() if isinstance(reply, dict) else (reply or [])
    return [(key.decode(), entry_list(items)) for key, items in pairs]


def entry_list(items: Any) -> list[Entry]:
    """Entries of one stream; one that was deleted while pending comes without fields and is left out."""
    return [Entry(entry_id.decode(), fields) for entry_id, fields in items if entry_id is not None and fields]


def pending_page(reply: Any) -> tuple[list[Entry], str]:
    """A page of pending entries without those that were deleted meanwhile, and the id of its last one ("": none)."""
    items = [item for _, part in (reply.items() if isinstance(reply, dict) else reply or []) for item in part]
    return entry_list(items), items[-1][0].decode() if items else ""
