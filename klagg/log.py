"""Logging: one line per fact on standard error, with UTC time, level, process and sentence."""

from __future__ import annotations

import logging
import sys
import time


class _Formatter(logging.Formatter):
    converter = staticmethod(time.gmtime)


def set_up(process: str, level: str = "INFO") -> logging.Logger:
    """The root logger of this process, and the logger named after it.

    With DEBUG klagg's own loggers tell their decisions; libraries stay at INFO, or their frames would bury them.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter(f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process}: %(message)s", "%Y-%m-%dT%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("INFO" if level == "DEBUG" else level)
    for name in (process, "klagg"):
        logging.getLogger(name).setLevel(level)
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    return logging.getLogger(process)
