"""Counts SIGINT, SIGTERM and SIGHUP; raises Interrupted only inside `interruptible()`."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """A signal asked to end inside `interruptible()`."""


class ShutdownRequests:
    """A context manager whose `count` is the number of signals received; for the main thread (Python docs, 'signal':
    handlers run there).

    SIGHUP stays ignored where it came ignored: whoever starts a command with nohup wants it to outlive the terminal.
    """

    def __init__(self) -> None:
        self.count = 0
        self._interrupts = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
        if self._interrupts:
            self._interrupts = False
            raise Interrupted

    @contextlib.contextmanager
    def interruptible(self, seen: int = 0) -> Iterator[None]:
        """Inside, a signal raises Interrupted at once; so does the entry after more than `seen` signals.

        For work that takes long and leaves nothing behind if it is aborted, such as the first start of a server, which
        downloads its programs.
        """
        if self.count > seen:
            raise Interrupted
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False
