"""A sign of life of the simulator: any answer is one, silence is none."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from klagg.cli.up import sign_of_life
from klagg.cli.up.sign_of_life import SignOfLife
from tests.kit import eventually


class Refusing(BaseHTTPRequestHandler):
    """Answers 404 to everything, as a simulator does to a path that it does not know."""

    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Resetting(Refusing):
    """Closes the connection without an answer."""

    def do_GET(self) -> None:
        self.close_connection = True


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_of_life, "EVERY_S", 0.05)
    monkeypatch.setattr(sign_of_life, "TIMEOUT_S", 0.2)


@pytest.mark.parametrize("handler", [Refusing, Resetting])
def test_any_answer_is_a_sign_of_life(handler: type[BaseHTTPRequestHandler]) -> None:
    with served(handler) as url:
        sign = SignOfLife(url)
        for _ in range(3):
            before = sign.seen_s
            eventually(lambda before=before: sign.seen_s > before)  # type: ignore[misc]
        sign.close()


def test_who_takes_connections_and_does_not_answer_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        sign = SignOfLife(f"http://127.0.0.1:{listening.getsockname()[1]}")
        before = sign.seen_s
        eventually(lambda: sign.silent_s > 1.0)
        assert sign.seen_s == before
        sign.close()
