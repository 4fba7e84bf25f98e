"""Access to the gateway: the token, the origins of web pages, and the time that an idle connection may stay open."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from aiohttp import web

from gateway.endpoints import ApiProblem
from klagg.binance.serving import errors
from klagg.binance.serving.payloads import compact
from klagg.settings import Gateway

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

SWEEP_S: Final = 1.0

_CORS_METHODS: Final = {"Access-Control-Allow-Methods": "GET", "Access-Control-Allow-Headers": "Authorization"}


def token_of(headers: Mapping[str, str], query: Mapping[str, str]) -> str:
    """The token of a request, "" if it has none: `Authorization: Bearer` (RFC 6750 section 2.1), Binance's header
    `X-MBX-APIKEY`, or the query parameter `token`."""
    kind, _, bearer = headers.get("Authorization", "").partition(" ")
    if kind.lower() == "bearer" and bearer:
        return bearer.strip()
    return headers.get("X-MBX-APIKEY", "") or query.get("token", "")


def _not_authorized(path: str) -> web.Response:
    """The refusal in the error format of the API that was requested."""
    if path.startswith("/api"):
        problem = ApiProblem(401, "not_authorized", "the token is missing or wrong")
        return web.Response(text=problem.body(), status=401, content_type="application/json")
    error = errors.not_authorized()
    return web.Response(text=compact(error.body()), status=error.status, content_type="application/json")


class AccessGuard:
    """The middleware around every request: it checks token and origin, and notes which connections are in use."""

    def __init__(self, config: Gateway, public: Collection[str] = ()) -> None:
        """`public` are the paths that need no token."""
        self._public = frozenset(public)
        self._token, self._origins = config.token.encode(), frozenset(config.cors_origins)
        self._idle_s = config.idle_s
        self._at_work: set[object] = set()
        self._idle_since: dict[Any, float] = {}

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a request without access; otherwise mark its connection as in use and answer."""
        self._at_work.add(request.protocol)
        try:
            return await self._checked(request, handler)
        finally:
            self._at_work.discard(request.protocol)
            self._idle_since.pop(request.protocol, None)

    async def _checked(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        origin = request.headers.get("Origin", "")
        foreign = bool(origin) and origin.partition("://")[2] != request.host
        allowed = origin in self._origins or "*" in self._origins
        cors = {"Access-Control-Allow-Origin": origin, "Vary": "Origin"} if foreign and allowed else {}
        if foreign and not allowed and request.headers.get("Upgrade"):
            # Browsers let any page open a WebSocket; the server must check the Origin (RFC 6455, 10.2).
            return web.Response(status=403, text=f"pages of {origin[:200]} may not connect; see gateway.cors_origins\n")
        if cors and request.method == "OPTIONS":
            return web.Response(status=204, headers={**cors, **_CORS_METHODS})
        if not self._is_allowed(request):
            response: web.StreamResponse = _not_authorized(request.path)
        else:
            try:
                response = await handler(request)
            except web.HTTPException as refusal:
                refusal.headers.update(cors)
                raise
        if not response.prepared:
            response.headers.update(cors)
        return response

    def _is_allowed(self, request: web.Request) -> bool:
        if not self._token or request.path in self._public:
            return True
        return hmac.compare_digest(token_of(request.headers, request.query).encode(), self._token)

    def sweep(self, connections: list[Any], now_s: float) -> int:
        """Abort connections that have been without a complete request for gateway.idle_s, such as those of a client
        that sends its header one byte a minute; returns how many. `now_s` is monotonic. To be called every SWEEP_S."""
        idle = {each: self._idle_since.get(each, now_s) for each in connections if each not in self._at_work}
        late = [each for each, since in idle.items() if now_s - since >= self._idle_s]
        for each in late:
            each.force_close()
            if each.transport is not None:
                each.transport.abort()
            del idle[each]
        self._idle_since = idle
        return len(late)
