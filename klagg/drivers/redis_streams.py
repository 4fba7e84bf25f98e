"""The one module that imports redis: streams, hashes, heartbeats and the commit, for blocking and for asyncio callers.

Its errors are klagg's own. Commands that write are never retried by the client: redis-py retries by default, and a
transaction sent twice would double its outputs. RESP2 is requested, so that replies look alike on every server version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, cast

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError, WatchError
from redis.retry import Retry

from klagg.drivers.commands import Append, Claim, Delete, Entry, HashUpdate, Pending, Trim, Write
from klagg.drivers.commands import claim_of as _claim_of
from klagg.drivers.commands import entries_of as _entries
from klagg.drivers.commands import entry_list as _entry_list
from klagg.drivers.commands import pending_of as _pending_of
from klagg.drivers.read_ahead import ReadAhead
from klagg.errors import CommitConflict, CommitDoubt, ConfigError, RedisRefused, RedisUnavailable
from klagg.wire.entry_id import BEFORE_FIRST, EntryId, next_id
from klagg.wire.fields import Fields

__all__ = [
    "Append",
    "AsyncStreams",
    "Claim",
    "Delete",
    "Entry",
    "HashUpdate",
    "Pending",
    "Streams",
    "Trim",
    "Write",
]

_LOST = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)


@contextmanager
def _translating(action: str) -> Iterator[None]:
    """redis-py's errors as klagg's, in a sentence that names what was being done."""
    try:
        yield
    except _LOST as lost:
        raise RedisUnavailable(f"Redis does not answer while {action}: {lost}") from lost
    except RedisError as refused:
        raise RedisRefused(f"Redis refused while {action}: {refused}") from refused


@contextmanager
def _translating_async(action: str) -> Iterator[None]:
    """As `_translating`, around a call of the asyncio client; a cancellation that got lost in it is raised nonetheless.

    redis-py sends by asyncio.wait_for. Before Python 3.12 that returns the result, and the cancellation is gone, where
    both come at once; a task that reads on and on would then never end.
    """
    with _translating(action):
        yield
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _options(timeout_ms: int) -> dict[str, Any]:
    seconds = timeout_ms / 1000
    return {
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "retry_on_error": [],
    }


def _plain(position: Mapping[bytes, bytes]) -> str:
    """A position hash for a sentence."""
    parts = (f"{name.decode(errors='replace')} {value.decode(errors='replace')}" for name, value in position.items())
    return ", ".join(parts) or "nothing"


def _queue(pipe: Any, write: Write) -> None:
    if isinstance(write, Append):
        limit = {"maxlen": write.maxlen, "approximate": True} if write.maxlen else {}
        pipe.xadd(write.key, write.fields, **limit)
        return
    if isinstance(write, Trim):
        pipe.xtrim(write.key, minid=write.before, approximate=False)
        return
    if isinstance(write, Delete):
        pipe.delete(*write.keys)
        return
    if write.remove:
        pipe.hdel(write.key, *write.remove)
    if write.put:
        pipe.hset(write.key, mapping=write.put)


_DROP_CONSUMERS: Final = (Path(__file__).parent / "drop_consumers.lua").read_text()


class Streams:
    """Redis for a blocking caller, over one connection of its own.

    RedisUnavailable when it does not answer within `timeout_ms`, RedisRefused when it answers with an error.
    """

    def __init__(self, url: str, *, timeout_ms: int = 5000, client: redis.Redis | None = None) -> None:
        try:
            self._redis = client or redis.Redis.from_url(url, single_connection_client=False, **_options(timeout_ms))
        except ValueError as bad:
            raise ConfigError(f"redis.url {url!r} cannot be used: {bad}") from None
        self._ahead = ReadAhead(self._redis)

    def close(self) -> None:
        """Close the connection to Redis."""
        with _translating("closing"):
            self._redis.close()

    def ping(self) -> None:
        """PING: RedisUnavailable unless Redis answers."""
        with _translating("connecting"):
            self._redis.ping()

    def append(self, key: str, fields: Fields, *, maxlen: int = 0) -> str:
        """XADD one entry; its id."""
        return self.write([Append(key, fields, maxlen)])[0]

    def write(self, writes: Sequence[Write]) -> list[str]:
        """All `writes` in one round trip, without a transaction; the ids of the appended entries."""
        with _translating("writing"):
            pipe = self._redis.pipeline(transaction=False)
            for write in writes:
                _queue(pipe, write)
            replies = pipe.execute()
        return [each.decode() for each in replies if isinstance(each, bytes)]

    def read(self, after: Mapping[str, str], *, count: int, block_ms: int | None = None) -> dict[str, list[Entry]]:
        """XREAD: entries behind the given ids, at most `count` a stream; waits up to `block_ms` (None: not at all)."""
        with _translating("reading"):
            reply = self._ahead.read(after, count=count, block_ms=block_ms)
        return dict(_entries(reply))

    def range(self, key: str, first: str = "-", last: str = "+", *, count: int | None = None) -> list[Entry]:
        """XRANGE, oldest first."""
        with _translating("reading"):
            return _entry_list(self._redis.xrange(key, first, last, count=count))

    def newest(self, key: str, *, count: int = 1, last: str = "+") -> list[Entry]:
        """XREVRANGE: the newest entries up to the id `last` (`(id`: without it), newest first."""
        with _translating("reading"):
            return _entry_list(self._redis.xrevrange(key, max=last, count=count))

    def last_id(self, key: str) -> str:
        """The highest id that the stream ever gave, also if that entry is gone; `0-0` where there is no stream."""
        try:
            with _translating("asking for a stream"):
                stream: Any = self._redis.xinfo_stream(key)
        except RedisRefused as refused:
            if "no such key" not in str(refused):
                raise
            return BEFORE_FIRST
        return cast(bytes, stream["last-generated-id"]).decode()

    def length(self, key: str) -> int:
        """XLEN: how many entries the stream holds, 0 where there is no stream."""
        with _translating("counting"):
            return int(self._redis.xlen(key))

    def ensure_group(self, key: str, group: str) -> None:
        """The consumer group, created at the very first entry if it does not exist (a group at `$` would miss some)."""
        try:
            with _translating("creating a consumer group"):
                self._redis.xgroup_create(key, group, id="0", mkstream=True)
        except RedisRefused as refused:
            if "BUSYGROUP" not in str(refused):
                raise

    def read_group(
        self, keys: Sequence[str], group: str, consumer: str, *, count: int, block_ms: int | None = None
    ) -> dict[str, list[Entry]]:
        """XREADGROUP of new entries for `consumer`."""
        with _translating("reading for a group"):
            reply = self._redis.xreadgroup(group, consumer, dict.fromkeys(keys, ">"), count=count, block=block_ms)
        return dict(_entries(reply))

    def read_pending(self, key: str, group: str, consumer: str, *, after: str, count: int) -> Pending:
        """This consumer's own entries that were delivered and never acknowledged, behind the id `after`.

        Entries that were trimmed while pending are named as gone. Both lists are empty only when there are no more.
        """
        with _translating("reading pending entries"):
            reply: Any = self._redis.xreadgroup(group, consumer, {key: after}, count=count)
        return _pending_of(reply)

    def claim_idle(
        self, key: str, group: str, consumer: str, *, idle_ms: int, count: int, start: str = BEFORE_FIRST
    ) -> Claim:
        """XAUTOCLAIM: entries that any consumer, this one too, has left pending for `idle_ms`, from the id `start` on.

        Entries that were trimmed while pending are named as gone; Redis 7.0 and later forget them then and there.
        """
        with _translating("claiming entries"):
            reply: Any = self._redis.xautoclaim(key, group, consumer, idle_ms, start_id=start, count=count)
        return _claim_of(reply)

    def pending_of_others(self, key: str, group: str, consumer: str, *, count: int) -> list[str]:
        """XPENDING: ids that the group has given to other consumers than this one, at most `count` of each."""
        with _translating("looking for pending entries"):
            summary: Any = self._redis.xpending(key, group)
            others = [each["name"] for each in summary["consumers"] if each["name"] != consumer.encode()]
            pages: list[Any] = [
                self._redis.xpending_range(key, group, "-", "+", count, consumername=other) for other in others
            ]
        return sorted((each["message_id"].decode() for page in pages for each in page), key=EntryId.of)

    def absent(self, key: str, ids: Sequence[str]) -> list[str]:
        """Those of these ids whose entries are not in the stream any more: deleted, or trimmed."""
        with _translating("looking for entries"):
            pipe = self._redis.pipeline(transaction=False)
            for entry_id in ids:
                pipe.xrange(key, entry_id, entry_id)
            replies = pipe.execute()
        return [entry_id for entry_id, found in zip(ids, replies, strict=True) if not found]

    def delivered_id(self, key: str, group: str) -> str:
        """The highest id that the group was given; `0-0` before any, and without the group."""
        with _translating("asking for groups"):
            groups: Any = self._redis.xinfo_groups(key)
        found = next((each for each in groups if each["name"] in (group, group.encode())), None)
        return BEFORE_FIRST if found is None else cast(bytes, found["last-delivered-id"]).decode()

    def drop_consumers(self, key: str, group: str, keep: str, idle_ms: int) -> list[str]:
        """Remove the group's consumers, but `keep`, that hold no entry and have not read for `idle_ms`; their names.

        A script looks and removes in one step, because XGROUP DELCONSUMER drops what a consumer holds (Redis docs).
        """
        with _translating("removing consumers"):
            reply: Any = self._redis.eval(_DROP_CONSUMERS, 1, key, group, keep, idle_ms)
        return [each.decode() for each in reply]

    def pending_count(self, key: str, group: str) -> int:
        """How many entries of the group are delivered and not yet acknowledged."""
        with _translating("counting pending entries"):
            reply: Any = self._redis.xpending(key, group)
        return int(reply["pending"])

    def group_lag(self, key: str, group: str) -> int | None:
        """How many entries the group has not read yet, as Redis reckons it; None where it does not know."""
        with _translating("asking for groups"):
            groups: Any = self._redis.xinfo_groups(key)
        found = next((each for each in groups if each["name"] in (group, group.encode())), None)
        lag = found.get("lag") if found else None
        return None if lag is None else int(lag)

    def consumers_idle_ms(self, key: str, group: str) -> int | None:
        """XINFO CONSUMERS: how long ago a consumer of the group last read; None without any (or without the group)."""
        if group not in self.groups(key):
            return None
        with _translating("asking for consumers"):
            consumers: Any = self._redis.xinfo_consumers(key, group)
        return min((int(each["idle"]) for each in consumers), default=None)

    def ack(self, key: str, group: str, ids: Sequence[str]) -> None:
        """XACK: these entries are done with, once and for all."""
        if ids:
            with _translating("acknowledging"):
                self._redis.xack(key, group, *ids)

    def trim_slice(self, key: str, entry_id: str, limit: int) -> int:
        """XTRIM MINID ~ LIMIT: drop at most `limit` entries older than `entry_id`, by whole nodes; how many went.

        A node of the stream holds up to 100 entries, so 0 means that there is nothing more to drop, or nearly.
        """
        with _translating("trimming"):
            return int(self._redis.xtrim(key, minid=entry_id, approximate=True, limit=limit))

    def trim_to(self, key: str, entries: int) -> int:
        """XTRIM MAXLEN: keep the newest `entries`; how many went."""
        with _translating("trimming"):
            return int(self._redis.xtrim(key, maxlen=entries, approximate=False))

    def memory(self, key: str) -> int:
        """MEMORY USAGE: about how many bytes the key takes, 0 if there is none."""
        with _translating("asking for memory"):
            return int(self._redis.memory_usage(key) or 0)

    def groups(self, key: str) -> dict[str, str]:
        """For every consumer group of the stream the lowest id that it still needs: its oldest pending entry, else
        the one behind what it was last given."""
        needed = {}
        try:
            with _translating("asking for groups"):
                groups: Any = self._redis.xinfo_groups(key)
        except RedisRefused as refused:
            if "no such key" not in str(refused):
                raise
            return {}
        for group in groups:
            name = group["name"] if isinstance(group["name"], str) else group["name"].decode()
            lowest = next_id(cast(bytes, group["last-delivered-id"]).decode())
            if group["pending"]:
                with _translating("asking for a group's position"):
                    pending: Any = self._redis.xpending(key, name)
                lowest = pending["min"].decode() if pending["pending"] else lowest
            needed[name] = lowest
        return needed

    def hash_of(self, key: str) -> dict[bytes, bytes]:
        """HGETALL: the fields of a hash, none where there is no hash."""
        with _translating("reading a hash"):
            return cast(dict[bytes, bytes], self._redis.hgetall(key))

    def set_bytes(self, key: str, value: bytes) -> None:
        """SET: `value` replaces what the key held, its time to live included."""
        with _translating("writing a value"):
            self._redis.set(key, value)

    def get_bytes(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values of these keys, None where there is none."""
        with _translating("reading values"):
            return cast(list[bytes | None], self._redis.mget(keys)) if keys else []

    def set_with_ttl(self, key: str, value: str, ttl_s: int) -> None:
        """SET EX: the key is gone after `ttl_s` seconds, unless it is set again."""
        with _translating("writing a heartbeat"):
            self._redis.set(key, value, ex=ttl_s)

    def values_like(self, pattern: str) -> dict[str, str]:
        """All string keys that match `pattern`, by SCAN, with their values."""
        with _translating("looking up keys"):
            keys = sorted(self._redis.scan_iter(match=pattern, count=1000))
            values = cast(list[bytes | None], self._redis.mget(keys)) if keys else []
        return {key.decode(): value.decode() for key, value in zip(keys, values, strict=True) if value is not None}

    def delete(self, *keys: str) -> None:
        """DEL of `keys`; keys that are not there are passed over."""
        if keys:
            with _translating("deleting"):
                self._redis.delete(*keys)

    def information(self, section: str = "server") -> dict[str, Any]:
        """INFO of a section."""
        with _translating("asking for information"):
            return self._redis.info(section)

    def commit(
        self, key: str, believed: Mapping[bytes, bytes], position: Mapping[str, str], writes: Sequence[Write]
    ) -> None:
        """All `writes` and the new `position` in the hash `key`, in one transaction, if the hash is as `believed`.

        CommitConflict: the hash holds something else, or changed meanwhile; nothing was written. CommitDoubt: the reply
        was lost, or a command inside failed; only a restart that reads the hash can tell what holds. Redis guarantees
        that EXEC runs nothing when a WATCHed key changed, and that no other client runs in between (transactions).
        """
        pipe: Any = self._redis.pipeline(transaction=True)
        try:
            with _translating("preparing a commit"):
                pipe.watch(key)
                found = cast(dict[bytes, bytes], pipe.hgetall(key))
            if found != dict(believed):
                raise CommitConflict(
                    f"{key} was changed by another process, which owns the shard now: it holds {_plain(found)} where "
                    f"this process left {_plain(believed)}",
                    found=found,
                )
            pipe.multi()
            for write in writes:
                _queue(pipe, write)
            pipe.hset(key, mapping=dict(position))
            try:
                pipe.execute()
            except WatchError as changed:
                raise CommitConflict(f"{key} changed during a commit, or its reply was lost") from changed
            except ResponseError as refused:
                raise CommitDoubt(f"a command inside a commit failed: {refused}") from refused
            except _LOST as lost:
                raise CommitDoubt(f"the reply of a commit was lost: {lost}") from lost
        finally:
            pipe.reset()


class AsyncStreams:
    """Redis for an asyncio caller; the few calls that ingest, the clock, repair and the gateway need."""

    def __init__(self, url: str, *, timeout_ms: int = 5000, client: redis.asyncio.Redis | None = None) -> None:
        options = _options(timeout_ms)
        options["retry"] = redis.asyncio.retry.Retry(NoBackoff(), 0)
        try:
            self._redis = client or redis.asyncio.Redis.from_url(url, **options)
        except ValueError as bad:
            raise ConfigError(f"redis.url {url!r} cannot be used: {bad}") from None

    async def close(self) -> None:
        """As `Streams.close`."""
        with _translating("closing"):
            await self._redis.aclose()

    async def ping(self) -> None:
        """As `Streams.ping`."""
        with _translating_async("connecting"):
            await self._redis.ping()

    async def write(self, writes: Sequence[Write]) -> list[str]:
        """All `writes` in one round trip, without a transaction; the ids of the appended entries."""
        with _translating_async("writing"):
            pipe = self._redis.pipeline(transaction=False)
            for write in writes:
                _queue(pipe, write)
            replies = await pipe.execute()
        return [each.decode() for each in replies if isinstance(each, bytes)]

    async def append_all(self, entries: Sequence[Append]) -> None:
        """XADD in order, a transaction per stream: where Redis refuses one for want of memory, it takes none of them.

        Redis weighs its memory before each command: without a transaction, a refused entry is overtaken by smaller ones
        behind it. One refused while it is queued aborts EXEC, and what EXEC runs is weighed no more (processCommand).
        """
        by_key: dict[str, list[Append]] = {}
        for entry in entries:
            by_key.setdefault(entry.key, []).append(entry)
        for group in by_key.values():
            with _translating_async("writing"):
                pipe = self._redis.pipeline(transaction=True)
                for entry in group:
                    _queue(pipe, entry)
                await pipe.execute()

    async def read(
        self, after: Mapping[str, str], *, count: int, block_ms: int | None = None
    ) -> dict[str, list[Entry]]:
        """XREAD, as `Streams.read`."""
        with _translating_async("reading"):
            reply = await self._redis.xread(dict(after), count=count, block=block_ms)  # type: ignore[arg-type]
        return dict(_entries(reply))

    async def newest(self, key: str, *, count: int = 1, last: str = "+") -> list[Entry]:
        """As `Streams.newest`."""
        with _translating_async("reading"):
            return _entry_list(await self._redis.xrevrange(key, max=last, count=count))

    async def ensure_group(self, key: str, group: str) -> None:
        """As `Streams.ensure_group`."""
        try:
            with _translating_async("creating a consumer group"):
                await self._redis.xgroup_create(key, group, id="0", mkstream=True)
        except RedisRefused as refused:
            if "BUSYGROUP" not in str(refused):
                raise

    async def read_group(
        self, keys: Sequence[str], group: str, consumer: str, *, count: int, block_ms: int | None = None
    ) -> dict[str, list[Entry]]:
        """As `Streams.read_group`."""
        with _translating_async("reading for a group"):
            reply = await self._redis.xreadgroup(group, consumer, dict.fromkeys(keys, ">"), count=count, block=block_ms)
        return dict(_entries(reply))

    async def read_pending(self, key: str, group: str, consumer: str, *, after: str, count: int) -> Pending:
        """As `Streams.read_pending`."""
        with _translating_async("reading pending entries"):
            reply: Any = await self._redis.xreadgroup(group, consumer, {key: after}, count=count)
        return _pending_of(reply)

    async def claim_idle(
        self, key: str, group: str, consumer: str, *, idle_ms: int, count: int, start: str = BEFORE_FIRST
    ) -> Claim:
        """As `Streams.claim_idle`."""
        with _translating_async("claiming entries"):
            reply: Any = await self._redis.xautoclaim(key, group, consumer, idle_ms, start_id=start, count=count)
        return _claim_of(reply)

    async def ack(self, key: str, group: str, ids: Sequence[str]) -> None:
        """As `Streams.ack`."""
        if ids:
            with _translating_async("acknowledging"):
                await self._redis.xack(key, group, *ids)

    async def drop_consumers(self, key: str, group: str, keep: str, idle_ms: int) -> list[str]:
        """As `Streams.drop_consumers`."""
        with _translating_async("removing consumers"):
            reply: Any = await self._redis.eval(_DROP_CONSUMERS, 1, key, group, keep, idle_ms)
        return [each.decode() for each in reply]

    async def run_script(self, script: str, key: str, arguments: Sequence[str | int]) -> list[int]:
        """EVAL of a Lua `script` over one key: nothing else happens in Redis meanwhile. It answers with integers."""
        with _translating_async("running a script"):
            return await cast(Awaitable[list[int]], self._redis.eval(script, 1, key, *arguments))

    async def fields_of(self, key: str, names: Sequence[str]) -> list[bytes | None]:
        """HMGET: these fields of a hash, None where there is none."""
        with _translating_async("reading a hash"):
            return await cast(Awaitable[list[bytes | None]], self._redis.hmget(key, list(names)))

    async def hash_of(self, key: str) -> dict[bytes, bytes]:
        """As `Streams.hash_of`."""
        with _translating_async("reading a hash"):
            return await cast(Awaitable[dict[bytes, bytes]], self._redis.hgetall(key))

    async def set_with_ttl(self, key: str, value: str, ttl_s: int) -> None:
        """As `Streams.set_with_ttl`."""
        with _translating_async("writing a heartbeat"):
            await self._redis.set(key, value, ex=ttl_s)

    async def delete(self, *keys: str) -> None:
        """As `Streams.delete`."""
        if keys:
            with _translating_async("deleting"):
                await self._redis.delete(*keys)
