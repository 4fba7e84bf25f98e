"""A market that falls silent, with the settings as they come: within 90 s `klagg status` says so. It ends by itself."""

from __future__ import annotations

import os
import signal
import time
import urllib.request
from pathlib import Path

import pytest
import ujson

from tests.cli.upkit import data_directory, up
from tests.endtoend.test_silence import status
from tests.kit import eventually

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.servers,
    pytest.mark.timeout(600),
    pytest.mark.skipif("KLAGG_LONG" not in os.environ, reason="takes minutes: make test-long runs it"),
]

AT_S, FOR_S, SAID_WITHIN_S = 30, 120, 90
FAULT = f"""
[[fault]]
kind = "silent"
at_s = {AT_S}
for_s = {FOR_S}
reach = "all"
"""


def test_it_is_said_within_90_seconds_and_ends_by_itself(tmp_path: Path) -> None:
    script = tmp_path / "faults.toml"
    script.write_text(FAULT, encoding="utf-8")
    arguments = ["--plain", "--source", "sim", "--symbols", "20", "--rate", "100", "--faults", str(script)]
    with data_directory() as data, up(data, *arguments) as running:
        exchange = running.settings().exchange.rest_url
        eventually(lambda: status(running)[0] == 0, 60, 0.5)
        eventually(lambda: acted(exchange), AT_S + 30, 0.2)
        began = time.monotonic()

        def silent() -> bool:
            code, said = status(running)
            return code == 1 and "no market data comes: " in said

        eventually(silent, SAID_WITHIN_S, 0.5)
        print(f"said after {time.monotonic() - began:.0f} s")
        port = running.settings().gateway.port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=10) as answer:
            assert ujson.loads(answer.read())["market"].startswith("no market data comes: ")
        eventually(lambda: status(running)[0] == 0, FOR_S + 120, 0.5)
        assert running.end(signal.SIGTERM) == 0


def acted(exchange: str) -> bool:
    """Whether the fault has begun."""
    with urllib.request.urlopen(f"{exchange}/klagg/state", timeout=10) as answer:
        return any(each["acted"] for each in ujson.loads(answer.read())["faults"])
