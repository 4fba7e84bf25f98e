"""schemathesis against the OpenAPI of a running gateway: every answer is one that the document allows."""

from __future__ import annotations

import asyncio
import random
import re
import sys
from pathlib import Path

import pytest

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from tests.gateway.kit import FINAL, Teller, kline, running
from writers.kline_table import upsert

pytestmark = [pytest.mark.servers, pytest.mark.timeout(400)]

CALLS_LEAST = 300
EXAMPLES = 40
"""Per operation and phase."""


async def test_every_answer_is_what_the_document_says(
    redis_url: str, database_url: str, database: Database, teller: Teller, streams: Streams, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    upsert(database, [kline(**FINAL)])
    teller.tell({("BTCUSDT", "1m"): {}})
    async with running(redis_url, database_url, stale_ms=600_000, weight_per_minute=10_000_000) as client:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{client.url}/api/openapi.json",
            "--seed",
            str(seed),
            "--max-examples",
            str(EXAMPLES),
            "--checks",
            "all",
            "--no-color",
            "--generation-database",
            ":memory:",
            cwd=tmp_path,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        said = output.decode()
        assert process.returncode == 0, said[-8000:]
        generated = re.search(r"(\d+) generated", said)
        assert generated is not None, said[-2000:]
        assert int(generated[1]) >= CALLS_LEAST, said[-2000:]
        assert (await client.get("/fapi/v1/ping")) == {}
