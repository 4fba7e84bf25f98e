"""klagg-ingest: one line, from the exchange's WebSocket to the feeds `feed:{n}` in Redis. A thin shell."""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from collections.abc import Sequence

from ingest.feed_capacity import FeedCapacity
from ingest.line import Line, connection_options
from ingest.listed import Listed
from ingest.sender import Sender
from ingest.synchroniser import Synchroniser
from ingest.timings import DEFAULT_TIMINGS, Timings
from klagg.binance.rest_client import ExchangeRest
from klagg.binance.weight_account import ROLE_CLOCK, HastyGate
from klagg.clock import ExchangeClock
from klagg.process.service import AsyncContext, run_async, until_stopping
from klagg.process.stats import Flow
from klagg.settings import LINE_NAME


async def _keep_time(synchroniser: Synchroniser) -> None:
    while True:
        await asyncio.sleep(synchroniser.wait_s)
        await synchroniser.once()


async def _receive(context: AsyncContext, line: Line, sender: Sender, synchroniser: Synchroniser) -> None:
    """The receiving half: runs until the process is to stop, then delivers what is still in the batch."""
    try:
        await until_stopping(context, context.together({**line.tasks(), "time": _keep_time(synchroniser)}))
    finally:
        line.intake.flush()
        sender.finish()


async def ingest(context: AsyncContext, timings: Timings = DEFAULT_TIMINGS) -> None:
    """Body of the process. It ends when it is to stop and everything received is in Redis, or with the first error.

    Leftover if not everything could be written within `service.shutdown_s`.
    """
    settings = context.settings
    streams = context.connect()
    await streams.ping()
    clock = ExchangeClock()
    gate = HastyGate(streams, ROLE_CLOCK, settings.rest, context.stats)
    agent = connection_options(settings, context.arguments.line).agent
    async with ExchangeRest(settings.exchange.rest_url, gate=gate, proxy=settings.exchange.proxy, agent=agent) as rest:
        synchroniser = Synchroniser(
            rest,
            clock,
            sync_s=settings.clock.sync_s,
            lost_s=settings.clock.lost_s,
            stats=context.stats,
            log=context.log,
            timings=timings,
        )
        await synchroniser.once()
        listed = Listed(context, rest, timings)
        symbols = await listed.start()
        if symbols is None:
            return
        sender = Sender(
            streams,
            FeedCapacity(streams, settings, stats=context.stats),
            writer=context.writer,
            bytes_max=settings.ingest.buffer_mb_max << 20,
            age_s_max=settings.ingest.buffer_s_max,
            shutdown_s=settings.service.shutdown_s,
            stats=context.stats,
            log=context.log,
            timings=timings,
        )
        line = Line(context, clock, sender, listed, timings)
        line.follow(symbols)
        context.position = lambda: _position(context, line, sender)
        context.log.info(
            "line %s: %s of %d symbols over %d connections to %s (%s)",
            context.arguments.line,
            settings.exchange.source,
            len(symbols),
            len(line.pool.connections),
            settings.exchange.websocket_url,
            settings.exchange.endpoint,
        )
        await context.together({"receiving": _receive(context, line, sender, synchroniser), "sender": sender.run()})
    await streams.close()


def _position(context: AsyncContext, line: Line, sender: Sender) -> str:
    counted = context.stats.counters
    newest_ms = max((each[0] for each in line.intake.latest.values()), default=0)
    return (
        f"ended with {counted.get('trades', 0)} trades in {counted.get('entries', 0)} entries, the newest trade is of "
        f"{newest_ms} (exchange ms); {len(sender.outbox)} entries are left unwritten"
    )


def _line_name(text: str) -> str:
    if not LINE_NAME.fullmatch(text):
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
        flow=Flow("messages", "trades"),
    )


if __name__ == "__main__":
    sys.exit(main())
