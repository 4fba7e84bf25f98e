from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import socket
import sys
from pathlib import Path

import aiohttp
import pytest

from klagg.cli import simulate
from klagg.simulator.faults import KINDS

EXAMPLE = Path(__file__).parents[2] / "config" / "faults" / "example.toml"
COMMAND = (sys.executable, "-m", "klagg.cli.simulate")


async def start(*options: str) -> tuple[asyncio.subprocess.Process, str]:
    """A running `klagg simulate` and its first line."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*COMMAND, *options, stdout=pipe, stderr=pipe)
    assert process.stdout is not None
    return process, (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_it_prints_its_urls_serves_and_ends_on_a_signal(number: signal.Signals) -> None:
    process, line = await start("--symbols", "5", "--rate", "100", "--speed", "2", "--seed", "9", "--floor", "10")
    match = re.fullmatch(r"the simulator at (http://127\.0\.0\.1:(\d+)) \(ws://127\.0\.0\.1:\2\)", line)
    assert match is not None, line
    async with aiohttp.ClientSession(match[1]) as client, client.get("/klagg/state") as response:
        state = json.loads(await response.text())
    assert {"symbols": 5, "rate": 100, "seed": 9, "speed": 2, "floor": 10}.items() <= state.items()
    process.send_signal(number)
    _, errors = await asyncio.wait_for(process.communicate(), 30)
    assert (process.returncode, errors) == (0, b"")


async def test_it_plays_a_fault_script_and_tells_of_it() -> None:
    process, line = await start("--faults", str(EXAMPLE), "--speed", "20", "--port", "0")
    assert process.stdout is not None
    said = ""
    while "fault 1 (disconnect) begins\n" not in said:
        said += (await asyncio.wait_for(process.stdout.readline(), 30)).decode()
    assert "fault 8 (lose) begins\n" in said
    async with aiohttp.ClientSession(line.split()[3]) as client, client.get("/klagg/state") as response:
        state = json.loads(await response.text())
    assert len(state["faults"]) == 31
    assert state["changing"] == ["DOGEUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"]
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 30) == 0


def test_the_help_tells_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    simulate.register(parser.add_subparsers())
    with pytest.raises(SystemExit):
        parser.parse_args(["simulate", "--help"])
    told = capsys.readouterr().out
    assert "--faults FILE" in told
    assert all(f"  {kind} " in told for kind in KINDS)


async def test_it_plays_recordings(realdata: Path) -> None:
    process, line = await start("--trades", str(realdata / "um_trade_btcusdt_2024-07-18_19.txt.gz"), "--no-wait")
    async with aiohttp.ClientSession(line.split()[3]) as client, client.get("/klagg/state") as response:
        state = json.loads(await response.text())
    assert (state["source"], state["trades"], state["held"]) == ("recordings", 10_701, False)
    process.terminate()
    assert await asyncio.wait_for(process.wait(), 30) == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--trades", "/no/such/file"], "/no/such/file: cannot be read (No such file or directory)"),
        (["--trades", __file__], "is no known format of recorded trades"),
        (["--trades", __file__, "--seed", "5"], "--seed shapes a synthetic market"),
        (["--symbols", "0"], "A market needs at least 1 symbol, not 0."),
        (["--floor", "61"], "The floor must lie between 1 and 60 seconds, not 61."),
        (["--trades", __file__, "--floor", "5"], "--floor shapes a synthetic market"),
        (["--trades", __file__, "--edges", "0.5"], "--edges shapes a synthetic market"),
        (["--edges", "1.5"], "The share of minutes with an edge must lie between 0 and 1, not 1.5."),
        (["--rate", "-3"], "The rate must lie between 0 and 20,000 trades a second, not -3.0."),
        (["--speed", "0"], "The speed must lie above 0 and not above 1,000, not 0.0."),
        (["--port", "70000"], "The port must lie between 0 and 65535, not 70000."),
        (["--faults", "/no/such/file"], "The fault script /no/such/file cannot be read: No such file or directory."),
        (["--faults", __file__], "test_simulate.py: The fault script is no TOML"),
        (["--faults", str(EXAMPLE), "--symbols", "2"], "Fault 28 (listing): symbols cannot be met: XRPUSDT is no"),
        (["--symbol", "BTCUSDT"], "--symbol names the symbol of recordings: it needs --trades."),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:

    parser = argparse.ArgumentParser()
    simulate.register(parser.add_subparsers())
    args = parser.parse_args(["simulate", *options])
    assert args.run(args) == 2
    errors = capsys.readouterr().err
    assert sentence in errors
    assert errors.count("\n") == 1


def test_a_taken_port_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:

    parser = argparse.ArgumentParser()
    simulate.add_arguments(parser)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert simulate.run(parser.parse_args(["--port", str(port)])) == 2
    assert f"Cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err
