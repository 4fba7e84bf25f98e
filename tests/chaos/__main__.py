"""`make chaos`: the real processes under a seeded storm of faults leave the table that they leave without it.

    python -m tests.chaos [--seed 1] [--kills 200]

Three tables are compared: of an uninterrupted run, of a run with the faults, and one recomputed from the exchange's
trades by the slow oracle. The last line says `identical` (exit code 0) or `different` (1).
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from klagg.embedded import PostgresServer
from klagg.errors import KlaggError
from tests.chaos import table
from tests.chaos.market import recordings_in
from tests.chaos.plan import plan
from tests.chaos.processes import ROOT, ChaosFailed
from tests.chaos.run import CLOSED, FINDING, Result, Run
from tests.chaos.shape import Shape
from tests.guard import Guard

SHOWN = 10
"""Differing bars that are printed."""


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def play(
    shape: Shape, folder: Path, *, seed: int, kills: int, speeds: tuple[float, float], postgres: PostgresServer
) -> tuple[Result, Result]:
    """The uninterrupted run and the one with faults, at these speeds of the exchange's clock."""
    faults = plan(seed, kills, shape.window_to_ms - shape.window_from_ms)
    results = []
    for name, speed, chosen in (("calm", speeds[0], []), ("chaos", speeds[1], faults)):
        say(f"the {name} run begins, x{speed:g}")
        url = postgres.create_database(f"{name}_{os.getpid()}_{seed}")
        with Run(shape, folder / name, url, speed=speed, faults=chosen, seed=seed) as run:
            results.append(run.play())
        tell(name, results[-1])
    return results[0], results[1]


def tell(name: str, result: Result) -> None:
    """What happened in a run."""
    equal = len(result.exchange_ids) - len(result.wrong_ids)
    say(f"the {name} run took {result.seconds:.0f} s; {len(result.bars)} bars in the window")
    print(f"  last ids: {equal} of {len(result.exchange_ids)} symbols equal the exchange's")
    if result.unsettled:
        print(f"  NOT SETTLED: {result.unsettled}")
    if result.kills:
        print(f"  kill -9: {sum(result.kills.values())} ({_told(result.kills)})")
    if result.faults:
        print(f"  faults: {_told(result.faults)}")
    counts = result.counts
    reasons = {key.removeprefix(CLOSED): count for key, count in counts.items() if key.startswith(CLOSED)}
    print(
        f"  duplicates dropped {counts['duplicates']} (the feed read again after restarts counts too), gaps opened "
        f"{counts['gap_opened']}, ended {counts['gap_closed']} ({_told(reasons)}), amendments {counts['amended']}"
    )
    findings = {key.removeprefix(FINDING): count for key, count in counts.items() if key.startswith(FINDING)}
    print(f"  findings: {_told(findings)}; dead entries {counts['dead entries']}")
    print(f"  ended by themselves: {result.ended}", flush=True)


def _told(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{key} {count}" for key, count in sorted(counts.items())) or "none"


def verdict(shape: Shape, calm: Result, chaos: Result) -> bool:
    """Prints the digests and what differs; whether all is the same."""
    expected, trades = table.recomputed(shape)
    say(f"{trades} trades of {shape.symbols} symbols in the market, {len(expected)} bars expected")
    same = trades >= shape.trades
    if not same:
        print(f"  the market had fewer trades than {shape.trades}")
    for name, bars in (("recomputed", expected), ("calm", calm.bars), ("chaos", chaos.bars)):
        complete = sum(bar.complete for bar in bars.values())
        print(f"  {name:10} sha256 {table.digest(bars)} over {len(bars)} bars, {complete} complete")
    sides: list[tuple[str, table.Table]] = [("calm", calm.bars), ("chaos", chaos.bars)]
    for name, bars in sides:
        differing = list(table.differences(expected, bars))
        same = same and not differing
        if differing:
            print(f"  {len(differing)} bars of the {name} run differ from the recomputed ones:")
            for left, right in differing[:SHOWN]:
                print(f"    expected {left}\n    {name:8} {right}")
    for name, result in (("calm", calm), ("chaos", chaos)):
        if result.wrong_ids or result.unsettled:
            same = False
            print(f"  the {name} run did not get everything: {result.unsettled} {result.wrong_ids[:SHOWN]}")
    return same and calm.bars == chaos.bars


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the market and of the faults (1)")
    parser.add_argument("--kills", type=int, default=200, help="kill -9 in all (200)")
    parser.add_argument("--symbols", type=int, default=Shape().symbols)
    parser.add_argument("--trades", type=int, default=Shape().trades, help="at least so many (1,000,000)")
    parser.add_argument("--minutes", type=int, default=Shape().window_minutes, help="of the window of faults (8)")
    parser.add_argument("--warm-s", type=int, default=Shape().warm_ms // 1000, help="of the market before it")
    parser.add_argument("--speed", type=float, default=1.0, help="of the run with faults (1)")
    parser.add_argument("--calm-speed", type=float, default=4.0, help="of the uninterrupted run (4)")
    parser.add_argument("--keep", action="store_true", help="keep data and logs also when all is identical")
    return parser.parse_args()


def main() -> int:
    """The exit code."""
    arguments = _arguments()
    logging.getLogger("klagg.embedded").setLevel(logging.ERROR)
    # Whoever ends this run wants its processes ended as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    data = Path(os.environ.get("KLAGG_REALDATA") or ROOT.parent / "shared" / "realdata")
    shape = Shape(
        arguments.seed,
        arguments.symbols,
        arguments.trades,
        arguments.minutes,
        arguments.warm_s * 1000,
        recordings=recordings_in(data),
    )
    folder = Path(tempfile.mkdtemp(prefix="klagg-chaos-"))
    guard = Guard()
    guard.add_folder(folder)
    folder.chmod(0o755)
    say(f"seed {arguments.seed}, {arguments.kills} kills, recordings {list(shape.recordings)}, data in {folder}")
    same = False
    try:
        with PostgresServer(folder, fsync=False) as postgres:
            calm, chaos = play(
                shape,
                folder,
                seed=arguments.seed,
                kills=arguments.kills,
                postgres=postgres,
                speeds=(arguments.calm_speed, arguments.speed),
            )
        same = verdict(shape, calm, chaos)
    except (ChaosFailed, KlaggError) as failure:
        print(failure)
    if same and not arguments.keep:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"data and logs are kept in {folder}")
    guard.close()
    print("identical" if same else "different")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
