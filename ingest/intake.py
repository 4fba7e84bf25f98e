"""Between the sockets and the outbox: frames become batches, and what batches yield is counted and delivered."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from ingest.batch import Closed, FrameBatch
from ingest.outbox import Outbox
from ingest.parser import BAD_SYMBOL, EVENT, KINDS, WORDS, Rejection, Rules
from klagg.clock import ExchangeClock, steady_ms
from klagg.process.stats import Stats
from klagg.process.unknown_words import UnknownWords
from klagg.wire.entries import BY_STREAM, TRADE_IDS, Witness, watermark_entry, witness_entries
from klagg.wire.keys import Keys, shard_of

QUIET_MS: Final = 10_000
"""Of one kind, at most one rejection in this time (local) is logged."""

SAMPLE_CHARACTERS: Final = 300


class RejectionSampler:
    """Chooses the rejections that are logged: the first of each kind, then one in QUIET_MS at most."""

    def __init__(self) -> None:
        self._logged_ms: dict[str, float] = {}
        self._unlogged: dict[str, int] = {}

    def sentence(self, rejection: Rejection, now_ms: float) -> str:
        """What to log of this rejection, "" for nothing, at `now_ms` (local)."""
        kind = rejection.kind
        logged_ms = self._logged_ms.get(kind)
        if logged_ms is not None and 0 <= now_ms - logged_ms < QUIET_MS:
            self._unlogged[kind] = self._unlogged.get(kind, 0) + 1
            return ""
        self._logged_ms[kind] = now_ms
        unlogged = self._unlogged.pop(kind, 0)
        more = f" (and {unlogged} more of this kind since the last one shown)" if unlogged else ""
        # repr keeps control characters of hostile input out of the log.
        text = repr(rejection.frame[:SAMPLE_CHARACTERS].decode(errors="replace"))[:SAMPLE_CHARACTERS]
        return f"rejected a message, {kind}: {rejection.reason}{more}: {text}"


class Intake:
    """All connections of one line give their frames here. None of them ever waits for Redis.

    `batch_ms` (local) and `batch_rows` bound a batch; `clock` gives the exchange's time at which a batch began.
    """

    def __init__(
        self,
        rules: Rules,
        outbox: Outbox,
        clock: ExchangeClock,
        *,
        line: str,
        shards: int,
        batch_ms: int,
        batch_rows: int,
        stats: Stats,
        log: logging.Logger,
    ) -> None:
        self._outbox, self._line, self._stats, self._log = outbox, line, stats, log
        self._shards = shards
        self._sampler = RejectionSampler()
        self._words = UnknownWords(stats, log, *WORDS)
        self.on_stranger: Callable[[str], None] = lambda _: None
        """Called with the name in a trade of a symbol that is not admitted."""
        self._begun = asyncio.Event()
        self._batch = FrameBatch(
            rules,
            line=line,
            shards=shards,
            batch_ms=batch_ms,
            batch_rows=batch_rows,
            exchange_ms=clock.latest_ms,
            on_begin=self._begun.set,
        )
        self._type = rules.source
        self._count(0, 0, 0)  # Prometheus sees growth only in what it saw before
        for kind in KINDS:
            stats.add("rejected", 0, kind=kind)

    def receive(self, frame: bytes) -> None:
        """A frame came from the exchange just now."""
        if closed := self._batch.add(frame, steady_ms):
            self._deliver(closed)

    def flush(self) -> None:
        """Close the batch, if there is one, whether or not it is due."""
        if self._batch:
            self._deliver(self._batch.close())

    async def run(self) -> None:
        """The timer of batches: close each when its time is up, until cancelled."""
        while True:
            await self._begun.wait()
            self._begun.clear()
            while self._batch:
                due_in_ms = self._batch.due_in_ms(steady_ms())
                if due_in_ms > 0:
                    await asyncio.sleep(due_in_ms / 1000)
                else:
                    self.flush()

    @property
    def latest(self) -> Mapping[str, tuple[int, str, str]]:
        """Time (exchange ms), price and quantity of each symbol's last trade, as of the last closed batch."""
        return self._batch.latest

    def drain_counts(self) -> Counter[str]:
        """How many trades of each symbol came since the last call, as of the last closed batch; counts begin anew."""
        return self._batch.drain_counts()

    def admit(self, symbols: Iterable[str]) -> None:
        """Accept trades of these symbols, too."""
        self._batch.admit(symbols)

    def watermark(self, symbols_by_shard: Mapping[int, Sequence[str]], alive_ms: int) -> None:
        """Write that these symbols were carried until `alive_ms` (exchange ms), behind their trades up to now."""
        self.flush()
        for shard, symbols in symbols_by_shard.items():
            self._outbox.put(Keys(shard).feed, watermark_entry(self._line, symbols, alive_ms))

    def witness(self, witnesses: Sequence[Witness]) -> None:
        """Write which fills the exchange's tickers call the last ones, behind the trades up to now."""
        self.flush()
        owned: dict[int, list[Witness]] = {}
        for each in witnesses:
            owned.setdefault(shard_of(each.symbol, self._shards), []).append(each)
        for shard, mine in owned.items():
            for fields in witness_entries(mine, ids=TRADE_IDS, source=BY_STREAM):
                self._outbox.put(Keys(shard).feed, fields)

    def _count(self, messages: int, size: int, trades: int) -> None:
        self._stats.add("messages", messages)
        self._stats.add("bytes", size)
        self._stats.add("trades", trades)
        self._stats.add("events", trades, type=self._type)

    def _deliver(self, closed: Closed) -> None:
        for shard, fields in closed.entries:
            self._outbox.put(Keys(shard).feed, fields)
        stats = self._stats
        self._count(closed.frames, closed.frame_bytes, closed.trades)
        if closed.trades:
            stats.show("delay_ms", closed.recv_ms - closed.newest_ms)
        stats.show("buffered", len(self._outbox))
        for rejection in closed.rejections:
            stats.add("rejected", kind=rejection.kind)
            sentence = self._sampler.sentence(rejection, steady_ms())
            if sentence:
                self._log.warning("%s", sentence)
            if rejection.kind == BAD_SYMBOL and rejection.symbol:
                self.on_stranger(rejection.symbol)
            if rejection.event:
                self._words.note(EVENT, rejection.event[:80], "events of this type are passed over")
        for (kind, word), times in closed.words.items():
            self._words.note(kind, word, "the trades are taken as all others are", times)
        for reply in closed.replies:
            stats.add("replies")
            if reply.error:
                self._log.warning("the exchange refused a subscription: %s", reply.error)
