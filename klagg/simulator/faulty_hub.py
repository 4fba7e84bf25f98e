"""A hub whose connections and streams go wrong as a fault script says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from klagg.binance.serving.payloads import combined, text_frame
from klagg.simulator.faults import CONNECTION_KINDS, STREAM_KINDS, Fault, FaultScript, altered
from klagg.simulator.hub import StreamConnection, StreamHub

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Running:
    """One occurrence of a fault and the connections that it has taken."""

    fault: Fault
    members: dict[StreamConnection, Random] = field(default_factory=dict)
    held: dict[StreamConnection, list[bytes]] = field(default_factory=dict)
    held_since_ms: int = 0


@dataclass(eq=False, slots=True)
class _Guest:
    """What the faults know of a connection: its places in the order of arrival, its age, what befalls its streams."""

    place: int
    place_in_line: int
    opened_ms: int
    troubles: list[_Running] = field(default_factory=list)


class FaultyHub(StreamHub):
    """Like `StreamHub`, for connections that no fault affects. `turn` moves its time; times are exchange ms since the
    start."""

    def __init__(self, send_buffer_bytes_max: int, script: FaultScript) -> None:
        """What a stalled connection is owed beyond `send_buffer_bytes_max` is dropped, and the connection with it."""
        super().__init__(send_buffer_bytes_max)
        self._seed = script.seed
        self._faults = [fault for fault in script.faults if fault.kind in CONNECTION_KINDS]
        # The occurrence that began last and, while it goes on, what it has taken, by the fault's number.
        self._occurrences: dict[int, int] = {}
        self._running: dict[int, _Running] = {}
        self._guests: dict[StreamConnection, _Guest] = {}
        self._stalled: dict[StreamConnection, bool] = {}
        self._arrivals: Counter[str | None] = Counter()
        self._elapsed_ms = 0
        self.acted: Counter[int] = Counter()
        """By the fault's number: connections taken or, for faults of streams, frames changed or dropped."""

    def turn(self, elapsed_ms: int) -> None:
        """Begins and ends what is due at this time."""
        self._elapsed_ms = elapsed_ms
        for fault in self._faults:
            running = self._running.get(fault.number)
            occurrence = fault.occurrence(elapsed_ms)
            if occurrence is None:
                continue
            is_new = occurrence != self._occurrences.get(fault.number)
            if running is not None and (is_new or not fault.is_active(elapsed_ms)):
                self._end(running)
            if is_new:
                self._occurrences[fault.number] = occurrence
                self._begin(fault)
        for running in self._running.values():
            if running.fault.kind == "cut_24h":
                self._cut_aged(running)
            elif running.held and elapsed_ms - running.held_since_ms >= running.fault.within_ms:
                self._release(running, running.held)

    def attach(self, connection: StreamConnection) -> None:
        """Takes a connection in; faults that go on may take it at once."""
        super().attach(connection)
        self._arrivals[None] += 1
        self._arrivals[connection.line] += 1
        places = (self._arrivals[None], self._arrivals[connection.line])
        self._guests[connection] = _Guest(*places, self._elapsed_ms)
        for running in list(self._running.values()):
            fault = running.fault
            if fault.reach != "open" and self._fits(fault, connection) and self._has_room(running):
                self._affect(running, connection)

    def detach(self, connection: StreamConnection) -> None:
        """Forgets a connection."""
        super().detach(connection)
        self._stalled.pop(connection, None)
        if self._guests.pop(connection, None) is not None:
            for running in self._running.values():
                running.held.pop(connection, None)
                if not isinstance(running.fault.connections, int):  # a number goes on counting those that have gone
                    running.members.pop(connection, None)

    def publish(self, name: str, encode: Callable[[T], str], event: T) -> None:
        """As the hub, with what the faults make of it."""
        listeners = self._listeners.get(name)
        if listeners is None:
            return
        guests = self._guests
        if not any(guests[connection].troubles for connection in listeners):
            super().publish(name, encode, event)
            return
        payload = encode(event)
        frames: dict[bool, bytes] = {}
        for connection in listeners:
            wraps = connection.subscriptions.combined
            troubles = [each for each in guests[connection].troubles if each.fault.concerns(name)]
            if troubles:
                texts = (combined(name, payload), payload) if wraps else (payload, combined(name, payload))
                self._deliver(connection, troubles, *texts)
            else:
                if wraps not in frames:
                    frames[wraps] = text_frame(combined(name, payload) if wraps else payload)
                self.queue(connection, frames[wraps])

    def flush(self) -> None:
        """Writes to all but the stalled."""
        for connection in self._stalled:
            if connection.pending_bytes > self._send_buffer_bytes_max:
                connection.pending.clear()
                connection.pending_bytes = 0
                self._stalled[connection] = True
            self._dirty.pop(connection, None)
        super().flush()

    def _begin(self, fault: Fault) -> None:
        if not fault.is_active(self._elapsed_ms) and fault.kind != "disconnect":
            return  # slept through
        running = _Running(fault)
        if fault.is_active(self._elapsed_ms):
            self._running[fault.number] = running
        if fault.reach != "new":
            matching = [connection for connection in self.connections if self._fits(fault, connection)]
            if isinstance(fault.connections, int) and fault.connections < len(matching):
                chance = Random(f"{self._seed} {fault.number} {self._occurrences[fault.number]}")
                matching = chance.sample(matching, fault.connections)
            for connection in matching:
                self._affect(running, connection)

    def _end(self, running: _Running) -> None:
        fault = running.fault
        del self._running[fault.number]
        self._release(running, running.held)
        if fault.kind == "stale_route":
            return  # nobody comes back from there
        for connection in running.members:
            guest = self._guests.get(connection)
            if guest is not None and running in guest.troubles:
                guest.troubles.remove(running)
            if fault.kind == "stall" and connection in self._stalled:
                self._resume(connection)

    def _fits(self, fault: Fault, connection: StreamConnection) -> bool:
        if fault.line is not None and fault.line != connection.line:
            return False
        if isinstance(fault.connections, tuple):
            guest = self._guests[connection]
            return (guest.place if fault.line is None else guest.place_in_line) in fault.connections
        return True

    @staticmethod
    def _has_room(running: _Running) -> bool:
        wanted = running.fault.connections
        return not isinstance(wanted, int) or len(running.members) < wanted

    def _affect(self, running: _Running, connection: StreamConnection) -> None:
        fault, guest = running.fault, self._guests[connection]
        running.members[connection] = Random(f"{self._seed} {fault.number} {guest.place}")
        if fault.kind in STREAM_KINDS:
            guest.troubles.append(running)
            return
        if fault.kind == "disconnect":
            connection.transport.abort()
        elif fault.kind == "stall":
            connection.transport.pause_reading()
            self._stalled[connection] = False
        if fault.kind != "cut_24h":
            self.acted[fault.number] += 1

    def _resume(self, connection: StreamConnection) -> None:
        """Sends what a stalled connection is owed, or ends it where that was too much to keep."""
        if any(each.fault.kind == "stall" and connection in each.members for each in self._running.values()):
            return
        if self._stalled.pop(connection):
            connection.transport.abort()
        elif not connection.transport.is_closing():
            connection.transport.resume_reading()
            if connection.pending:
                self._dirty[connection] = None

    def _cut_aged(self, running: _Running) -> None:
        for connection in list(running.members):
            guest = self._guests.get(connection)
            if guest is not None and self._elapsed_ms - guest.opened_ms >= running.fault.age_ms:
                del running.members[connection]
                self.acted[running.fault.number] += 1
                connection.expire()

    def _deliver(self, connection: StreamConnection, troubles: Iterable[_Running], text: str, other: str) -> None:
        """Queues what the troubles, in the script's order, leave of a frame's `text`."""
        texts, holder = [text], None
        for each in troubles:
            fault, chance = each.fault, each.members[connection]
            if fault.share < 1 and chance.random() >= fault.share:
                continue
            self.acted[fault.number] += 1
            if fault.kind == "reorder":
                holder = each
            texts = [left for before in texts for left in altered(fault, before, other, chance)]
            if not texts:
                return
        frames = [text_frame(left) for left in texts]
        if holder is None:
            for frame in frames:
                self.queue(connection, frame)
            return
        if not holder.held:
            holder.held_since_ms = self._elapsed_ms
        held = holder.held.setdefault(connection, [])
        held += frames
        if sum(map(len, held)) > self._send_buffer_bytes_max:
            self._release(holder, [connection])

    def _release(self, running: _Running, connections: Iterable[StreamConnection]) -> None:
        """Queues the frames that were held back, shuffled."""
        for connection in list(connections):
            frames = running.held.pop(connection)
            running.members[connection].shuffle(frames)
            for frame in frames:
                self.queue(connection, frame)
