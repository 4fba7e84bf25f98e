"""Servers that klagg brings along: Redis and PostgreSQL with TimescaleDB, without root, each in a folder of its own.

They serve `klagg up` and the tests. Production names its servers by URL, and nothing here is used.
"""

from __future__ import annotations

from klagg.embedded.account import usable_data_directory
from klagg.embedded.postgres_server import PostgresServer
from klagg.embedded.prefix import PrefixUnavailable, bring_prefix, cache_directory
from klagg.embedded.redis_server import RedisServer
from klagg.embedded.server import EmbeddedServer
from klagg.embedded.traces import running_url

__all__ = [
    "EmbeddedServer",
    "PostgresServer",
    "PrefixUnavailable",
    "RedisServer",
    "bring_prefix",
    "cache_directory",
    "running_url",
    "usable_data_directory",
]
