"""Which market `klagg up` shows: the live exchange, or a local one that plays a simulated or recorded market."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import ujson

from klagg.errors import ConfigError, ExchangeUnavailable
from klagg.settings import Settings

Number = TypeVar("Number", int, float)

REACH_S = 3.0
SYMBOLS, RATE, SEED, SPEED = 100, 1000.0, 1, 1.0
"""The simulated market unless told otherwise: enough to look at, little enough for any machine."""


@dataclass(frozen=True, slots=True)
class Source:
    """A source of trades. `simulator` are the arguments of the simulator (None: the live exchange); `banner` is a
    warning that is always shown.

    `folder` keeps its data apart from other markets', whose ids and times would contradict it: `live`, `sim` for the
    simulated market as it is by default, `sim-…` for one of another shape, `recorded-…` for recordings.
    """

    folder: str
    simulator: tuple[str, ...] | None
    banner: str
    title: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that choose the market."""
    parser.add_argument(
        "--source",
        choices=("live", "sim", "auto"),
        default="live",
        help="live exchange, simulator with a simulated market, or live if it can be reached (live)",
    )
    parser.add_argument("--symbols", type=int, metavar="N", help=f"symbols of the simulated market ({SYMBOLS})")
    parser.add_argument("--rate", type=float, metavar="R", help=f"its trades a second in total ({RATE:g})")
    parser.add_argument("--seed", type=int, metavar="S", help=f"its seed ({SEED})")
    parser.add_argument(
        "--edges",
        type=float,
        metavar="P",
        help="share of its minutes whose last aggTrade fills into the next one (0.002: about three a day and symbol)",
    )
    parser.add_argument("--trades", nargs="+", metavar="FILE", help="play these recordings instead")
    parser.add_argument("--speed", type=float, metavar="K", help="exchange seconds a second of a simulator (1)")
    parser.add_argument(
        "--faults", metavar="FILE", help="what goes wrong at a simulator: a script as `klagg simulate` takes it"
    )


def choose(args: argparse.Namespace, settings: Settings) -> Source:
    """The source that the options choose. Raises ConfigError, or ExchangeUnavailable if the live exchange is required
    and cannot be reached."""
    given = [
        name
        for name in ("symbols", "rate", "seed", "edges", "trades", "speed", "faults")
        if getattr(args, name) is not None
    ]
    if given and args.source == "live":
        raise ConfigError(f"--{given[0]} shapes a simulator: it goes with --source sim or auto")
    if args.source != "sim":
        trouble = unreachable(settings.exchange.rest_url)
        if not trouble:
            return Source("live", None, "", f"live exchange {settings.exchange.websocket_url}")
        if args.source == "live":
            raise ExchangeUnavailable(
                f"the exchange cannot be reached at {settings.exchange.rest_url} ({trouble}); "
                "`klagg up --source sim` shows a simulated market"
            )
        if settings.redis.url or settings.database.url:
            raise ExchangeUnavailable(
                f"the exchange cannot be reached ({trouble}), and a simulated market is not mixed into the servers "
                "that the configuration names; say --source sim if that is what you want"
            )
    found = _recorded(args) if args.trades else _synthetic(args)
    return found if args.faults is None else _with_faults(found, args.faults)


def unreachable(rest_url: str) -> str:
    """Why the exchange's clock cannot be read, empty if it can."""
    try:
        with urllib.request.urlopen(f"{rest_url}/fapi/v1/time", timeout=REACH_S) as answer:
            return "" if "serverTime" in ujson.loads(answer.read(4096)) else "it does not tell the time"
    except urllib.error.URLError as refused:
        return str(refused.reason)
    except (OSError, ValueError, TypeError, http.client.HTTPException) as bad:
        return str(bad) or type(bad).__name__


def _synthetic(args: argparse.Namespace) -> Source:
    """A market of another shape has other trades under the same ids, and another speed another time: its own folder."""
    symbols, rate = _given(args.symbols, SYMBOLS), _given(args.rate, RATE)
    seed, speed = _given(args.seed, SEED), _given(args.speed, SPEED)
    shape = (symbols, rate, seed, speed)
    folder = "sim" if shape == (SYMBOLS, RATE, SEED, SPEED) else f"sim-{symbols}-{rate:g}-{seed}-x{speed:g}"
    edges: tuple[str, ...] = ()
    if args.edges is not None:
        folder, edges = f"{folder}-edges{args.edges:g}", ("--edges", f"{args.edges:g}")
    arguments = ("--symbols", str(symbols), "--rate", f"{rate:g}", "--seed", str(seed), "--speed", f"{speed:g}", *edges)
    title = f"simulator: {symbols} invented symbols, {rate:g} trades/s, ×{speed:g}"
    return Source(folder, arguments, "THE MARKET IS SIMULATED: these are invented trades, not the exchange's", title)


def _given(value: Number | None, default: Number) -> Number:
    """The option if it was given, also a wrong one such as 0, which the simulator then refuses."""
    return default if value is None else value


def _recorded(args: argparse.Namespace) -> Source:
    """Recordings keep a folder of their own: their time is not now, and their ids are not another market's."""
    shaping = [name for name in ("symbols", "rate", "seed", "edges") if getattr(args, name) is not None]
    if shaping:
        raise ConfigError(f"--{shaping[0]} shapes an invented market and cannot be given with --trades")
    files = [str(Path(each).resolve()) for each in args.trades]
    missing = [each for each in files if not Path(each).is_file()]
    if missing:
        raise ConfigError(f"there is no recording {missing[0]}")
    speed = _given(args.speed, SPEED)
    title = f"simulator: {len(files)} recording{'s' if len(files) > 1 else ''}, ×{speed:g}"
    banner = "THE MARKET IS SIMULATED: recorded trades are played again, this is not the market of now"
    return Source(f"recorded-{_fingerprint(files)}", ("--trades", *files, "--speed", f"{speed:g}"), banner, title)


def _with_faults(market: Source, faults: str) -> Source:
    """A market with a fault script. What changes the market changes its trades, counted from the start of each run:
    such a market keeps nothing from one run to the next, so that each has a folder of its own."""
    from klagg.cli.simulate import read_script

    try:
        changes = read_script(faults).changes
    except ValueError as bad:
        raise ConfigError(str(bad)) from None
    folder = f"{market.folder}-changing-{int(time.time())}" if changes else market.folder
    arguments = (*(market.simulator or ()), "--faults", str(Path(faults).resolve()))
    return replace(market, folder=folder, simulator=arguments, title=f"{market.title}, faults of {Path(faults).name}")


def _fingerprint(files: Sequence[str]) -> str:
    """A short hash of the contents of these recordings."""
    mark = hashlib.sha256()
    for each in files:
        try:
            with open(each, "rb") as recording:
                mark.update(hashlib.file_digest(recording, "sha256").digest())
        except OSError as bad:
            raise ConfigError(f"the recording {each} cannot be read: {bad.strerror}") from None
    return mark.hexdigest()[:8]


def simulator_settings(settings: Settings, rest_url: str, socket_url: str, recordings: list[str] | None) -> Settings:
    """The settings for the simulator: its URLs and assets, and for recordings the kind of trades in them."""
    directly = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # a proxy cannot reach this machine's loopback
    with directly.open(f"{rest_url}/fapi/v1/exchangeInfo", timeout=10) as answer:
        listed = ujson.loads(answer.read())["symbols"]
    exchange = replace(
        settings.exchange,
        rest_url=rest_url,
        websocket_url=socket_url,
        symbols=(),
        quote_assets=tuple(sorted({each["quoteAsset"] for each in listed})),
        contract_types=tuple(sorted({each["contractType"] for each in listed})),
    )
    if recordings:
        from klagg.recordings import open_trades

        ids = {open_trades(each).ids for each in recordings}
        exchange = replace(exchange, source="trade" if ids == {"trade"} else "aggTrade")
    return replace(settings, exchange=exchange)
