"""Processes for test_service.py, run as `python -m tests.process.services WHICH`: each a few lines in klagg's shell."""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import threading

from klagg.drivers.redis_streams import Append
from klagg.errors import ConfigError, ContractError
from klagg.process.service import AsyncContext, Context, run, run_async


def blocking(context: Context) -> None:
    """Turns for ever; leaves a word when it has ended in order."""
    while context.running():
        context.wait(0.05)
    context.connect().append("ended", {"state": context.pulse.state})


def blocking_stopped_in_a_beat(context: Context) -> None:
    """Is asked to stop while `running` writes its statistics line: neither before nor after it."""

    def stop(_: logging.LogRecord) -> bool:
        context.stop()
        return True

    context.log.addFilter(stop)
    blocking(context)


def blocking_on_redis(context: Context) -> None:
    """Waits for entries of a stream most of the time, as an aggregator does."""
    streams = context.connect()
    while context.running():
        streams.read({"feed:{0}": "$"}, count=1, block_ms=context.settings.redis.block_ms)


async def asynchronous(context: AsyncContext) -> None:
    await context.stopping.wait()
    await context.connect().write([Append("ended", {"state": "stopping"})])


async def asynchronous_with_a_dying_task(context: AsyncContext) -> None:
    async def lasting() -> None:
        await context.stopping.wait()

    async def dying() -> None:
        await context.connect().ping()
        raise ValueError("the reader is broken")

    await context.together({"lasting": lasting(), "reader": dying()})


async def asynchronous_that_refuses(context: AsyncContext) -> None:
    async def lasting() -> None:
        await asyncio.Event().wait()

    async def refusing() -> None:
        raise ContractError("an entry lacks the field n")

    await context.together({"lasting": lasting(), "refusing": refusing()})


async def asynchronous_that_is_done(context: AsyncContext) -> None:
    await context.connect().ping()


def unusable(_: Context) -> None:
    raise ConfigError("aggregator.intervals is empty: name at least one interval")


def broken(_: Context) -> None:
    raise ZeroDivisionError("a mistake")


def stopping_itself(context: Context) -> None:
    turns = 0
    while context.running():
        turns += 1
        if turns == 3:
            context.stop()
    assert context.stopping
    assert not context.wait(60)


def blocking_that_freezes(context: Context) -> None:
    """Its main loop stands still after a few turns, as in a lock that nobody opens."""
    turns = 0
    while context.running():
        context.wait(0.05)
        turns += 1
        if turns == 5:
            _stand_still()


async def asynchronous_that_freezes(context: AsyncContext) -> None:
    """A call that blocks the event loop for good."""
    await context.sleep(0.5)
    _stand_still()


def _stand_still() -> None:
    threading.Event().wait()


def blocking_that_ends_slowly(context: Context) -> None:
    """Its shutdown takes longer than service.freeze_s, in one step."""
    while context.running():
        context.wait(0.05)
    threading.Event().wait(4)


BLOCKING = {
    each.__name__: each
    for each in (
        blocking,
        blocking_stopped_in_a_beat,
        blocking_on_redis,
        unusable,
        broken,
        stopping_itself,
        blocking_that_freezes,
        blocking_that_ends_slowly,
    )
}
ASYNCHRONOUS = {
    each.__name__: each
    for each in (
        asynchronous,
        asynchronous_with_a_dying_task,
        asynchronous_that_refuses,
        asynchronous_that_is_done,
        asynchronous_that_freezes,
    )
}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--line", default="A")


def main() -> int:
    which, argv = sys.argv[1], sys.argv[2:]
    if which in BLOCKING:
        return run(
            "test",
            "A process of the tests.",
            BLOCKING[which],
            argv=argv,
            configure=configure,
            name=lambda arguments: f"test-{arguments.line}",
        )
    return run_async("test-A", "A process of the tests.", ASYNCHRONOUS[which], argv=argv)


if __name__ == "__main__":
    sys.exit(main())
