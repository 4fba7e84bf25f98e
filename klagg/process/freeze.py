"""Which processes are frozen, as somebody outside sees it: for whoever started them, and can end and restart them.

`klagg up` and the event listener of supervisord use it. Pure but for `end`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Final

from klagg.process.heartbeats import decoded
from klagg.process.silence import SilenceWatch
from klagg.settings import Service
from klagg.wire.keys import heartbeat_key

MARGIN_S: Final = 5.0
"""So much later than a process would end itself it is ended by others: its own end says more."""

ABORT_S: Final = 2.0
"""Between SIGABRT, at which Python writes the stacks of all threads into the log, and SIGKILL, which a process that was
stopped by a signal cannot ignore."""


class FreezeWatch:
    """Looks at heartbeats again and again. A process that had a heartbeat, and whose heartbeat stays the same, is
    frozen.

    Only time that was looked at counts: while Redis is away, nobody looks, and nobody is frozen because of that.
    """

    def __init__(self, service: Service) -> None:
        self._limit_ms = (service.freeze_s + MARGIN_S) * 1000
        self._watches: dict[tuple[str, int], SilenceWatch] = {}

    def look(self, beats: Mapping[str, str], pids: Mapping[str, int], now_ms: float) -> dict[str, int]:
        """The names and ids of the frozen ones among the processes `pids` (id by name), at `now_ms` (steady local ms).

        `beats` are heartbeats, JSON by key. A heartbeat of another process id is that of an earlier run.
        """
        frozen: dict[str, int] = {}
        watches: dict[tuple[str, int], SilenceWatch] = {}
        for name, pid in pids.items():
            beat = decoded(beats.get(heartbeat_key(name), ""))
            known = self._watches.get((name, pid))
            own = beat.get("pid") == pid
            if known is None and not own:
                continue
            watch = watches[name, pid] = known or SilenceWatch(self._limit_ms)
            if watch.check(beat.get("time_ms") if own else None, now_ms):
                frozen[name] = pid
        self._watches = watches
        return frozen


def end(pids: Iterable[int]) -> None:
    """End these processes: with SIGABRT, and those that are still there after ABORT_S with SIGKILL."""
    left = [pid for pid in pids if _sent(pid, signal.SIGABRT)]
    deadline = time.monotonic() + ABORT_S
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = [pid for pid in left if _sent(pid, 0)]
    for pid in left:
        _sent(pid, signal.SIGKILL)


def _sent(pid: int, number: int) -> bool:
    """Whether the process is there and got the signal (0: none, kill(2))."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
        return True
    return False
