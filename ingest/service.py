"""klagg-ingest: one socket line, from the exchange's WebSocket to `feed:{n}` (DESIGN §2). A thin shell."""

from __future__ import annotations

import argparse
import asyncio
import gc
import random
import re
import sys
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from ingest.batch import Batch
from ingest.connection import Connection
from ingest.intake import Intake
from ingest.parser import Rules
from ingest.room import FeedRoom
from ingest.sender import Sender
from ingest.synchroniser import Synchroniser
from klagg.backoff import Backoff
from klagg.clock import ExchangeClock
from klagg.contract import shard_of
from klagg.errors import ConfigError, ExchangeRefused, ExchangeUnavailable
from klagg.exchange.endpoints import Endpoint, route_of
from klagg.exchange.payloads import listings_of, subscribable
from klagg.exchange.rest import ExchangeRest
from klagg.service import AsyncContext, run_async
from klagg.stats import Alarm
from klagg.weights import ROLE_CLOCK, HastyGate

START_TRIES: Final = 8
START_FIRST_S: Final = 0.5
START_CAP_S: Final = 10.0

MARK_LEAST_S: Final = 0.05
"""Marks come every `ingest.mark_ms` of exchange time; however fast a local exchange runs, no more often than this."""


class Line:
    """One line's parts, put together for the symbols that it carries."""

    def __init__(self, context: AsyncContext, clock: ExchangeClock, symbols: Sequence[str], sender: Sender) -> None:
        settings = context.settings
        exchange, ingest = settings.exchange, settings.ingest
        name = str(context.arguments.line)
        endpoint = Endpoint(exchange.endpoint)
        rules = Rules(endpoint, exchange.source, frozenset(symbols), ingest.future_ms_max)
        batch = Batch(rules, line=name, shards=settings.shards, batch_ms=ingest.batch_ms, batch_rows=ingest.batch_rows)
        self._context, self._clock = context, clock
        self.intake = Intake(batch, sender.outbox, clock, line=name, stats=context.stats, log=context.log)
        self.connections = [
            Connection(
                f"{name}{number}", route_of(exchange.websocket_url, endpoint, exchange.source, part), part,
                self.intake.take, stats=context.stats, log=context.log,
            )
            for number, part in enumerate(parts_of(symbols, exchange.symbols_per_connection), 1)
        ]  # fmt: skip
        self._shards = {each.name: by_shard(each.symbols, settings.shards) for each in self.connections}

    def tasks(self) -> dict[str, Coroutine[Any, Any, None]]:
        """The background tasks of the line by name; none of them ends by itself."""
        receiving = {f"connection {each.name}": each.run() for each in self.connections}
        return {**receiving, "batches": self.intake.run(), "marks": self._marks()}

    async def _marks(self) -> None:
        marked_ms: dict[str, int] = {}
        while True:
            pause_s = mark_s(self._context.settings.ingest.mark_ms, self._clock.speed)
            await asyncio.sleep(pause_s / 2)
            for each in self.connections:
                await each.ping_if_quiet()
            await asyncio.sleep(pause_s / 2)
            self._context.stats.show("connections", sum(each.is_up for each in self.connections))
            for each in self.connections:
                alive_ms = each.alive_ms(self._clock)
                if alive_ms is not None and alive_ms > marked_ms.get(each.name, 0):
                    self.intake.mark(self._shards[each.name], alive_ms)
                    marked_ms[each.name] = alive_ms


def parts_of(symbols: Sequence[str], size: int) -> list[Sequence[str]]:
    """`symbols` in parts of at most `size`, one for each connection."""
    return [symbols[start : start + size] for start in range(0, len(symbols), size)]


def by_shard(symbols: Sequence[str], shards: int) -> dict[int, list[str]]:
    """`symbols` by the shard that owns them."""
    owned: dict[int, list[str]] = {}
    for symbol in symbols:
        owned.setdefault(shard_of(symbol, shards), []).append(symbol)
    return owned


def mark_s(mark_ms: int, speed: float) -> float:
    """Real seconds between two marks; an exchange whose clock is held (speed 0) counts as running at ×1."""
    return max(MARK_LEAST_S, mark_ms / 1000 / (speed or 1))


async def symbols_at_start(context: AsyncContext, rest: ExchangeRest) -> list[str]:
    """The symbols to subscribe to; [] if asked to stop meanwhile. After START_TRIES the exchange's error is raised."""
    exchange = context.settings.exchange
    backoff = Backoff(START_FIRST_S, START_CAP_S, random.random)
    while True:
        try:
            info = await rest.exchange_info()
            chosen = listings_of(info, exchange.quote_assets, exchange.contract_types, exchange.symbols)
        except (ExchangeUnavailable, ExchangeRefused) as failure:
            delay_s = backoff.next_s()
            if backoff.tries >= START_TRIES:
                raise
            if isinstance(failure, ExchangeRefused):
                delay_s = min(START_CAP_S, max(delay_s, failure.retry_after_s))
            context.log.warning("no symbols yet, next try in %.1f s: %s", delay_s, failure)
            if not await context.sleep(delay_s):
                return []
            continue
        for problem in chosen.malformed:
            context.stats.add("malformed_listings")
            context.log.warning("left out: %s", problem)
        symbols = subscribable(chosen.listings)
        if not symbols:
            raise ConfigError("none of the chosen symbols is trading, so there is nothing to subscribe to")
        return symbols


async def _keep_time(synchroniser: Synchroniser) -> None:
    while True:
        await asyncio.sleep(synchroniser.wait_s)
        await synchroniser.once()


async def until_stopping(context: AsyncContext, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or the process is asked to stop, which cancels it; its errors are raised."""
    task = asyncio.create_task(work)
    stop = asyncio.create_task(context.stopping.wait())
    try:
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
    finally:
        for each in (task, stop):
            each.cancel()
        await asyncio.gather(task, stop, return_exceptions=True)


async def _receive(context: AsyncContext, line: Line, sender: Sender, synchroniser: Synchroniser) -> None:
    """The receiving half: runs until asked to stop, then hands over what is still in the batch."""
    try:
        await until_stopping(context, context.together({**line.tasks(), "time": _keep_time(synchroniser)}))
    finally:
        line.intake.flush()
        sender.finish()


async def ingest(context: AsyncContext) -> None:
    """Body of the process. Ends when asked to and everything received is in Redis, or with the first error."""
    settings = context.settings
    streams = context.connect()
    await streams.ping()
    clock = ExchangeClock()
    gate = HastyGate(streams, ROLE_CLOCK, settings.rest)
    async with ExchangeRest(settings.exchange.rest_url, gate=gate) as rest:
        synchroniser = Synchroniser(
            rest,
            clock,
            sync_s=settings.clock.sync_s,
            lost_s=settings.clock.lost_s,
            stats=context.stats,
            log=context.log,
        )
        await synchroniser.once()
        symbols = await symbols_at_start(context, rest)
        if not symbols:
            return
        sender = Sender(
            streams, FeedRoom(streams, settings, stats=context.stats, log=context.log), writer=context.writer,
            bytes_max=settings.ingest.buffer_mb_max << 20, age_s_max=settings.ingest.buffer_s_max,
            shutdown_s=settings.service.shutdown_s, stats=context.stats, log=context.log,
        )  # fmt: skip
        line = Line(context, clock, symbols, sender)
        context.log.info(
            "line %s: %s of %d symbols over %d connections to %s (%s)", context.arguments.line,
            settings.exchange.source, len(symbols), len(line.connections), settings.exchange.websocket_url,
            settings.exchange.endpoint,
        )  # fmt: skip
        await context.together({"receiving": _receive(context, line, sender, synchroniser), "sender": sender.run()})
    await streams.close()
    counted = context.stats.counters
    context.log.info("ended with %d trades in %d entries", counted.get("trades", 0), counted.get("entries", 0))


def _line_name(text: str) -> str:
    if not re.fullmatch(r"[A-Z][A-Z0-9]{0,7}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no line: use capital letters and digits, such as A, B or A2")
    return text


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--line", default="A", type=_line_name, help="name of this line (default A)")


def main(argv: Sequence[str] | None = None) -> int:
    """Console script klagg-ingest; the exit code."""
    # A batch makes a thousand mappings that all go at once; looking through them for cycles costs a tenth of the rate.
    gc.set_threshold(50_000, 20, 100)
    return run_async(
        "ingest",
        "Carries trades from the exchange's WebSocket to Redis.",
        ingest,
        argv=argv,
        configure=_configure,
        name=lambda arguments: f"ingest-{arguments.line}",
        alarm=Alarm("messages", "trades"),
    )


if __name__ == "__main__":
    sys.exit(main())
