"""`make soak`: half an hour of a whole market under random faults leaves a table equal to the exchange's own record and
memory that did not grow.

    python -m tests.soak [--seed 1] [--minutes 30] [--symbols 600] [--rate 5000]

Two lines, repair, clock, aggregator and writer run with their default settings against a simulator that plays a
seeded fault script. Every bar from the first fault on is compared: with the exchange's trades, folded by plain Python,
or, where its klines healed the bar, with those. The last line says `sound` (exit code 0) or `unsound` (1).
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
from tests.soak.expected import Market
from tests.soak.run import Soak, say

SHOWN = 10
"""Differences that are printed."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the market and of the faults (1)")
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--symbols", type=int, default=600)
    parser.add_argument("--rate", type=float, default=5000.0, help="trades a second (5000)")
    parser.add_argument("--keep", action="store_true", help="keep data and logs also when all is sound")
    return parser.parse_args()


def main() -> int:
    """The exit code."""
    arguments = _arguments()
    logging.getLogger("klagg.embedded").setLevel(logging.ERROR)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = Path(tempfile.mkdtemp(prefix="klagg-soak-"))
    folder.chmod(0o755)
    say(f"seed {arguments.seed}, {arguments.symbols} symbols, {arguments.rate:g} trades/s, data in {folder}")
    wrong = []
    try:
        with RedisServer(folder) as redis, PostgresServer(folder, fsync=False) as postgres:
            market = Market(arguments.symbols, arguments.rate, arguments.seed)
            wrong = Soak(folder, market, arguments.minutes).run(redis.url, postgres.create_database("soak"))
    except (AssertionError, RuntimeError, KlaggError) as failure:
        wrong = [str(failure)]
    for each in wrong[:SHOWN]:
        print(each)
    if wrong or arguments.keep:
        print(f"{len(wrong)} faults of klagg; data and logs are kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print("unsound" if wrong else "sound")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
