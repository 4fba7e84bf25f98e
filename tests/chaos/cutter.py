"""TCP between the aggregator and Redis that cuts the line at an EXEC when asked to: before Redis has it, or behind."""

from __future__ import annotations

import socket
import threading
from collections import Counter, deque
from contextlib import suppress

EXEC = b"\r\nEXEC\r\n"
CHUNK_BYTES = 1 << 16


class Cutter:
    """Passes bytes on in both directions; `arm` cuts at the next EXEC of any client.

    `done` counts the cuts by kind. A port that refuses (Redis is away) closes the client, as Redis itself would.
    """

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._armed: deque[tuple[str, bool]] = deque()
        self.done: Counter[str] = Counter()
        self.url = f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"
        threading.Thread(target=self._accept, name="cutter", daemon=True).start()

    def arm(self, kind: str, *, deliver: bool) -> None:
        """Cut at the next EXEC that is not to be cut yet; `deliver`: it reaches Redis, and its reply is lost."""
        self._armed.append((kind, deliver))

    def close(self) -> None:
        """Take no more clients; the threads of those that are there end with their connections."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
                    server.settimeout(None)
                except OSError:
                    client.close()
                    continue
                for each in (client, server):
                    each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._ask, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        """Client to Redis. Redis carries out what it has been sent before it notices that the line has ended."""
        tail = b""
        with suppress(OSError):
            while chunk := client.recv(CHUNK_BYTES):
                end = self._cut_at(tail, chunk)
                if end is not None:
                    # The client is gone first, so that no reply can slip through.
                    _shut(client)
                    server.sendall(chunk[:end])
                    break
                server.sendall(chunk)
                tail = chunk[-len(EXEC) + 1 :]
        _shut(client)
        with suppress(OSError):
            server.shutdown(socket.SHUT_WR)

    def _cut_at(self, tail: bytes, chunk: bytes) -> int | None:
        """How much of `chunk` to pass on before the cut; None if there is none."""
        if not self._armed:
            return None
        place = (tail + chunk).find(EXEC)
        if place < 0:
            return None
        try:
            kind, deliver = self._armed.popleft()
        except IndexError:  # another client's EXEC was faster
            return None
        self.done[kind] += 1
        # Without its last bytes the command is not there for Redis.
        return max(0, place - len(tail) + (len(EXEC) if deliver else len(EXEC) - 2))

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        """Redis to client, until Redis ends: what comes after a cut is read and dropped."""
        with suppress(OSError):
            while chunk := server.recv(CHUNK_BYTES):
                with suppress(OSError):
                    client.sendall(chunk)
        _shut(client)
        client.close()
        server.close()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
