"""Which market `klagg up` shows."""

from __future__ import annotations

import argparse
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from klagg.cli.up import source
from klagg.embedded.traces import free_port
from klagg.errors import ConfigError, ExchangeUnavailable
from klagg.settings import Settings, from_tree


def choose(*words: str, settings: Settings | None = None) -> source.Source:
    """The market for these options; by default the exchange cannot be reached."""
    parser = argparse.ArgumentParser()
    source.add_arguments(parser)
    return source.choose(parser.parse_args(words), settings or out_of_reach())


def out_of_reach(**sections: dict[str, str]) -> Settings:
    return from_tree({"exchange": {"rest_url": f"http://127.0.0.1:{free_port()}"}, **sections})


@contextmanager
def server(status: int, body: bytes) -> Iterator[str]:
    """A web server that answers everything the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:
            http.shutdown()
            thread.join()


def test_live_is_the_default_and_never_another() -> None:
    with server(200, b'{"serverTime":1}') as url:
        settings = from_tree({"exchange": {"rest_url": url, "websocket_url": "wss://there"}})
        for words in ((), ("--source", "live"), ("--source", "auto")):
            found = choose(*words, settings=settings)
            assert (found.folder, found.simulator, found.banner) == ("live", None, "")
            assert found.title == "live exchange wss://there"
    with pytest.raises(ExchangeUnavailable, match=f"cannot be reached at {url} .*--source sim"):
        choose(settings=settings)


def test_auto_takes_the_local_exchange_and_says_so() -> None:
    found = choose("--source", "auto")
    assert found.folder == "sim"
    assert found.simulator
    assert found.banner.startswith("THE MARKET IS SIMULATED")


@pytest.mark.parametrize(
    "section", [{"redis": {"url": "redis://there/0"}}, {"database": {"url": "postgresql://there"}}]
)
def test_auto_never_mixes_a_simulated_market_into_named_servers(section: dict[str, dict[str, str]]) -> None:
    with pytest.raises(ExchangeUnavailable, match="is not mixed into the servers"):
        choose("--source", "auto", settings=out_of_reach(**section))
    assert choose("--source", "sim", settings=out_of_reach(**section)).simulator


@pytest.mark.parametrize("option", ["--symbols", "--rate", "--seed", "--edges", "--speed", "--trades"])
def test_the_live_market_cannot_be_shaped(option: str) -> None:
    with pytest.raises(ConfigError, match=f"^{option} shapes a simulator"):
        choose(option, "3")


def test_markets_that_contradict_each_other_have_folders_of_their_own() -> None:
    shapes = [
        (),
        ("--symbols", "5"),
        ("--rate", "5"),
        ("--seed", "5"),
        ("--speed", "5"),
        ("--speed", "0.5"),
        ("--edges", "0.25"),
        ("--symbols", "5", "--rate", "5"),
    ]
    folders = [choose("--source", "sim", *shape).folder for shape in shapes]
    assert folders[0] == "sim"
    assert len(set(folders)) == len(shapes)
    assert choose("--source", "sim", "--symbols", str(source.SYMBOLS), "--speed", "1").folder == "sim"


def test_what_is_senseless_reaches_the_local_exchange_which_refuses_it() -> None:
    found = choose("--source", "sim", "--symbols", "0", "--rate", "0", "--speed", "0", "--seed", "0")
    assert found.simulator == ("--symbols", "0", "--rate", "0", "--seed", "0", "--speed", "0")


def test_recordings_are_known_by_what_they_hold(tmp_path: Path) -> None:
    one, two, copy = (tmp_path / name for name in ("one.csv", "two.csv", "copy.csv"))
    one.write_text("1", encoding="utf-8")
    two.write_text("2", encoding="utf-8")
    shutil.copy(one, copy)
    folders = {path.name: choose("--source", "sim", "--trades", str(path)).folder for path in (one, two, copy)}
    assert folders["one.csv"] == folders["copy.csv"] != folders["two.csv"]
    assert all(folder.startswith("recorded-") for folder in folders.values())
    both = choose("--source", "sim", "--trades", str(one), str(two), "--speed", "20")
    assert both.simulator == ("--trades", str(one), str(two), "--speed", "20")
    assert "recorded trades are played again" in both.banner
    with pytest.raises(ConfigError, match=r"no recording .*none\.csv"):
        choose("--source", "sim", "--trades", str(tmp_path / "none.csv"))
    with pytest.raises(ConfigError, match="--seed shapes an invented market"):
        choose("--source", "sim", "--trades", str(one), "--seed", "3")


def test_a_fault_script_goes_to_the_local_exchange(tmp_path: Path) -> None:
    faults = tmp_path / "faults.toml"
    faults.write_text('[[fault]]\nkind = "silent"\n', encoding="utf-8")
    found = choose("--source", "sim", "--faults", str(faults))
    assert (found.folder, (found.simulator or ())[-2:]) == ("sim", ("--faults", str(faults)))
    assert found.title.endswith(", faults of faults.toml")
    with pytest.raises(ConfigError, match="--faults shapes a simulator"):
        choose("--source", "live", "--faults", str(faults))
    faults.write_text('[[fault]]\nkind = "delisting"\nat_s = 5\nsymbols = ["BTCUSDT"]\n', encoding="utf-8")
    assert choose("--source", "sim", "--faults", str(faults)).folder.startswith("sim-changing-")
    faults.write_text('[[fault]]\nkind = "none"\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"faults\.toml: Fault 1 \(fault\): kind must be one of"):
        choose("--source", "sim", "--faults", str(faults))


@pytest.mark.parametrize(
    ("status", "body", "trouble"),
    [
        (200, b'{"serverTime":1}', ""),
        (200, b"{}", "it does not tell the time"),
        (200, b"<html>", None),
        (200, b"5", None),
        (451, b"{}", "Unavailable For Legal Reasons"),
    ],
)
def test_an_exchange_is_reachable_if_it_tells_the_time(status: int, body: bytes, trouble: str | None) -> None:
    with server(status, body) as url:
        found = source.unreachable(url)
    assert found if trouble is None else found == trouble


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1:port", "http://"])
def test_an_impossible_address_is_unreachable(url: str) -> None:
    assert source.unreachable(url)


def test_a_local_exchange_is_asked_without_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    listed = b'{"symbols":[{"quoteAsset":"USDC","contractType":"PERPETUAL"},{"quoteAsset":"ETH","contractType":"X"}]}'
    with server(200, listed) as url:
        found = source.simulator_settings(
            from_tree({"exchange": {"symbols": ["ONLY"]}}), url, "ws://there", None
        ).exchange
    assert (found.rest_url, found.websocket_url, found.symbols) == (url, "ws://there", ())
    assert (found.quote_assets, found.contract_types) == (("ETH", "USDC"), ("PERPETUAL", "X"))
