"""freqtrade, unmodified: its markets, and the candles that it downloads, equal to the table."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import ujson

from tests.long.clients.kit import COMPARED, Pipeline, python

pytestmark = [
    pytest.mark.endtoend,
    pytest.mark.servers,
    pytest.mark.timeout(2_400),
    pytest.mark.skipif("KLAGG_LONG" not in os.environ, reason="takes minutes: make test-long runs it"),
]

PAIR = "BTC/USDT:USDT"


@pytest.fixture(scope="module")
def freqtrade() -> str:
    return str(python("freqtrade").with_name("freqtrade"))


def config_of(address: str) -> dict[str, object]:
    """What docs/clients.md says of freqtrade's configuration. Best bids and asks are not klagg's data."""
    ccxt = {
        "urls": {"api": {"fapiPublic": f"http://{address}/fapi/v1", "fapiPublicV2": f"http://{address}/fapi/v2"}},
        "options": {"fetchMarkets": {"types": ["linear"]}},
    }
    return {
        "trading_mode": "futures",
        "margin_mode": "isolated",
        "stake_currency": "USDT",
        "exchange": {
            "name": "binance",
            "ccxt_config": ccxt,
            "ccxt_async_config": ccxt,
            "_ft_has_params": {"exchange_has_overrides": {"fetchBidsAsks": False}},
            "pair_whitelist": [PAIR],
        },
        "pairlists": [{"method": "StaticPairList"}],
    }


def run(program: str, folder: Path, *arguments: str) -> str:
    """What freqtrade prints; it must end well and complain of nothing."""
    command = [program, *arguments, "--config", str(folder / "freqtrade.json"), "--userdir", str(folder)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ERROR" not in done.stderr, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return done.stdout


def test_it_lists_the_markets_and_downloads_what_the_table_holds(
    freqtrade: str, served: Pipeline, tmp_path: Path
) -> None:
    folder = tmp_path / "freqtrade"
    folder.mkdir()
    (folder / "freqtrade.json").write_text(ujson.dumps(config_of(served.address)), encoding="utf-8")
    listed = ujson.loads(run(freqtrade, folder, "list-markets", "--print-json").splitlines()[-1])
    assert len(listed) == 8
    assert PAIR in listed
    before = {interval: served.finals(interval) for interval in COMPARED}
    first, last = min(before["15m"]), max(before["1m"])
    run(
        freqtrade,
        folder,
        "download-data",
        *("--candle-types", "futures", "--data-format-ohlcv", "json", "--timeframes", *COMPARED),
        *("--timerange", f"{first}-{last}"),
    )
    for interval in COMPARED:
        (found,) = folder.rglob(f"*{interval}-futures.json")
        bars = [dict(zip("tohlcv", row, strict=True)) for row in ujson.loads(found.read_text(encoding="utf-8"))]
        wanted = {at: row for at, row in before[interval].items() if first <= at < last}
        served.compare_history(interval, bars, wanted)
