"""The gateway's HTTP server: one port for REST, WebSocket and klagg's own API, behind one guard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final, cast

from aiohttp import web

from gateway.guards import AccessGuard
from klagg.errors import ConfigError
from klagg.settings import Gateway

LINE_BYTES_MAX: Final = 64 * 1024
"""A request line with 1024 streams has about 25 KB."""

BODY_BYTES_MAX: Final = 1024
"""No endpoint has a request body."""

SHUTDOWN_S: Final = 2.0


class Server:
    """Serves `routes` at the configured place; the paths in `public` need no token. Every answer, that to a WebSocket's
    handshake too, gets the `headers` of its moment. `start`, then `address` is valid; `stop` ends it."""

    def __init__(
        self,
        config: Gateway,
        routes: Iterable[web.AbstractRouteDef],
        public: Collection[str] = (),
        headers: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._config, self._guard = config, AccessGuard(config, public)
        app = web.Application(middlewares=[self._guard.middleware], client_max_size=BODY_BYTES_MAX)
        app.add_routes(routes)

        async def add_headers(_: web.Request, response: web.StreamResponse) -> None:
            response.headers.update(headers())

        app.on_response_prepare.append(add_headers)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=SHUTDOWN_S,
            max_line_size=LINE_BYTES_MAX,
            max_field_size=LINE_BYTES_MAX,
            keepalive_timeout=config.idle_s,
        )
        self.port = config.port

    @property
    def address(self) -> str:
        """host:port."""
        host = self._config.host
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"

    async def start(self) -> None:
        """Open the port. Raises ConfigError if the gateway cannot listen there."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._config.host, self._config.port).start()
        except OSError as taken:
            await self._runner.cleanup()
            raise ConfigError(f"the gateway cannot listen at {self.address}: {taken.strerror or taken}") from taken
        self.port = cast("tuple[str, int]", self._runner.addresses[0])[1]

    def sweep(self, now_s: float) -> int:
        """Abort idle connections (AccessGuard.sweep); returns how many."""
        server = self._runner.server
        return self._guard.sweep(server.connections, now_s) if server else 0

    async def stop(self) -> None:
        """Close the port and all connections."""
        await self._runner.cleanup()
