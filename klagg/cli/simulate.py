"""`klagg simulate`: a simulator of the exchange for demos, tests and load."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path

from klagg.errors import RecordingError
from klagg.simulator import (
    FaultScript,
    FaultScriptError,
    MarketSource,
    RecordedMarket,
    Simulator,
    SyntheticMarket,
    read_faults,
)
from klagg.simulator.faults import KINDS
from klagg.simulator.synthetic import STRADDLE_SHARE

_STATISTICS_S = 10.0
_FAULTS_S = 0.25
_SYMBOLS, _RATE, _SEED = 20, 200.0, 1
EDGES_HELP = (
    "share of minutes, 0 to 1, whose last aggTrade fills into the next one; 0.002 is about three a day and symbol"
)


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the `simulate` command to the main parser."""
    parser = commands.add_parser(
        "simulate",
        help="run a simulator of the exchange: recorded trades, or a seeded synthetic market",
        description="Runs a Binance USDⓈ-M exchange on this machine (WebSocket and REST on one port) that plays "
        "recorded trades or a seeded synthetic market.",
        epilog=faults_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `simulate`."""
    parser.add_argument("--trades", nargs="+", metavar="FILE", help="recordings to play (any format, gz or not)")
    parser.add_argument("--symbol", help="the symbol of recordings that name none")
    parser.add_argument("--symbols", type=int, metavar="N", help=f"symbols of a synthetic market ({_SYMBOLS})")
    parser.add_argument("--rate", type=float, metavar="R", help=f"its aggregate trades a second in total ({_RATE:g})")
    parser.add_argument("--seed", type=int, metavar="S", help=f"its seed ({_SEED})")
    parser.add_argument("--floor", type=float, metavar="S", help="its symbols trade at least once in S seconds (never)")
    parser.add_argument("--edges", type=float, metavar="P", help=f"{EDGES_HELP} ({STRADDLE_SHARE:g})")
    parser.add_argument("--speed", type=float, default=1.0, metavar="X", help="exchange seconds a second (1)")
    parser.add_argument("--faults", metavar="FILE", help="a script of what goes wrong and when (see below)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (a free one)")
    parser.add_argument(
        "--wait",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="hold the clock until the first subscriber (default: for recordings)",
    )


def faults_help() -> str:
    """What a fault script may hold: every kind with its keys."""
    lines = [
        "A fault script is TOML: `seed` and one [[fault]] table per fault, with `kind` and keys of that kind.",
        "config/faults/example.toml explains the keys. Times are exchange seconds since the start. Kinds:",
        "",
    ]
    width = max(map(len, KINDS)) + 1
    for name, kind in KINDS.items():
        lines += [f"  {name:<{width}}{kind.does}", f"  {'':<{width + 2}}{' '.join(kind.keys)}"]
    return "\n".join(lines)


def read_script(path: str) -> FaultScript:
    """The fault script in a file. Raises ValueError with a sentence that names the file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as bad:
        raise ValueError(f"The fault script {path} cannot be read: {bad.strerror}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"The fault script {path} is not UTF-8.") from None
    try:
        return read_faults(text)
    except FaultScriptError as bad:
        raise ValueError(f"{path}: {bad}") from None


def run(args: argparse.Namespace) -> int:
    """Runs the exchange until SIGINT or SIGTERM. Returns the exit code: 0, or 2 for arguments that cannot be met."""
    try:
        source = _source(args)
        if not 0 <= args.port <= 65_535:
            raise ValueError(f"The port must lie between 0 and 65535, not {args.port}.")
        faults = None if args.faults is None else read_script(args.faults)
        exchange = Simulator(source, args.speed, args.host, args.port, wait=args.wait, faults=faults)
    except (ValueError, RecordingError) as error:
        print(error, file=sys.stderr)
        return 2
    return asyncio.run(_serve(exchange, args.host, args.port))


def _source(args: argparse.Namespace) -> MarketSource:
    if args.trades is None:
        if args.symbol is not None:
            raise ValueError("--symbol names the symbol of recordings: it needs --trades.")
        return SyntheticMarket(
            _SYMBOLS if args.symbols is None else args.symbols,
            _RATE if args.rate is None else args.rate,
            _SEED if args.seed is None else args.seed,
            floor_s=args.floor,
            straddle_share=STRADDLE_SHARE if args.edges is None else args.edges,
        )
    for option in ("symbols", "rate", "seed", "floor", "edges"):
        if getattr(args, option) is not None:
            raise ValueError(f"--{option} shapes a synthetic market and cannot be given with --trades.")
    return RecordedMarket.load(args.trades, args.symbol)


async def _serve(exchange: Simulator, host: str, port: int) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await exchange.start()
    except OSError as error:
        print(f"Cannot listen on {host} port {port}: {error.strerror or error}.", file=sys.stderr)
        await exchange.stop()
        return 2
    print(f"the simulator at {exchange.rest_url} ({exchange.websocket_url})", flush=True)
    tasks = [
        asyncio.create_task(stop.wait(), name="stop signal"),
        asyncio.create_task(exchange.failed(), name="exchange failure"),
        asyncio.create_task(_print_statistics(exchange), name="statistics"),
        asyncio.create_task(_print_faults(exchange), name="faults"),
    ]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            await exchange.stop()
    return 0


async def _print_statistics(exchange: Simulator) -> None:
    """Print one line every 10 s: what was sent, and whether the simulator keeps up with its clock."""
    player, hub = exchange.player, exchange.hub
    before = (player.aggregates_played, hub.frames_sent, hub.bytes_sent, exchange.rest.requests)
    at_s = time.monotonic()
    while True:
        await asyncio.sleep(_STATISTICS_S)
        now = (player.aggregates_played, hub.frames_sent, hub.bytes_sent, exchange.rest.requests)
        now_s = time.monotonic()
        played, frames, sent, requests = (
            (after - earlier) / (now_s - at_s) for after, earlier in zip(now, before, strict=True)
        )
        before, at_s = now, now_s
        state = exchange.state()
        status = "held until a subscriber comes" if state["held"] else "ended" if state["ended"] else "playing"
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(exchange.rest.now_ms() / 1000))
        print(
            f"exchange {moment} x{exchange.clock.speed:g} {status}, lag {state['lagMs']} ms exchange time, "
            f"{played:.0f} aggTrades/s, {frames:.0f} events/s and {sent / 1e6:.2f} MB/s to {state['connections']} "
            f"connections on {state['streams']} streams, {requests:.1f} REST requests/s",
            flush=True,
        )


async def _print_faults(exchange: Simulator) -> None:
    """Print a line when a fault begins or is over, and when connections were closed; nothing without a script."""
    active: set[object] = set()
    closed: dict[object, object] = {}
    while exchange.faults is not None:
        for row in exchange.faults.state():
            number, acted = row["number"], row["acted"]
            title = f"fault {number} ({row['kind']})"
            if row["active"] != (number in active):
                active ^= {number}
                print(f"{title} begins" if row["active"] else f"{title} is over, acted {acted} times", flush=True)
            elif row["kind"] == "disconnect" and acted != closed.get(number, 0):
                print(f"{title} acted, {acted} times in all", flush=True)
            closed[number] = acted
        await asyncio.sleep(_FAULTS_S)
    await asyncio.Event().wait()


def main() -> int:
    """Runs the command by itself."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="klagg simulate", epilog=faults_help(), formatter_class=raw)
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
