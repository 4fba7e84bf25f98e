"""Finds the settings of the klagg that runs here, for commands that look into it."""

from __future__ import annotations

import argparse
from pathlib import Path

from klagg.embedded import usable_data_directory
from klagg.embedded.traces import running_url
from klagg.errors import KlaggError
from klagg.settings import Settings, load


class NothingRuns(KlaggError):
    """No klagg runs here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options by which a running klagg is found."""
    parser.add_argument("--config", help="its TOML file; without it, what `klagg up` runs on this machine")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="the data directory of `klagg up`, if it is not the usual one"
    )


def running_settings(args: argparse.Namespace) -> Settings:
    """Settings with a Redis URL: from --config or the environment, else those that `klagg up` left, the newest first.

    NothingRuns if there is neither.
    """
    settings = load(args.config)
    if settings.redis.url:
        return settings
    data = Path(args.data_dir).resolve() if args.data_dir else usable_data_directory(settings.data_dir)
    left = sorted(data.glob("*/klagg.toml"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in left:
        if running_url(path.parent / "redis"):
            return load(path, {})
    raise NothingRuns(f"no klagg runs with the data directory {data}; name another with --data-dir, or use --config")
