"""The pure modules of the page, in the engine that runs them: how bars supersede each other, and what is trusted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from playwright.async_api import Page

from tests.gateway.browser import browsing, visiting
from tests.gateway.kit import Teller, running
from tests.gateway.pagekit import ALARM, NOW_MS, board, finding, silent, status, without

pytestmark = pytest.mark.servers

BARS = """
async (steps) => {
  const { Bars, fromEvent } = await import("/page/bars.js");
  const bars = new Bars();
  const changed = steps.map(({ event, rows }) => bars.take(event ? [fromEvent(event)] : rows).length);
  return { changed, all: [...bars.all()] };
}
"""

CHECKS = """
async ([status, open, findings]) => {
  const { checks, verdictOf, worst } = await import("/page/trust.js");
  const found = checks(status, open, findings);
  const levels = found.map((each) => [each.title, each.level]);
  const level = worst(levels.map(([, level]) => level));
  return { worst: level, levels: Object.fromEntries(levels), headline: verdictOf(level, status)[0] };
}
"""

FORMAT = """
async () => {
  const { decimal, percent, short, span, unitOf, utc, whole } = await import("/page/format.js");
  return [
    decimal("1234567.000100"), decimal("0.1"), decimal("-1234"), decimal(null),
    percent(-0.001), percent("1.005"), percent(null), short("1234567890"), span(950), span(119000), span(3600000),
    utc(1794000000123), utc(1794000000000), whole(1234567), ...[0, 5, 6, 7].map((decimals) => String(unitOf(decimals))),
  ];
}
"""

PRICES = """
async () => {
  const { priceFormat } = await import("/page/format.js");
  const of = (texts, tick) => { const { precision, minMove } = priceFormat(texts, tick); return [precision, minMove]; };
  return [
    of(["64100.10", "64120.00"], "0.10"), of(["0.42300"], "0.00100"), of(["31000.0"], "1"), of(["0.42301"], "0.00100"),
    of(["0.00001"], null), of(["12"], null), of(["0.1234567"], "0.0000001"), of(["5.5"], "0.01"), of(["0"], "0"),
  ];
}
"""


@pytest.fixture
async def page(redis_url: str, teller: Teller) -> AsyncIterator[Page]:
    teller.tell({("BTCUSDT", "1m"): {}})
    async with (
        running(redis_url, stale_ms=60_000) as client,
        browsing() as browser,
        visiting(browser, f"{client.url}/#/pipeline") as (page, _),
    ):
        yield page


def row(minute: int, *, closed: bool = True, revision: int = 1, **changes: Any) -> dict[str, Any]:
    opened = minute * 60_000
    return {"open_time": opened, "close_time": opened + 59_999, "closed": closed, "revision": revision, **changes}


def event(minute: int, *, closed: bool, **changes: Any) -> dict[str, Any]:
    names = ("o", "h", "l", "c", "v", "q", "n", "V", "Q")
    return {"t": minute * 60_000, "T": minute * 60_000 + 59_999, "f": -1, "L": -1, "x": closed} | (
        dict.fromkeys(names, "1") | changes
    )


async def test_newer_versions_of_a_bar_supersede_older_ones(page: Page) -> None:
    steps = [
        {"rows": [row(1, complete=True), row(0, complete=True, source="own")]},
        {"event": event(2, closed=False)},
        {"event": event(2, closed=True)},
        {"event": event(2, closed=False)},  # what was told before it closed comes late
        {"rows": [row(2, complete=False, source="own")]},
        {"event": event(0, closed=True, revision=3)},
        {"rows": [row(0, complete=True, source="own")]},  # an answer from before the amendment
        {"rows": [row(5, closed=False, revision=0)]},
    ]
    told = await page.evaluate(BARS, steps)
    assert told["changed"] == [2, 1, 1, 0, 1, 1, 0, 1]
    minutes = [(each["open_time"] // 60_000, each.get("missing", False)) for each in told["all"]]
    assert minutes == [(0, False), (1, False), (2, False), (3, True), (4, True), (5, False)]
    first, _, third, *_ = told["all"]
    assert (first["revision"], "source" in first) == (3, False), "an event does not tell where an amendment comes from"
    assert (third["complete"], third["source"], third["close"]) == (False, "own", "1")


TROUBLES: list[tuple[dict[str, Any], list[Any], list[Any], str, str]] = [
    (status(), [], [], "Live state", "good"),
    (status(time=0), [], [], "Live state", "bad"),
    (status(stale=True, stale_for_ms=9000), [], [], "Live state", "bad"),
    (without("ingest-B"), [], [], "Processes", "warn"),
    (without("aggregator-0"), [], [], "Processes", "bad"),
    (without("clock"), [], [], "Processes", "bad"),
    (silent("ingest-B"), [], [], "Processes", "warn"),
    (silent("aggregator-0"), [], [], "Processes", "bad"),
    (status(alarms=[ALARM]), [], [], "Alarms", "warn"),
    (status(market="no market data comes: no trade for 60 s"), [], [], "Market data", "bad"),
    (status(shards=[{"unwritten_ms": 61_000}]), [], [], "Table", "warn"),
    (status(shards=[{"unwritten_ms": 601_000}]), [], [], "Table", "bad"),
    (status(), [{"symbol": "BTCUSDT"}], [], "Gaps", "warn"),
    (status(), [], [finding("warning")], "Findings", "warn"),
    (status(), [], [finding("error")], "Findings", "bad"),
    (status(), [], [finding("error", closed_at=NOW_MS)], "Findings", "good"),
    (status(), [], [finding("error", said_at=NOW_MS - 90_000_000)], "Findings", "good"),
    (status(), [], [finding("error", said_at=NOW_MS - 90_000_000, standing=True, open_time=1)], "Findings", "warn"),
    (status(), [], [finding("error", said_at=NOW_MS - 90_000_000, standing=True, closed_at=1)], "Findings", "good"),
    (status(), [], [finding("info", said_at=NOW_MS - 90_000_000, standing=True)], "Findings", "good"),
]
"""What is told of the pipeline, open gaps, findings; the check that says so, and how bad it is."""


async def test_each_trouble_lowers_the_verdict(page: Page) -> None:
    for told, gaps, findings, title, level in TROUBLES:
        found = await page.evaluate(CHECKS, [told, gaps, findings])
        assert found["levels"].pop(title) == level, title
        if told in (without("aggregator-0"), silent("aggregator-0")):
            assert found["levels"].pop("Gaps") == "warn", "only an aggregator knows what is missing"
        assert set(found["levels"].values()) == {"good"}, title
        assert found["worst"] == level, title


BOARD = """
async (rows) => {
  const { boardVerdict, levelOf, totalOf } = await import("/page/trust.js");
  const total = totalOf(rows);
  return [total, levelOf(total), ...boardVerdict(total)];
}
"""


async def test_the_verdict_of_the_scoreboard(page: Page) -> None:
    total, level, told, _, _ = await page.evaluate(BOARD, [board(), board(audited_at=9, exact=9, edge_shift=1)])
    assert (total["exact"], total["counted_at"], total["audited_at"], level, told) == (19, 5, 9, "good", "good")
    *_, told, _, text = await page.evaluate(BOARD, [board(), board(exact=9, unexplained=1)])
    assert (told, text) == ("bad", "1 bar differs from the exchange's own, and nothing explains it.")
    row = board(bars=8, complete=7, missing=2, local_gap=1, open_findings=2)
    *_, told, _, text = await page.evaluate(BOARD, [row])
    assert told == "warn"
    assert text == "2 bars are missing, 1 bar may lack trades, 1 bar waits for repair, 2 findings stand."
    assert (await page.evaluate(BOARD, [board(audited=0, exact=0)]))[2] == "off"


async def test_what_is_official_is_not_called_complete(page: Page) -> None:
    """Nothing is missing, but for some bars that is the exchange's word; the verdict says so."""
    *_, level, told, title, text = await page.evaluate(BOARD, [board(), board(complete=7, official=3)])
    assert (level, told, title) == ("good", "good", "Nothing is missing, confirmed")
    assert "3 bars are official: no trade id proves them, the exchange's own klines do." in text
    *_, title, text = await page.evaluate(BOARD, [board(audited=0, exact=0, complete=9, official=1)])
    assert title == "Nothing is missing, not audited"
    assert text.endswith("1 bar is official: no trade id proves it, the exchange's own klines do.")
    *_, told, title, text = await page.evaluate(BOARD, [board(complete=6, official=3)])
    assert (told, title, text) == ("warn", "True as far as it goes", "1 bar may lack trades.")


HEADLINES = [
    (status(), "The data can be trusted"),
    (status(alarms=[ALARM]), "Trust with reservations"),
    (silent("clock"), "Do not rely on this now"),
    (status(market="no market data comes: no trade for 60 s"), "No market data comes"),
    (without("clock") | {"market": "no market data comes: no trade for 60 s"}, "No market data comes"),
]


async def test_the_headline_is_true_and_says_first_that_no_market_data_come(page: Page) -> None:
    for told, headline in HEADLINES:
        assert (await page.evaluate(CHECKS, [told, [], []]))["headline"] == headline


async def test_an_auditor_that_is_switched_off_is_no_trouble_and_no_check(page: Page) -> None:
    resting = {"process": "auditor-lifecycle", "state": "off (audit.full is false)", "gauges": {}}
    told = status(processes=[each for each in status()["processes"] if not each["process"].startswith("auditor")])
    told["expected"] = [each["process"] for each in told["processes"]]
    told["processes"] = [*told["processes"], resting]
    found = await page.evaluate(CHECKS, [told, [], []])
    assert (found["levels"]["Processes"], found["levels"]["Audits"], found["worst"]) == ("good", "off", "good")


async def test_without_a_database_there_is_no_history_and_findings_come_from_redis(page: Page) -> None:
    found = await page.evaluate(CHECKS, [status(database=False), None, []])
    assert (found["levels"]["Table"], found["levels"]["Findings"], found["worst"]) == ("off", "good", "good")


async def test_findings_that_cannot_be_read_are_no_good_sign(page: Page) -> None:
    found = await page.evaluate(CHECKS, [status(), None, None])
    assert (found["levels"]["Findings"], found["headline"]) == ("warn", "Trust with reservations")


async def test_values_are_written_exactly_and_times_in_utc(page: Page) -> None:
    assert await page.evaluate(FORMAT) == [
        "1 234 567.000100",
        "0.1",
        "-1 234",
        "–",
        "0.00 %",
        "+1.00 %",
        "",
        "1.235B",
        "950 ms",
        "119 s",
        "60 min",
        "2026-11-06 21:20:00.123",
        "2026-11-06 21:20:00",
        "1 234 567",
        *("1", "0.00001", "0.000001", "1e-7"),
    ]


async def test_the_chart_moves_in_steps_of_the_exchanges_tick(page: Page) -> None:
    """A price off the tick, or a tick that is finer than the prices, leaves the unit of the last digit."""
    assert await page.evaluate(PRICES) == [
        [2, 0.1],
        [5, 0.001],
        [1, 1],
        [5, 0.00001],
        [5, 0.00001],
        [0, 1],
        [7, 0.0000001],
        [1, 0.1],
        [0, 1],
    ]
