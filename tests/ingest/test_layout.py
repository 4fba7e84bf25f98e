"""One regular expression for frames that are laid out alike: what it matches, and what it leaves to the parser."""

from __future__ import annotations

from typing import Any

import pytest
import ujson

from ingest.layout import Layout, layout_of
from klagg.binance.endpoints import Endpoint
from tests.ingest.kit import NOW_MS, agg_trade, fill, frame_of


def layout_like(event: dict[str, Any], source: str = "aggTrade", *, wrapped: bool = True) -> Layout:
    """The layout of a good frame that holds `event`."""
    message = {"stream": "btcusdt@aggTrade", "data": event} if wrapped else event
    layout = layout_of(message, source, wrapped=wrapped)
    assert layout
    return layout


@pytest.mark.parametrize("endpoint", list(Endpoint))
def test_frames_become_columns_of_their_texts(endpoint: Endpoint) -> None:
    layout = layout_like(agg_trade(), wrapped=endpoint is Endpoint.COMBINED)
    trades = [agg_trade(7), agg_trade(8, s="币安人生USDT", p="0.10", q="7", m=True)]
    assert layout.columns([frame_of(each, endpoint) for each in trades]) == (
        ("BTCUSDT", "币安人生USDT"),
        ("7", "8"),
        ("85266.00", "0.10"),
        ("0.158", "7"),
        ("21", "24"),
        ("23", "26"),
        (str(NOW_MS - 200),) * 2,
        ("false", "true"),
    )


def test_a_fill_has_one_id_for_all_three() -> None:
    columns = layout_like(fill(), "trade").columns([frame_of(fill(4))])
    assert columns
    assert columns[1] == columns[4] == columns[5] == ("4",)


def test_it_follows_the_fields_as_they_come_and_go() -> None:
    """Their order is that of the frame, and a field that nobody knows may hold anything flat."""
    event = {"new": None, **agg_trade(7)}
    turned = dict(reversed(event.items()))
    for each in (event, turned):
        columns = layout_like(each).columns([frame_of(each)])
        assert columns
        assert (columns[0], columns[1], columns[7]) == (("BTCUSDT",), ("7",), ("false",))
    assert layout_like(event).columns([frame_of(turned)]) is None


@pytest.mark.parametrize(
    "other",
    [
        {"e": "trade"},
        {"st": 2},
        {"p": "0.00"},
        {"q": "0.000"},
        {"p": "1e5"},
        {"p": 85266},
        {"p": "1234567890.1234567890"},
        {"a": 10**18},
        {"a": -1},
        {"T": "1"},
        {"m": 1},
        {"s": ""},
        {"s": "A\nB"},
        {"nq": ...},
        {"extra": 1},
    ],
)
def test_one_frame_that_is_laid_out_otherwise_leaves_all_to_the_parser(other: dict[str, Any]) -> None:
    layout = layout_like(agg_trade())
    good = frame_of(agg_trade(1))
    assert layout.columns([good, good])
    assert layout.columns([good, frame_of(agg_trade(1, **other))]) is None


@pytest.mark.parametrize("damage", [b"\xff", b" ", b"\n", b"{}"])
def test_damage_around_a_frame_is_no_match(damage: bytes) -> None:
    layout, good = layout_like(agg_trade()), frame_of(agg_trade())
    between = good.replace(b',"data"', b"," + damage + b'"data"')
    for frame in (good + damage, damage + good, between):
        assert layout.columns([good, frame]) is None


def test_a_frame_cannot_pass_for_two() -> None:
    """As many matches as frames are not enough: one frame that holds a line's end, and one that is no trade."""
    layout, good = layout_like(agg_trade()), frame_of(agg_trade())
    assert layout.columns([good + b"\n" + good, b"?"]) is None
    assert layout.columns([good + b"\n" + good]) is None


@pytest.mark.parametrize("names", [["a b"], ["é"], ["x" * 33], [f"n{number}" for number in range(40)]])
def test_names_that_would_not_fit_into_the_expression_have_no_layout(names: list[str]) -> None:
    assert layout_of({**agg_trade(), **dict.fromkeys(names, 1)}, "aggTrade", wrapped=False) is None


def test_a_field_that_is_an_object_matches_nothing() -> None:
    event = {**agg_trade(), "deep": {"p": "1"}}
    assert layout_like(event).columns([ujson.dumps({"stream": "x", "data": event}).encode()]) is None
