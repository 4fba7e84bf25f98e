"""Opens a recording whatever it is wrapped in (plain, gzip, zip of one file), judged by its first bytes."""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
import zlib
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from klagg.errors import RecordingError

LINE_LENGTH_MAX = 16 * 1024 * 1024
"""Characters; a longer line is no recording known here and must not fill the memory."""

_CHUNK_BYTES = 256 * 1024
_BYTE_ORDER_MARK = "\ufeff"


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """The decompressed bytes of `path`. Raises RecordingError for everything that goes wrong while it is open."""
    try:
        with path.open("rb") as raw:
            magic = raw.read(4)
            raw.seek(0)
            if magic[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield io.BufferedReader(cast("io.RawIOBase", unpacked), _CHUNK_BYTES)
            elif magic == b"PK\x03\x04":
                with zipfile.ZipFile(raw) as archive, archive.open(_only_member(path, archive)) as member:
                    yield cast("BinaryIO", member)
            else:
                yield raw
    except EOFError as error:
        raise RecordingError(str(path), 0, "the compressed file is cut off before its end") from error
    except (gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        raise RecordingError(str(path), 0, f"the compressed file is damaged ({error})") from error
    except OSError as error:
        raise RecordingError(str(path), 0, f"cannot be read ({error.strerror or error})") from error


def text_chunks(path: Path) -> Generator[str, None, None]:
    """The text of `path` in chunks of about 256 KiB, without a byte order mark. Raises RecordingError.

    Bytes that are no UTF-8 become lone surrogates (Python's `surrogateescape`), so that they spoil their row and not
    the file; `klagg.recordings.values.is_text` tells such a row.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    first = True
    with open_bytes(path) as stream:
        while True:
            block = stream.read(_CHUNK_BYTES)
            text = decoder.decode(block, final=not block)
            if first and text:
                text = text.removeprefix(_BYTE_ORDER_MARK)
                first = False
            if text:
                yield text
            if not block:
                return


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of `path`. Raises RecordingError."""
    number = 0
    rest = ""
    for chunk in text_chunks(path):
        *whole, rest = (rest + chunk).split("\n")
        for line in whole:
            number += 1
            yield number, line.rstrip("\r")
        if len(rest) > LINE_LENGTH_MAX:
            raise RecordingError(str(path), number + 1, f"is longer than {LINE_LENGTH_MAX:,} characters")
    if rest:
        yield number + 1, rest


def text_head(path: Path) -> str:
    """The first chunk of text ("" for an empty file), enough to tell what the file holds. Raises RecordingError."""
    with closing(text_chunks(path)) as chunks:
        return next(chunks, "")


def _only_member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = [info for info in archive.infolist() if not info.is_dir()]
    if len(members) != 1:
        raise RecordingError(str(path), 0, f"the zip holds {len(members)} files where one is expected")
    if members[0].flag_bits & 1:
        raise RecordingError(str(path), 0, "the zip is encrypted")
    return members[0]
