"""`make soak`: half an hour of a whole market under random faults leaves a table equal to the exchange's own record and
memory that did not grow.

    python -m tests.soak [--seed 1] [--minutes 30] [--symbols 600] [--rate 5000] [--two-lines]

Two lines, repair, clock, aggregator and writer run with their default settings against a simulator that plays a
seeded fault script. Every bar from the first fault on is compared: with the exchange's trades, folded by plain Python,
or, where its klines healed the bar, with those. `--two-lines` plays five minutes instead in which both lines lose a
percent of their trades and each of them dies and comes back, one after the other. The last line says `sound` (exit
code 0) or `unsound` (1).
"""

from __future__ import annotations

import argparse
import logging
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from klagg.embedded import PostgresServer, RedisServer
from klagg.errors import KlaggError
from tests.guard import Guard
from tests.soak.expected import Market
from tests.soak.run import Soak, say
from tests.soak.twolines import two_lines

SHOWN = 10
"""Differences that are printed."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the market and of the faults (1)")
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--symbols", type=int, default=600)
    parser.add_argument("--rate", type=float, default=5000.0, help="trades a second (5000)")
    parser.add_argument("--two-lines", action="store_true", help="both lines lose trades and die in turn, 5 minutes")
    parser.add_argument("--keep", action="store_true", help="keep data and logs also when all is sound")
    return parser.parse_args()


def main() -> int:
    """The exit code."""
    arguments = _arguments()
    logging.getLogger("klagg.embedded").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="klagg-soak-"))
    guard = Guard()
    guard.add_folder(folder)
    folder.chmod(0o755)
    say(f"seed {arguments.seed}, {arguments.symbols} symbols, {arguments.rate:g} trades/s, data in {folder}")
    wrong = []
    try:
        with RedisServer(folder) as redis, PostgresServer(folder, fsync=False) as postgres:
            market = Market(arguments.symbols, arguments.rate, arguments.seed)
            database_url = postgres.create_database("soak")
            if arguments.two_lines:
                wrong = two_lines(folder, market, redis.url, database_url)
            else:
                wrong = Soak(folder, market, arguments.minutes).run(redis.url, database_url)
    except (AssertionError, RuntimeError, KlaggError) as failure:
        wrong = [str(failure)]
    for each in wrong[:SHOWN]:
        print(each)
    if wrong or arguments.keep:
        print(f"{len(wrong)} faults of klagg; data and logs are kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    guard.close()
    print("unsound" if wrong else "sound")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
