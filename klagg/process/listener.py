"""klagg-listener: an event listener of supervisord that ends frozen processes, which supervisord then starts again.

supervisord sees exits only: a process that is frozen is RUNNING for it (Supervisor docs, "Event Listeners" and
"XML-RPC API Documentation"). The listener hears TICK_5 every five seconds, asks supervisord for the ids of its
processes, and looks at their heartbeats in Redis. A program must be called like its heartbeat, with `klagg-` before it.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final
from xmlrpc.client import Fault

from supervisor import childutils
from supervisor.states import ProcessStates

from klagg import log
from klagg.drivers.redis_streams import Streams
from klagg.errors import KlaggError, RedisRefused, RedisUnavailable
from klagg.process import freeze
from klagg.settings import load
from klagg.wire.keys import HEARTBEAT_PATTERN

PREFIX: Final = "klagg-"
PROCESS: Final = "listener"


def pids_of(programs: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The ids of the running processes among supervisord's `getAllProcessInfo`, by the names of their heartbeats."""
    return {
        str(each["name"]).removeprefix(PREFIX): int(each["pid"])
        for each in programs
        if each["state"] == ProcessStates.RUNNING and each["pid"] and str(each["name"]).startswith(PREFIX)
    }


def _programs(supervisord: Any) -> Sequence[Mapping[str, Any]]:
    """All programs; none while supervisord shuts down, when it answers nothing (Supervisor docs, SHUTDOWN_STATE)."""
    try:
        found: Sequence[Mapping[str, Any]] = supervisord.getAllProcessInfo()
    except (Fault, OSError) as refused:
        logging.getLogger(PROCESS).info("supervisord does not name its programs: %s", refused)
        return []
    return found


def listen(streams: Streams, watch: freeze.FreezeWatch) -> None:
    """Answer events until supervisord closes the input, which ends the process as its shutdown does."""
    supervisord = childutils.getRPCInterface(os.environ).supervisor
    said = logging.getLogger(PROCESS)
    away = False
    while True:
        try:
            childutils.listener.wait(sys.stdin, sys.stdout)
        except KeyError:  # no header: the input is closed, so supervisord has gone
            return
        try:
            beats = streams.values_like(HEARTBEAT_PATTERN)
        except (RedisUnavailable, RedisRefused) as lost:
            if not away:
                said.warning("%s; no process is judged meanwhile", lost)
            away = True
        else:
            away = False
            frozen = watch.look(beats, pids_of(_programs(supervisord)), time.monotonic() * 1000)
            for name, pid in frozen.items():
                said.error("%s (pid %d) lost its heartbeat and is frozen (service.freeze_s): it is ended", name, pid)
            freeze.end(frozen.values())
        childutils.listener.ok(sys.stdout)


def main(argv: Sequence[str] | None = None) -> int:
    """Console script klagg-listener; the exit code."""
    parser = argparse.ArgumentParser(
        prog="klagg-listener", description="Ends frozen processes of klagg; supervisord starts it as an event listener."
    )
    parser.add_argument("--config", help="TOML file with settings (see config/klagg.toml)")
    arguments = parser.parse_args(argv)
    log.set_up(PROCESS)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        settings = load(arguments.config)
        log.set_up(PROCESS, settings.service.log_level)
        if "SUPERVISOR_SERVER_URL" not in os.environ:
            raise KlaggError(
                "klagg-listener is started by supervisord as an event listener: see config/supervisord.conf"
            )
        listen(Streams(settings.redis.url, timeout_ms=settings.redis.timeout_ms), freeze.FreezeWatch(settings.service))
    except KlaggError as known:
        logging.getLogger(PROCESS).critical("%s", known)
        return known.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
