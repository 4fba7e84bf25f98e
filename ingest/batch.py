"""A micro-batch: frames come in, and when it closes `trades` entries of the feed go out. Pure.

Frames are kept as they come and parsed together when the batch closes: the same few milliseconds of waiting, and no
work for a single message but to remember it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from ingest.parser import Columns, Rejection, Reply, Rules, parse_frames
from klagg.wire.entries import TRADE_COLUMNS, trades_entry
from klagg.wire.fields import Fields
from klagg.wire.keys import shard_of


@dataclass(frozen=True, slots=True)
class Closed:
    """What a closed batch yields.

    `entries` are `trades` entries, not yet stamped, each with its shard. `newest_ms` is the newest exchange time among
    the trades (0 without trades), `recv_ms` the exchange's time when the batch began.
    """

    entries: list[tuple[int, Fields]]
    frames: int
    frame_bytes: int
    trades: int
    recv_ms: int
    newest_ms: int
    rejections: list[Rejection]
    replies: list[Reply]


class Batch:
    """Collects frames of one line until `batch_rows` of them are there or `batch_ms` have passed since the first."""

    def __init__(self, rules: Rules, *, line: str, shards: int, batch_ms: int, batch_rows: int) -> None:
        self._rules, self._line, self._shard_count = rules, line, shards
        self._batch_ms, self.rows_max = batch_ms, batch_rows
        self._shards: dict[str, int] = {}
        self._latest: dict[str, tuple[str, str, str]] = {}
        self._counts: Counter[str] = Counter()
        self.admit(rules.symbols)
        self._frames: list[bytes] = []
        self._recv_ms = 0
        self._first_local_ms = 0.0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def latest(self) -> dict[str, tuple[int, str, str]]:
        """Time, price and quantity of each symbol's last trade in the order of arrival."""
        return {symbol: (int(time), price, qty) for symbol, (time, price, qty) in self._latest.items()}

    @property
    def source(self) -> str:
        """The type `e` of the events that are trades here."""
        return self._rules.source

    def drain_counts(self) -> Counter[str]:
        """How many trades of each symbol came since the last call."""
        counts, self._counts = self._counts, Counter()
        return counts

    def admit(self, symbols: Iterable[str]) -> None:
        """Take trades of these symbols, too. None is ever taken back: frames of one that is over may still be here."""
        self._rules = replace(self._rules, symbols=self._rules.symbols.union(symbols))
        self._shards = {symbol: shard_of(symbol, self._shard_count) for symbol in self._rules.symbols}
        self._split = len(set(self._shards.values())) > 1
        self._only_shard = next(iter(self._shards.values()), 0)

    def add(self, frame: bytes) -> int:
        """Take in a frame; how many there are now. After the first, `begin`; with `rows_max` of them, `close`."""
        self._frames.append(frame)
        return len(self._frames)

    def begin(self, recv_ms: int, local_ms: float) -> None:
        """Say when the first frame came, in exchange ms and in local ms."""
        self._recv_ms, self._first_local_ms = recv_ms, local_ms

    def due_in_ms(self, local_ms: float) -> float:
        """How long the batch may stay open, at most 0 when it is due. A local clock that went back makes it due."""
        waited_ms = local_ms - self._first_local_ms
        return self._batch_ms - waited_ms if waited_ms >= 0 else 0.0

    def close(self) -> Closed:
        """Parse what was collected and begin anew."""
        frames, self._frames = self._frames, []
        parsed = parse_frames(frames, self._rules, self._recv_ms)
        if parsed.count:
            symbols, _, prices, qtys, _, _, times, *_ = parsed.columns
            self._counts.update(symbols)
            self._latest.update(zip(symbols, zip(times, prices, qtys, strict=True), strict=True))
        return Closed(
            entries=[
                (shard, self._entry(columns))
                for shard, columns in (self._sharded(parsed.columns) if parsed.count else [])
            ],
            frames=len(frames),
            frame_bytes=sum(map(len, frames)),
            trades=parsed.count,
            recv_ms=self._recv_ms,
            newest_ms=parsed.newest_ms,
            rejections=parsed.rejections,
            replies=parsed.replies,
        )

    def _sharded(self, columns: Columns) -> Iterable[tuple[int, Columns]]:
        if not self._split:
            return [(self._only_shard, columns)]
        rows: dict[int, list[tuple[str, ...]]] = {}
        for row in zip(*columns, strict=True):
            rows.setdefault(self._shards[row[0]], []).append(row)
        return [(shard, tuple(zip(*part, strict=True))) for shard, part in sorted(rows.items())]

    def _entry(self, columns: Columns) -> Fields:
        texts = dict(zip(TRADE_COLUMNS, map(",".join, columns), strict=True))
        return trades_entry(texts, count=len(columns[0]), line=self._line, ids=self._rules.ids, recv_ms=self._recv_ms)
