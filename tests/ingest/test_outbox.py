"""The outbox: numbered once, in order, bounded."""

from __future__ import annotations

import pytest

from ingest.outbox import ENTRY_OVERHEAD_BYTES, Outbox, OutboxFull


def test_entries_are_stamped_by_stream_and_leave_in_order() -> None:
    outbox = Outbox("ingest-A@5", 1 << 20)
    for key in ("feed:{0}", "feed:{1}", "feed:{0}"):
        outbox.put(key, {"kind": "tick"})
    assert [(key, fields["seq"]) for key, fields in outbox.head(10, 1 << 20)] == [
        ("feed:{0}", "1"), ("feed:{1}", "1"), ("feed:{0}", "2"),
    ]  # fmt: skip
    assert outbox.head(1, 1 << 20)[0][1] == {"v": "1", "writer": "ingest-A@5", "seq": "1", "kind": "tick"}
    outbox.drop(2)
    assert [fields["seq"] for _, fields in outbox.head(10, 1 << 20)] == ["2"]


def test_looking_takes_nothing_and_keeps_numbers() -> None:
    outbox = Outbox("w", 1 << 20)
    outbox.put("k", {"a": "1"})
    assert outbox.head(5, 1 << 20) == outbox.head(5, 1 << 20)
    assert len(outbox) == 1


def test_a_pipeline_is_bounded_but_never_empty() -> None:
    outbox = Outbox("w", 1 << 20)
    for _ in range(4):
        outbox.put("k", {"a": "x" * 1000})
    assert len(outbox.head(3, 1 << 20)) == 3
    assert len(outbox.head(4, 2 * (1100 + ENTRY_OVERHEAD_BYTES))) == 2
    assert len(outbox.head(4, 1)) == 1


def test_a_full_outbox_says_so_and_keeps_what_it_has() -> None:
    outbox = Outbox("w", 10_000)
    outbox.trouble = "Redis does not answer"
    for _ in range(4):
        outbox.put("k", {"a": "x" * 1000})
    with pytest.raises(
        OutboxFull, match=r"buffer between exchange and Redis is full .*: Redis does not answer"
    ) as full:
        outbox.put("k", {"a": "x" * 1000})
    assert full.value.waiting == len(outbox) == 4
    assert full.value.waiting_bytes == outbox.bytes <= 10_000
    assert [fields["seq"] for _, fields in outbox.head(10, 1 << 20)] == ["1", "2", "3", "4"]
    outbox.drop(1)
    outbox.put("k", {"a": "x" * 1000})
    assert [fields["seq"] for _, fields in outbox.head(10, 1 << 20)] == ["2", "3", "4", "5"]


def test_bytes_are_given_back() -> None:
    outbox = Outbox("w", 1 << 20)
    for _ in range(3):
        outbox.put("k", {"symbol": "币安人生USDT" * 50})
    assert outbox.bytes > 3 * 2 * 50 * 8
    outbox.drop(3)
    assert (outbox.bytes, len(outbox)) == (0, 0)


def test_a_put_wakes_the_sender() -> None:
    woken: list[int] = []
    outbox = Outbox("w", 1 << 20, on_put=lambda: woken.append(1))
    outbox.put("k", {})
    outbox.put("k", {})
    assert woken == [1, 1]
