"""A gateway's Redis, table and browser, as the tests of the gateway have them."""

from __future__ import annotations

from tests.gateway.conftest import browser, database, streams, teller

__all__ = ["browser", "database", "streams", "teller"]
