from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest

from klagg.drivers.postgres import Database
from klagg.embedded import PostgresServer
from klagg.errors import ConfigError, DatabaseRefused, DatabaseUnavailable
from tests.kit import eventually

pytestmark = pytest.mark.servers


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


def in_one_transaction(database: Database, *statements: str, fail: Exception | None = None) -> None:
    with database.transaction():
        for statement in statements:
            database.execute(statement)
        if fail:
            raise fail


@pytest.mark.parametrize("url", ["", "mysql://x", "postgresql://u:geheim@h:port=5/x?y", "nonsense geheim"])
def test_a_useless_url_is_one_sentence_without_the_password(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^database\.url (is empty|cannot be used)") as caught:
        Database(url)
    assert "geheim" not in str(caught.value)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with socket.socket() as taken:  # bound and not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(DatabaseUnavailable, match=r"does not answer.*refused") as caught:
            Database(f"postgresql://u:geheim@127.0.0.1:{taken.getsockname()[1]}/x").query("SELECT 1")
    assert "geheim" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_server_that_accepts_and_stays_silent_is_unavailable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/x"
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="timeout"):
            Database(url, connect_timeout_ms=1000).query("SELECT 1")
    assert time.monotonic() - started < 5


def test_rows_are_dicts_and_values_exact(database: Database) -> None:
    rows = database.query("SELECT %(n)s::numeric AS n, now() AS at", {"n": "0.10000000000000000001"})
    assert rows[0]["n"] == Decimal("0.10000000000000000001")
    assert rows[0]["at"].utcoffset().total_seconds() == 0


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    database.execute("CREATE TABLE t (n bigint PRIMARY KEY)")
    with database.transaction():
        assert database.execute("INSERT INTO t VALUES (%(n)s), (2)", {"n": 1}) == 2
    with pytest.raises(DatabaseRefused, match=r"duplicate key.*23505") as caught:
        in_one_transaction(database, "INSERT INTO t VALUES (3)", "INSERT INTO t VALUES (1)")
    assert caught.value.sqlstate == "23505"
    with pytest.raises(KeyError):
        in_one_transaction(database, "INSERT INTO t VALUES (4)", fail=KeyError())
    assert [row["n"] for row in database.query("SELECT n FROM t ORDER BY n")] == [1, 2]


def test_an_error_swallowed_inside_a_transaction_is_not_taken_for_a_commit(database: Database) -> None:
    with pytest.raises(RuntimeError, match="swallowed"), database.transaction(), pytest.raises(DatabaseRefused):
        database.execute("SELECT 1/0")
    assert database.query("SELECT 1 AS one") == [{"one": 1}]


def test_transactions_do_not_nest(database: Database) -> None:
    with database.transaction(), pytest.raises(RuntimeError, match="within"), database.transaction():
        pass


def test_binary_copy(database: Database) -> None:
    database.execute("CREATE TABLE t (n bigint, word text)")
    database.copy_rows("COPY t FROM STDIN (FORMAT BINARY)", ("int8", "text"), [(-(2**63), "ä\t\\N"), (2**63 - 1, "")])
    assert database.query("SELECT * FROM t ORDER BY n") == [
        {"n": -(2**63), "word": "ä\t\\N"},
        {"n": 2**63 - 1, "word": ""},
    ]


def test_copy_of_lines(database: Database) -> None:
    database.execute("CREATE TABLE t (n bigint, word text)")
    database.copy_text("COPY t FROM STDIN (FORMAT TEXT)", "1\tä\n2\t\\N\n")
    assert database.query("SELECT * FROM t ORDER BY n") == [{"n": 1, "word": "ä"}, {"n": 2, "word": None}]
    with pytest.raises(DatabaseRefused, match="bigint"):
        database.copy_text("COPY t FROM STDIN (FORMAT TEXT)", "x\ty\n")


def test_a_value_that_the_driver_refuses_is_a_data_exception(database: Database) -> None:
    database.execute("CREATE TABLE t (word text)")
    with pytest.raises(DatabaseRefused) as caught:
        database.copy_rows("COPY t FROM STDIN (FORMAT BINARY)", ("text",), [("a\0b",)])
    assert caught.value.sqlstate.startswith("22")
    assert database.query("SELECT count(*) AS n FROM t") == [{"n": 0}]


def test_a_statement_that_takes_too_long_is_worth_repeating(database_url: str) -> None:
    database = Database(database_url, timeout_ms=200)
    with pytest.raises(DatabaseUnavailable, match="57014"):
        database.query("SELECT pg_sleep(20)")
    assert database.query("SELECT 1 AS one") == [{"one": 1}]
    database.close()


def test_a_lost_connection_is_unavailable_and_the_next_use_connects_again(
    database: Database, postgres_server: PostgresServer
) -> None:
    pid = database.query("SELECT pg_backend_pid() AS pid")[0]["pid"]
    postgres_server.sql(f"SELECT pg_terminate_backend({pid}, 5000)")
    with pytest.raises(DatabaseUnavailable):
        database.query("SELECT 1")
    assert database.query("SELECT pg_backend_pid() AS pid")[0]["pid"] != pid


def test_a_ping_finds_a_lost_connection(database: Database, postgres_server: PostgresServer) -> None:
    database.ping()
    pid = database.query("SELECT pg_backend_pid() AS pid")[0]["pid"]
    postgres_server.sql(f"SELECT pg_terminate_backend({pid}, 5000)")
    with pytest.raises(DatabaseUnavailable):
        database.ping()
    database.ping()


def test_a_server_that_hangs_is_unavailable_and_its_owner_hears_of_the_wait(database_url: str) -> None:
    calls = []
    database = Database(database_url, timeout_ms=500, while_waiting=lambda: calls.append(1))
    pid = database.query("SELECT pg_backend_pid() AS pid")[0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        with pytest.raises(DatabaseUnavailable, match="no answer within"):
            database.query("SELECT 1")
        assert 1 < time.monotonic() - started < 10
    finally:
        os.kill(pid, signal.SIGCONT)
    assert len(calls) > 3
    assert database.query("SELECT pg_backend_pid() AS pid")[0]["pid"] != pid
    database.close()


def test_what_the_hook_raises_ends_the_wait_and_the_transaction(
    database_url: str, postgres_server: PostgresServer
) -> None:
    class Enough(Exception):
        pass

    def enough() -> None:
        raise Enough

    database = Database(database_url, while_waiting=enough)
    with pytest.raises(Enough):
        database.query("SELECT pg_sleep(1)")
    name = database_url.rpartition("/")[2]
    sleeping = f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND state = 'active'"
    eventually(lambda: postgres_server.sql(sleeping) == "0")
    database.close()
