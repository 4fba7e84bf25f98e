"""The fields of an entry as text: what every entry carries, and how a field is read. A part of the contract."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from klagg.errors import ContractError

VERSION: Final = 1
"""`v` of every entry. A reader refuses what it does not know."""

Fields = dict[str, str]
RawFields = Mapping[bytes, bytes]

INTEGER_END: Final = 1 << 63
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
    if not _INTEGER.match(text) or not -INTEGER_END <= int(text) < INTEGER_END:
        raise ContractError(f"the field {name} is not an integer: {text[:40]!r}")
    return int(text)


def texts_of(raw: RawFields) -> Fields:
    """All fields as text; ContractError if one is not UTF-8."""
    try:
        return {name.decode(): value.decode() for name, value in raw.items()}
    except UnicodeDecodeError:
        raise ContractError("an entry holds a field that is not UTF-8") from None


def check_version(raw: RawFields) -> None:
    """ContractError unless the entry speaks this contract's version."""
    if raw.get(b"v") != str(VERSION).encode():
        raise ContractError(f"an entry has contract version {raw.get(b'v')!r}, this process speaks {VERSION}")
