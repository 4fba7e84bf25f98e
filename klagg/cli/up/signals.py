"""Wishes to end: SIGINT, SIGTERM and SIGHUP, counted; they interrupt only what says that it may be interrupted."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """Asked to end in the middle of something."""


class Wishes:
    """A context manager that counts the wishes instead of dying of them; for the main thread.

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
    def interruptible(self, heard: int = 0) -> Iterator[None]:
        """Inside, a wish raises Interrupted at once; so does the entry if there are more than the `heard` ones.

        For what takes long and leaves nothing behind when it is broken off, such as a server's first start, which
        fetches its programs.
        """
        if self.count > heard:
            raise Interrupted
        self._interrupts = True
        try:
            yield
        finally:
            self._interrupts = False
