"""What the contract suite shares: a blocking face for the asyncio client, and networks that fail in a known way."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from klagg.drivers.redis_streams import AsyncStreams


class Blocking:
    """An AsyncStreams whose calls are waited for, so that one test speaks to both clients."""

    def __init__(self, streams: AsyncStreams, runner: asyncio.Runner) -> None:
        self._streams, self._runner = streams, runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self._streams, name)

        async def wait(*positional: Any, **named: Any) -> Any:
            return await call(*positional, **named)

        return lambda *positional, **named: self._runner.run(wait(*positional, **named))


def closed_port() -> int:
    """A port of this machine on which nobody listens."""
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


class CuttingProxy:
    """TCP between a client and Redis that cuts the line at a command: once Redis has answered it, or before it arrives.

    `seen` counts how often any client sent that command, so that a repetition shows; `url` is where to connect.
    """

    def __init__(self, target_port: int, *, deliver: bool, at: bytes) -> None:
        self._target_port, self._deliver, self._at = target_port, deliver, b"\r\n%b\r\n" % at
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self.seen = 0
        self.url = f"redis://127.0.0.1:{self._listening.getsockname()[1]}/0"

    def accept(self) -> None:
        """Serve clients, each in a thread of its own, until the proxy is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(("127.0.0.1", self._target_port))
                self._threads.append(threading.Thread(target=self._serve, args=(client, server), daemon=True))
                self._threads[-1].start()

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        """Ask and answer in turn: redis-py sends a request in one piece and waits for all of its reply."""
        with client, server, suppress(OSError):
            while request := client.recv(1 << 20):
                cutting = self._at in request
                self.seen += request.count(self._at)
                if cutting and not self._deliver:
                    return
                server.sendall(request)
                answer = server.recv(1 << 20)
                if cutting and b"\r\nEXEC\r\n" in request:
                    # QUEUED per command may come in pieces; the array of EXEC's replies is the last to come.
                    while b"\r\n*" not in answer and b"\r\n-EXEC" not in answer and (more := server.recv(1 << 20)):
                        answer += more
                if cutting:
                    return
                client.sendall(answer)

    def close(self) -> None:
        # Closing alone would leave a thread that is waiting in accept() there.
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for thread in self._threads:
            thread.join(5)


@contextmanager
def cutting_proxy(target_url: str, *, deliver: bool, at: bytes = b"EXEC") -> Iterator[CuttingProxy]:
    """A CuttingProxy in front of the Redis at `target_url`; `deliver`: the command reaches it, the reply is lost."""
    proxy = CuttingProxy(urlsplit(target_url).port or 6379, deliver=deliver, at=at)
    thread = threading.Thread(target=proxy.accept, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join(5)
