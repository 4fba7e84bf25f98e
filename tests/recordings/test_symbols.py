from __future__ import annotations

from pathlib import Path

import pytest

from klagg.recordings.symbols import symbol_from_ccxt, symbol_from_name


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("BTCUSDT-aggTrades-2024-07-18.csv.gz", "BTCUSDT"),
        ("um_rest_aggtrades_clusdt_2026-05-01.json.gz", "CLUSDT"),
        ("btcusdt_20230404.dat.gz", "BTCUSDT"),
        ("ETHUSDT_240927-trades-2024-07-18.zip", "ETHUSDT_240927"),
        ("币安人生USDT-aggTrades-2026-01-01.csv", "币安人生USDT"),
        ("1000PEPEUSDT.csv", "1000PEPEUSDT"),
        ("wusdt.csv", "WUSDT"),
        ("XRPETH.json", "XRPETH"),
        ("trades.json", None),
        ("USDT.csv", None),
        ("BTCUSDT-ETHUSDT.csv", None),
    ],
)
def test_the_symbol_in_a_file_name(name: str, symbol: str | None) -> None:
    assert symbol_from_name(Path("/somewhere/BNBUSDT") / name) == symbol


@pytest.mark.parametrize(
    ("pair", "symbol"), [("XRP/ETH", "XRPETH"), ("BTC/USDT:USDT", "BTCUSDT"), ("x", None), (1, None)]
)
def test_the_symbol_of_a_ccxt_pair(pair: object, symbol: str | None) -> None:
    assert symbol_from_ccxt(pair) == symbol
