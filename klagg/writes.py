"""What klagg.redisio reads from Redis and writes to it, as plain values, and the order of stream ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from klagg.contract import Fields, RawFields


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


def next_id(entry_id: str) -> str:
    """The lowest id behind this one."""
    milliseconds, _, number = entry_id.partition("-")
    if int(number) == (1 << 64) - 1:
        return f"{int(milliseconds) + 1}-0"
    return f"{milliseconds}-{int(number) + 1}"
