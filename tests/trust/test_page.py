"""The page's sentences of trust, each with a fault that ends it: its pure modules in a browser, and the page itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import ujson
from playwright.async_api import Browser, Page, expect

from klagg.drivers.postgres import Database
from klagg.drivers.redis_streams import Streams
from klagg.intervals import DAY_MS
from klagg.wire.fields import stamp
from klagg.wire.findings import FindingKind, Severity, finding_entry
from klagg.wire.keys import GROUP_WRITERS, Keys, heartbeat_key
from tests.gateway.browser import browsing, visiting
from tests.gateway.kit import BTC, NOW_MS, Teller, running
from tests.gateway.pagekit import ALARM, board, finding, silent, status, without
from tests.trust.catalogue import Sentence

pytestmark = pytest.mark.servers

SAY = """
async ([view, told]) => {
  const { boardVerdict, checks, totalOf, verdictOf, worst } = await import("/page/trust.js");
  const { standing } = await import("/page/details.js");
  if (view === "old board") return boardVerdict(totalOf(told[0]), told[1]).slice(1).join(": ");
  if (view === "board") return boardVerdict(totalOf(told)).slice(1).join(": ");
  if (view === "bar") { const { word, why } = standing(told); return `${word}: ${why}`; }
  const [status, open, findings] = told;
  const found = checks(status, open, findings);
  if (view !== "verdict") return found.find((each) => each.title === view).text;
  return verdictOf(worst(found.map((each) => each.level)), status).join(": ");
}
"""


class Told(NamedTuple):
    """A row of the catalogue with what the page is told, first without and then with the fault."""

    view: str
    sentence: Sentence
    well: Any
    faulty: Any


def pipeline(check: str, said: str, fault: str, faulty: dict[str, Any], then: str, **more: Any) -> Told:
    """A check of the page Pipeline: `faulty` is the status with the fault; `open` and `found` are gaps and findings."""
    well = [more.get("well", status()), [], []]
    with_fault = [faulty, more.get("open", []), more.get("found", [])]
    return Told(check, Sentence(f"page: {check}", said, fault, then), well, with_fault)


def verdict(fault: str, faulty: dict[str, Any], then: str, **more: Any) -> Told:
    """The headline of the page Pipeline and its sentence."""
    return pipeline("verdict", more.pop("said", "The data can be trusted"), fault, faulty, then, **more)


def scoreboard(said: str, fault: str, well: dict[str, Any], faulty: dict[str, Any], then: str) -> Told:
    """The headline of the page Truth and its sentence."""
    return Told("board", Sentence("page: Truth", said, fault, then), [board(), well], [board(), faulty])


def bar(said: str, fault: str, well: dict[str, Any], faulty: dict[str, Any], then: str) -> Told:
    """How far a bar can be trusted, beside the chart."""
    whole = {"closed": True, "complete": True, "official": False, "revision": 1}
    told = [{name: value for name, value in (whole | each).items() if value is not None} for each in (well, faulty)]
    return Told("bar", Sentence("page: the bar", said, fault, then), *told)


def two_shards(*unwritten: int | None) -> dict[str, Any]:
    return status(shards=[{"unwritten_ms": each} for each in unwritten])


def resting_auditors() -> dict[str, Any]:
    """Auditors are switched off, and none is expected."""
    told = status(processes=[each for each in status()["processes"] if not each["process"].startswith("auditor")])
    return told | {"expected": [each["process"] for each in told["processes"]]}


def gauge(**gauges: Any) -> dict[str, Any]:
    """The aggregator says other numbers."""
    found = status()["processes"]
    return status(
        processes=[{**each, "gauges": gauges} if each["process"] == "aggregator-0" else each for each in found]
    )


def in_state(name: str, state: str) -> dict[str, Any]:
    found = status()["processes"]
    return status(processes=[{**each, "state": state} if each["process"] == name else each for each in found])


NO_TRADES = status(market="no market data comes: no trade of any symbol has come for 75 s")
OLD = NOW_MS - 2 * DAY_MS
ALL_GOOD = "Everything runs, nothing is missing, and no error was found."
NOT_NOW = "Do not rely on this now: The data may be old or wrong; see below why."
LESS = "Trust with reservations: Bars that are marked complete lack no trade; see below what is missing."
WHOLE = "Every bar is there"
IN_PART = {"audited": 5, "exact": 5}

PURE = [
    pipeline("Market data", "Trades come.", "no trade for 75 s", NO_TRADES, "No market data comes: no trade of any"),
    pipeline(
        "Live state",
        "It follows the exchange's clock.",
        "the aggregator commits nothing",
        status(stale=True, stale_for_ms=9000),
        "It has not changed for 9 s: the aggregator or Redis has stopped.",
    ),
    pipeline(
        "Live state",
        "It follows the exchange's clock.",
        "no tick was ever committed",
        status(time=0),
        "No tick of the exchange's clock has come yet.",
    ),
    pipeline(
        "Processes",
        "5 processes run and report their state.",
        "a line is frozen",
        silent("ingest-B"),
        "ingest-B does not show a sign of life.",
    ),
    pipeline(
        "Processes",
        "5 processes run and report their state.",
        "a process was never started",
        without("auditor-completeness"),
        "auditor-completeness does not show a sign of life.",
    ),
    pipeline(
        "Processes",
        "5 processes run and report their state.",
        "a process ends",
        in_state("clock", "stopping"),
        "clock is stopping",
    ),
    pipeline("Alarms", "No alarm stands.", "a symbol is silent", status(alarms=[ALARM]), "ingest-A: ETHUSDT is silent"),
    pipeline(
        "Gaps",
        "No trade is known to be missing.",
        "the ledger has a gap",
        gauge(open_gaps=2),
        "2 gaps are open; bars with a gap are not marked complete or official.",
    ),
    pipeline(
        "Gaps",
        "No trade is known to be missing.",
        "the table has an open gap",
        status(),
        "1 gap is open; bars with a gap are not marked complete or official.",
        open=[{"symbol": "BTCUSDT"}],
    ),
    pipeline(
        "Gaps",
        "No trade is known to be missing.",
        "the aggregator is frozen",
        silent("aggregator-0"),
        "aggregator-0 does not say now whether trades are missing.",
    ),
    pipeline(
        "Gaps",
        "No trade is known to be missing.",
        "the aggregator never said a number",
        gauge(),
        "aggregator-0 does not say now whether trades are missing.",
    ),
    pipeline(
        "Gaps",
        "No trade is known to be missing.",
        "there is no aggregator",
        without("aggregator-0") | {"expected": []},
        "No aggregator says now whether trades are missing.",
    ),
    pipeline(
        "Table", "Every final is in it.", "the writer is behind", two_shards(75_000), "Finals reach it 75 s late."
    ),
    pipeline("Table", "Every final is in it.", "nobody writes", two_shards(None), "No process writes the table."),
    pipeline(
        "Table",
        "Every final is in it.",
        "one shard has no writer",
        two_shards(0, None),
        "No process writes the finals of every shard to it.",
    ),
    pipeline(
        "Table",
        "Every final is in it.",
        "there is no database",
        status(database=False),
        "klagg runs without a database: there is no history.",
    ),
    pipeline(
        "Findings",
        "No error was found in the last day.",
        "an auditor found an error",
        status(),
        "1 error in the last day: K.",
        found=[finding("error")],
    ),
    pipeline(
        "Findings",
        "No error was found in the last day.",
        "something is missing and may heal",
        status(),
        "1 warning in the last day: K.",
        found=[finding("warning")],
    ),
    pipeline(
        "Findings",
        "No error was found in the last day.",
        "an old finding was never settled",
        status(),
        "1 finding stands from before: K.",
        found=[finding("error", said_at=OLD, standing=True, open_time=1)],
    ),
    pipeline(
        "Findings",
        "No error was found in the last day.",
        "the database does not answer",
        status(),
        "They cannot be read now, so nobody knows of errors.",
        found=None,
    ),
    pipeline(
        "Audits",
        "auditor-completeness checks the result.",
        "the auditor is frozen",
        silent("auditor-completeness"),
        "No auditor runs: the result is not checked a second time.",
    ),
    pipeline(
        "Audits",
        "auditor-completeness checks the result.",
        "auditors are switched off",
        resting_auditors(),
        "No auditor runs: the result is not checked a second time.",
    ),
    verdict("no trade for 75 s", NO_TRADES, "No market data comes: No trade of any symbol has come for 75 s."),
    verdict("the aggregator commits nothing", status(stale=True, stale_for_ms=9000), NOT_NOW),
    verdict("the aggregator is frozen", silent("aggregator-0"), NOT_NOW),
    verdict("the clock is dead", without("clock"), NOT_NOW),
    verdict("both lines are dead", without("ingest-A") | {"processes": without("ingest-A")["processes"][:1]}, NOT_NOW),
    verdict("the writer is ten minutes behind", two_shards(660_000), NOT_NOW),
    verdict("an auditor found an error", status(), NOT_NOW, found=[finding("error")]),
    verdict("a line is frozen", silent("ingest-B"), LESS),
    verdict("an alarm stands", status(alarms=[ALARM]), LESS),
    verdict("a gap is open", status(), LESS, open=[{"symbol": "BTCUSDT"}]),
    verdict("nobody writes", two_shards(None), LESS),
    verdict("findings cannot be read", status(), LESS, found=None),
    verdict(
        "an old finding was never settled",
        status(),
        LESS,
        found=[finding("error", said_at=OLD, standing=True, open_time=1)],
    ),
    verdict(
        "auditors are switched off",
        resting_auditors(),
        "Everything runs and nothing is missing; no auditor looks for errors.",
        said=ALL_GOOD,
    ),
    verdict(
        "a gap is open, and auditors are switched off",
        resting_auditors(),
        LESS,
        said="Everything runs and nothing is missing; no auditor looks for errors.",
        well=resting_auditors(),
        open=[{"symbol": "BTCUSDT"}],
    ),
    verdict(
        "an auditor found an error",
        status(alarms=[ALARM]),
        NOT_NOW,
        said=LESS,
        well=status(alarms=[ALARM]),
        found=[finding("error")],
    ),
    scoreboard(
        "Complete and confirmed: Every bar is there, and every one is the exchange's own or explained.",
        "a bar is different",
        board(),
        board(exact=9, unexplained=1),
        "Something is unexplained: 1 bar differs from the exchange's own, and nothing explains it.",
    ),
    scoreboard(
        WHOLE,
        "a bar is missing",
        board(),
        board(bars=9, complete=9, missing=1),
        "True as far as it goes: 1 bar is missing.",
    ),
    scoreboard(
        WHOLE,
        "a bar is missing where another symbol has one too many",
        board(complete=11),
        board(complete=11, missing=1),
        "True as far as it goes: 1 bar is missing.",
    ),
    scoreboard(WHOLE, "a bar may lack trades", board(), board(complete=9), "1 bar may lack trades."),
    scoreboard(WHOLE, "a bar waits for repair", board(), board(exact=9, local_gap=1), "1 bar waits for repair."),
    scoreboard(WHOLE, "a finding stands", board(), board(open_findings=1), "1 finding stands."),
    scoreboard(
        "Complete and confirmed",
        "only a part is audited",
        board(),
        board(**IN_PART),
        "Complete, confirmed as far as audited: Every bar is there; 75.00 % are audited, and all of these are the "
        "exchange's own or explained.",
    ),
    scoreboard(
        "every one is the exchange's own or explained",
        "the exchange may not be done with an audited bar",
        board(),
        board(exact=9, late=1),
        "all of these but 1, which the exchange may still change, are the exchange's own or explained.",
    ),
    scoreboard(
        "Complete, confirmed as far as audited: Every bar is there; 75.00 % are audited, and all of these are the "
        "exchange's own or explained.",
        "an audited bar is different",
        board(**IN_PART),
        board(audited=5, exact=4, unexplained=1),
        "Something is unexplained",
    ),
    scoreboard(
        "Complete and confirmed",
        "bars are the exchange's word",
        board(),
        board(complete=7, official=3),
        "Nothing is missing, confirmed: Every bar is there, and every one is the exchange's own or explained. "
        "3 bars are official: no trade id proves them, the exchange's own klines do.",
    ),
    scoreboard(
        "Nothing is missing, confirmed",
        "an official bar is missing",
        board(complete=7, official=3),
        board(bars=9, complete=7, official=2, missing=1),
        "True as far as it goes: 1 bar is missing.",
    ),
    scoreboard(
        "Nothing is missing, confirmed as far as audited",
        "an audited bar is different",
        board(complete=7, official=3, **IN_PART),
        board(complete=7, official=3, audited=5, exact=4, unexplained=1),
        "Something is unexplained",
    ),
    bar(
        "complete: The ids of its trades prove that none is missing.",
        "trades in it are missing",
        {},
        {"complete": False},
        "not proven complete: It closed by the clock, or trades in it are missing.",
    ),
    bar(
        "complete: The ids of its trades prove that none is missing.",
        "it is the exchange's row",
        {},
        {"complete": False, "official": True},
        "official: Nothing is missing, on the exchange's word: its own klines stand for the bar or for a part of it. "
        "No trade id proves it.",
    ),
    bar(
        "official: Nothing is missing, on the exchange's word",
        "the exchange does not have it either",
        {"complete": False, "official": True},
        {"complete": False},
        "not proven complete",
    ),
    bar(
        "complete: The ids of its trades prove that none is missing.",
        "late trades changed it",
        {},
        {"revision": 2},
        "complete · revision 2: Late trades changed it after its first final.",
    ),
    bar(
        "complete · revision 2: Late trades changed it after its first final.",
        "trades in it are missing",
        {"revision": 2},
        {"revision": 2, "complete": False},
        "not proven complete",
    ),
    bar(
        "complete: The ids of its trades prove that none is missing.",
        "it goes on",
        {},
        {"closed": False},
        "in progress: Its values change until it closes.",
    ),
    bar(
        "complete: The ids of its trades prove that none is missing.",
        "the event that closed it does not tell",
        {},
        {"complete": None},
        "just closed: Its provenance is being requested.",
    ),
]

TWO_HOURS_MS = 7_200_000
NOT_SINCE = "Nothing was counted for 2 h: what came since then, or did not come, is not in it."
OLD_BOARDS = [
    Told(
        "old board",
        Sentence("page: Truth", "Complete and confirmed", "nobody counts", f"True as of the last count: {NOT_SINCE}"),
        [[board()], 60_000],
        [[board()], TWO_HOURS_MS],
    ),
    Told(
        "old board",
        Sentence("page: Truth", "1 bar is missing.", "nobody counts", f"2 bars are missing. {NOT_SINCE}"),
        [[board(bars=9, complete=9, missing=1)], 60_000],
        [[board(bars=8, complete=8, missing=2)], TWO_HOURS_MS],
    ),
]
PURE += OLD_BOARDS

UNAUDITED = [
    scoreboard(said, "bars are missing", well, faulty, "True as far as it goes")._replace(well=[well], faulty=[faulty])
    for said, well, faulty in (
        (
            "Complete, but not audited: Every bar is there; none was compared with the exchange's own yet.",
            board(audited=0, exact=0),
            board(audited=0, exact=0, bars=9, complete=9, missing=1),
        ),
        (
            "Nothing is missing, not audited",
            board(audited=0, exact=0, complete=9, official=1),
            board(audited=0, exact=0, complete=8, official=1),
        ),
        (
            "Not counted yet: What is audited is the exchange's own or explained; how many bars should be there is "
            "counted every few minutes.",
            board(expected=0, bars=0, complete=0),
            board(expected=0, bars=0, complete=0, local_gap=1),
        ),
    )
]
PURE += UNAUDITED


@pytest.fixture
async def page(redis_url: str, teller: Teller) -> AsyncIterator[Page]:
    teller.tell({BTC: {}})
    async with (
        running(redis_url, stale_ms=60_000) as client,
        browsing() as browser,
        visiting(browser, f"{client.url}/#/pipeline") as (page, _),
    ):
        yield page


async def test_every_sentence_of_the_pure_modules_is_true(page: Page) -> None:
    wrong = []
    for view, sentence, well, faulty in PURE:
        without_fault, with_fault = [await page.evaluate(SAY, [view, told]) for told in (well, faulty)]
        wrong += sentence.wrong(without_fault, with_fault)
    assert wrong == []


# --- the page itself, at a real gateway, Redis and table ---

WELL_BEAT_MS = 9 * 10**12
"""A heartbeat of that time does not grow old within a test."""

KEYS = Keys(0)
DAY_S = NOW_MS // DAY_MS * DAY_MS // 1000
COUNTED = (
    'INSERT INTO symbol_days (symbol, "interval", day, expected, bars, complete, amended, own)'
    f" VALUES ('BTCUSDT', '1m', to_timestamp({DAY_S}), 10, 10, 10, 0, 10)"
)
AUDITED = f"INSERT INTO audits VALUES ('BTCUSDT', to_timestamp({DAY_S}), '1m', 10, 10, 0, 0, 0, 0, 0, now())"
FOUND = (
    "INSERT INTO findings (id, shard, kind, severity, writer, said_at, evidence, standing)"
    " SELECT '0:' || %(severity)s || number, 0, %(kind)s, %(severity)s, 'w',"
    " to_timestamp(%(at_s)s) + number * INTERVAL '1 ms', '\"e\"', %(standing)s"
    " FROM generate_series(1, %(count)s) AS number"
)


def found(
    database: Database, severity: Severity, *, count: int = 1, at_s: int = NOW_MS // 1000 - 9, standing: bool = True
) -> None:
    """So many findings about no symbol, of one severity."""
    values = {"severity": severity, "kind": FindingKind.DATA_LOSS, "at_s": at_s, "count": count, "standing": standing}
    database.execute(FOUND, values)


def beat(name: str, **changes: Any) -> str:
    gauges = {"open_gaps": 0} if name.startswith("aggregator") else {}
    said = {"process": name, "pid": 1, "state": "running", "alarms": [], "started_ms": 1, "time_ms": WELL_BEAT_MS}
    return ujson.dumps({**said, "counters": {}, "rates": {}, "gauges": gauges, **changes})


@dataclass
class World:
    """What a fault is planted into."""

    streams: Streams
    database: Database
    page: Page


def an_error_behind_many_notices(world: World) -> None:
    found(world.database, Severity.ERROR, standing=False, at_s=NOW_MS // 1000 - 60)
    found(world.database, Severity.INFO, count=150, standing=False)


def an_open_gap(world: World) -> None:
    world.database.execute(
        "INSERT INTO gaps (symbol, generation, ids, from_id, to_id, opened_at)"
        " VALUES ('BTCUSDT', 0, 'agg', 5, 9, now())"
    )


def an_unreadable_table(world: World) -> None:
    world.database.execute("ALTER TABLE findings RENAME TO elsewhere")


def an_error_in_redis(world: World) -> None:
    said = finding_entry(FindingKind.DATA_LOSS, Severity.ERROR, "gone", time_ms=NOW_MS - 1000)
    world.streams.append(KEYS.findings, stamp(said, "a", 1))


def a_finding_about_no_symbol(world: World) -> None:
    found(world.database, Severity.ERROR)


def nobody_counts(world: World) -> None:
    world.database.execute("UPDATE symbol_days SET counted_at = counted_at - INTERVAL '2 hours'")


def no_aggregator(world: World) -> None:
    world.streams.delete(heartbeat_key("aggregator-0"))


class Seen(NamedTuple):
    """A row of the catalogue that is looked at on the page itself: where, and what plants the fault."""

    address: str
    place: str
    sentence: Sentence
    plant: Callable[[World], None]
    stored: bool = True


def on_page(
    address: str, place: str, said: str, plant: Callable[[World], None], then: str, *, stored: bool = True
) -> Seen:
    sentence = Sentence(f"page: {address}", said, plant.__name__.replace("_", " "), then)
    return Seen(address, place, sentence, plant, stored)


SEEN = [
    on_page("pipeline", "#verdict", "no error was found", an_error_behind_many_notices, "Do not rely on this now"),
    on_page("pipeline", "#verdict", "The data can be trusted", an_unreadable_table, "Trust with reservations"),
    on_page(
        "pipeline", "#verdict", "The data can be trusted", an_error_in_redis, "Do not rely on this now", stored=False
    ),
    on_page("pipeline", "#verdict", "The data can be trusted", no_aggregator, "Do not rely on this now"),
    on_page("pipeline", "#view-pipeline", "No gap is recorded.", an_open_gap, "5 … 9"),
    on_page("pipeline", "#view-pipeline", "No finding is recorded.", a_finding_about_no_symbol, "DATA_LOSS"),
    on_page("truth", "#board-verdict", "Complete and confirmed", a_finding_about_no_symbol, "1 finding stands."),
    on_page("truth", "#board-verdict", "Complete and confirmed", nobody_counts, "True as of the last count"),
    on_page("truth", "#view-truth", "No finding stands.", a_finding_about_no_symbol, "DATA_LOSS"),
]


@pytest.mark.parametrize("seen", SEEN, ids=lambda each: f"{each.address}: {each.sentence.fault}: {each.place}")
async def test_every_sentence_of_the_page_itself_is_true(
    redis_url: str,
    database_url: str,
    database: Database,
    teller: Teller,
    streams: Streams,
    browser: Browser,
    seen: Seen,
) -> None:
    teller.tell({BTC: {}})
    database.execute(COUNTED)
    database.execute(AUDITED)
    streams.ensure_group(KEYS.klines, GROUP_WRITERS)
    url = database_url if seen.stored else ""
    async with running(redis_url, url, stale_ms=60_000, pull_timeout_ms=60_000) as client:
        for name in client.gateway.expected:
            streams.set_with_ttl(heartbeat_key(name), beat(name), 60)
        async with visiting(browser, f"{client.url}/#/{seen.address}") as (page, _):
            place = page.locator(seen.place)
            await expect(place).to_contain_text(seen.sentence.said)
            without_fault = await place.inner_text()
            await asyncio.to_thread(seen.plant, World(streams, database, page))
            await page.reload()
            await expect(place).to_contain_text(seen.sentence.then)
            await expect(place).not_to_contain_text(seen.sentence.said)
            assert seen.sentence.wrong(without_fault, await place.inner_text()) == []


LIVE = [
    Sentence("page: the pill", "live", "the gateway does not answer", "offline"),
    Sentence("page: the pill", "live", "the aggregator commits nothing", "stale"),
]


async def test_the_word_live_is_true(redis_url: str, teller: Teller, browser: Browser) -> None:
    away, still = LIVE
    teller.tell({BTC: {}})
    async with running(redis_url, stale_ms=60_000) as client, visiting(browser, client.url) as (page, _):
        pill = page.locator("#live")
        await expect(pill).to_have_text(away.said)
        await page.context.set_offline(True)
        await expect(pill).to_have_text(away.then)
        await page.context.set_offline(False)
        await expect(pill).to_have_text(still.said)
        client.gateway.market.shards[0].health.stale_ms = 1000  # from here on a second without a commit is too long
        await expect(pill).to_contain_text(still.then)
