"""From the simulator to a browser: the whole pipeline, and the page before a person's eyes."""

from __future__ import annotations

import asyncio
import signal
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, expect

from klagg.drivers.postgres import Database
from klagg.embedded.traces import free_port
from tests.endtoend.kit import migrated, stack, table
from tests.endtoend.test_gateway import symbols_of
from tests.gateway.browser import bring_charts, browsing, visiting
from tests.kit import eventually

pytestmark = [pytest.mark.endtoend, pytest.mark.servers, pytest.mark.timeout(240)]

MARKET = ["--symbols", "8", "--rate", "200", "--speed", "10"]
SYMBOL = "BTCUSDT"


def minutes(database: Database) -> dict[int, dict[str, Any]]:
    """The finals of SYMBOL's minutes by open time."""
    rows = table(database, "1m")
    return {at: row for (symbol, at), row in rows.items() if symbol == SYMBOL and row["revision"]}


async def detail(page: Page, name: str) -> str:
    """A value among the details of the bar."""
    found = page.locator("#bar dt", has_text=name).first.locator("xpath=following-sibling::dd[1]")
    return "".join((await found.inner_text()).split())


async def pick_a_complete_bar(page: Page) -> None:
    """Go left from the newest bar until there is one; while the chart is drawn anew it forgets what was picked."""
    await page.locator("#chart").focus()
    deadline_s = time.monotonic() + 60
    while "complete" not in (said := await page.locator("#bar .stand").inner_text()) or "not proven" in said:
        assert time.monotonic() < deadline_s, said
        await page.keyboard.press("ArrowLeft")
        await page.wait_for_timeout(200)


async def chart_has(page: Page, least: int) -> None:
    """Wait until the chart has so many bars."""
    await page.wait_for_function("n => Number(document.querySelector('#chart').dataset.bars) >= n", arg=least)


async def test_a_person_sees_what_the_table_holds(tmp_path: Path, redis_url: str, database_url: str) -> None:
    bring_charts()
    port = free_port()
    sections: dict[str, dict[str, Any]] = {"aggregator": {"intervals": ("5s", "1m")}, "gateway": {"port": port}}
    with stack(tmp_path, redis_url, database_url, MARKET, **sections) as running:
        database = migrated(database_url)
        running.start("aggregator", "writer", "gateway", "clock", "repair", "ingest")
        url = f"http://127.0.0.1:{port}"
        await asyncio.to_thread(eventually, lambda: symbols_of(url), 60, 0.2)
        await asyncio.to_thread(eventually, lambda: len(minutes(database)) >= 3, 60, 0.2)
        async with browsing() as browser, visiting(browser, f"{url}/#/{SYMBOL}/5s") as (page, troubles):
            await expect(page.locator("#list .row")).to_have_count(8)
            await expect(page.locator("#live")).to_have_text("live")
            await expect(page.locator("#source")).to_have_text("not Binance")
            await chart_has(page, 10)
            price = await page.locator("#price").inner_text()
            await expect(page.locator("#price")).not_to_have_text(price)
            await page.click("[data-interval='1m']")
            await expect(page.locator("[data-interval='1m']")).to_have_attribute("aria-pressed", "true")
            await pick_a_complete_bar(page)
            shown = {name: Decimal(await detail(page, name)) for name in ("Open", "High", "Low", "Close", "Volume")}
            stored = minutes(database)[int(await page.locator("#bar").get_attribute("data-open-time") or 0)]
            assert shown == {name: stored[name.lower()] for name in shown}
            aggregator = running.children["aggregator"].process
            aggregator.send_signal(signal.SIGSTOP)
            await expect(page.locator("#banner")).to_contain_text("Live data stopped")
            await expect(page.locator("#live")).to_contain_text("stale")
            aggregator.send_signal(signal.SIGCONT)
            await expect(page.locator("#banner")).to_be_hidden()
            await expect(page.locator("#live")).to_have_text("live")
            assert troubles == []
        assert set(running.stop("ingest", "repair", "clock", "aggregator", "writer", "gateway").values()) == {0}
        database.close()
