"""The page Truth in a real browser: the scoreboard from nothing to a fault that is found, and walked by keys."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import Browser, expect

from klagg.drivers.postgres import Database
from klagg.intervals import DAY_MS
from tests.gateway.browser import visiting
from tests.gateway.kit import NOW_MS, Teller, running

pytestmark = pytest.mark.servers

BTC = ("BTCUSDT", "1m")
TODAY = {"day_s": NOW_MS // DAY_MS * DAY_MS // 1000}

BOARD_DAYS = (
    'INSERT INTO symbol_days (symbol, "interval", day, expected, bars, complete, amended, own)'
    " SELECT symbol, '1m', to_timestamp(%(day_s)s) - ago * INTERVAL '1 day', 1440, 1440, 1440, 1, 1400"
    " FROM unnest(ARRAY['BTCUSDT', '币安人生USDT']) AS symbol, generate_series(0, 4) AS ago"
)
BOARD_AUDITS = (
    'INSERT INTO audits SELECT symbol, day, "interval", 1440, 1437, 2, 1, 0, 0, 0, counted_at FROM symbol_days'
)
BOARD_FINDING = (
    'INSERT INTO findings (id, shard, kind, severity, symbol, "interval", open_time, writer, said_at, evidence,'
    " standing) VALUES ('0:f', 0, 'UNEXPLAINED', 'error', '币安人生USDT', '1m', to_timestamp(%(day_s)s), 'w',"
    " to_timestamp(%(day_s)s), '\"volume 3 instead of 5\"', true)"
)


async def test_the_truth_page_goes_from_nothing_to_a_fault_that_is_found(
    redis_url: str, database_url: str, database: Database, teller: Teller, browser: Browser
) -> None:
    teller.tell({BTC: {}})
    async with (
        running(redis_url, database_url, stale_ms=60_000) as client,
        visiting(browser, f"{client.url}/#/truth") as (page, troubles),
    ):
        view, verdict = page.locator("#view-truth"), page.locator("#board-verdict")
        await expect(view).to_contain_text("No day was counted or audited yet")
        await expect(page.locator("#symbols")).to_be_hidden()
        database.execute(BOARD_DAYS, TODAY)
        await page.reload()
        await expect(verdict).to_contain_text("Complete, but not audited")
        database.execute(BOARD_AUDITS)
        await page.reload()
        await expect(verdict).to_contain_text("Complete and confirmed")
        await expect(view).to_contain_text("No finding stands.")
        database.execute(
            "UPDATE audits SET exact = 1436, unexplained = 1 WHERE symbol <> 'BTCUSDT' AND day = ("
            "SELECT max(day) FROM audits)"
        )
        database.execute(BOARD_FINDING, TODAY)
        await page.reload()
        await expect(verdict).to_contain_text("1 bar differs from the exchange's own")
        days, symbols, findings = (view.locator("table").nth(number).locator("tbody tr") for number in range(3))
        await expect(days).to_have_count(5)
        await expect(days.first).to_have_class("bad")
        await expect(symbols.first.locator("td").first).to_have_text("币安人生USDT")
        await expect(symbols.first).to_contain_text("100.00 %")
        await expect(symbols.first).to_contain_text("99.77 %")
        await expect(findings).to_contain_text("volume 3 instead of 5")
        assert troubles == []


async def test_the_truth_page_is_walked_by_keys(
    redis_url: str, database_url: str, database: Database, teller: Teller, browser: Browser
) -> None:
    database.execute(BOARD_DAYS, TODAY)
    teller.tell({BTC: {}})
    async with (
        running(redis_url, database_url, stale_ms=60_000) as client,
        visiting(browser, client.url) as (page, troubles),
    ):
        await expect(page.locator("#live")).to_have_text("live")
        await page.keyboard.press("a")
        view = page.locator("#view-truth")
        await expect(view.locator("tbody tr")).to_have_count(7)
        await expect(page.locator("#nav-truth")).to_have_attribute("aria-current", "")
        await page.keyboard.press("]")
        await expect(page).to_have_url(re.compile(r"#/truth/1m$"))
        await expect(view.locator("tbody tr")).to_have_count(7)
        await page.keyboard.press("]")
        await expect(view).to_contain_text(re.compile("No day of .* bars was counted"))
        await page.keyboard.press("[")
        await view.get_by_role("link", name="币安人生USDT").focus()
        await page.keyboard.press("Enter")
        await expect(view.locator("h2").first).to_contain_text("币安人生USDT")
        await expect(view.locator("tbody tr")).to_have_count(5)
        assert troubles == []
        await page.keyboard.press("p")
        await expect(view).to_be_hidden()


async def test_the_truth_page_says_what_it_cannot_know(
    redis_url: str, database_url: str, database: Database, teller: Teller, browser: Browser
) -> None:
    database.execute(BOARD_DAYS, TODAY)
    teller.tell({BTC: {}})
    async with running(redis_url, stale_ms=60_000) as client, visiting(browser, f"{client.url}/#/truth") as (page, _):
        await expect(page.locator("#view-truth [role=alert]")).to_contain_text("klagg runs without a database")
    async with running(redis_url, database_url, stale_ms=60_000) as client, visiting(browser, client.url) as (page, _):
        await page.clock.install()
        await page.goto(f"{client.url}/#/truth")
        view = page.locator("#view-truth")
        await expect(view.locator("tbody tr")).to_have_count(7)
        await page.context.set_offline(True)
        await page.clock.fast_forward(61_000)
        await expect(view.locator("[role=alert]")).to_contain_text("What you see was known")
        await expect(view.locator("tbody tr")).to_have_count(7)
        await page.context.set_offline(False)
        await page.clock.fast_forward(11_000)
        await expect(view.locator("[role=alert]")).to_have_count(0)
