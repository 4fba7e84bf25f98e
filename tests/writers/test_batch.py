from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from klagg.kline import Kline
from klagg.process.group_consumer import Rejected
from tests.writers.support import OPEN_TIME, accepted, kline, newer
from writers.batch import Accepted, KlineBatch, resolve


def filled(count: int, *, size_max: int = 10, now_ms: float = 0.0) -> KlineBatch:
    batch = KlineBatch(size_max, wait_ms_max=1000)
    for entry in accepted([kline()] * count):
        batch.add(entry, now_ms)
    return batch


def test_an_empty_batch_is_never_due() -> None:
    assert not filled(0).due(1e9, short=True)


def test_a_full_batch_is_due() -> None:
    assert not filled(9).due(0, short=False)
    assert filled(10).due(0, short=False)
    assert filled(9).room == 1
    assert filled(11).room == 0


def test_a_short_read_flushes_at_once() -> None:
    assert filled(1).due(0, short=True)


def test_a_batch_is_due_some_time_after_its_first_entry() -> None:
    batch = filled(1, now_ms=500)
    batch.add(accepted([kline()])[0], 1400)
    assert not batch.due(1499, short=False)
    assert batch.due(1500, short=False)
    batch = filled(0)
    batch.add(accepted([kline()])[0], 2000)
    assert not batch.due(2999, short=False)
    assert batch.due(3000, short=False)


def test_rejected_entries_count_and_are_acknowledged_too() -> None:
    batch = filled(1)
    batch.add(Rejected("klines:{1}", "7-0", {}, "bad"), 0)
    assert len(batch) == 2
    assert batch.ids() == {"klines:{0}": ["1-0"], "klines:{1}": ["7-0"]}
    assert not len(filled(0))


versions = st.builds(
    lambda symbol, minute, epoch, revision, whole, last, trades: kline(
        symbol=symbol,
        open_time=OPEN_TIME + minute,
        epoch=epoch,
        revision=revision,
        complete=int(whole == "own"),
        official=int(whole == "exchange"),
        last_trade_id=last,
        trades=trades,
    ),
    st.sampled_from(["A", "B", "币安人生USDT"]),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(0, 3),
    st.sampled_from(["", "own", "exchange"]),
    st.integers(-1, 2),
    st.integers(0, 2),
)


@given(st.lists(versions))
def test_each_version_is_left_once_the_first_of_equals_sorted_by_key_and_upwards(klines: list[Kline]) -> None:
    left = [entry.kline for entry in resolve(accepted(klines))]
    assert [each.key for each in left] == sorted(each.key for each in left)
    for one, after in itertools.pairwise(left):
        assert one.key != after.key or newer(after, one)
    for each in klines:
        same = [one for one in klines if one.key == each.key and not newer(one, each) and not newer(each, one)]
        assert [one for one in left if one in same] == [same[0]]


def test_resolving_takes_entries_not_klines() -> None:
    entries = accepted([kline(revision=1), kline(revision=2)])
    assert resolve(entries) == [
        Accepted("klines:{0}", "1-0", {}, kline(revision=1)),
        Accepted("klines:{0}", "2-0", {}, kline(revision=2)),
    ]
