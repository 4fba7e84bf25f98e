"""What a person should know, as entries of `findings:{n}`: part of the stream contract.

A finding with an id stands until an entry with the same id says `closed`; found again later, it stands again. One
without an id is a notice of a moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

from klagg.intervals import INTERVALS, MINUTE_MS, ordered
from klagg.wire.entries import BarKey
from klagg.wire.fields import Fields


class Severity(StrEnum):
    """How bad a finding is, as the field `severity` has it."""

    INFO = "info"
    """Nothing is wrong here, and nothing can be done here."""
    WARNING = "warning"
    """Something is missing or late and may still heal by itself."""
    ERROR = "error"
    """Data or an invariant is broken, and a person should look."""


class FindingKind(StrEnum):
    """Every kind of finding. The docstring of each says what the finding says, and then what an operator does."""

    # The aggregator.
    DATA_LOSS = "DATA_LOSS"
    """Entries of a stream were gone before their reader was given them. Raise the stream's cap or find out why its
    reader was late; bars that overlap the loss heal from the exchange or stay incomplete."""
    REDIS_OLDER = "REDIS_OLDER"
    """Redis came back with less than a process had committed. Look into Redis' persistence; klagg reads on from what
    Redis holds, under a higher epoch."""
    UNREPAIRED = "UNREPAIRED"
    """Trades are missing for good, or the exchange did not give what was requested. Run `klagg backfill` for the bars
    that stay incomplete."""
    EXCHANGE_GAP = "EXCHANGE_GAP"
    """The exchange has no row, or a flat one, where trades were seen. Nothing can be done: klagg keeps its own bar."""
    OFFICIAL_REFUSED = "OFFICIAL_REFUSED"
    """Rows of the exchange came that cannot be klines, or that the aggregator cannot use; the evidence says why.
    Nothing can be done for those rows; `klagg backfill` loads what is older than the window."""
    OVERFLOW = "OVERFLOW"
    """A value does not fit 64 bits at its symbol's scale, or has more decimals than that may get. Its trades are not in
    the bars. Look at the trade that the evidence names, and report the symbol if it happens again."""
    ID_SPACE = "ID_SPACE"
    """Trades came whose ids are of the other kind (aggTrades, fills) than the symbol's. Make `exchange.source` the same
    in all lines."""
    TOO_OLD = "TOO_OLD"
    """Trades came that are older than the window, and no bar can take them. Raise `aggregator.window_minutes` if it
    happens again, and run `klagg backfill` for their bars."""
    OLD_GENERATION = "OLD_GENERATION"
    """Trades came of the generation before, whose ids were closed when the symbol was listed again. Nothing to do."""
    UNLISTED = "UNLISTED"
    """Trades begin their ids anew, and no listing says so. See whether klagg-clock reads exchangeInfo."""
    WITNESS_WRONG = "WITNESS_WRONG"
    """The exchange had called an id the last one, and a trade with a higher id and an earlier time came later. The bars
    are amended, and the margin of witnesses grows. Raise `aggregator.witness_margin_ms` if it happens again."""
    UNKNOWN_GROUP = "UNKNOWN_GROUP"
    """A stream has a consumer group that the configuration does not name, and nothing is kept for it. Configure the
    group's process or delete the group (XGROUP DESTROY)."""

    # Ingest.
    INGEST_DROPPED = "INGEST_DROPPED"
    """A line held trades and had to let them go before they were in the feed. See why Redis took no entries; repair
    requests the trades by their ids."""

    # The auditors of streams.
    MALFORMED = "MALFORMED"
    """An entry, or a row of the exchange, does not keep the contract. Look at the entry that the evidence names, and at
    the process that wrote it."""
    ALIGNMENT = "ALIGNMENT"
    """A bar's open or close time is not on the grid of its interval. Report it: this is a defect."""
    INVARIANT = "INVARIANT"
    """A bar's values contradict each other. Report it: this is a defect."""
    SCALE = "SCALE"
    """A value has other decimals than its symbol's scale gives it. Report it: this is a defect."""
    DUPLICATE = "DUPLICATE"
    """The same version of a bar came twice. Look for a second aggregator of the shard."""
    VERSION = "VERSION"
    """A version is lower than one before it, or leaves a revision out. Look for a second aggregator of the shard."""
    MISSING_KLINE = "MISSING_KLINE"
    """Bars were passed over. Look at the symbol's later findings; `klagg backfill` loads bars that stay away."""
    ORDER = "ORDER"
    """A bar came behind its successors. Report it: this is a defect."""
    ABSENT = "ABSENT"
    """A bar is owed and not there. See whether the aggregator keeps up with the feed."""
    CARRY = "CARRY"
    """An empty bar does not carry the close before it. Report it: this is a defect."""
    FOLD = "FOLD"
    """A longer bar is not the fold of its minutes. Report it: this is a defect."""
    IDS = "IDS"
    """The aggTrade ids of complete bars that follow each other do not. Report it, unless trades were lost there."""
    ILLEGAL = "ILLEGAL"
    """A step in the life of a bar, of a gap or of a symbol cannot be. Report it: this is a defect."""
    NO_FIRST_TRADE = "NO_FIRST_TRADE"
    """A final has trades, and no event of its first one was published. Report it: this is a defect."""
    NEVER_CLOSED = "NEVER_CLOSED"
    """A bar is over and was not closed. See whether ticks and watermarks come; else report it."""
    TRIGGER = "TRIGGER"
    """A close's trigger and the state of its bar do not belong together. Report it: this is a defect."""
    GAP_FILL = "GAP_FILL"
    """A bar is marked as empty that is not, or the other way round. Report it: this is a defect."""
    TIME_BACK = "TIME_BACK"
    """A tick came before an earlier one. See whether two klagg-clock run."""
    LAGGING = "LAGGING"
    """An auditor is behind. Give it more of a core (`audit.core_percent`) or more weight."""
    STALLED = "STALLED"
    """Nothing comes any more: see whether klagg-clock and the aggregator run."""
    GROUP_SILENT = "GROUP_SILENT"
    """A configured consumer group has no living consumer, and its stream grows to its cap. Start the group's process or
    switch it off in the configuration."""

    # The auditor of the exchange.
    UNREACHABLE = "UNREACHABLE"
    """The exchange's REST API or the database cannot be asked. Restore the connection; audits go on by themselves."""
    LOCAL_GAP = "LOCAL_GAP"
    """There is no bar here, or one that may lack trades. It heals within the window; `klagg backfill`
    heals what is older."""
    UNEXPLAINED = "UNEXPLAINED"
    """A bar differs from the exchange's own, and nothing explains it. Report it with the evidence: no difference may be
    unexplained."""

    @property
    def in_ids(self) -> str:
        """The word for this kind inside the ids of findings, which is the one that version 1 of the contract had. So a
        finding that version 1 opened and its closing entry of today have the same id."""
        return _IN_IDS.get(self, self.value)


_IN_IDS = {FindingKind.MISSING_KLINE: "GAP", FindingKind.EXCHANGE_GAP: "EXCHANGE_HOLE"}


def backfill_command(bars: Sequence[BarKey]) -> str:
    """The command that loads these bars (at least one) from the exchange's history, for a person to run."""
    known = [(INTERVALS[interval], opening) for _, interval, opening in bars]
    first_ms = min(opening for _, opening in known)
    last_ms = max(interval.close_time(opening) + 1 for interval, opening in known)
    names = " ".join(sorted({symbol for symbol, _, _ in bars}))
    intervals = " ".join(each.name for each in ordered([interval.name for interval, _ in known]))
    until = _minute(-(-last_ms // MINUTE_MS) * MINUTE_MS)
    return f"klagg backfill --from {_minute(first_ms)} --to {until} --symbols {names} --intervals {intervals} --again"


def _minute(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M")


def finding_entry(
    kind: FindingKind,
    severity: Severity,
    evidence: str,
    *,
    symbol: str = "",
    time_ms: int = 0,
    finding_id: str = "",
    interval: str = "",
    open_time: int = 0,
    closed: bool = False,
) -> Fields:
    """The entry without its stamp.

    `time_ms` is exchange time (ms); `interval` and `open_time` (ms) name the bar that the finding is about, if there is
    one. `closed` settles the finding with this `finding_id`, and `evidence` then says by what.
    """
    fields = {
        "kind": kind.value,
        "severity": severity.value,
        "symbol": symbol,
        "time": str(time_ms),
        "evidence": evidence,
    }
    if interval:
        fields |= {"interval": interval, "open_time": str(open_time)}
    if closed:
        fields["closed"] = "1"
    return {"id": finding_id, **fields} if finding_id else fields
