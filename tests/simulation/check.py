"""What must hold when a world has become calm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal

from aggregator.core import Core
from aggregator.ledger import LAST_TIME, NO_TIME
from klagg.intervals import MINUTE_MS, interval
from klagg.kline import Kline
from klagg.wire.entries import (
    EVENT_AMENDED,
    EVENT_CONFIRMED,
    EVENT_GAP_CLOSED,
    EVENT_GAP_OPENED,
    EVENT_TICK,
    TICK,
    TRADE_IDS,
    event_rows,
    listing_entries,
    tick_entry,
    trades_entry_of_rows,
    watermark_entry,
)
from klagg.wire.fields import Fields, texts_of
from tests.aggregator.kit import klines, newest, raw, values
from tests.aggregator.oracle import fold
from tests.simulation.actors import KEYS
from tests.simulation.world import World

Key = tuple[str, str, int]
Values = tuple[Decimal | int, ...]

NUMBERED = ("klines", "live", "events", "requests")
OLDER = ("Redis older", "Redis older than a start", "failover")
LOST_WITH_REDIS = {"DATA_LOSS", "REDIS_OLDER"}
"""Findings that there may be where Redis came back older, and nowhere else."""
ALLOWED = {"OFFICIAL_REFUSED"}
LIED = {"WITNESS_WRONG"}
"""Findings that there may be where tickers lie, and nowhere else."""
UNDISTURBED_STEP_MS = 15_000


def check(world: World) -> None:
    """Everything below."""
    truth = _truth(world)
    _check_table(world, truth)
    _check_versions(world, truth)
    _check_undisturbed(world)
    _check_streams(world)


def _truth(world: World) -> dict[Key, Values]:
    """Every bar of the market, by an oracle that sees each trade; bars in fill ids have no ids of aggTrades."""
    expected = fold(world.market.rows, world.shape.intervals, int(world.clock.now_ms))
    if world.shape.ids == TRADE_IDS:
        return {key: (*wanted[:9], -1, -1, *wanted[11:]) for key, wanted in expected.items()}
    return expected


def _known_from(world: World, name: str) -> int:
    """The time from which on everything of a symbol is known in the end: bars that opened at it or before it may lack
    trades. NO_TIME: everything since its first trade is."""
    assert world.core is not None
    start_ms = int(world.core.ledger.start_time[world.core.symbols.index[name.encode()]])
    watched = world.shape.born and world.core.listings.first_tick_ms < world.shape.generation
    assert not watched or start_ms == NO_TIME, f"{name} is listed under the eyes of klagg"
    return start_ms


def _expected(world: World, truth: dict[Key, Values]) -> Iterator[tuple[Key, Values]]:
    """The bars that are over, and of which everything must be known."""
    ends = {row.symbol: row.time for row in world.market.rows}
    for key, wanted in truth.items():
        name, kind, open_ms = key
        if interval(kind).close_time(open_ms) < ends[name] and open_ms > _known_from(world, name):
            yield key, wanted


def _spoken_from(world: World, name: str) -> int:
    """The time before which bars may be missing: a symbol's bars begin with the minute of its first own trade, or
    behind the newest official row before it; what was over then is history."""
    assert world.core is not None
    return int(world.core.finality.begun[world.core.symbols.index[name.encode()]]) * MINUTE_MS


def _check_table(world: World, truth: dict[Key, Values]) -> None:
    """The highest versions are the oracle's, and whole; nothing else is there."""
    table = world.writer.table
    for key, wanted in _expected(world, truth):
        name, kind, open_ms = key
        whole = interval(kind).shortest_ms >= MINUTE_MS
        spoken_ms = _spoken_from(world, name) if whole else _begun(world, name, kind)
        if interval(kind).close_time(open_ms) < spoken_ms:
            assert key not in table or values(table[key])[:9] == wanted[:9] or not table[key].whole
            continue
        assert key in table, f"{key} is missing"
        held = table[key]
        if not whole and world.official and not held.whole:
            continue  # its minute was official, which says nothing of its parts
        size = 13 if held.source == "own" else 9
        assert values(held)[:size] == wanted[:size], f"{held} instead of {wanted}"
        assert held.whole, f"it may lack trades: {held}"
        world.seen["bar right"] += 1
        world.seen[f"bar right, {held.source}"] += 1
    for key in table:
        assert key in truth or key[2] <= _known_from(world, key[0]), f"{key} should not be there"


def _begun(world: World, name: str, kind: str) -> int:
    """Where bars shorter than a minute begin: with the first trade that a line can have brought, or with the first one
    whose minute is not official; the first minute may hold bars of an aggregator of which Redis knows nothing."""
    if world.official:
        spoken_ms = _spoken_from(world, name)
        opens = (key[2] for key in world.writer.table if key[:2] == (name, kind) and key[2] >= spoken_ms)
        return max(spoken_ms + MINUTE_MS, min(opens, default=LAST_TIME))
    start_ms = max(_known_from(world, name), world.shape.begun_ms)
    return next(row.time for row in world.market.rows if row.symbol == name and row.counts and row.time > start_ms)


def _check_versions(world: World, truth: dict[Key, Values]) -> None:
    """All that was ever said, also what Redis lost again: versions rise, what is said to be whole is right, and
    only what is from own trades alone is said to be complete."""
    versions: dict[Key, tuple[int, int, int, int]] = {}
    findings = world.redis.ever.get(KEYS.findings, ())
    denied = {each[b"symbol"].decode() for each in findings if each[b"kind"].decode() in LIED}
    every = [Kline.from_fields(texts_of(fields)) for fields in world.redis.ever.get(KEYS.klines, ())]
    replaced = {each.key for each in every if each.official}
    for kline in every:
        assert kline.version > versions.get(kline.key, (0, 0, 0, 0)), f"goes back: {kline}"
        versions[kline.key] = kline.version
        if kline.whole and values(kline)[:9] != truth[kline.key][:9]:
            # Where the exchange's own row replaces a bar, its trades need not come, and nothing denies the witness.
            told = kline.symbol in denied or kline.key in replaced or any(world.seen[each] for each in OLDER)
            # An official minute is never wrong; a longer bar can have a minute that a witness proved.
            believed = world.tickers.lying and told and (kline.complete or kline.interval != "1m")
            assert believed, f"whole and wrong: {kline}"
            world.seen["a lie believed"] += 1
        elif kline.whole:
            assert (kline.complete, kline.official) == ((1, 0) if kline.source == "own" else (0, 1)), kline
        world.seen["kline amended"] += kline.revision > 1


def _check_undisturbed(world: World) -> None:
    """The bars that a core says that gets every trade once, in order."""
    config = world.settings.aggregator
    core, said, at = Core(config, 1, requests_repairs=False), [], 0
    rows = [row for row in world.market.rows if row.time >= world.shape.begun_ms]
    entries: list[Fields] = [tick_entry(world.shape.begun_ms)]
    entries += listing_entries(world.market.listings())
    for time_ms in range(world.shape.begun_ms, rows[-1].time + UNDISTURBED_STEP_MS, UNDISTURBED_STEP_MS):
        first = at
        while at < len(rows) and rows[at].time <= time_ms:
            at += 1
        if first < at:
            entries.append(trades_entry_of_rows(rows[first:at], line="A", ids=world.shape.ids, recv_ms=time_ms))
        entries += [watermark_entry("A", world.market.names, time_ms), tick_entry(time_ms)]
    for fields in entries:
        said += [outputs.encode() for outputs in core.apply("1-1", raw(fields))]
    for key, wanted in newest(klines(said)).items():
        held = world.writer.table.get(key)
        if held is None or held.source != "own" or not wanted.complete or key[2] <= _known_from(world, key[0]):
            continue
        if not held.whole and world.official and interval(key[1]).shortest_ms < MINUTE_MS:
            continue
        assert (values(held), held.complete) == (values(wanted), 1), f"{held}; undisturbed {wanted}"


def _check_streams(world: World) -> None:
    """Numbers without a gap in what survived; each tick told once; nothing dead; no finding but of what was done."""
    streams = world.redis.state.streams
    for name in NUMBERED:
        stream = streams.get(getattr(KEYS, name))
        numbers = [int(fields[b"seq"]) for fields in stream.all()] if stream else []
        assert numbers == list(range(1, len(numbers) + 1)), f"numbers of {name}: {numbers}"
    _count_events(world, map(texts_of, streams[KEYS.events].all()))
    dead = streams.get(KEYS.dead)
    assert dead is None or not dead.all(), dead.all()[0]
    findings = Counter(fields[b"kind"].decode() for fields in world.redis.ever.get(KEYS.findings, ()))
    world.seen.update({f"finding {kind}": count for kind, count in findings.items()})
    allowed = ALLOWED | (LOST_WITH_REDIS if any(world.seen[each] for each in OLDER) else set())
    allowed |= LIED if world.tickers.lying else set()
    assert findings.keys() <= allowed, [
        fields for fields in world.redis.ever[KEYS.findings] if fields[b"kind"].decode() not in allowed
    ]


def _count_events(world: World, events: Iterable[Fields]) -> None:
    """Ticks never go back; and where Redis did not, each is told as often as a clock has said it."""
    told, gaps = [], Counter[str]()
    for fields in events:
        if fields["kind"] == EVENT_TICK:
            told.append(int(fields["time"]))
        elif fields["kind"] in {EVENT_GAP_OPENED, EVENT_GAP_CLOSED}:
            for row in event_rows(fields):
                gaps[f"gap {row.get('reason', 'opened')}"] += 1
        elif fields["kind"] in {EVENT_CONFIRMED, EVENT_AMENDED}:
            world.seen[fields["kind"]] += int(fields["n"])
    world.seen.update(gaps)
    assert told == sorted(told), "a tick goes back"
    if not any(world.seen[each] for each in OLDER):
        said, newest_ms = [], 0
        for raw_fields in world.redis.state.streams[KEYS.feed].all():
            if raw_fields[b"kind"] == TICK.encode() and int(raw_fields[b"time"]) >= newest_ms:
                newest_ms = int(raw_fields[b"time"])
                said.append(newest_ms)
        assert told == said[: len(told)], "a tick is missing, or told twice"
        assert len(told) >= len(said) - 8, "ticks at the end are missing"
