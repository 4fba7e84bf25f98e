"""`python -m klagg.embedded [DATA]`: both servers in DATA until Ctrl-C or SIGTERM, to look at them by themselves."""

from __future__ import annotations

import argparse
import signal
import sys
import time

from klagg import log
from klagg.embedded import PostgresServer, RedisServer, usable_data_directory
from klagg.errors import KlaggError


def _run(data: str) -> None:
    with RedisServer(data) as redis, PostgresServer(data) as postgres:
        print(f"redis     {redis.url}  (process {redis.pid}, {redis.program})", flush=True)
        print(f"postgres  {postgres.url}  (process {postgres.pid}, {postgres.build.programs})", flush=True)
        for note in postgres.notes:
            print(note, flush=True)
        while redis.is_running() and postgres.is_running():
            time.sleep(0.2)
        raise KlaggError("A server ended by itself: see its server.log.")


def main() -> int:
    """Runs both servers; exit status 0 after Ctrl-C or SIGTERM, 1 with a sentence if they cannot run."""
    parser = argparse.ArgumentParser(prog="python -m klagg.embedded", description=__doc__)
    parser.add_argument("data", nargs="?", help="the data directory (default: data, or /var/lib/klagg for root)")
    log.set_up("embedded")

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: in a script's background it would come ignored
        signal.signal(number, end)
    try:
        _run(parser.parse_args().data or str(usable_data_directory("data")))
    except KeyboardInterrupt:
        print("stopped")
    except KlaggError as bad:
        print(bad, file=sys.stderr)
        return bad.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
