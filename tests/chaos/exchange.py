"""The simulator of a run, as a process: the run's market, its limits raised, its faults if wanted.

    python -m tests.chaos.exchange SHAPE_JSON --speed 1 [--faults SEED]

Its REST limit is raised: a run of minutes opens as many gaps as a bad day, and what its repair would take at the
exchange's own limit is tested elsewhere.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

from klagg.binance.serving.limits import Limits
from klagg.binance.serving.payloads import compact
from klagg.simulator import Simulator
from tests.chaos.market import ChaosMarket
from tests.chaos.shape import Shape
from tests.chaos.weather import FaultyHub

WEIGHT_PER_MINUTE = 1_000_000
LEAD_REAL_MS = 3_000
"""Real time between the first subscriber and the first trade: all connections of a line are up by then."""

HARM = "harm done: "
"""Begins the last line: a JSON object of what the faults did."""

SMALL_TRADES = 500_000
"""Below it more bursts are lost, so that a small run sees some."""


async def serve(shape: Shape, speed: float, faults: int | None) -> None:
    """Runs the exchange until SIGTERM or SIGINT."""
    hub = None
    if faults is not None:
        scale = max(1.0, SMALL_TRADES / shape.trades)
        hub = FaultyHub(faults, shape.window_from_ms, shape.window_to_ms, scale=scale)
    exchange = Simulator(
        ChaosMarket(shape),
        speed,
        lead_ms=int(LEAD_REAL_MS * speed),
        hub=hub,
        limits=Limits(weight_per_minute=WEIGHT_PER_MINUTE),
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await exchange.start()
    print(f"the simulator at {exchange.rest_url} {exchange.websocket_url}", flush=True)
    failed, stopped = asyncio.create_task(exchange.failed()), asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait((failed, stopped), return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    stopped.cancel()
    await exchange.stop()
    await failed
    print(f"{HARM}{compact(dict(hub.done) if hub else {})}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.exchange")
    parser.add_argument("shape", type=Shape.from_json)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--faults", type=int)
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.shape, arguments.speed, arguments.faults))


if __name__ == "__main__":
    main()
