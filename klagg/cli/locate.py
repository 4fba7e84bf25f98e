"""Finds the settings of the klagg that runs here, for commands that look into it."""

from __future__ import annotations

import argparse
from pathlib import Path

from klagg.drivers.redis_streams import Streams
from klagg.embedded import running_url, traces, usable_data_directory
from klagg.errors import ConfigError, KlaggError, RedisRefused, RedisUnavailable
from klagg.settings import Settings, load

EFFECTIVE = "klagg.toml"
"""What `klagg up` leaves in the folder of each source: the settings that it gave to its processes."""


class NothingRuns(KlaggError):
    """Nothing of klagg runs here."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options by which a command finds what runs."""
    parser.add_argument("--config", metavar="FILE", help="settings of what runs; its redis.url is asked")
    parser.add_argument("--data-dir", metavar="DIR", help="the data directory of a `klagg up` to look into")


def running_settings(args: argparse.Namespace) -> Settings:
    """The settings of what runs; NothingRuns in one sentence if nothing is found.

    redis.url of the configuration or the environment counts as it stands. Where it is empty, or a data directory is
    named, the newest effective settings of a `klagg up` there are taken whose Redis answers.
    """
    settings = load(args.config)
    if settings.redis.url and args.data_dir is None:
        return settings
    folder = data_directory(settings, args.data_dir)
    found, trouble = newest_running(folder)
    if found is not None:
        return found
    why = f" ({trouble})" if trouble else ""
    raise NothingRuns(
        f"nothing of klagg runs with its data in {folder}{why}: start `klagg up`, or say with --config or --data-dir "
        "where to look"
    )


def connect(settings: Settings) -> Streams:
    """The Redis of what runs; RedisUnavailable if it does not answer."""
    streams = Streams(settings.redis.url, timeout_ms=settings.redis.timeout_ms)
    streams.ping()
    return streams


def data_directory(settings: Settings, data_dir: str | None) -> Path:
    """Where `klagg up` keeps its data with these settings. The default moves where root's folder is closed."""
    if data_dir is not None:
        return Path(data_dir).absolute()
    if settings.data_dir == Settings().data_dir:
        return usable_data_directory(settings.data_dir)
    return Path(settings.data_dir).absolute()


def newest_running(folder: Path) -> tuple[Settings | None, str]:
    """The newest effective settings under FOLDER whose Redis answers, and why others were left (empty: none were)."""
    trouble = ""
    try:
        paths = sorted(folder.glob(f"*/{EFFECTIVE}"), key=lambda path: path.stat().st_mtime, reverse=True)
    except OSError as bad:
        return None, f"it cannot be read: {bad.strerror}"
    for path in paths:
        try:
            settings = load(path, environment={})
            if _answers(path.parent, settings):
                return settings, ""
        except (ConfigError, RedisRefused) as bad:
            trouble = trouble or str(bad)
    return None, trouble


def _answers(home: Path, settings: Settings) -> bool:
    """Whether the Redis of these settings is there. One of klagg's own must be the very server: its port may now be
    another's."""
    own_port = traces.read(home / "redis" / "port").strip()
    own = bool(own_port) and settings.redis.url == f"redis://127.0.0.1:{own_port}/0"
    if own and running_url(home / "redis") != settings.redis.url:
        return False
    try:
        connect(settings).close()
    except RedisUnavailable:
        return False
    return True
