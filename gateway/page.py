"""The web page: the files of `gateway/web/`, read once at the start and served from memory.

A request's path is looked up in a dictionary and never becomes a path of the file system, so none can lead out of the
folder. The files hold no secrets: they are served without the token, and the page asks for it.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

FOLDER: Final = Path(__file__).with_name("web")

CHARTS: Final = "/page/vendor/lightweight-charts.js"
"""The chart library: `make page` installs it from npm. Without it everything else on the page works."""

_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # requested each time, answered with 304 if unchanged (RFC 9111, 5.2.2.4)
}


@dataclass(frozen=True, slots=True)
class File:
    """One file of the page; `packed` is its body compressed with gzip."""

    body: bytes
    packed: bytes
    media: str
    etag: str


def read_files(folder: Path = FOLDER) -> dict[str, File]:
    """The files by the path of their URL: `index.html` is `/`, what is in `page/` and `vendor/` stands under `/page/`.

    OSError if the page itself is not there; the chart library may be missing.
    """
    files = {"/": _file(folder / "index.html")}
    for path in sorted((folder / "page").iterdir()):
        if path.suffix in _TYPES:
            files[f"/page/{path.name}"] = _file(path)
    charts = folder / "vendor" / "lightweight-charts.js"
    if charts.is_file():
        files[CHARTS] = _file(charts)
    return files


def _file(path: Path) -> File:
    body = path.read_bytes()
    etag = hashlib.sha256(body).hexdigest()[:32]
    return File(body, gzip.compress(body, mtime=0), _TYPES[path.suffix], etag)


class Page:
    """Serves the files."""

    def __init__(self, files: Mapping[str, File]) -> None:
        self._files = files

    @property
    def paths(self) -> frozenset[str]:
        """The paths that are served without a token."""
        return frozenset(self._files)

    @property
    def has_charts(self) -> bool:
        """Whether the chart library is there."""
        return CHARTS in self._files

    def routes(self) -> list[web.RouteDef]:
        """The routes of all files; any other path under /page is answered with 404."""
        return [web.get(path, self._serve) for path in self._files]

    async def _serve(self, request: web.Request) -> web.Response:
        file = self._files[request.path]
        if any(each.value == file.etag for each in request.if_none_match or ()):
            return web.Response(status=304, headers={**HEADERS, "ETag": f'"{file.etag}"'})
        packs = "gzip" in request.headers.get("Accept-Encoding", "")
        headers = {**HEADERS, "ETag": f'"{file.etag}"', "Vary": "Accept-Encoding"}
        if packs:
            headers["Content-Encoding"] = "gzip"
        return web.Response(
            body=file.packed if packs else file.body, content_type=file.media, charset="utf-8", headers=headers
        )
