"""The command `klagg`: finds the subcommand, runs it, and turns every known error into one sentence."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Iterable, Sequence

from klagg import __version__
from klagg.errors import KlaggError

COMMANDS = {
    "up": "klagg.cli.up.command",
    "status": "klagg.cli.status",
    "doctor": "klagg.cli.doctor",
    "inspect": "klagg.cli.inspect",
    "replay": "klagg.cli.replay",
    "rollup": "klagg.cli.rollup",
    "simulate": "klagg.cli.simulate",
    "migrate": "klagg.cli.migrate",
    "backfill": "klagg.cli.backfill.command",
    "audit": "klagg.cli.audit.command",
    "bench": "klagg.bench.command",
}
"""The module of each command; it has `register(commands)` and `run(args)`."""


def _parser(names: Iterable[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="klagg", description="Provably right klines for every trade of Binance's USDⓈ-M perpetual futures."
    )
    parser.add_argument("--version", action="version", version=f"klagg {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in names:
        importlib.import_module(COMMANDS[name]).register(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; its exit code. Bad usage and bad configuration are 2, Ctrl-C is 130."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Only the module of the named command is imported: the others would cost their libraries' start-up time.
    names = [words[0]] if words and words[0] in COMMANDS else COMMANDS
    args = _parser(names).parse_args(words)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except KlaggError as known:
        print(f"klagg: {known}", file=sys.stderr)
        return known.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output is gone; nothing more can be said, not even by the interpreter's last flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


if __name__ == "__main__":
    sys.exit(main())
