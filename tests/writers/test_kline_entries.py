from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.errors import ContractError
from klagg.kline import DECIMAL_FIELDS, FIELDS
from klagg.wire.fields import stamp
from tests.writers.support import kline, raw_of
from writers.kline_entries import kline_of


def test_a_good_entry_is_its_kline() -> None:
    each = kline(symbol="币安人生USDT", edge="1,2", first_agg_id=-1)
    assert kline_of(raw_of(each)) == each


@pytest.mark.parametrize("name", DECIMAL_FIELDS)
@pytest.mark.parametrize("text", ["abc", "", "-1", "+1", "NaN", "Infinity", "1e9", " 1", "1,2", "1.", ".5", "1_0", "١"])
def test_a_value_that_is_no_plain_decimal_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(ContractError, match=f"not a plain decimal: {name}="):
        kline_of(raw_of(kline(**{name: text})))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"complete": 2}, "complete=2"),
        ({"complete": 0, "official": 2}, "official=2"),
        ({"official": 1}, "complete=1 and official=1"),
        ({"interval": "7m"}, "unknown interval '7m'"),
        ({"trades": 2**63}, "64 bits"),
        ({"first_agg_id": -(2**63) - 1}, "64 bits"),
        ({"revision": "two"}, "not an integer"),
    ],
)
def test_other_bad_fields_are_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ContractError, match=says):
        kline_of(raw_of(kline(**changes)))


@pytest.mark.parametrize("name", FIELDS)
def test_a_missing_field_is_refused_by_name(name: str) -> None:
    raw = raw_of(kline())
    del raw[name.encode()]
    with pytest.raises(ContractError, match=f"lacks the field {name}$"):
        kline_of(raw)


def test_another_version_of_the_contract_is_refused() -> None:
    with pytest.raises(ContractError, match="version"):
        kline_of(raw_of(kline()) | {b"v": b"99"})


@given(st.dictionaries(st.sampled_from([name.encode() for name in FIELDS]), st.binary(max_size=30)))
def test_no_bytes_raise_anything_else(changes: dict[bytes, bytes]) -> None:
    with contextlib.suppress(ContractError):
        kline_of(raw_of(kline()) | changes)


def test_a_stamp_does_not_get_in_the_way() -> None:
    fields = stamp(kline().to_fields(), "aggregator@17", 12)
    assert kline_of({name.encode(): value.encode() for name, value in fields.items()}) == kline()
