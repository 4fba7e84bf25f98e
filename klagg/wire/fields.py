"""The fields of an entry as text: what every entry carries, and how a field is read. A part of the contract."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from klagg.arrays import INT64_MAX, INT64_MIN
from klagg.errors import ContractError

VERSION: Final = 3
"""`v` of every entry. A reader refuses a version that it does not know."""

Fields = dict[str, str]
RawFields = Mapping[bytes, bytes]

_VERSION_FIELD: Final = str(VERSION).encode()
_KINDS_OF_VERSION_1: Final[Mapping[bytes, bytes]] = {
    b"mark": b"watermark",
    b"hole_opened": b"gap_opened",
    b"hole_closed": b"gap_closed",
    b"GAP": b"MISSING_KLINE",
    b"EXCHANGE_HOLE": b"EXCHANGE_GAP",
}
"""The kinds of entries that version 1 called otherwise, with their names since version 2. No other field differs."""

_NOT_COMPLETE: Final[Mapping[bytes, bytes]] = {b"complete": b"0", b"official": b"1"}
_NOT_OFFICIAL: Final[Mapping[bytes, bytes]] = {b"official": b"0"}

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}\Z", re.ASCII)


def stamp(fields: Fields, writer: str, seq: int) -> Fields:
    """`fields` with what every entry carries: version, writer and its running number (+1 per writer and stream).

    `writer` names one run of one process (`ingest-A@<start ms>`), so a gap in `seq` is an exact loss.
    """
    return {"v": str(VERSION), "writer": writer, "seq": str(seq), **fields}


def text_of(raw: RawFields, name: str) -> str:
    """The text of a field; ContractError if it is missing or not UTF-8."""
    try:
        return raw[name.encode()].decode()
    except KeyError:
        raise ContractError(f"an entry lacks the field {name}") from None
    except UnicodeDecodeError:
        raise ContractError(f"the field {name} is not UTF-8") from None


def integer_of(raw: RawFields, name: str) -> int:
    """The integer of a field; ContractError if it is missing or no plain integer of 64 bits."""
    text = text_of(raw, name)
    if not _INTEGER.match(text) or not INT64_MIN <= int(text) <= INT64_MAX:
        raise ContractError(f"the field {name} is not an integer: {text[:40]!r}")
    return int(text)


def texts_of(raw: RawFields) -> Fields:
    """All fields as text; ContractError if one is not UTF-8."""
    try:
        return {name.decode(): value.decode() for name, value in raw.items()}
    except UnicodeDecodeError:
        raise ContractError("an entry holds a field that is not UTF-8") from None


def upgraded(raw: RawFields) -> RawFields:
    """The entry in the words of this VERSION; ContractError if its version is neither this one nor 1 or 2.

    An entry of this version is returned as it is. So nothing that an older version left in Redis is lost on an
    upgrade, and every reader behind this function knows one set of kinds and fields.
    """
    version = raw.get(b"v")
    if version == _VERSION_FIELD:
        return raw
    if version not in (b"1", b"2"):
        raise ContractError(f"an entry has contract version {version!r}, this process reads 1, 2 and {VERSION}")
    kind = _KINDS_OF_VERSION_1.get(raw.get(b"kind", b"")) if version == b"1" else None
    named = raw if kind is None else {**raw, b"kind": kind}
    return _with_official(named)


def _with_official(raw: RawFields) -> RawFields:
    """An entry of version 1 or 2 with the field `official`, if it is a kline.

    These versions called every bar complete of which nothing was missing; `source` tells those that the exchange's
    own klines made so.
    """
    if b"complete" not in raw or b"source" not in raw:
        return raw
    by_exchange = raw[b"complete"] == b"1" and raw[b"source"] != b"own"
    return {**raw, **(_NOT_COMPLETE if by_exchange else _NOT_OFFICIAL)}
