"""A small client of the exchange's REST API: bounded in time and size, its errors klagg's own.

It never retries: the caller decides how often to repeat a call, because the caller knows the weight that it costs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Final, Protocol

import aiohttp
import ujson
from aiohttp_socks import ProxyConnectionError, ProxyConnector, ProxyError, ProxyTimeoutError

from klagg.binance.limits import ALL_DAY_TICKERS_WEIGHT, BAN_S_MAX, EXCHANGE_INFO_WEIGHT, TIME_WEIGHT
from klagg.binance.payloads import ServerTime, server_time_of
from klagg.clock import ExchangeClock, local_ms, steady_ms
from klagg.errors import ConfigError, ExchangeRefused, ExchangeUnavailable

ANSWER_BYTES_MAX: Final = 32 << 20
"""exchangeInfo of the whole market is about 2 MB."""

KEEPALIVE_S: Final = 60
"""Longer than the pauses between looks at the clock, so that these need no new connection."""

_CHUNK_BYTES: Final = 1 << 16

USED_WEIGHT: Final = "X-MBX-USED-WEIGHT-1M"
"""The header with what this address has used of the minute's weight."""

PAUSE_S: Final = 60.0
"""After a 429 or 418 that names no time, neither in its header nor in its sentence."""

_BANNED_UNTIL: Final = re.compile(rb"banned\s+until\s+([0-9]{13})\b", re.IGNORECASE)
"""In the sentence of a refusal, exchange ms: "Way too many requests; IP(…) banned until 1795953000000." A proxy may
have cut the header Retry-After, which Binance documents (USDⓈ-M docs, "General Info", "IP Limits")."""

PAUSE_S_MAX: Final = float(BAN_S_MAX)
"""The exchange's longest ban: nobody waits for longer, whatever an answer names."""

_COUNT: Final = re.compile(r"[0-9]{1,9}", re.ASCII)


class Gate(Protocol):
    """Decides when this address may call (klagg.binance.weight_account has two)."""

    async def enter(self, weight: int) -> int:
        """Return when a call of this weight may go out; the number of its minute. ExchangeRefused if it may not."""

    async def leave(self, minute: int, used: int, pause_s: float) -> None:
        """The exchange reported `used` weight (0: nothing) and a pause in seconds (0: none)."""


class OpenGate:
    """Lets everything through."""

    async def enter(self, weight: int) -> int:
        """Let the call through at once."""
        return 0

    async def leave(self, minute: int, used: int, pause_s: float) -> None:
        """Do nothing."""
        return


class ExchangeRest:
    """The exchange's REST API at `base_url`. An async context manager.

    `proxy` is `http://…` or `socks5://…` (socks5h: the proxy resolves names); "" stands for that of the environment.
    Certificates are verified, through a proxy as well. `agent` is the User-Agent.

    Every call raises ExchangeUnavailable (no answer within `timeout_ms`, or none that can be read) or ExchangeRefused,
    and passes the `gate` with its weight first.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_ms: int = 5000,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
        gate: Gate | None = None,
        proxy: str = "",
        agent: str = "klagg",
    ) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise ConfigError(f"exchange.rest_url is {base_url!r}: it must be like https://host or http://host:port")
        self._base_url = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_ms / 1000)
        self._answer_bytes_max = answer_bytes_max
        self._session: aiohttp.ClientSession | None = None
        self._gate = gate or OpenGate()
        self._proxy, self._agent = proxy, agent

    async def __aenter__(self) -> ExchangeRest:
        connector, proxy = _connector_for(self._proxy)
        self._session = aiohttp.ClientSession(
            timeout=self._timeout,
            connector=connector,
            proxy=proxy,
            trust_env=not self._proxy,
            headers={"User-Agent": self._agent},
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session:
            await self._session.close()

    async def time(self) -> ServerTime:
        """The exchange's clock (weight 1)."""
        return server_time_of(await self.get("/fapi/v1/time", TIME_WEIGHT))

    async def exchange_info(self) -> Any:
        """All symbols as the exchange lists them, decoded but not judged (weight 1); see payloads.listings_of."""
        return await self.get("/fapi/v1/exchangeInfo", EXCHANGE_INFO_WEIGHT)

    async def day_tickers(self) -> Any:
        """The 24 hour tickers of all symbols, decoded but not judged (weight 40); see payloads.last_fills_of."""
        return await self.get("/fapi/v1/ticker/24hr", ALL_DAY_TICKERS_WEIGHT)

    async def exchange_info_as_sent(self) -> tuple[Any, str]:
        """As `exchange_info`, and the text of the answer besides (weight 1): decoding may change digits."""
        path = "/fapi/v1/exchangeInfo"
        minute = await self._gate.enter(EXCHANGE_INFO_WEIGHT)
        status, headers, body = await self._answer(path, {})
        decoded = await self._judged(path, minute, status, headers, body)
        try:
            return decoded, body.decode()
        except UnicodeDecodeError:
            raise ExchangeUnavailable(
                f"the exchange at {self._base_url} answered {path} with bytes that are not UTF-8"
            ) from None

    async def synchronise(self, clock: ExchangeClock, local: Callable[[], float] = steady_ms) -> float:
        """One round trip to the exchange's clock, taken in by `clock`; its correction in exchange ms.

        Before the first, another opens the connection: its handshakes would count as time on the way.
        """
        if not clock.synced:
            await self.time()
        minute = await self._gate.enter(TIME_WEIGHT)  # its own round trip must not count
        sent_ms = local()
        status, headers, body = await self._answer("/fapi/v1/time", {})
        received_ms = local()
        answer = server_time_of(await self._judged("/fapi/v1/time", minute, status, headers, body))
        return clock.observe(sent_ms, received_ms, answer.time_ms, answer.speed)

    async def get(self, path: str, weight: int = 1, **query: str | int) -> Any:
        """The decoded JSON of a GET that costs `weight`."""
        minute = await self._gate.enter(weight)
        return await self._judged(path, minute, *await self._answer(path, query))

    async def as_sent(self, path: str, weight: int, query: Mapping[str, str]) -> tuple[int, Mapping[str, str], bytes]:
        """HTTP status, headers and body of a GET that costs `weight`, whatever the status is; the body is unpacked."""
        minute = await self._gate.enter(weight)
        status, headers, body = await self._answer(path, query)
        await self._report(minute, status, headers, body)
        return status, headers, body

    async def _answer(self, path: str, query: Mapping[str, str | int]) -> tuple[int, Mapping[str, str], bytes]:
        """HTTP status, headers and body of a GET."""
        if self._session is None:
            raise RuntimeError("ExchangeRest is used outside `async with`")
        try:
            async with self._session.get(self._base_url + path, params=query) as response:
                return response.status, response.headers, await self._bounded(path, response)
        except TimeoutError:
            raise ExchangeUnavailable(
                f"the exchange at {self._base_url} did not answer {path} within {self._timeout.total} s"
            ) from None
        except aiohttp.ClientConnectorCertificateError as untrusted:
            raise ExchangeUnavailable(
                f"the certificate of the exchange at {self._base_url} is not trusted, so nothing is asked: "
                f"{untrusted.certificate_error}"
            ) from None
        except (ProxyError, ProxyConnectionError, ProxyTimeoutError) as refused:
            raise ExchangeUnavailable(
                f"the proxy does not lead to the exchange at {self._base_url} ({path}): {refused}"
            ) from refused
        except (aiohttp.ClientError, OSError) as lost:
            reason = str(lost) or type(lost).__name__
            raise ExchangeUnavailable(f"the exchange at {self._base_url} does not answer {path}: {reason}") from lost

    async def _judged(self, path: str, minute: int, status: int, headers: Mapping[str, str], body: bytes) -> Any:
        """The decoded JSON of an answer, once the gate was given the weight that the answer reports."""
        retry_s = await self._report(minute, status, headers, body)
        if status != 200:
            raise _refusal(path, status, retry_s, body)
        try:
            return ujson.loads(body)
        except ValueError:
            raise ExchangeUnavailable(
                f"the exchange at {self._base_url} answered {path} with something else than JSON: {body[:60]!r}"
            ) from None

    async def _report(self, minute: int, status: int, headers: Mapping[str, str], body: bytes) -> float:
        """Give the gate the weight and the pause that an answer reports; how long to wait (s) by its words."""
        retry_s = _seconds(headers.get("Retry-After", ""), headers.get("Date", ""))
        if status in (429, 418):
            retry_s = max(retry_s, _ban_s(headers.get("Date", ""), body))
        pause_s = (retry_s or PAUSE_S) if status in (429, 418) else 0.0
        used = headers.get(USED_WEIGHT, "")
        await self._gate.leave(minute, int(used) if _COUNT.fullmatch(used) else 0, min(pause_s, PAUSE_S_MAX))
        return retry_s

    async def _bounded(self, path: str, response: aiohttp.ClientResponse) -> bytes:
        parts: list[bytes] = []
        size = 0
        async for part in response.content.iter_chunked(_CHUNK_BYTES):
            size += len(part)
            if size > self._answer_bytes_max:
                raise ExchangeUnavailable(f"the exchange answered {path} with more than {self._answer_bytes_max} bytes")
            parts.append(part)
        return b"".join(parts)


def _connector_for(proxy: str) -> tuple[aiohttp.TCPConnector, str | None]:
    """The connector and the proxy that a session needs to go through `proxy`."""
    if not proxy.startswith("socks"):
        return aiohttp.TCPConnector(keepalive_timeout=KEEPALIVE_S), proxy or None
    resolves_there = proxy.startswith("socks5h:")
    url = proxy.replace("socks5h:", "socks5:", 1)
    try:
        return ProxyConnector.from_url(url, rdns=resolves_there, keepalive_timeout=KEEPALIVE_S), None
    except ValueError as bad:
        raise ConfigError(f"exchange.proxy cannot be used: {bad}") from None


def _refusal(path: str, status: int, retry_after_s: float, body: bytes) -> ExchangeRefused:
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
        retry_after_s=retry_after_s,
    )


def _ban_s(date: str, body: bytes) -> float:
    """How long a ban still lasts (s) by the sentence of a refusal.

    0 if it names no time, or one in the past. `date` is the answer's header Date, the exchange's clock; without it this
    machine's clock counts."""
    found = _BANNED_UNTIL.search(body)
    if found is None:
        return 0.0
    return max(0.0, (int(found[1]) - _now_ms(date)) / 1000)


def _seconds(text: str, date: str) -> float:
    """A Retry-After in seconds, 0 if there is none that can be read. Binance sends seconds; what stands between may
    send the date until which to wait (RFC 9110, 10.2.3). `date` is the answer's header Date."""
    try:
        seconds = float(text)
    except ValueError:
        until_ms = _http_ms(text)
        seconds = (until_ms - _now_ms(date)) / 1000 if until_ms else 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _http_ms(date: str) -> float:
    """A date of a header in ms (UTC); 0 for no date."""
    try:
        found = parsedate_to_datetime(date)
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000
    except (ValueError, OverflowError):
        return 0.0


def _now_ms(date: str) -> float:
    """The time (ms) by an answer's header Date, or without one by this machine's clock."""
    return _http_ms(date) or local_ms()
