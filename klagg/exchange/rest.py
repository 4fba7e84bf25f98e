"""A small client of the exchange's REST API: bounded in time and size, its errors klagg's own.

It never retries: how often to ask again is the caller's to decide, who knows the weight that it costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

import aiohttp
import ujson

from klagg.clock import ExchangeClock, steady_ms
from klagg.errors import ConfigError, ExchangeRefused, ExchangeUnavailable
from klagg.exchange.payloads import ServerTime, server_time_of

ANSWER_BYTES_MAX: Final = 32 << 20
"""exchangeInfo of the whole market is about 2 MB."""

KEEPALIVE_S: Final = 60
"""Longer than the pauses between looks at the clock, so that these need no new connection."""

_CHUNK_BYTES: Final = 1 << 16


class ExchangeRest:
    """The exchange's REST API at `base_url`. An async context manager; proxies come from the environment.

    Every call raises ExchangeUnavailable (no answer within `timeout_ms`, or none that can be read) or ExchangeRefused.
    """

    def __init__(self, base_url: str, *, timeout_ms: int = 5000, answer_bytes_max: int = ANSWER_BYTES_MAX) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"exchange.rest_url is {base_url!r}: it must be like https://host or http://host:port")
        self._base_url = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_ms / 1000)
        self._answer_bytes_max = answer_bytes_max
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ExchangeRest:
        connector = aiohttp.TCPConnector(keepalive_timeout=KEEPALIVE_S)
        self._session = aiohttp.ClientSession(timeout=self._timeout, connector=connector, trust_env=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    async def time(self) -> ServerTime:
        """The exchange's clock (weight 1)."""
        return server_time_of(await self.get("/fapi/v1/time"))

    async def exchange_info(self) -> Any:
        """All symbols as the exchange lists them, decoded but not judged (weight 1); see payloads.listings_of."""
        return await self.get("/fapi/v1/exchangeInfo")

    async def synchronise(self, clock: ExchangeClock, local: Callable[[], float] = steady_ms) -> float:
        """One round trip to the exchange's clock, taken in by `clock`; its correction in exchange ms.

        Before the first, another opens the connection: its handshakes would count as time on the way.
        """
        if not clock.synced:
            await self.time()
        sent_ms = local()
        answer = await self.time()
        return clock.observe(sent_ms, local(), answer.time_ms, answer.speed)

    async def get(self, path: str, **query: str | int) -> Any:
        """The decoded JSON of a GET."""
        if self._session is None:
            raise RuntimeError("ExchangeRest is used outside `async with`")
        try:
            async with self._session.get(self._base_url + path, params=query) as response:
                body = await self._bounded(path, response)
                if response.status != 200:
                    raise _refusal(path, response.status, response.headers.get("Retry-After", ""), body)
        except TimeoutError:
            raise ExchangeUnavailable(
                f"the exchange at {self._base_url} did not answer {path} within {self._timeout.total} s"
            ) from None
        except (aiohttp.ClientError, OSError) as lost:
            reason = str(lost) or type(lost).__name__
            raise ExchangeUnavailable(f"the exchange at {self._base_url} does not answer {path}: {reason}") from lost
        try:
            return ujson.loads(body)
        except ValueError:
            raise ExchangeUnavailable(
                f"the exchange at {self._base_url} answered {path} with something else than JSON: {body[:60]!r}"
            ) from None

    async def _bounded(self, path: str, response: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_chunked(_CHUNK_BYTES):
            size += len(part)
            if size > self._answer_bytes_max:
                raise ExchangeUnavailable(f"the exchange answered {path} with more than {self._answer_bytes_max} bytes")
            parts.append(part)
        return b"".join(parts)


def _refusal(path: str, status: int, retry_after: str, body: bytes) -> ExchangeRefused:
    """The refusal with Binance's own code and sentence where the body holds them: `{"code": -1121, "msg": "…"}`."""
    code, reason = 0, body[:100].decode(errors="replace")
    try:
        answer = ujson.loads(body)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        code = answer["code"] if type(answer.get("code")) is int else 0
        reason = str(answer.get("msg", reason))[:200]
    return ExchangeRefused(
        f"the exchange refused {path} with HTTP {status}, code {code}: {reason}",
        status=status,
        code=code,
        retry_after_s=_seconds(retry_after),
    )


def _seconds(text: str) -> float:
    """A Retry-After in seconds, 0 if there is none that can be read (Binance sends whole seconds, never a date)."""
    try:
        seconds = float(text)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0
