"""The entry of `klines:{n}` as a Kline: the one decoder of a kline entry. Pure; `Kline.to_fields` writes the entry."""

from __future__ import annotations

import re
from operator import attrgetter, itemgetter
from typing import Any, Final

from klagg.errors import ContractError
from klagg.kline import DECIMAL_FIELDS, FIELDS, INTEGER_FIELDS, Kline
from klagg.wire.fields import RawFields, upgraded

# Decimal() and NUMERIC take `NaN`, `Infinity`, `1e9` and blanks too, none of which is a price.
_DECIMAL: Final = r"[0-9]{1,38}(?:\.[0-9]{1,38})?"
_DECIMALS = re.compile(",".join([_DECIMAL] * len(DECIMAL_FIELDS)), re.ASCII)
_decimals_of = attrgetter(*DECIMAL_FIELDS)

AGAIN_FIELD: Final = "again"
"""A field beside those of the kline: 1 where the entry repeats a version that was published before, because somebody
lost it (the feed entry `again`)."""


def is_again(raw: RawFields) -> bool:
    """Whether a kline entry repeats what was published before."""
    return raw.get(AGAIN_FIELD.encode()) == b"1"


_values_of = itemgetter(*(name.encode() for name in FIELDS))
_INTEGERS_AT: Final = tuple(at for at, name in enumerate(FIELDS) if name in INTEGER_FIELDS)
_decimals_at = itemgetter(*(FIELDS.index(name) for name in DECIMAL_FIELDS))


def kline_of(raw: RawFields) -> Kline:
    """The kline of an entry; ContractError says what is wrong with the entry.

    The version is known, no field is missing, values are non-negative plain decimals of any scale, numbers are whole.
    Whether the values make sense together is for readers to judge. A backlog drains through here, so all decimals are
    checked at once: that takes half the time of one check after the other.
    """
    try:
        values: list[Any] = list(map(bytes.decode, _values_of(upgraded(raw))))
        for at in _INTEGERS_AT:
            values[at] = int(values[at])
    except KeyError as missing:
        raise ContractError(f"a kline entry lacks the field {missing.args[0].decode()}") from None
    except UnicodeDecodeError:
        raise ContractError("an entry holds a field that is not UTF-8") from None
    except ValueError as bad:
        raise ContractError(f"a kline entry has a field that is not an integer: {bad}") from None
    kline = Kline(*values)
    if not _DECIMALS.fullmatch(",".join(_decimals_at(values))):
        raise ContractError(f"a kline entry holds a value that is not a plain decimal: {_first_bad(kline)}")
    return kline


def _first_bad(kline: Kline) -> str:
    """The first value that is no decimal, with its name."""
    values = zip(DECIMAL_FIELDS, _decimals_of(kline), strict=True)
    return next(f"{name}={text[:40]!r}" for name, text in values if not re.fullmatch(_DECIMAL, text, re.ASCII))
