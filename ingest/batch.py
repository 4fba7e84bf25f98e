"""A micro-batch: frames come in, and when it closes `trades` entries of the feed go out. Pure.

Frames are kept as they come and parsed together when the batch closes: a frame waits no longer for that, and the only
work for a single frame is to keep it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from ingest.parser import Columns, Rejection, Reply, Rules, Word, parse_frames
from klagg.wire.entries import TRADE_COLUMNS, trades_entry
from klagg.wire.fields import Fields
from klagg.wire.keys import shard_of


@dataclass(frozen=True, slots=True)
class Closed:
    """What a closed batch yields.

    `entries` are `trades` entries, not yet stamped, each with its shard. `frames` and `trades` are counts,
    `frame_bytes` is the payload of the frames. `newest_ms` is the newest exchange time among the trades (0 without
    trades), `recv_ms` the exchange's time when the batch began; both in exchange ms.
    """

    entries: list[tuple[int, Fields]]
    frames: int
    frame_bytes: int
    trades: int
    recv_ms: int
    newest_ms: int
    rejections: list[Rejection]
    replies: list[Reply]
    words: Mapping[Word, int] = field(default_factory=dict)
    """How many trades had each word that nobody has seen."""


class FrameBatch:
    """Collects frames of one line until there are `batch_rows`, or `batch_ms` (local) have passed since the first.

    The batch knows its deadline, and the caller has a timer: `on_begin` is called when the first frame has come, and
    `due_in_ms` says how long the timer has to run. `exchange_ms` gives the exchange's time at a local time.
    """

    def __init__(
        self,
        rules: Rules,
        *,
        line: str,
        shards: int,
        batch_ms: int,
        batch_rows: int,
        exchange_ms: Callable[[float], int],
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:
        self._rules, self._line, self._shard_count = rules, line, shards
        self._batch_ms, self._batch_rows = batch_ms, batch_rows
        self._exchange_ms, self._on_begin = exchange_ms, on_begin
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
        """Time (exchange ms), price and quantity of each symbol's last trade in the order of arrival."""
        return {symbol: (int(time), price, qty) for symbol, (time, price, qty) in self._latest.items()}

    def drain_counts(self) -> Counter[str]:
        """How many trades of each symbol came since the last call; they count from zero again."""
        counts, self._counts = self._counts, Counter()
        return counts

    def admit(self, symbols: Iterable[str]) -> None:
        """Accept trades of these symbols, too. No symbol is ever removed: frames of one that is over may still come."""
        self._rules = replace(self._rules, symbols=self._rules.symbols.union(symbols))
        self._shards = {symbol: shard_of(symbol, self._shard_count) for symbol in self._rules.symbols}
        self._split = len(set(self._shards.values())) > 1
        self._only_shard = next(iter(self._shards.values()), 0)

    def add(self, frame: bytes, now: Callable[[], float]) -> Closed | None:
        """Keep a frame; the closed batch when this frame filled it, None otherwise.

        `now` reads the local clock (ms). It is called for the first frame of a batch only: it costs more than all else
        that is done for a frame here.
        """
        frames = self._frames
        frames.append(frame)
        if len(frames) == 1:
            self._first_local_ms = now()
            self._recv_ms = self._exchange_ms(self._first_local_ms)
            self._on_begin()
        return self.close() if len(frames) >= self._batch_rows else None

    def due_in_ms(self, local_ms: float) -> float:
        """How long (ms) the batch may stay open at the local time `local_ms`, at most 0 when it is due.

        A local clock that went back makes it due. A batch without frames has no deadline: the result means nothing
        then.
        """
        waited_ms = local_ms - self._first_local_ms
        return self._batch_ms - waited_ms if waited_ms >= 0 else 0.0

    def close(self) -> Closed:
        """Parse the frames that were kept, due or not, and begin anew. Without frames there is nothing in it."""
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
            words=parsed.words,
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
