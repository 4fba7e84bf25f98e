"""ProgressBars in progress, from the hash `bars:{n}` to rows of the table: pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from klagg.errors import ContractError, UnknownInterval
from klagg.intervals import interval
from klagg.kline import Kline
from klagg.wire.entries import BARS_POSITION, live_value_of
from klagg.wire.fields import VERSION
from writers.kline_entries import kline_of

_POSITION: Final = BARS_POSITION.encode()
NO_ID: Final = -1


@dataclass(slots=True)
class ShownBars:
    """What of one shard's bars is in the table, so that a quiet bar is not written again and again.

    `values` are those of the hash by field, as they stand in the table in `epoch`. It holds no more than the hash does.
    """

    epoch: int = 0
    values: dict[bytes, bytes] = field(default_factory=dict)

    def changed(self, bars: Mapping[bytes, bytes], epoch: int, intervals: Collection[str]) -> dict[bytes, bytes]:
        """The bars of these intervals (none: of all) that the table does not show as the hash has them."""
        if epoch != self.epoch:
            self.epoch, self.values = epoch, {}
        for gone in self.values.keys() - bars.keys():
            del self.values[gone]
        endings = tuple(f":{each}".encode() for each in intervals)
        return {
            name: value
            for name, value in bars.items()
            if name != _POSITION and self.values.get(name) != value and (not endings or name.endswith(endings))
        }


@dataclass(frozen=True, slots=True)
class ProgressBar:
    """A bar in progress: its field and value in the hash, and the row."""

    name: bytes
    value: bytes
    kline: Kline


@dataclass(slots=True)
class ProgressBars:
    """`rows` sorted by key, `over` fields of bars that are no longer in progress, `bad` sentences about the rest."""

    rows: list[ProgressBar] = field(default_factory=list)
    over: list[bytes] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def batches(self, size: int) -> Iterator[Sequence[ProgressBar]]:
        """The rows in parts of at most `size`."""
        for start in range(0, len(self.rows), size):
            yield self.rows[start : start + size]


def bars_of(changed: Mapping[bytes, bytes], epoch: int) -> ProgressBars:
    """The bars in progress among these fields of the hash, as the aggregator of that epoch wrote them."""
    found = ProgressBars()
    for name, value in changed.items():
        try:
            kline = _kline_of(name, value, epoch)
        except (ContractError, UnknownInterval, UnicodeDecodeError) as bad:
            found.bad.append(f"{name[:60]!r}: {bad}")
            continue
        if kline is None:
            found.over.append(name)
        else:
            found.rows.append(ProgressBar(name, value, kline))
    found.rows.sort(key=lambda bar: bar.kline.key)
    return found


def _kline_of(name: bytes, value: bytes, epoch: int) -> Kline | None:
    """The row of one field; None if the bar is closed.

    ContractError, UnknownInterval or UnicodeDecodeError if it is no bar. The hash does not have everything: a bar in
    progress has no aggTrade ids in the table and counts as klagg's own.
    """
    symbol, _, called = name.decode().rpartition(":")
    values = live_value_of(value.decode())
    if values.pop("closed") != "0" or values["revision"] != "0":
        return None
    try:
        close_time = interval(called).close_time(int(values["open_time"]))
    except (ValueError, OverflowError) as bad:
        raise ContractError(f"the open time of a bar in progress is none: {bad}") from None
    fields = values | {
        "v": str(VERSION),
        "symbol": symbol,
        "interval": called,
        "close_time": str(close_time),
        "complete": "0",
        "official": "0",
        "epoch": str(epoch),
        "first_agg_id": str(NO_ID),
        "last_agg_id": str(NO_ID),
        "source": "own",
        "edge": "",
    }
    return kline_of({key.encode(): text.encode() for key, text in fields.items()})
