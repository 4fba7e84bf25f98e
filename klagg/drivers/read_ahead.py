"""Reading a stream ahead: while a caller works on a full page of entries, Redis already writes out the next one.

A process that catches up otherwise waits for Redis at every page, and Redis for it at all other times. No thread is
needed: the request is sent over a connection of its own, and the answer waits in the socket until it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ReadAhead:
    """One XREAD under way at most, for a caller of one thread. Errors are those of the client (a `redis.Redis`)."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._connection: Any = None
        self._requested: tuple[dict[str, str], int] = {}, 0

    def read(self, after: Mapping[str, str], *, count: int, block_ms: int | None) -> Any:
        """What `xread` of the client answers.

        A full answer of one stream says that more is waiting: the entries behind it are requested at once.
        """
        reply = self._receive(after, count) or self._client.xread(dict(after), count=count, block=block_ms)
        if len(after) == 1 and reply:
            ((key, entries),) = reply.items() if isinstance(reply, dict) else reply
            if len(entries) == count:
                self._request(key.decode(), entries[-1][0].decode(), count)
        return reply

    def _request(self, key: str, after: str, count: int) -> None:
        """Request `count` entries behind the id `after`, without waiting."""
        self._connection = self._client.connection_pool.get_connection()
        self._requested = {key: after}, count
        self._connection.send_command("XREAD", "COUNT", count, "STREAMS", key, after)

    def _receive(self, after: Mapping[str, str], count: int) -> Any:
        """The answer to the request under way, as `xread` gives it, if it is the wanted one; else None."""
        if self._connection is None:
            return None
        connection, self._connection = self._connection, None
        requested = self._requested == (dict(after), count)
        answer = None
        try:
            if requested:
                answer = self._client.parse_response(connection, "XREAD")
        finally:
            if answer is None:  # an answer left unread must not become the answer to another request
                connection.disconnect()
            self._client.connection_pool.release(connection)
        return answer
