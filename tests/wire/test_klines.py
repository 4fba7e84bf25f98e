"""A kline entry has one decoder; what it checks for all readers. Writers' own checks are in tests/writers."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.errors import ContractError
from klagg.kline import DECIMAL_FIELDS, FIELDS, Kline
from klagg.wire.fields import Fields, RawFields, stamp
from klagg.wire.klines import kline_of

KLINE = Kline(
    symbol="币安人生USDT",
    interval="1m",
    open_time=60_000,
    close_time=119_999,
    open="1.10",
    high="2.00",
    low="0.50",
    close="1.25",
    volume="3",
    quote_volume="4.0000",
    trades=5,
    taker_buy_volume="1",
    taker_buy_quote_volume="2.0000",
    first_agg_id=7,
    last_agg_id=9,
    first_trade_id=-1,
    last_trade_id=-1,
    complete=1,
    official=0,
    epoch=3,
    revision=2,
    source="own",
    edge="",
)


def raw(fields: Fields) -> RawFields:
    return {name.encode(): value.encode() for name, value in fields.items()}


ENTRY = raw(stamp(KLINE.to_fields(), "aggregator-0@1", 7))


def test_an_entry_is_its_kline() -> None:
    assert kline_of(ENTRY) == KLINE == Kline.from_fields(KLINE.to_fields())


@pytest.mark.parametrize("version", [b"1", b"2"])
@pytest.mark.parametrize("complete", [0, 1])
@pytest.mark.parametrize("source", ["own", "exchange", "mixed"])
def test_an_older_version_called_complete_what_is_official(version: bytes, complete: int, source: str) -> None:
    old = {name: value for name, value in ENTRY.items() if name != b"official"}
    told = complete == 1 and source != "own"
    entry = {**old, b"v": version, b"complete": str(complete).encode(), b"source": source.encode()}
    wanted = replace(KLINE, complete=int(complete == 1 and not told), official=int(told), source=source)
    assert kline_of(entry) == wanted


@pytest.mark.parametrize("name", DECIMAL_FIELDS)
@pytest.mark.parametrize("text", ["", "-1", "+1", "NaN", "1e9", " 1", "1,2", "1.", ".5", "1_0", "١"])
def test_what_is_no_plain_decimal_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(ContractError, match=f"not a plain decimal: {name}="):
        kline_of({**ENTRY, name.encode(): text.encode()})


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_refused_by_name(name: str) -> None:
    with pytest.raises(ContractError, match=f"lacks the field {name}$"):
        kline_of({key: value for key, value in ENTRY.items() if key != name.encode()})


def test_whether_values_make_sense_is_for_readers_to_judge() -> None:
    assert kline_of({**ENTRY, b"complete": b"2", b"interval": b"7m"}).complete == 2


@given(st.dictionaries(st.sampled_from([name.encode() for name in (*FIELDS, "v")]), st.binary(max_size=30)))
def test_no_bytes_raise_anything_else(changes: dict[bytes, bytes]) -> None:
    with contextlib.suppress(ContractError):
        kline_of({**ENTRY, **changes})
