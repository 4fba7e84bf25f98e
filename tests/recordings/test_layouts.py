from __future__ import annotations

import pytest

from klagg.recordings.layouts import Content, detect

AGG_ROW = "26129,0.01633102,4.70443515,27781,27781,1498793709153,true"


@pytest.mark.parametrize(
    ("head", "content"),
    [
        ('1680652700441533 {"stream":"x","data":{}}', Content.CAPTURE),
        ('1626992741.06217: {"stream":"x"}', Content.CAPTURE),
        ("wss://fstream.binance.com/stream?streams=a <-> 1626992740.179554\n", Content.CAPTURE),
        ('{"e":"aggTrade"}', Content.CAPTURE),
        ('[{"a":1,"p":"1","q":"1"}]', Content.REST_AGG_TRADES),
        (' [ {"info":{"a":1,"p":"1","q":"1"},"symbol":"XRP/ETH"}]', Content.REST_AGG_TRADES),
        ('[{"id":1,"price":"1","qty":"1","time":1}]', Content.REST_TRADES),
        ("[[1,2,3,4,5,6,7,8,9,10,11,12]]", Content.REST_KLINES),
        (
            "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker\n1",
            Content.CSV_AGG_TRADES,
        ),
        (AGG_ROW, Content.CSV_AGG_TRADES),
        (AGG_ROW + ",True", Content.CSV_AGG_TRADES),
        ("id,price,qty,quote_qty,time,is_buyer_maker", Content.CSV_TRADES),
        ("1,2.0,3,6,1498793709153,true", Content.CSV_TRADES),
        ("1,2.0,3,6,1498793709153000,true,true", Content.CSV_TRADES),
        ("open_time,open,high,low,close,volume,close_time,quote_volume,count", Content.CSV_KLINES),
        ("timestamp,open,high,low,close,volume", Content.CSV_KLINES),
        ("1725148800000,1,1,1,1,5,1725148859999,7,2,1,1,0", Content.CSV_KLINES),
        ("2x129,0.01,4.7\n" + AGG_ROW, Content.CSV_AGG_TRADES),
        ("\x00\x00,1,1\n1725148800000,1,1,1,1,5,1725148859999,7,2,1,1,0", Content.CSV_KLINES),
        ('"q":"1"}}\n{"e":"aggTrade"}', Content.CAPTURE),
    ],
)
def test_content_is_told_from_the_first_characters(head: str, content: Content) -> None:
    layout = detect(head)
    assert layout is not None
    assert layout.content is content


@pytest.mark.parametrize(
    "head",
    [
        "",
        "  \n",
        "hello world",
        "# x\nid,qty,price,quote_qty,time,is_buyer_maker",
        "x\n" + "9" * 200_000,
        "a,b,c,d,e,f,g",
        "1,2,3,4,5,6,7",
        "[]",
        "[1]",
        '[{"x":1}]',
        "[[1,2]]",
        "[{",
    ],
)
def test_unknown_content(head: str) -> None:
    assert detect(head) is None


def test_columns_follow_the_header_whatever_their_order() -> None:
    layout = detect("price,agg_trade_id,quantity,is_buyer_maker,first_trade_id,last_trade_id,transact_time")
    assert layout is not None
    assert layout.header
    assert layout.columns == {"a": 1, "p": 0, "q": 2, "f": 4, "l": 5, "T": 6, "m": 3}
