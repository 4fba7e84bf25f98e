"""Redis in memory and in virtual time, with the ways in which a real one fails its clients.

It has the methods of `Streams` that the aggregator uses, with the same meaning; tests/contract says what
that is, and test_virtualredis.py holds the two together. What a client does can be cut at any call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from klagg.drivers.commands import Append, Delete, Entry, HashUpdate, Pending, Trim, Write
from klagg.errors import CommitConflict, CommitDoubt, RedisRefused, RedisUnavailable
from klagg.wire.entry_id import next_id

Id = tuple[int, int]
ZERO: Id = (0, 0)


class Crash(BaseException):
    """The process is killed here, at the call that is named. No handler of the code under test may see it."""


def number(entry_id: str) -> Id:
    """A stream id as numbers; `ms` alone is `ms-0`."""
    milliseconds, _, rest = entry_id.partition("-")
    return int(milliseconds), int(rest or 0)


def text(entry_id: Id) -> str:
    """A stream id as Redis writes it."""
    return f"{entry_id[0]}-{entry_id[1]}"


@dataclass
class Group:
    """A consumer group: the last id given out, and what was given and not acknowledged."""

    last: Id = ZERO
    pending: set[Id] = field(default_factory=set)


Raw = Mapping[bytes, bytes]
History = tuple["History", Raw] | None
"""All that was ever appended, the newest first: a list that copies share."""


@dataclass
class Stream:
    """Entries in order. `last` stays when entries go, and so does `history`, which is for those who check."""

    entries: list[tuple[Id, Raw]] = field(default_factory=list)
    last: Id = ZERO
    groups: dict[str, Group] = field(default_factory=dict)
    history: History = None

    def all(self) -> list[Raw]:
        """Everything that was appended, oldest first, also what was trimmed."""
        found, at = [], self.history
        while at is not None:
            at, fields = at
            found.append(fields)
        return found[::-1]


@dataclass
class State:
    """All that a Redis holds."""

    streams: dict[str, Stream] = field(default_factory=dict)
    hashes: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    values: dict[str, bytes] = field(default_factory=dict)

    def copy(self) -> State:
        """The same, sharing entries, which never change."""
        streams = {
            key: Stream(
                list(each.entries),
                each.last,
                {name: Group(group.last, set(group.pending)) for name, group in each.groups.items()},
                each.history,
            )
            for key, each in self.streams.items()
        }
        return State(streams, {key: dict(each) for key, each in self.hashes.items()}, dict(self.values))


class VirtualRedis:
    """The server. `now_ms` is the time of its ids; `down` and `full` are what its clients meet."""

    def __init__(self) -> None:
        self.state = State()
        self.now_ms = 0
        self.down = False
        self.full = False
        self.generation = 0
        """Counts its restarts: a client's connection of an earlier one is broken."""
        self.skew_ms = 0
        """How far its clock is behind."""
        self.ever: dict[str, list[Raw]] = {}
        """By stream, everything that was ever appended, also what was lost when it came back older."""

    def stream(self, key: str) -> Stream:
        """The stream at `key`, made if it is not there."""
        return self.state.streams.setdefault(key, Stream())

    def restart(self, state: State | None = None) -> None:
        """Come back, with an older `state` if one is given; every connection is lost."""
        self.state = state.copy() if state else self.state
        self.generation += 1
        self.down = False

    def fail_over(self, state: State, skew_ms: int) -> None:
        """A replica that is behind, and whose clock is, too, takes over; a proxy keeps the connections."""
        self.state, self.skew_ms = state.copy(), skew_ms

    def add(self, key: str, fields: Mapping[str, str]) -> str:
        """XADD."""
        stream = self.stream(key)
        entry_id = max((self.now_ms - self.skew_ms, 0), (stream.last[0], stream.last[1] + 1))
        raw = {name.encode(): value.encode() for name, value in fields.items()}
        stream.last = entry_id
        stream.entries.append((entry_id, raw))
        stream.history = stream.history, raw
        self.ever.setdefault(key, []).append(raw)
        return text(entry_id)

    def write(self, write: Write) -> str | None:
        """One write of a pipeline or a transaction."""
        if isinstance(write, Append):
            entry_id = self.add(write.key, write.fields)
            if write.maxlen:
                del self.stream(write.key).entries[: -write.maxlen]
            return entry_id
        if isinstance(write, Trim):
            self.trim(write.key, number(write.before))
            return None
        if isinstance(write, Delete):
            for key in write.keys:
                self.state.values.pop(key, None)
            return None
        held = self.state.hashes.setdefault(write.key, {})
        for name in write.remove:
            held.pop(name.encode(), None)
        held.update({name.encode(): value.encode() for name, value in write.put.items()})
        return None

    def trim(self, key: str, before: Id, limit: int | None = None) -> int:
        """XTRIM MINID."""
        entries = self.stream(key).entries
        gone = _place(entries, before)
        gone = gone if limit is None else min(gone, limit)
        del entries[:gone]
        return gone


class VirtualStreams:
    """One client's connection. `fuse` calls from now it is cut: before the call is done, or after it (`fuse_after`).

    `doubt` does the same to a commit, as a lost connection: its EXEC arrives or it does not, and no reply comes.
    """

    def __init__(self, server: VirtualRedis) -> None:
        self.server = server
        self.fuse: int | None = None
        self.fuse_after = False
        self.doubt: int | None = None
        self.doubt_after = False
        self.commits = 0
        self._generation = server.generation

    def _call(self, name: str, action: Callable[[State], Any], *, writes: bool = False) -> Any:
        """One round trip. `writes`: it takes memory, which a full Redis refuses."""
        if self.server.down:
            raise RedisUnavailable("the virtual Redis is down")
        if self._generation != self.server.generation:
            self._generation = self.server.generation
            raise RedisUnavailable("the connection was lost")
        if writes and self.server.full:
            raise RedisRefused("OOM command not allowed when used memory > 'maxmemory'.")
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse < 0:
                if self.fuse_after:
                    action(self.server.state)
                raise Crash(f"{'after' if self.fuse_after else 'before'} {name}")
        return action(self.server.state)

    def close(self) -> None:
        pass

    def ping(self) -> None:
        self._call("ping", lambda state: None)

    def append(self, key: str, fields: Mapping[str, str], *, maxlen: int = 0) -> str:
        return self.write([Append(key, dict(fields), maxlen)])[0]

    def write(self, writes: Sequence[Write]) -> list[str]:
        ids = self._call("write", lambda state: [self.server.write(each) for each in writes], writes=True)
        return [each for each in ids if each]

    def read(self, after: Mapping[str, str], *, count: int, block_ms: int | None = None) -> dict[str, list[Entry]]:
        found = {key: self.range(key, next_id(entry_id), count=count) for key, entry_id in after.items()}
        return {key: entries for key, entries in found.items() if entries}

    def range(self, key: str, first: str = "-", last: str = "+", *, count: int | None = None) -> list[Entry]:
        low = ZERO if first == "-" else number(first)
        high = (1 << 64, 0) if last == "+" else number(last)
        entries = self._call("range", lambda state: self.server.stream(key).entries)
        start = _place(entries, low)
        chosen = entries[start : None if count is None else start + count]
        return [Entry(text(entry_id), fields) for entry_id, fields in chosen if entry_id <= high]

    def newest(self, key: str, *, count: int = 1, last: str = "+") -> list[Entry]:
        assert last == "+"
        entries = self._call("newest", lambda state: self.server.stream(key).entries[-count:])
        return [Entry(text(entry_id), fields) for entry_id, fields in reversed(entries)]

    def last_id(self, key: str) -> str:
        return text(self._call("last_id", lambda state: self.server.stream(key).last))

    def length(self, key: str) -> int:
        return int(self._call("length", lambda state: len(self.server.stream(key).entries)))

    def ensure_group(self, key: str, group: str) -> None:
        self._call("ensure_group", lambda state: self.server.stream(key).groups.setdefault(group, Group()), writes=True)

    def read_group(
        self, keys: Sequence[str], group: str, consumer: str, *, count: int, block_ms: int | None = None
    ) -> dict[str, list[Entry]]:
        """XREADGROUP of new entries; all consumers of a group are one here."""

        def take(_: State) -> dict[str, list[Entry]]:
            found = {}
            for key in keys:
                stream, held = self.server.stream(key), self._group(key, group)
                start = _place(stream.entries, (held.last[0], held.last[1] + 1))
                chosen = stream.entries[start : start + count]
                held.pending.update(entry_id for entry_id, _ in chosen)
                held.last = chosen[-1][0] if chosen else held.last
                if chosen:
                    found[key] = [Entry(text(entry_id), fields) for entry_id, fields in chosen]
            return found

        return dict(self._call("read_group", take))

    def _group(self, key: str, group: str) -> Group:
        held = self.server.stream(key).groups.get(group)
        if held is None:
            raise RedisRefused(f"NOGROUP No such key '{key}' or consumer group '{group}'")
        return held

    def read_pending(self, key: str, group: str, consumer: str, *, after: str, count: int) -> Pending:
        """What the group was given and has not acknowledged, behind `after`; nothing is ever gone here."""

        def look(_: State) -> list[Entry]:
            pending = self._group(key, group).pending
            entries = self.server.stream(key).entries
            found = [(entry_id, fields) for entry_id, fields in entries if entry_id in pending]
            return [Entry(text(entry_id), fields) for entry_id, fields in found if entry_id > number(after)][:count]

        entries = list(self._call("read_pending", look))
        return Pending(entries, [], entries[-1].id if entries else "")

    def ack(self, key: str, group: str, ids: Sequence[str]) -> None:
        self._call("ack", lambda state: self._group(key, group).pending.difference_update(map(number, ids)))

    def pending_count(self, key: str, group: str) -> int:
        return int(self._call("pending_count", lambda state: len(self._group(key, group).pending)))

    def group_lag(self, key: str, group: str) -> int:
        def look(_: State) -> int:
            last, entries = self._group(key, group).last, self.server.stream(key).entries
            return len(entries) - _place(entries, (last[0], last[1] + 1))

        return int(self._call("group_lag", look))

    def groups(self, key: str) -> dict[str, str]:
        def look(_: State) -> dict[str, str]:
            return {
                name: text(min(group.pending)) if group.pending else next_id(text(group.last))
                for name, group in self.server.stream(key).groups.items()
            }

        return dict(self._call("groups", look))

    def trim_slice(self, key: str, entry_id: str, limit: int) -> int:
        return int(self._call("trim_slice", lambda state: self.server.trim(key, number(entry_id), limit)))

    def trim_to(self, key: str, entries: int) -> int:
        def trim(_: State) -> int:
            held = self.server.stream(key).entries
            gone = max(0, len(held) - entries)
            del held[:gone]
            return gone

        return int(self._call("trim_to", trim))

    def memory(self, key: str) -> int:
        return 500 * self.length(key)

    def information(self, section: str = "server") -> dict[str, Any]:
        return dict(self._call("information", lambda state: {"maxmemory": 1 << 30}))

    def hash_of(self, key: str) -> dict[bytes, bytes]:
        return dict(self._call("hash_of", lambda state: state.hashes.get(key, {})))

    def set_bytes(self, key: str, value: bytes) -> None:
        self._call("set_bytes", lambda state: state.values.__setitem__(key, value), writes=True)

    def get_bytes(self, keys: Sequence[str]) -> list[bytes | None]:
        return list(self._call("get_bytes", lambda state: [state.values.get(key) for key in keys]))

    def values_like(self, pattern: str) -> dict[str, str]:
        return {}

    def delete(self, *keys: str) -> None:
        if keys:
            self._call("delete", lambda state: [state.values.pop(key, None) for key in keys])

    def commit(
        self, key: str, believed: Mapping[bytes, bytes], position: Mapping[str, str], writes: Sequence[Write]
    ) -> None:
        """As Streams.commit. Its two round trips, WATCH with HGETALL and EXEC, can be cut one by one."""
        found = dict(self._call("watch", lambda state: state.hashes.get(key, {})))
        if found != dict(believed):
            raise CommitConflict(f"{key} was changed by another process", found=found)
        self.commits += 1

        def execute(_: State) -> None:
            for each in (*writes, HashUpdate(key, position)):
                self.server.write(each)

        if self.doubt is not None:
            self.doubt -= 1
            if self.doubt < 0:
                self.doubt = None
                if self.doubt_after:
                    execute(self.server.state)
                raise CommitDoubt("the reply of a commit was lost")
        try:
            self._call("exec", execute, writes=True)
        except RedisRefused as refused:
            raise CommitDoubt(f"a command inside a commit failed: {refused}") from refused


def _place(entries: Sequence[tuple[Id, Any]], low: Id) -> int:
    """The index of the first entry whose id is not below `low`."""
    first, last = 0, len(entries)
    while first < last:
        middle = (first + last) // 2
        if entries[middle][0] < low:
            first = middle + 1
        else:
            last = middle
    return first
