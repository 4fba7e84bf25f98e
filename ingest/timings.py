"""How long the processes of ingest wait, for everything that is no setting: one value, which is passed.

Nobody has to tune these in operation; tests pass shorter ones. All of it is local time but `apart_ms` and
`tickers_late_ms`, which are exchange ms at a clock that runs at ×1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Timings:
    """Waits by their unit (`_s`, `_ms`). A pair of `_first_s` and `_cap_s` is a backoff: it doubles up to the cap."""

    # A session: one WebSocket.
    open_s: float = 10.0
    """A handshake that takes longer has failed."""
    close_s: float = 2.0
    """A close that takes longer ends without the other side's answer."""
    ping_after_ms: float = 500.0
    """A session without a sign of life for this long sends a ping."""
    tend_s: float = 0.25
    """How often a session looks whether a message or a ping is due."""
    acknowledged_s: float = 10.0
    """A client message that is not answered within this time ends the session."""

    # A connection: its sessions, one after the other.
    reconnect_first_s: float = 0.5
    reconnect_cap_s: float = 30.0
    steady_ms: float = 30_000.0
    """A connection that held this long was a good one: the next failure begins with the shortest delay again."""
    hand_over_s: float = 15.0
    """Within this time a new session must bring something, if the old one does."""
    overlap_s: float = 1.0
    """For this long both sessions go on. What comes twice, the ledger drops."""
    hand_over_retry_first_s: float = 30.0
    hand_over_retry_cap_s: float = 600.0
    """Between two tries to hand over."""

    # A line.
    guard_s: float = 1.0
    """How often a line checks what arrives."""
    apart_ms: int = 2_000
    """Between the two movements of a ticker that prove its symbol dead: trades may be on their way for so long."""
    tickers_late_ms: int = 2_000
    """So much beyond `ingest.dead_symbol_ms` tickers may lag behind trades before their connection counts as silent."""

    # What the exchange lists.
    start_tries: int = 8
    """How often the symbols are requested at the start before the process gives up."""
    start_first_s: float = 0.5
    start_cap_s: float = 10.0
    look_s: float = 0.25
    """How often a line checks whether the listings are to be requested."""
    confirm_ms: float = 30_000.0
    """A name has vanished when an answer lacks it this long after the first one in a row that did."""
    confirm_margin_s: float = 1.0
    """How much later than `confirm_ms` the answer is requested that decides."""
    request_least_s: float = 2.0
    request_most_s: float = 60.0
    """Between two requests because of doubts: at first the one, in the end the other."""
    overdue_s: float = 60.0
    """A doubt that answers leave open for this long is an alarm."""
    insist_s: float = 10.0
    """A listed symbol that is traded for this long is carried, whatever exchangeInfo says of its status."""
    waiting_s: float = 30.0
    """While a chosen symbol is not there, or nothing trades, exchangeInfo is requested this often."""
    forgotten_s: float = 600.0
    """A doubt that nothing renewed for this long is forgotten."""

    # The clock.
    unreachable_ms: float = 10_000.0
    """If the exchange's clock could not be read for this long from the start, the local clock stands in."""
    supervise_s: float = 0.5
    """How often the clock process checks its wall clock and its doubts."""
    listings_retry_first_s: float = 0.5
    listings_retry_cap_s: float = 60.0
    retention_retry_s: float = 1.0
    witnesses_s: float = 50.0
    """Two requests for the last ids of all symbols are this far apart at least, however fast the exchange's clock is,
    because they weigh 40."""
    restore_s: float = 5.0
    """How often the clock process looks whether Redis still has the exchange's exchangeInfo."""
    sync_retry_s: float = 1.0
    """After a failure to read the exchange's clock. A refusal that names a longer pause gets it."""
    sync_held_s: float = 0.1
    """While a simulated exchange holds its clock until a client comes: its start must not be noticed late."""

    # Writing to Redis.
    write_retry_first_s: float = 0.05
    write_retry_cap_s: float = 2.0

    # Repair.
    repair_retry_first_s: float = 0.2
    repair_retry_cap_s: float = 30.0
    """While the exchange, or Redis, does not answer."""
    not_yet_s: float = 1.0
    not_yet_s_max: float = 16.0
    """After an answer that lacks the end of the range; twice as long each time."""
    kept_ms: float = 30_000.0
    """How long a request waits from when it was read at least: as long as the first deadline of a gap."""
    sweep_s: float = 0.25
    """How often requests past their deadline are looked for, and at the latest whether one is due."""
    full_s: float = 0.2
    """How long reading pauses while the queue is full."""
    sync_s_min: float = 1.0
    """However soon the synchroniser would look again: a clock that is held for others matters little to repair."""
    reclaim_idle_ms: int = 120_000
    """An entry that another consumer holds for this long is taken over. A living consumer that only waits for weight
    then serves it too, which changes nothing."""

    @property
    def confirm_s(self) -> float:
        """When the answer is requested that decides about names which the last one lacked."""
        return self.confirm_ms / 1000 + self.confirm_margin_s


DEFAULT_TIMINGS: Final = Timings()
