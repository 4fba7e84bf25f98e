"""`/api/download`: a range of klines as a file, with its length and in parts on request where it is not too long."""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote
from weakref import WeakValueDictionary

from aiohttp import web

from gateway.endpoints import ApiProblem, Decimals
from gateway.fapi import History
from gateway.files import MEDIA, Digits, DigitsChanged, Encoder, FileLayout, encoder
from gateway.history import Range
from gateway.store import StoreBusy
from klagg.errors import DatabaseRefused, DatabaseUnavailable
from klagg.kline import Kline
from klagg.process.stats import Stats

PAGE_ROWS: Final = 5000
"""Rows of one download in memory at the same time."""

DOWNLOADS_MAX: Final = 2
"""Files that are made at the same time: each of them uses a connection to the database."""

FILE_BYTES_MAX: Final = 64 * 1024 * 1024
"""A longer file is sent as it is made, without a length and without parts."""

KEPT_BYTES_MAX: Final = 256 * 1024 * 1024
KEPT_FILES_MAX: Final = 16
"""Files on disk, the oldest of which go first."""

FRESH_S: Final = 10.0
"""So long a file answers the same request of the same client again: a HEAD is followed by a GET."""
KEPT_S: Final = 60.0
"""So long after its last use a file answers requests for parts: they must all be of one file."""

READ_BYTES: Final = 256 * 1024

_RANGE: Final = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.ASCII)

Values = dict[str, Any]
Key = tuple[object, ...]


class NotSatisfiable(ValueError):
    """No byte of the file is in the range."""


def part_of(header: str, size: int) -> tuple[int, int] | None:
    """The first byte and the one behind the last of a Range header (RFC 9110, 14.1.2); None if the header is to
    be ignored: it is no range of bytes, or names several. Raises NotSatisfiable."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[1] == match[2] == "":
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        if not length:
            raise NotSatisfiable
        return size - length, size
    first = int(match[1])
    if match[2] and int(match[2]) < first:
        return None
    if first >= size:
        raise NotSatisfiable
    return first, min(int(match[2]) + 1, size) if match[2] else size


class KeptFile:
    """A file without a name on disk, with an entity tag of its own. It is closed when it is dropped and unread."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="klagg-download-", buffering=0)  # noqa: SIM115
        self._readers, self._dropped = 0, False
        self.size, self.tag = 0, f'"{secrets.token_hex(12)}"'
        self.made_s = self.used_s = time.monotonic()

    def append(self, data: bytes) -> None:
        """Write bytes at the end. Raises OSError."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self.size += len(data)

    def drop(self) -> None:
        """Close the file, at once or behind its last reader."""
        self._dropped = True
        if not self._readers:
            self._file.close()

    async def parts(self, first: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `first` up to, but without, `end`."""
        self._readers += 1
        try:
            while first < end:
                data = await asyncio.to_thread(self._read, first, min(READ_BYTES, end - first))
                yield data
                first += len(data)
        finally:
            self._readers -= 1
            if self._dropped and not self._readers:
                self._file.close()

    def _read(self, at: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, at)  # several readers have one file


@dataclass(slots=True)
class KeptFiles:
    """The latest files by client and request. Times are monotonic seconds."""

    _files: dict[Key, KeptFile] = field(default_factory=dict)

    def find(self, key: Key, *, parts: bool, now_s: float) -> KeptFile | None:
        """The file that may answer, if there is one: a young one, or for `parts` one that was used lately."""
        self.sweep(now_s)
        file = self._files.get(key)
        if file is None or not (parts or now_s - file.made_s < FRESH_S):
            return None
        file.used_s = now_s
        return file

    def keep(self, key: Key, file: KeptFile) -> None:
        """Keep a file, in place of the one before; the oldest go if there are too many."""
        if before := self._files.pop(key, None):
            before.drop()
        self._files[key] = file
        while len(self._files) > KEPT_FILES_MAX or sum(each.size for each in self._files.values()) > KEPT_BYTES_MAX:
            self._files.pop(min(self._files, key=lambda each: self._files[each].used_s)).drop()

    def sweep(self, now_s: float) -> None:
        """Drop the files that nobody has used for KEPT_S."""
        for key in [key for key, file in self._files.items() if now_s - file.used_s >= KEPT_S]:
            self._files.pop(key).drop()

    def clear(self) -> None:
        """Drop all files."""
        for file in self._files.values():
            file.drop()
        self._files.clear()


@dataclass(slots=True)
class Downloads:
    """Makes and sends files. `answer` needs values that the endpoint has read; `close` ends it."""

    history: History
    stats: Stats
    kept: KeptFiles = field(default_factory=KeptFiles)
    _running: int = 0
    _making: WeakValueDictionary[Key, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def symbols_of(self, values: Values) -> list[str]:
        """The symbols that a download is of."""
        text = values["symbol"]
        if text == "*":
            return self.history.market.names()
        return list(dict.fromkeys(name for name in text.split(",") if name)) or [text]

    async def answer(
        self, request: web.Request, client: str, symbols: Sequence[str], values: Values
    ) -> web.StreamResponse:
        """The file, or the part of it that is wanted. `client` is the address that asks.

        Raises ApiProblem and the errors of the store before the first byte; an error after it aborts the connection,
        so that the client sees that the file is incomplete.
        """
        key = (client, *sorted(values.items(), key=lambda each: each[0]))
        lock = self._making.setdefault(key, asyncio.Lock())
        async with lock:
            file = self.kept.find(key, parts="Range" in request.headers, now_s=time.monotonic())
            if file is None:
                if self._running >= DOWNLOADS_MAX:
                    raise ApiProblem(503, "busy", f"{DOWNLOADS_MAX} downloads run already; come again later")
                self._running += 1
                try:
                    made = await self._make(request, symbols, values)
                finally:
                    self._running -= 1
                if isinstance(made, web.StreamResponse):
                    return made
                file = made
                self.kept.keep(key, file)
        return await _send(request, file, _headers(symbols, values))

    async def _make(
        self, request: web.Request, symbols: Sequence[str], values: Values
    ) -> KeptFile | web.StreamResponse:
        """The whole file; one that is too long goes to the client as it is made, and its response comes back."""
        exact = values["decimals"] == Decimals.EXACT and values["format"] in {"arrow", "parquet"}
        with_symbol = values["symbol"] == "*" or "," in values["symbol"]
        digits = await self._digits(symbols, values) if exact else Digits()
        writer = encoder(values["format"], FileLayout(digits, Decimals(values["decimals"]), with_symbol))
        file, kept = KeptFile(), False
        response: web.StreamResponse | None = None
        try:
            async for data in self._encoded(writer, symbols, values):
                if response is not None:
                    await response.write(data)
                    continue
                await asyncio.to_thread(file.append, data)
                if file.size > FILE_BYTES_MAX:
                    response = web.StreamResponse(headers=_headers(symbols, values))
                    await response.prepare(request)
                    if request.method == "HEAD":
                        return response
                    async for part in file.parts(0, file.size):
                        await response.write(part)
            if response is None:
                kept = True
                return file
            await response.write_eof()
        except OSError as full:
            if response is not None:
                raise  # the client is gone
            raise ApiProblem(503, "no_space", f"the file cannot be kept on this server ({full.strerror})") from full
        except (DatabaseUnavailable, DatabaseRefused, StoreBusy, DigitsChanged):
            if response is None:
                raise
            self.stats.add("downloads_failed")
            if request.transport is not None:
                request.transport.abort()
        finally:
            if not kept:
                file.drop()
        return response

    async def _encoded(self, writer: Encoder, symbols: Sequence[str], values: Values) -> AsyncIterator[bytes]:
        """The bytes of the file, page by page."""
        for symbol in symbols:
            async for page in self._pages(symbol, values):
                yield await asyncio.to_thread(writer.page, page)
        yield await asyncio.to_thread(writer.end)

    async def _digits(self, symbols: Sequence[str], values: Values) -> Digits:
        """The places that all bars of the download need. Live state is read before the table: a bar that is written
        meanwhile is then found in the table."""
        found = Digits()
        wanted = Range(values["start"], values["end"], PAGE_ROWS)
        for symbol in symbols:
            live = self.history.live(symbol, values["interval"], wanted)
            found = found.joined(Digits.of(live))  # at most some minutes of bars (gateway.finals_kept_s)
            if self.history.store is not None:
                series = symbol, values["interval"], values["start"], values["end"]
                found = found.joined(await self.history.store.digits(*series))
        return found

    async def _pages(self, symbol: str, values: Values) -> AsyncIterator[list[Kline]]:
        """The bars of a range, oldest first."""
        start_ms = values["start"]
        while True:
            wanted = Range(start_ms, values["end"], PAGE_ROWS)
            page = await self.history.klines(symbol, values["interval"], wanted)
            if page:
                yield page
            if len(page) < PAGE_ROWS:
                return
            start_ms = page[-1].open_time + 1

    def close(self) -> None:
        """Remove all files."""
        self.kept.clear()


async def _send(request: web.Request, file: KeptFile, headers: dict[str, str]) -> web.StreamResponse:
    """A file or the wanted part of it (RFC 9110, 14: If-Range with another tag wants the whole)."""
    headers |= {"Accept-Ranges": "bytes", "ETag": file.tag}
    part, asked = None, request.headers.get("Range", "")
    if asked and request.method == "GET" and request.headers.get("If-Range", file.tag) == file.tag:
        try:
            part = part_of(asked, file.size)
        except NotSatisfiable:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{file.size}", "ETag": file.tag})
    first, end = part or (0, file.size)
    if part:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{file.size}"
    response = web.StreamResponse(status=206 if part else 200, headers=headers)
    response.content_length = end - first
    await response.prepare(request)
    if request.method != "HEAD":
        async for data in file.parts(first, end):
            await response.write(data)
        await response.write_eof()
    return response


def _headers(symbols: Sequence[str], values: Values) -> dict[str, str]:
    """Type and name of the file. A name beyond ASCII is written as RFC 6266 (section 4.3) says."""
    what = symbols[0] if len(symbols) == 1 else f"{len(symbols)}-symbols"
    name = f"klines_{what}_{values['interval']}_{values['start']}.{values['format']}"
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    disposition = f'attachment; filename="{plain}"'
    if plain != name:
        disposition += f"; filename*=UTF-8''{quote(name, safe='')}"
    return {"Content-Type": MEDIA[values["format"]], "Content-Disposition": disposition}
