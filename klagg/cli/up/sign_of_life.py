"""Asks the simulator for a sign of life. It has no heartbeat in Redis, because it stands for a foreign exchange."""

from __future__ import annotations

import http.client
import threading
import time
from typing import Final
from urllib.parse import urlsplit

EVERY_S: Final = 1.0
TIMEOUT_S: Final = 3.0
PATH: Final = "/klagg/alive"
"""No path of the exchange: the answer is a 404, weighs nothing, and no fault script touches it."""


class SignOfLife:
    """Asks in a thread of its own, so that a screen never waits for the answer. Any answer is a sign of life, also a
    refusal or a connection that the other side resets; only silence is none."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).netloc
        self.seen_s = time.monotonic()
        """When the last sign came (time.monotonic())."""
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sign of life", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask no more."""
        self._closed.set()

    @property
    def silent_s(self) -> float:
        """How long ago the last sign came."""
        return time.monotonic() - self.seen_s

    def _run(self) -> None:
        while not self._closed.wait(EVERY_S):
            connection = http.client.HTTPConnection(self._address, timeout=TIMEOUT_S)
            try:
                connection.request("GET", PATH)
                connection.getresponse()
            except (TimeoutError, ConnectionRefusedError):
                continue
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            self.seen_s = time.monotonic()
