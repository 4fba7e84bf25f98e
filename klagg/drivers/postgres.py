"""The one module that imports psycopg: PostgreSQL for a blocking caller, with klagg's own errors and SQL from files.

A `Database` connects when it is first used and again after a loss; it never repeats a statement by itself, because only
its caller knows whether that is safe. It serves one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from klagg.drivers.statements import load_statements
from klagg.errors import ConfigError, DatabaseRefused, DatabaseUnavailable

Row = dict[str, Any]
Parameters = Mapping[str, object]
Hook = Callable[[], None]
T = TypeVar("T")

# PostgreSQL's appendix A. A class is the first two characters of a SQLSTATE.
_UNAVAILABLE_CLASSES: Final = {
    "08": "connection exception",
    "40": "transaction rollback: a deadlock, a serialization failure",
    "53": "insufficient resources: the disk is full, too many connections",
    "57": "operator intervention: a shutdown, a statement that took too long",
    "58": "system error: an I/O error",
}
_UNAVAILABLE_CODES: Final = {"25006": "read-only transaction: a standby", "55P03": "lock not available"}

DATA_EXCEPTION: Final = "22000"

WAITING_S: Final = 0.002
"""How often a hook gets its turn while a statement runs: soon enough to do something useful with that time."""

_QUERIES = load_statements(Path(__file__).with_name("postgres.sql"))


class _Connection(psycopg.Connection[Row]):
    """A connection that does not wait for ever, and lets its owner do something while it waits.

    psycopg resumes a waiting operation after each interval, with a false value if nothing came from the server.
    """

    silence_s_max = 0.0
    while_waiting: Hook | None = None

    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        return super().wait(self._watched(gen), WAITING_S if self.while_waiting else interval, timeout)

    def _watched(self, gen: PQGen[T]) -> PQGen[T]:
        try:
            wanted = next(gen)
            answered = time.monotonic()
            while True:
                ready = yield wanted
                if ready:
                    answered = time.monotonic()
                elif time.monotonic() - answered > self.silence_s_max:
                    raise psycopg.OperationalError(f"no answer within {self.silence_s_max:g} s")
                elif self.while_waiting:
                    self.while_waiting()
                wanted = gen.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result


def _sentence(error: psycopg.Error) -> str:
    """The message of PostgreSQL or its driver, on one line; the detail names the value that was refused."""
    parts = [error.diag.message_primary or str(error), error.diag.message_detail or ""]
    return "; ".join(" ".join(part.split()) for part in parts if part)


def _translated(error: psycopg.Error) -> DatabaseUnavailable | DatabaseRefused:
    code = error.sqlstate
    if code is None and isinstance(error, psycopg.DataError):
        code = DATA_EXCEPTION  # refused by the driver before it went out, such as NUL in a text
    if code is None:
        return DatabaseUnavailable(f"the database does not answer: {_sentence(error)}")
    if code[:2] in _UNAVAILABLE_CLASSES or code in _UNAVAILABLE_CODES:
        return DatabaseUnavailable(f"the database cannot serve now: {_sentence(error)} (SQLSTATE {code})")
    return DatabaseRefused(f"the database refused: {_sentence(error)} (SQLSTATE {code})", sqlstate=code)


@contextmanager
def _translating() -> Iterator[None]:
    """psycopg's errors as klagg's."""
    try:
        yield
    except psycopg.Error as error:
        raise _translated(error) from error


def _parameters_of(url: str) -> dict[str, Any]:
    """libpq's parameters of a URL or `key=value` text. Errors do not show it: it may hold a password."""
    if not url:
        raise ConfigError("database.url is empty: name a database, for example postgresql://user@host:5432/klagg")
    try:
        return dict(conninfo_to_dict(url))
    except psycopg.ProgrammingError:
        raise ConfigError("database.url cannot be used: it must look like postgresql://user@host:5432/klagg") from None


class Database:
    """PostgreSQL at `url`; ConfigError if the URL cannot be one.

    `timeout_ms` bounds each statement, at the server and here, where silence for that long is a lost connection.
    `while_waiting` is called every WAITING_S while a statement runs; what it raises ends the wait and the connection.
    Every method raises DatabaseUnavailable if the database is away or cannot serve, and DatabaseRefused if it refuses
    what it was asked; in both cases the transaction is undone, or, if the connection broke in its commit, either done
    or undone.
    """

    def __init__(
        self,
        url: str,
        *,
        application: str = "klagg",
        connect_timeout_ms: int = 5_000,
        timeout_ms: int = 30_000,
        while_waiting: Hook | None = None,
    ) -> None:
        self._parameters = _parameters_of(url)
        self._parameters["application_name"] = application
        # libpq counts whole seconds and reads 0 as no limit.
        self._parameters["connect_timeout"] = max(1, connect_timeout_ms // 1000)
        self._timeout_ms = timeout_ms
        self._while_waiting = while_waiting
        self._connection: _Connection | None = None
        self._in_transaction = False

    def close(self) -> None:
        """Close the connection, if there is one; the next use opens another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is one transaction, committed at the end and undone by any error. It does not nest."""
        if self._in_transaction:
            raise RuntimeError("a transaction within a transaction")
        with _translating():
            connection = self._connected()
        self._in_transaction = True
        try:
            yield
            if connection.pgconn.transaction_status == TransactionStatus.INERROR:
                raise RuntimeError("an error inside a transaction was swallowed: COMMIT would silently undo it")
            with _translating():
                connection.commit()
        except BaseException:
            self._undo(connection)
            raise
        finally:
            self._in_transaction = False

    def execute(self, sql: str, parameters: Parameters | None = None) -> int:
        """Run a statement; how many rows it touched. Outside `transaction` it is a transaction of its own.

        Without `parameters`, `sql` may hold several statements, and `%` stands for itself.
        """
        with self._within() as cursor:
            return cursor.execute(sql.encode(), parameters).rowcount

    def query(self, sql: str, parameters: Parameters | None = None) -> list[Row]:
        """The rows of a statement as dicts by column name. Outside `transaction` it is a transaction of its own."""
        with self._within() as cursor:
            return cursor.execute(sql.encode(), parameters).fetchall()

    def copy_rows(self, sql: str, types: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """COPY … FROM STDIN (FORMAT BINARY): `types` are the columns' PostgreSQL types, `rows` hold a value for each.

        Binary COPY converts nothing, so `types` must be exactly those of the table.
        """
        with self._within() as cursor, cursor.copy(sql.encode()) as copy:
            copy.set_types(types)
            for row in rows:
                copy.write_row(row)

    def copy_text(self, sql: str, lines: str) -> None:
        """COPY … FROM STDIN (FORMAT TEXT or CSV): `lines` are whole ones in that format."""
        with self._within() as cursor, cursor.copy(sql.encode()) as copy:
            copy.write(lines)

    @contextmanager
    def _within(self) -> Iterator[psycopg.Cursor[Row]]:
        if not self._in_transaction:
            with self.transaction(), self._within() as cursor:
                yield cursor
            return
        assert self._connection is not None
        with _translating(), self._connection.cursor() as cursor:
            yield cursor

    def _connected(self) -> _Connection:
        if self._connection is None or self._connection.closed:
            self._connection = None
            # Without prepared statements, because poolers between klagg and PostgreSQL may not keep them.
            connection = _Connection.connect(**self._parameters, row_factory=dict_row, prepare_threshold=None)
            connection.silence_s_max = self._timeout_ms / 1000 + 1
            connection.while_waiting = self._while_waiting
            try:
                connection.execute(_QUERIES["open_session"].encode(), {"timeout_ms": self._timeout_ms})
                connection.commit()
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _undo(self, connection: _Connection) -> None:
        """Roll back, or close a connection that is busy or broken; the server then undoes its transaction."""
        if connection.pgconn.transaction_status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
            self.close()
            return
        try:
            connection.rollback()
        except psycopg.Error:
            self.close()
