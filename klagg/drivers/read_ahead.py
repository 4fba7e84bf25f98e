"""Reading a stream ahead: while a caller works on a full page of entries, Redis already writes out the next one.

A process that catches up otherwise waits for Redis at every page, and Redis for it at all other times. No thread is
needed: the request is sent over a connection of its own, and the answer waits in the socket until it is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ReadAhead:
    """One XREAD under way at most, for a caller of one thread. Errors are those of the client (a `redis.Redis`)."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._connection: Any = None
        self._asked: tuple[dict[str, str], int] = {}, 0

    def read(self, after: Mapping[str, str], *, count: int, block_ms: int | None) -> Any:
        """What `xread` of the client answers.

        A full answer of one stream says that more is waiting: what comes next is asked for then and there.
        """
        reply = self._take(after, count) or self._client.xread(dict(after), count=count, block=block_ms)
        if len(after) == 1 and reply:
            ((key, entries),) = reply.items() if isinstance(reply, dict) else reply
            if len(entries) == count:
                self._ask(key.decode(), entries[-1][0].decode(), count)
        return reply

    def _ask(self, key: str, after: str, count: int) -> None:
        """Ask for `count` entries behind the id `after`, without waiting."""
        self._connection = self._client.connection_pool.get_connection()
        self._asked = {key: after}, count
        self._connection.send_command("XREAD", "COUNT", count, "STREAMS", key, after)

    def _take(self, after: Mapping[str, str], count: int) -> Any:
        """The answer, as `xread` gives it, if this is what was asked; else nothing, and what was asked is dropped."""
        if self._connection is None:
            return None
        connection, self._connection = self._connection, None
        wanted = self._asked == (dict(after), count)
        answer = None
        try:
            if wanted:
                answer = self._client.parse_response(connection, "XREAD")
        finally:
            if answer is None:  # an answer left unread must not be taken for that to another question
                connection.disconnect()
            self._client.connection_pool.release(connection)
        return answer
