"""Lives of symbols at random: listed, halted, ended, listed again; an oracle knows their bars."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aggregator.checkpoint import Checkpoint, restore
from aggregator.core import Core
from aggregator.publisher import Outputs
from klagg import settings
from klagg.intervals import DAY_MS, interval
from klagg.kline import Kline
from klagg.wire.entries import EVENT_GENESIS, Listing, TradeRow, listing_entries, trades_entry_of_rows
from klagg.wire.fields import Fields
from tests.aggregator.kit import T0, klines, newest, raw, tick, trade, values
from tests.aggregator.listingkit import FAR, events
from tests.aggregator.oracle import fold

INTERVALS = ("1m", "5m")
NAMES = ("AAAUSDT", "BBBUSDT", "CCCUSDT", "DDDUSDT")


@dataclass
class Life:
    """One generation of a symbol as the exchange knows it. Times in ms; `listed_at`, `closed_at` are those of the first
    tick after its listing entries."""

    symbol: str
    generation: int
    rows: list[TradeRow]
    end_ms: int
    listed_at: int
    closed_at: int | None
    halt: tuple[int, int] | None
    """Ticks between which the exchange says that it is closed, and after which it trades on."""


@dataclass
class World:
    """Lives, and what the feed says of them: per tick its time and the entries before it, in any order."""

    lives: list[Life]
    ticks: list[tuple[int, list[Fields]]]
    ids: str


def lives_of(rng: random.Random, symbol: str, step_ms: int) -> list[Life]:
    """Generations one after the other; the first is older than klagg, with ids from anywhere."""
    lives: list[Life] = []
    begin = T0 - 400 * DAY_MS
    at = T0 + rng.randrange(60_000)
    for number in range(rng.randrange(1, 4)):
        count, first_id = rng.randrange(30, 60), rng.randrange(1000, 9000) if number == 0 else 1
        pace = rng.choice((2_000, 9_000, 25_000))
        times = [at := at + rng.randrange(1, pace) for _ in range(count)]
        halt = None
        if rng.random() < 0.4:
            last, pause_ms = rng.randrange(26, count - 1), rng.choice((60_000, 200_000))
            times[last + 1 :] = [time + pause_ms for time in times[last + 1 :]]
            at = times[-1]
            again = _tick_after(times[last + 1], step_ms) + rng.choice((-1, 0, 2)) * step_ms
            halt = _tick_after(times[last], step_ms) + step_ms, again
        rows = [
            trade(
                first_id + n,
                time,
                f"{rng.randrange(1, 999) / 10:.1f}",
                f"{rng.randrange(1, 99) / 100:.2f}",
                symbol=symbol,
                maker=rng.randrange(2),
            )
            for n, time in enumerate(times)
        ]
        end_ms = at + rng.randrange(1, 30_000)
        # Fewer trades come before their listing than the generation before had: their ids tell that it is another.
        listed_ms = rng.choice((begin, times[0] - step_ms, times[rng.randrange(1, 25)]))
        closed_ms = end_ms + rng.choice((0, step_ms, 60_000)) if rng.random() < 0.8 else None
        if halt and closed_ms:
            closed_ms = max(closed_ms, halt[1] + step_ms)
        lives.append(Life(symbol, begin, rows, end_ms, _tick_after(listed_ms, step_ms), None, halt))
        lives[-1].closed_at = closed_ms and _tick_after(closed_ms, step_ms)
        at = end_ms + rng.choice((130_000, 400_000, 3_000_000))  # longer than the ring holds: the slot is freed
        begin = at - rng.randrange(1_000)
    return lives


def _tick_after(time_ms: int, step_ms: int) -> int:
    return max(T0, T0 + -(-(time_ms - T0) // step_ms) * step_ms)


def world_of(seed: int) -> World:
    """A seeded world: trades come late by some ticks, twice and in any order; listing entries late and again; some
    symbols are halted for a while."""
    rng = random.Random(seed)
    step_ms, ids = rng.choice((5_000, 15_000)), rng.choice(("agg", "trade"))
    lives = [life for name in NAMES for life in lives_of(rng, name, step_ms)]
    said: dict[int, list[Fields]] = {}
    for life in lives:
        for number, row in enumerate(life.rows):
            late = rng.choice((0, 0, 0, 1, 3)) if number else 0
            due = _tick_after(row.time, step_ms) + late * step_ms
            for again in (0, *[rng.randrange(1, 20)] * (rng.random() < 0.3)):
                entry = trades_entry_of_rows([row], line="A", ids=ids, recv_ms=row.time)
                said.setdefault(due + again * step_ms, []).append(entry)
        for at, status in ((life.listed_at, "TRADING"), (life.closed_at, "CLOSE")):
            delivery = FAR if status == "TRADING" else life.end_ms
            listing = Listing(life.symbol, life.generation, 1, 2, status, delivery)
            again = rng.choice((0, 0, 40, 300)) * step_ms if status == "CLOSE" else rng.choice((0, 1, 2)) * step_ms
            if status == "TRADING" and at is not None and life.closed_at and at + again >= life.closed_at:
                again = 0  # it would trade again
            for when in {at, at + again} if at else set():
                said.setdefault(when, []).extend(listing_entries([listing]))
        for at, status in zip(life.halt or (), ("CLOSE", "TRADING"), strict=False):
            listing = Listing(life.symbol, life.generation, 1, 2, status, FAR)
            said.setdefault(at, []).extend(listing_entries([listing]))
    last = max(said)
    return World(lives, [(time, said.get(time, [])) for time in range(T0, last + 1_500_000, step_ms)], ids)


def run(world: World, shuffle: random.Random | None = None, cut: int = -1) -> list[Outputs]:
    """What a core says to a world, its entries in some order, put back from a checkpoint after tick `cut`."""
    config = settings.Aggregator(intervals=INTERVALS, window_minutes=10)
    core, said = Core(config, epoch=1), []
    for number, (time_ms, entries) in enumerate(world.ticks):
        part = shuffle.sample(entries, len(entries)) if shuffle else entries
        for entry in part:
            assert not list(core.apply("1-1", raw(entry)))
        said.append(tick(core, time_ms))
        if number == cut:
            checkpoint, core = Checkpoint(core), Core(config, epoch=1)
            restore(core, checkpoint.header, [checkpoint.block(at) for at in range(checkpoint.blocks)])
    assert len(core.symbols.names) <= len(NAMES)
    assert not core.listings.parking.rows
    return said


@hypothesis_settings(max_examples=12)
@given(seed=st.integers(0, 2**32))
def test_any_lives_give_the_bars_of_an_oracle(seed: int) -> None:
    world = world_of(seed)
    said = run(world)
    found = newest(klines(said))
    revisions: dict[tuple[str, str, int], int] = {}
    for kline in klines(said):
        assert kline.revision >= revisions.get(kline.key, 0), kline
        revisions[kline.key] = kline.revision
    rows = [row for life in world.lives for row in life.rows]
    expected = fold(rows, INTERVALS, world.ticks[-1][0])
    traded = {(row.symbol, name, interval(name).open_time(row.time)) for row in rows for name in INTERVALS}
    assert traded <= found.keys()
    for key, kline in found.items():
        wanted = expected[key] if world.ids == "agg" else (*expected[key][:9], -1, -1, *expected[key][11:])
        assert values(kline) == wanted, key
        if kline.trades:
            assert key in traded
    assert not [each for outputs in said for each in outputs.findings]
    for name in NAMES:
        lives = [life for life in world.lives if life.symbol == name]
        genesis = [each for each in events(said, EVENT_GENESIS) if each["symbol"] == name]
        assert [int(each["id"]) for each in genesis] == [life.rows[0].id for life in lives]
        for number, life in enumerate(lives):
            _check_life(found, life, lives[number + 1] if number + 1 < len(lives) else None, first=not number)


def _check_life(found: dict[tuple[str, str, int], Kline], life: Life, then: Life | None, *, first: bool) -> None:
    """A generation's bars follow one another, are complete where that can be proven, and end when it ends."""
    for name in INTERVALS:
        kind = interval(name)
        for bucket in range(kind.bucket_of(life.rows[0].time), kind.bucket_of(life.rows[-1].time) + 1):
            opening, ending = kind.open_of(bucket), kind.open_of(bucket + 1)
            bar = found[life.symbol, name, opening]
            if ending > life.rows[-1].time:
                assert not bar.complete
            elif opening > (life.rows[0].time if first else life.generation):
                assert bar.complete
        silent = then is None or (life.closed_at or FAR) + 30_000 < then.listed_at
        if life.closed_at and silent:
            until = then.rows[0].time if then else FAR
            quiet = [key for key in found if key[:2] == (life.symbol, name) and life.closed_at < key[2] < until]
            assert not [key for key in quiet if then is None or key[2] < kind.open_time(until)]


@hypothesis_settings(max_examples=8)
@given(seed=st.integers(0, 2**32), data=st.data())
def test_order_within_a_tick_and_restarts_change_nothing(seed: int, data: st.DataObject) -> None:
    world = world_of(seed)
    plain = run(world)
    cut = data.draw(st.integers(0, len(world.ticks) - 1))
    for one, other in zip(plain, run(world, random.Random(seed), cut), strict=True):
        assert (one.klines, one.events, one.findings) == (other.klines, other.events, other.findings)
        assert one.bars_gone == other.bars_gone
