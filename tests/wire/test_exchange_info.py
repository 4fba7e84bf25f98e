"""The kept exchangeInfo: what is written is read again, and a hash that is none is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.errors import ContractError
from klagg.wire.exchange_info import KeptExchangeInfo, kept_exchange_info_of
from klagg.wire.fields import VERSION, stamp

NAMES = st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1)


def raw_of(kept: KeptExchangeInfo, **changes: Any) -> dict[bytes, bytes]:
    fields = stamp(kept.to_fields(), "clock@1", 1) | changes
    return {name.encode(): value.encode() for name, value in fields.items()}


@given(
    body=st.text(st.characters(codec="utf-8")),
    carried=st.lists(NAMES),
    asked_ms=st.integers(0, 2**62),
    local_ms=st.integers(0, 2**62),
    speed=st.sampled_from([0.0, 1.0, 20.0, 0.5, 1_000_000.0]),
)
def test_what_is_written_is_read_again(
    body: str, carried: list[str], asked_ms: int, local_ms: int, speed: float
) -> None:
    kept = KeptExchangeInfo(body, tuple(carried), asked_ms, local_ms, speed)
    assert kept_exchange_info_of(raw_of(kept)) == kept


@pytest.mark.parametrize(
    "changes",
    [{"v": str(VERSION + 1)}, {"asked": "x"}, {"local": ""}, {"speed": "nan"}, {"speed": "-1"}, {"speed": "1e9"}],
)
def test_what_is_none_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ContractError):
        kept_exchange_info_of(raw_of(KeptExchangeInfo("{}", (), 1, 1), **changes))


def test_a_field_that_is_missing_is_refused() -> None:
    raw = raw_of(KeptExchangeInfo("{}", (), 1, 1))
    del raw[b"body"]
    with pytest.raises(ContractError):
        kept_exchange_info_of(raw)


def test_the_time_goes_on_at_the_speed_of_the_exchanges_clock() -> None:
    kept = KeptExchangeInfo("{}", (), 1_000_000, 5_000, 20.0)
    assert [kept.now_ms(local_ms) for local_ms in (5_000, 6_000, 4_000)] == [1_000_000, 1_020_000, 1_000_000]
    assert KeptExchangeInfo("{}", (), 0, 5_000).now_ms(9_000) == 0
