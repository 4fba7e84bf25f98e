"""A process whose main loop stands still ends itself, and says in its log where each of its threads stands.

The main loop feeds the watchdog; a thread looks whether it did. A process that only seems to live holds back others
without anybody noticing, and a restart costs seconds. What cannot end itself (it was stopped by a signal, or code in C
does not let go of the interpreter) is ended by whoever started it: `klagg.process.freeze`.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

from klagg.process.silence import SilenceWatch

EXIT_FROZEN: Final = 75
"""Exit code of a process that ended itself because its main loop stood still (EX_TEMPFAIL of sysexits.h)."""

LOOK_S: Final = 1.0
LAST_S: Final = 5.0
"""How long the last words may take: whoever reads the log may be what everything waits for."""

_STANDARD_ERROR: Final = 2
"""The file descriptor itself: `sys.stderr` may be locked by the thread that stands still."""


class Watchdog:
    """Ends the process when `feed` was not called for `freeze_s` (local). It watches from the first `feed` on.

    `excused` says that the process may stand still, as during a shutdown, which has a deadline of its own. Time in
    which the process as a whole was stopped does not count: its main loop had no chance.
    """

    def __init__(self, process: str, freeze_s: float, excused: Callable[[], bool]) -> None:
        self._process, self._freeze_s, self._excused = process, freeze_s, excused
        self._watch = SilenceWatch(freeze_s * 1000)
        self._fed = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def feed(self) -> None:
        """The main loop turns."""
        self._fed += 1

    def __enter__(self) -> Self:
        # A fatal signal, SIGABRT too, then leaves the stacks of all threads in the log (Python docs, "faulthandler").
        faulthandler.enable(_STANDARD_ERROR)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(LOOK_S):
            runs = self._fed > 0 and not self._excused()
            if self._watch.check(self._fed, time.monotonic() * 1000, runs=runs):
                self._end()

    def _end(self) -> None:
        last = threading.Timer(LAST_S, os._exit, (EXIT_FROZEN,))
        last.daemon = True
        last.start()
        faulthandler.dump_traceback(_STANDARD_ERROR)
        logging.getLogger(self._process).critical(
            "the main loop stands still for more than %.0f s (service.freeze_s): the process ends; the stacks of all "
            "its threads are above",
            self._freeze_s,
        )
        os._exit(EXIT_FROZEN)
