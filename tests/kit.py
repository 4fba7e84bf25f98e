"""Small helps that tests share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar, overload

from klagg.drivers.redis_streams import Streams, Trim
from klagg.embedded import RedisServer

T = TypeVar("T")


DEADLINE_S: Final = 60.0
"""How long a condition is waited for that a test on an idle machine waits for a second: the machine may be busy."""


def eventually(condition: Callable[[], T], deadline_s: float = DEADLINE_S, every_s: float = 0.01) -> T:
    """The first true value of CONDITION, polled; fails with the last value (or AssertionError) after DEADLINE_S."""
    deadline = time.monotonic() + deadline_s
    while True:
        failed: AssertionError | None = None
        value = None
        try:
            value = condition()
            if value:
                return value
        except AssertionError as bad:
            failed = bad
        if time.monotonic() > deadline:
            last = failed or f"the last value was {value!r}"
            raise AssertionError(f"still not so after {deadline_s} s; {last}") from failed
        time.sleep(every_s)


@overload
async def eventually_async(
    condition: Callable[[], Awaitable[T]], deadline_s: float = ..., every_s: float = ...
) -> T: ...
@overload
async def eventually_async(condition: Callable[[], T], deadline_s: float = ..., every_s: float = ...) -> T: ...
async def eventually_async(condition: Callable[[], Any], deadline_s: float = DEADLINE_S, every_s: float = 0.005) -> Any:
    """`eventually` on the event loop; CONDITION may be a coroutine function."""
    deadline = time.monotonic() + deadline_s
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline, f"still not so after {deadline_s} s; the last value was {found!r}"
        await asyncio.sleep(every_s)


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet (a zombie) does not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False


def trim_before(streams: Streams, key: str, entry_id: str) -> int:
    """Drops everything that is older than ENTRY_ID, as an aggregator's commit does; how many entries went."""
    before = streams.length(key)
    streams.write([Trim(key, entry_id)])
    return before - streams.length(key)


@contextmanager
def nearly_full(server: RedisServer, *, room: int) -> Iterator[None]:
    """A real Redis with `room` bytes left: until the context ends it refuses commands that bring more than that."""
    most = server.command("CONFIG", "GET", "maxmemory").split()[-1]
    used = int(server.command("INFO", "memory").split("used_memory:")[1].split()[0])
    server.command("CONFIG", "SET", "maxmemory", str(used + room))
    try:
        yield
    finally:
        server.command("CONFIG", "SET", "maxmemory", most)
