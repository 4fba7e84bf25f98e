"""The log: one line per fact, and DEBUG for klagg's own decisions alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import logging, sys
from klagg import log
log.set_up("test", sys.argv[1])
for name in ("test", "klagg.alarms", "websockets.client", "apscheduler.scheduler"):
    for level in (logging.DEBUG, logging.INFO, logging.WARNING):
        logging.getLogger(name).log(level, "%s of %s", logging.getLevelName(level), name)
"""


@pytest.mark.parametrize(
    ("level", "own", "of_libraries"),
    [
        ("DEBUG", {"DEBUG", "INFO", "WARNING"}, {"INFO", "WARNING"}),
        ("INFO", {"INFO", "WARNING"}, {"INFO", "WARNING"}),
        ("WARNING", {"WARNING"}, {"WARNING"}),
    ],
)
def test_libraries_stay_at_info(level: str, own: set[str], of_libraries: set[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, level], capture_output=True, text=True, check=True)
    said = {tuple(line.partition(" test: ")[2].split(" of ")) for line in done.stderr.splitlines()}
    assert {word for word, name in said if name == "test"} == own
    assert {word for word, name in said if name == "klagg.alarms"} == own
    assert {word for word, name in said if name == "websockets.client"} == of_libraries
    assert {word for word, name in said if name == "apscheduler.scheduler"} == {"WARNING"}
    assert all(line.startswith("20") and "Z " in line for line in done.stderr.splitlines())
