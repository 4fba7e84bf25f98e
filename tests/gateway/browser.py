"""A real browser for the tests of the page: Debian's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from gateway.page import CHARTS, FOLDER, read_files
from klagg.embedded.prefix import bring_prefix

expect.set_options(timeout=30_000)  # what is waited for comes at once, but not on every machine


def chromium() -> str:
    """The program: KLAGG_CHROMIUM, else one of the host's, else Debian's in a private folder. PrefixUnavailable."""
    named = os.environ.get("KLAGG_CHROMIUM") or shutil.which("chromium-headless-shell") or shutil.which("chromium")
    return named or str(bring_prefix("chromium") / "bin" / "chromium-headless-shell")


def bring_charts() -> None:
    """The chart library, which `make page` brings from npm; without npm the test is skipped."""
    if CHARTS in read_files():
        return
    if shutil.which("npm") is None:
        pytest.skip("the chart library of the page is not installed, and npm, which brings it, is missing")
    done = subprocess.run(["make", "page"], cwd=FOLDER.parent.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def is_error(said: ConsoleMessage) -> bool:
    return said.type == "error" and not said.location["url"].endswith(CHARTS)


@asynccontextmanager
async def browsing() -> AsyncIterator[Browser]:
    """A running browser."""
    async with async_playwright() as playwright:
        # Chromium's own sandbox needs rights that containers seldom give; the pages are klagg's alone.
        browser = await playwright.chromium.launch(executable_path=chromium(), chromium_sandbox=False)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visiting(browser: Browser, url: str, **options: Any) -> AsyncIterator[tuple[Page, list[str]]]:
    """A page at URL, and the list to which everything goes that it logs as an error or throws.

    That the chart library is not installed is no error: the page says so, and goes on without.
    """
    context = await browser.new_context(viewport={"width": 1280, "height": 800}, **options)
    page = await context.new_page()
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda said: troubles.append(said.text) if is_error(said) else None)
    try:
        await page.goto(url)
        yield page, troubles
    finally:
        await context.close()
