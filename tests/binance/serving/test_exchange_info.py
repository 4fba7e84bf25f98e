"""exchangeInfo as klagg serves it: the exchange's text, with the three stated changes and no other."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klagg.binance.serving.exchange_info import ListedSymbol, served_exchange_info
from klagg.wire.exchange_info import KeptExchangeInfo


def served(body: str, *carried: str, weight: int = 2400) -> Any:
    return served_exchange_info(KeptExchangeInfo(body, carried, 1, 1), weight)


def test_no_digit_and_no_field_changes() -> None:
    tick = '{"filterType":"PRICE_FILTER","tickSize":"0.10"}'
    row = f'{{"symbol":"币USDT","status":"BREAK_2027","new":[1.10, 1e5,{{"x":"\\u0041"}}],"filters":[5,{tick}]}}'
    body = f' {{"odd" : 1.50 ,"serverTime":7,\n"symbols":[ {row} , {{"symbol":"B"}}, 5],"last":null}} '
    info = served(body, "币USDT", "C")
    text = info.body(99)
    assert json.loads(text)["serverTime"] == 99
    assert row in text
    assert '"odd" : 1.50,"serverTime":99,"symbols":[' in text
    assert text.endswith(',"last":null}')
    assert (list(info.symbols), info.left_out) == (["币USDT"], 2)
    assert info.symbols["币USDT"] == ListedSymbol("BREAK_2027", "0.10", None)


def test_the_recorded_answer_comes_out_as_it_went_in(realdata: Path) -> None:
    recorded = gzip.decompress((realdata / "um_exchangeInfo_2021-07-21.txt.gz").read_bytes()).decode()
    body = recorded.splitlines()[0].partition(": ")[2]
    names = [row["symbol"] for row in json.loads(body)["symbols"]]
    info = served(body, *names)
    assert info.body(1626858243909) == body
    assert (len(info.symbols), info.left_out) == (122, 0)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (None, None),
        ('[{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":2400}]', [2400]),
        ('[{"rateLimitType":"ORDERS","interval":"MINUTE","intervalNum":1,"limit":1200}]', [2400, 1200]),
        ('[{"rateLimitType":"REQUEST_WEIGHT","interval":"MINUTE","intervalNum":1,"limit":6000},5]', [2400, 5]),
        ('"none"', [2400]),
    ],
)
def test_the_limit_of_weight_is_the_one_in_force_here(limits: str | None, expected: list[int] | None) -> None:
    body = '{"symbols":[]}' if limits is None else f'{{"rateLimits":{limits},"symbols":[]}}'
    found = json.loads(served(body).body(1)).get("rateLimits")
    assert (found and [each["limit"] if isinstance(each, dict) else each for each in found]) == expected


@pytest.mark.parametrize(
    "body",
    [
        "",
        "[]",
        "{}",
        "{",
        '{"symbols":5}',
        '{"symbols":[1}',
        '{"symbols":[NaN]}',
        '{"symbols":[],"symbols":[]}',
        '{"symbols":[]} x',
        '{"symbols":[],}',
        '{5:1,"symbols":[]}',
        '{"symbols" []}',
        '{"symbols":' + "[" * 100_000 + "]" * 100_000 + "}",
    ],
)
def test_what_is_no_answer_is_refused(body: str) -> None:
    with pytest.raises(ValueError):
        served(body, "A")


def test_an_escape_that_is_no_character_goes_through() -> None:
    row = '{"symbol":"A","n":"\\ud800"}'
    assert served(f'{{"\\ud800":1,"symbols":[{row}]}}', "A").body(3).encode().decode().count("ud800") == 2


@pytest.mark.parametrize("filters", [None, 5, {}, [[]], [{"filterType": []}], [{"filterType": "PRICE_FILTER"}]])
@pytest.mark.parametrize("tick", ["0.1", 0.1, "1e-5", "", None])
def test_a_tick_size_that_cannot_be_read_is_none(filters: Any, tick: Any) -> None:
    if isinstance(filters, list) and isinstance(filters[0], dict):
        filters = [{**filters[0], "tickSize": tick}]
    usable = filters == [{"filterType": "PRICE_FILTER", "tickSize": "0.1"}]
    body = json.dumps({"symbols": [{"symbol": "A", "filters": filters}]})
    assert served(body, "A").symbols["A"] == ListedSymbol(None, "0.1" if usable else None, None)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    others=st.dictionaries(st.text().filter(lambda name: name not in {"symbols", "serverTime", "rateLimits"}), PLAIN),
    rows=st.lists(st.dictionaries(st.sampled_from(["symbol", "filters", "x"]), PLAIN | st.sampled_from("AB"))),
    spaces=st.sampled_from([None, 1]),
)
def test_any_answer_keeps_its_meaning(others: dict[str, Any], rows: list[dict[str, Any]], spaces: int | None) -> None:
    body = json.dumps({**others, "symbols": rows}, indent=spaces)
    found = json.loads(served(body, "A").body(3))
    first = next((row for row in rows if row.get("symbol") == "A"), None)
    assert found == {**others, "serverTime": 3, "symbols": [] if first is None else [first]}
