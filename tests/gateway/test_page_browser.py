"""The web page in a real browser, at a running gateway whose aggregator is played by the test."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from gateway.page import CHARTS, read_files
from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.process.histograms import BOUNDS_MS
from klagg.wire.keys import GROUP_WRITERS, Keys, heartbeat_key
from tests.gateway.browser import bring_charts, visiting
from tests.gateway.kit import FINAL, MINUTE_MS, NOW_MS, Teller, info_of, keep_info, kline, row_of, running
from tests.kit import eventually_async as eventually
from writers.kline_table import upsert

pytestmark = pytest.mark.servers

BTC, BTC_DAY = ("BTCUSDT", "1m"), ("BTCUSDT", "1d")
DAY_MS = NOW_MS // 86_400_000 * 86_400_000
HISTORY = 1700
"""Bars in the table: more than the page asks for at first (500) and with one more page (1000)."""

PAINTED = """
(color) => {
  const wanted = color.match(/[0-9a-f]{2}/gi).map((part) => parseInt(part, 16));
  let found = 0;
  for (const canvas of document.querySelectorAll("#chart canvas")) {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let at = 0; at < data.length; at += 4)
      found += wanted.every((part, index) => data[at + index] === part) && data[at + 3] === 255;
  }
  return found;
}
"""
"""How many pixels of the chart have a colour."""

IN_ONE_TASK = """
(keys) => {
  for (const key of keys) document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
}
"""
"""Keys that come faster than the browser tells the page that its address is another."""

UP, DOWN, UNPROVEN, OFFICIAL = "0a8f6a", "d23f4f", "d69a1c", "7a5fc0"
TOLD = {"source": "mixed", "complete": 0, "official": 1}
"""Colours of the light theme."""


def at(number: int) -> int:
    return NOW_MS + number * MINUTE_MS


def rising(number: int, **changes: Any) -> dict[str, Any]:
    """The values of a bar that rises from the bar before it."""
    price = 64_000 + number * 0.5
    return {
        "open_time": at(number),
        "open": f"{price:.2f}",
        "high": f"{price + 2:.2f}",
        "low": f"{price - 1:.2f}",
        "close": f"{price + 0.5:.2f}",
        **changes,
    }


@pytest.fixture(scope="module")
def charts() -> None:
    """The chart library, which `make page` brings from npm."""
    bring_charts()


async def bars(page: Page, count: int) -> None:
    """Wait until the chart has so many bars."""
    await expect(page.locator("#chart")).to_have_attribute("data-bars", str(count))


async def test_the_list_fills_is_live_and_is_searched_by_keys(redis_url: str, teller: Teller, browser: Browser) -> None:
    names = [f"SYM{number}USDT" for number in range(60)]
    teller.tell(
        {BTC: {}, BTC_DAY: {"open_time": DAY_MS, "open": "64000.00", "quote_volume": "5000000000"}}
        | {(name, "1d"): {"open_time": DAY_MS, "quote_volume": str(1000 + place)} for place, name in enumerate(names)}
    )
    async with running(redis_url) as client, visiting(browser, client.url) as (page, troubles):
        rows = page.locator("#list .row")
        await expect(rows).to_have_count(61)
        first = rows.first
        await expect(first.locator(".name")).to_have_text("BTCUSDT")
        await expect(first.locator(".change")).to_have_text("+0.17 %")
        await expect(first.locator(".volume")).to_have_text("5B")
        assert client.gateway.hub.streams < 50, "rows out of sight are not subscribed to"
        teller.tell({BTC_DAY: {"open_time": DAY_MS, "open": "64000.00", "close": "60800.00", "quote_volume": "6e9"}})
        await expect(first.locator(".price")).to_have_text("60 800.00")
        await expect(first.locator(".change")).to_have_text("−5.00 %")
        await page.keyboard.press("/")
        await page.keyboard.type("sym41")
        await expect(rows).to_have_count(1)
        await page.keyboard.press("Enter")
        await expect(page.locator("#symbol")).to_have_text("SYM41USDT")
        await page.fill("#search", "nothing like it")
        await expect(page.locator("#list-state")).to_contain_text("No symbol has")
        await page.locator("#search").press("Escape")
        await expect(rows).to_have_count(61)
        await page.locator("#list").focus()
        await page.keyboard.press("Home")
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await expect(page.locator("#symbol")).to_have_text("SYM59USDT")
        await page.click("[data-sort=symbol]")
        await page.click("[data-sort=symbol]")
        await expect(first.locator(".name")).to_have_text("SYM9USDT")
        assert troubles == []


@pytest.mark.usefixtures("charts")
async def test_the_chart_draws_and_the_last_candle_is_live(
    redis_url: str, database_url: str, database: Database, teller: Teller, browser: Browser
) -> None:
    rows = [kline(**rising(number, **(TOLD if number == 3 else {}))) for number in range(5)]
    upsert(database, [*rows[:4], kline(**rising(4, complete=0))])
    teller.tell({BTC: rising(5)}, time_ms=at(5) + 250)
    async with (
        running(redis_url, database_url, stale_ms=60_000) as client,
        visiting(browser, f"{client.url}/#/BTCUSDT/1m", color_scheme="light") as (page, troubles),
    ):
        await bars(page, 6)
        details = page.locator("#bar")
        await expect(details).to_contain_text("in progress")
        assert await until(page, UP, 500)
        assert await until(page, UNPROVEN, 50)
        assert await until(page, OFFICIAL, 50)
        red = await page.evaluate(PAINTED, DOWN)
        teller.tell({BTC: rising(5, close="64001.60", low="64001.50")}, time_ms=at(5) + 500)
        await expect(details).to_contain_text("64 001.60")
        await expect(page.locator("#price")).to_have_text("64 001.60")
        assert await until(page, DOWN, red)
        teller.tell({BTC: rising(5, **FINAL)}, time_ms=at(6))
        teller.tell({BTC: rising(6)}, time_ms=at(6) + 250)
        await bars(page, 7)
        await page.locator("#chart").focus()
        await page.keyboard.press("ArrowLeft")
        await expect(details.locator(".stand")).to_contain_text("complete")
        await page.keyboard.press("ArrowLeft")
        await expect(details.locator(".stand")).to_contain_text("not proven complete")
        await page.keyboard.press("ArrowLeft")
        await expect(details.locator(".stand b")).to_have_text("official")
        await expect(details).to_contain_text("own trades and the exchange's klines")
        await expect(details).to_contain_text("10 … 90")
        await page.keyboard.press("Escape")
        await expect(details).to_contain_text("Newest bar")
        amended = rising(0, close="64001.90", closed=1, revision=2, complete=1)
        teller.tell({BTC: amended}, time_ms=at(6) + 500)
        await page.locator("#chart").focus()
        await page.keyboard.press("Home")
        await expect(details).to_contain_text("64 001.90")
        await expect(details.locator(".stand")).to_contain_text("complete · revision 2")
        assert troubles == []


async def until(page: Page, color: str, more_than: int) -> bool:
    """Whether the chart comes to have more pixels of a colour within some seconds."""
    for _ in range(100):
        if await page.evaluate(PAINTED, color) > more_than:
            return True
        await page.wait_for_timeout(50)
    return False


@pytest.mark.usefixtures("charts")
async def test_scrolling_back_brings_history_and_intervals_switch(
    redis_url: str, database_url: str, database: Database, teller: Teller, browser: Browser
) -> None:
    upsert(database, [kline(**rising(number)) for number in range(HISTORY)])
    upsert(database, [kline("BTCUSDT", "1h", open_time=NOW_MS // 3_600_000 * 3_600_000)])
    teller.tell({BTC: rising(HISTORY)}, time_ms=at(HISTORY) + 250)
    async with (
        running(redis_url, database_url, stale_ms=60_000) as client,
        visiting(browser, f"{client.url}/#/BTCUSDT/1m") as (page, troubles),
    ):
        await bars(page, 500)
        box = await page.locator("#chart").bounding_box()
        assert box
        for _ in range(12):
            await page.mouse.move(box["x"] + 60, box["y"] + 200)
            await page.mouse.down()
            await page.mouse.move(box["x"] + box["width"] - 120, box["y"] + 200, steps=4)
            await page.mouse.up()
            if await page.locator("#chart").get_attribute("data-bars") != "500":
                break
        await bars(page, 1500)
        await expect(page.locator("#newest")).to_be_visible()
        await page.locator("#chart").focus()
        await page.keyboard.press("Home")
        await bars(page, HISTORY + 1)
        await page.click("#newest")
        await expect(page.locator("#newest")).to_be_hidden()
        await page.click("[data-interval='1h']")
        await bars(page, 1)
        assert page.url.endswith("#/BTCUSDT/1h")
        await page.keyboard.press("]")
        await expect(page.locator("#chart-state")).to_contain_text("No bars of this interval yet")
        await page.go_back()
        await bars(page, 1)
        assert troubles == []


@pytest.mark.usefixtures("charts")
async def test_a_paused_aggregator_is_said_and_its_return_too(redis_url: str, teller: Teller, browser: Browser) -> None:
    teller.tell({BTC: rising(0)}, time_ms=at(0) + 250)
    async with running(redis_url) as client, visiting(browser, f"{client.url}/#/BTCUSDT/1m") as (page, troubles):
        await bars(page, 1)
        banner = page.locator("#banner")
        await expect(banner).to_contain_text("Live data stopped")
        await expect(page.locator("#live")).to_contain_text("stale")
        await expect(page.locator("#nav-trust")).to_have_class("dot bad")
        teller.tell({BTC: rising(0, close="64009.00")}, time_ms=at(0) + 500)
        await expect(page.locator("#price")).to_have_text("64 009.00")
        for number in range(1, 200):
            teller.tell({BTC: rising(0, trades=number)}, time_ms=at(0) + 500 + number)
            if await page.locator("#live").text_content() == "live":
                break
            await page.wait_for_timeout(50)
        await expect(banner).to_be_hidden()
        assert troubles == []


async def test_a_market_that_is_not_the_exchanges_is_marked(redis_url: str, teller: Teller, browser: Browser) -> None:
    teller.tell({BTC: {}})
    for exchange, shown in (("", False), ("ws://127.0.0.1:9", True)):
        async with (
            running(redis_url, exchange=exchange, stale_ms=60_000) as client,
            visiting(browser, client.url) as (page, _),
        ):
            await expect(page.locator("#live")).to_have_text("live")
            source = page.locator("#source")
            if shown:
                await expect(source).to_have_text("not Binance")
                assert "127.0.0.1:9" in (await source.get_attribute("title") or "")
            else:
                await expect(source).to_be_hidden()


async def test_a_halted_symbol_has_its_status_in_the_list_and_beside_its_chart(
    redis_url: str, database_url: str, teller: Teller, browser: Browser
) -> None:
    halted_row = row_of("BTCUSDT", status="TRADING_HALT")
    keep_info(teller.streams, info_of(halted_row, "ETHUSDT"), ["BTCUSDT", "ETHUSDT"])
    teller.tell({(name, interval): {} for name in ("BTCUSDT", "ETHUSDT") for interval in ("1m", "1d")})
    async with running(redis_url, database_url, info=(), stale_ms=60_000) as client:
        await eventually(lambda: client.gateway.market.carried)
        async with visiting(browser, f"{client.url}/#/BTCUSDT/1m") as (page, _):
            halted = page.locator('.row[data-symbol="BTCUSDT"]')
            await expect(halted.locator(".name")).to_have_attribute("data-status", "TRADING_HALT")
            await expect(halted).to_have_attribute(
                "title", "The exchange lists BTCUSDT as TRADING_HALT; its bars go on."
            )
            await expect(page.locator("#symbol-status")).to_have_text("TRADING_HALT")
            plain = page.locator('.row[data-symbol="ETHUSDT"]')
            await expect(plain.locator(".name")).to_have_attribute("data-status", "")
            await plain.click()
            await expect(page.locator("#symbol-status")).to_have_text("")


async def test_an_unreachable_gateway_is_said(redis_url: str, teller: Teller, browser: Browser) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, stale_ms=60_000) as client, visiting(browser, client.url) as (page, _):
        await expect(page.locator("#live")).to_have_text("live")
        await page.context.set_offline(True)
        await expect(page.locator("#banner")).to_contain_text("cannot be reached")
        await expect(page.locator("#live")).to_have_text("offline")
        await page.context.set_offline(False)
        await expect(page.locator("#banner")).to_be_hidden()
        await expect(page.locator("#live")).to_have_text("live")


async def test_the_pipeline_page_gives_its_verdict(
    redis_url: str, database_url: str, database: Database, teller: Teller, streams: Streams, browser: Browser
) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url, database_url, stale_ms=60_000, pull_timeout_ms=60_000) as client:
        streams.ensure_group(Keys(0).klines, GROUP_WRITERS)
        for name in client.gateway.expected:
            streams.set_with_ttl(heartbeat_key(name), heartbeat(name), 60)
        async with visiting(browser, f"{client.url}/#/pipeline") as (page, troubles):
            verdict = page.locator("#verdict")
            await expect(verdict).to_contain_text("The data can be trusted")
            await expect(page.locator(".checks")).to_contain_text("check the result")
            await expect(page.locator("#view-pipeline")).to_contain_text("No gap is recorded.")
            database.execute(
                "INSERT INTO gaps (symbol, generation, ids, from_id, to_id, opened_at) VALUES"
                " ('BTCUSDT', 0, 'agg', 5, 9, now())"
            )
            await page.reload()
            await expect(verdict).to_contain_text("Trust with reservations")
            await expect(page.locator(".checks")).to_contain_text("1 gap is open")
            streams.delete(heartbeat_key("aggregator-0"))
            await expect(verdict).to_contain_text("Do not rely on this now")
            await expect(page.locator(".checks")).to_contain_text("aggregator-0 does not show a sign of life")
            assert troubles == []


async def test_the_page_names_streams_that_klagg_does_not_make(
    redis_url: str, teller: Teller, browser: Browser
) -> None:
    teller.tell({BTC: {}})
    async with (
        running(redis_url, stale_ms=60_000, pull_timeout_ms=60_000) as client,
        client.socket("/stream?streams=btcusdt@bookTicker/btcusdt@kline_1m"),
        visiting(browser, f"{client.url}/#/pipeline") as (page, troubles),
    ):
        await expect(page.locator("#view-pipeline")).to_contain_text("Asked for and not made by klagg")
        await expect(page.locator("#view-pipeline")).to_contain_text("btcusdt@bookTicker")
        await expect(page.locator("#view-pipeline")).not_to_contain_text("btcusdt@kline_1m")
        assert (await client.get("/api/status"))["unserved"] == {"btcusdt@bookTicker": 1}
        assert troubles == []


async def test_the_page_shows_how_fresh_the_proof_is_over_all_shards(
    redis_url: str, teller: Teller, streams: Streams, browser: Browser
) -> None:
    teller.tell({BTC: {}})
    final, proof = [0, 0, 0, 3, *[0] * 12, 1], [0, 0, 0, 1, *[0] * 13]
    counts = {"close_to_final_ms": {"1m": final, "1h": [0] * 17}, "close_to_proof_ms": {"1m": proof, "1h": [0] * 17}}
    for name in "aggregator-0", "aggregator-1":
        beat = {**json.loads(heartbeat(name)), "bounds_ms": [*BOUNDS_MS], "histograms": counts}
        streams.set_with_ttl(heartbeat_key(name), json.dumps(beat), 60)
    async with (
        running(redis_url, stale_ms=60_000, pull_timeout_ms=60_000) as client,
        visiting(browser, f"{client.url}/#/pipeline") as (page, troubles),
    ):
        table = page.locator("section.block", has=page.get_by_role("heading", name="From close to final and to proof"))
        await expect(table.locator("tbody tr")).to_have_count(1)
        texts = await table.locator("tbody td").all_inner_texts()
        assert texts == ["1m", "8", "2 s", "over 4 h", "25.00 %", "2 s", "2 s"]
        assert troubles == []


async def test_the_headline_says_first_that_no_market_data_come(
    redis_url: str, teller: Teller, streams: Streams, browser: Browser
) -> None:
    """Everything beats, live state moves on, and no trade comes."""
    teller.tell({BTC: {}})
    async with running(redis_url, silent_s=5, stale_ms=60_000, pull_timeout_ms=60_000) as client:
        for name in client.gateway.expected:
            streams.set_with_ttl(heartbeat_key(name), heartbeat(name), 60)
        async with visiting(browser, f"{client.url}/#/pipeline") as (page, troubles):
            await expect(page.locator("#verdict")).to_contain_text("No market data comes", timeout=30_000)
            await expect(page.locator("#live")).to_have_text("no market data")
            await expect(page.locator("#banner")).to_contain_text("no trade of any symbol has come for")
            await expect(page.locator("#nav-trust")).to_have_attribute("title", "No market data comes")
            assert troubles == []


def heartbeat(name: str) -> str:
    """A heartbeat that does not grow old within a test."""
    return (
        f'{{"process":"{name}","pid":1,"state":"running","alarms":[],"started_ms":1,"time_ms":{9 * 10**12},'
        '"counters":{},"rates":{"trades":12.5},"gauges":{"open_gaps":0}}'
    )


async def test_keys_pressed_in_one_breath_all_count(redis_url: str, teller: Teller, browser: Browser) -> None:
    teller.tell({BTC: {}})
    async with (
        running(redis_url, stale_ms=60_000) as client,
        visiting(browser, f"{client.url}/#/BTCUSDT/1m") as (page, _),
    ):
        await expect(page.locator("#live")).to_have_text("live")
        await expect(page.locator("#symbol")).to_have_text("BTCUSDT")
        for keys, place in ("]]", "/BTCUSDT/5m"), ("a]]", "/truth/3m"), ("[p", "/pipeline"), ("c[", "/BTCUSDT/3m"):
            await page.evaluate(IN_ONE_TASK, keys)
            await expect(page).to_have_url(f"{client.url}/#{place}")
        await page.go_back()
        await expect(page.locator("[data-interval='5m']")).to_have_attribute("aria-pressed", "true")
        await page.go_back()
        await expect(page.locator("#view-pipeline")).to_be_visible()


async def test_without_the_chart_library_all_else_works(
    redis_url: str, teller: Teller, browser: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {path: file for path, file in read_files().items() if path != CHARTS}
    monkeypatch.setattr("gateway.service.read_files", lambda: files)
    teller.tell({BTC: rising(0)}, time_ms=at(0) + 250)
    async with running(redis_url) as client, visiting(browser, client.url) as (page, _):
        await expect(page.locator("#chart-state")).to_contain_text("make page")
        await expect(page.locator("#list .row")).to_have_count(1)
        await expect(page.locator("#bar")).to_contain_text("64 000.50")


async def test_a_token_is_asked_for(redis_url: str, teller: Teller, browser: Browser) -> None:
    teller.tell({BTC: {}})
    async with (
        running(redis_url, token="very-secret", stale_ms=60_000) as client,
        visiting(browser, client.url) as (page, _),
    ):
        dialog = page.locator("#ask-token")
        await expect(dialog).to_be_visible()
        await page.fill("#token", "a-wrong-one")
        await page.keyboard.press("Enter")
        await expect(dialog).to_be_visible()
        await page.fill("#token", "very-secret")
        await page.keyboard.press("Enter")
        await expect(page.locator("#list .row")).to_have_count(1)
        await expect(page.locator("#live")).to_have_text("live")
        await expect(dialog).to_be_hidden()


async def test_a_phone_has_room_for_everything(redis_url: str, teller: Teller, browser: Browser) -> None:
    teller.tell({BTC: {}, ("ETHUSDT", "1m"): {}})
    phone = {"is_mobile": True, "has_touch": True, "device_scale_factor": 2, "color_scheme": "dark"}
    async with running(redis_url, stale_ms=60_000) as client, visiting(browser, client.url, **phone) as (page, _):
        await page.set_viewport_size({"width": 360, "height": 740})
        assert await page.locator("html").get_attribute("data-theme") == "dark"
        await expect(page.locator("#symbols")).to_be_hidden()
        await page.tap("#open-list")
        await page.tap("[data-symbol=ETHUSDT]")
        await expect(page.locator("#symbols")).to_be_hidden()
        await expect(page.locator("#symbol")).to_have_text("ETHUSDT")
        await page.tap("#nav-pipeline")
        await expect(page.locator("#verdict")).to_be_visible()
        await page.tap("#nav-truth")
        await expect(page.locator("#view-truth")).to_be_visible()
        for place in ("#/ETHUSDT/1m", "#/pipeline", "#/truth"):
            await page.goto(f"{client.url}/{place}")
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), place


async def test_dark_and_light_are_the_readers_choice(redis_url: str, teller: Teller, browser: Browser) -> None:
    teller.tell({BTC: {}})
    async with running(redis_url) as client, visiting(browser, client.url, color_scheme="light") as (page, troubles):
        root = page.locator("html")
        await expect(root).to_have_attribute("data-theme", "light")
        await page.keyboard.press("t")
        await expect(root).to_have_attribute("data-theme", "dark")
        await page.reload()
        await expect(root).to_have_attribute("data-theme", "dark")
        await page.keyboard.press("?")
        await expect(page.locator("#keys")).to_be_visible()
        await page.keyboard.press("Escape")
        await page.keyboard.press("p")
        await expect(page).to_have_url(re.compile(r"#/pipeline$"))
        assert troubles == []
