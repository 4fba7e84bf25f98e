"""Clients from npm, unmodified: history, live bars, 15m, and a gateway that begins again, all equal to the table."""

from __future__ import annotations

import os

import pytest

from tests.long.clients.kit import HERE, Pipeline, node

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.servers,
    pytest.mark.timeout(900),
    pytest.mark.skipif("KLAGG_LONG" not in os.environ, reason="takes minutes: make test-long runs it"),
]


@pytest.mark.parametrize("name", ["official", "binance", "api-node", "ccxt"])
def test_it_follows(name: str, served: Pipeline) -> None:
    served.follow(name, ["node", str(HERE / f"{name}.cjs")], node())
