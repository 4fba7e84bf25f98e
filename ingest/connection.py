"""One connection to the exchange, kept up: a session that is lost begins anew, one that grows old hands over.

The exchange ends a connection after 24 hours (Binance USDⓈ-M docs, "Websocket Market Streams"). A connection is
replaced before that, without a gap: the new session must deliver before the old one ends.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection
from time import monotonic
from typing import Final

from websockets.exceptions import WebSocketException

from ingest.reasons import ENDED, REASONS, STALLED, Loss, SessionLost, loss_of
from ingest.session import ConnectionOptions, OnFrame, Received, Session
from klagg.backoff import Backoff
from klagg.binance.endpoints import StreamUrl
from klagg.clock import ExchangeClock, steady_ms
from klagg.process.alarms import AlarmKind
from klagg.process.stats import Stats

AGE_SPREAD: Final = 0.1
"""By up to this part the age at which a connection is replaced is shortened, so that not all are at once."""


class Connection:
    """Carries a changing set of streams; frames go to `on_frame` as they come. At most two sessions at a time.

    Without streams it is not connected.
    """

    def __init__(
        self,
        name: str,
        url: StreamUrl,
        streams: Collection[str],
        on_frame: OnFrame,
        *,
        options: ConnectionOptions,
        stats: Stats,
        log: logging.Logger,
    ) -> None:
        self.name = name
        self.streams = frozenset(streams)
        self.serial = 0
        """Counts the sessions that were begun. Whoever observes the connection over time begins anew when it has
        grown."""
        self.received = Received()
        """What came since the last `drain`."""
        self._url, self._on_frame, self._options, self._stats, self._log = url, on_frame, options, stats, log
        self._timings = timings = options.timings
        self._backoff = Backoff(timings.reconnect_first_s, timings.reconnect_cap_s, random.random)
        self._hand_over_backoff = Backoff(timings.hand_over_retry_first_s, timings.hand_over_retry_cap_s, random.random)
        self._sessions: dict[Session, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._due_s = 0.0
        self._why = ""
        stats.add("hand_overs", 0, connection=name)
        for reason in REASONS:  # Prometheus sees growth only in what it saw before
            stats.add("reconnects", 0, connection=name, reason=reason)

    @property
    def is_up(self) -> bool:
        """Whether it is connected and the exchange has acknowledged all its streams once."""
        return any(each.up for each in self._sessions)

    @property
    def confirmed(self) -> frozenset[str]:
        """The streams that are subscribed to and acknowledged."""
        return frozenset().union(*(each.confirmed for each in self._sessions if each.up)) & self.streams

    @property
    def delivers(self) -> bool:
        """Whether events have come over a session that is up."""
        return any(each.up and each.delivered for each in self._sessions)

    def alive_ms(self, clock: ExchangeClock) -> int | None:
        """The exchange time (ms) of the last sign of life (frame or pong); None while the connection is down."""
        return clock.now_ms(steady_ms() - self.silent_ms) if self.is_up else None

    @property
    def silent_ms(self) -> float:
        """How long ago (local ms) the last sign of life came; 0 while the connection is down."""
        return min((each.silent_ms for each in self._sessions if each.up), default=0.0)

    def follow(self, streams: Collection[str]) -> None:
        """Carry these streams from now on."""
        self.streams = frozenset(streams)
        for session in self._sessions:
            session.follow(self.streams)
        self._changed.set()

    def resubscribe(self, streams: Collection[str]) -> None:
        """Unsubscribe from these streams and subscribe to them anew."""
        for session in self._sessions:
            session.resubscribe(streams)

    def replace(self, why: str) -> None:
        """Hand over to a new session soon: the old one ends when the new one has brought something."""
        self._due_s, self._why = 0.0, why
        self._changed.set()

    def cut(self, reason: str, sentence: str) -> None:
        """End all sessions at once and begin anew; `reason` is one of reasons.REASONS."""
        for session in self._sessions:
            session.give_up(reason, sentence)

    async def run(self) -> None:
        """Keep it up until cancelled. ConfigError if the URL or a proxy can never work; errors of `on_frame` are
        raised."""
        try:
            while True:
                self._stats.alarms.clear(AlarmKind.HAND_OVER, self.name)
                while not self.streams:
                    self._stats.alarms.clear(AlarmKind.STALLED, self.name)
                    self._changed.clear()
                    await self._changed.wait()
                started_ms = steady_ms()
                loss = await self._until_lost()
                if loss is None or not self.streams:
                    continue
                if steady_ms() - started_ms >= self._timings.steady_ms:
                    self._backoff.reset()
                delay_s = self._backoff.next_s()
                self._stats.add("reconnects", connection=self.name, reason=loss.reason)
                self._log.warning("connection %s is down (%s); next try in %.1f s", self.name, loss.sentence, delay_s)
                await asyncio.sleep(delay_s)
        finally:
            await self._close(*self._sessions)

    async def _until_lost(self) -> Loss | None:
        """Connect, hand over when it is time, and return why nothing is left; None if there was nothing to carry."""
        session = self._open()
        self._due_s, self._why = monotonic() + self._age_s(), "it is old"
        while True:
            self._changed.clear()
            await self._either(self._sessions[session], until_s=self._due_s)
            if self._sessions[session].done():
                return self._loss_of(session)
            if not self.streams:
                await self._close(session)
                return None
            if monotonic() >= self._due_s:
                session = await self._hand_over(session)

    def _age_s(self) -> float:
        return self._options.age_s * (1 - AGE_SPREAD * random.random())

    async def _either(self, task: asyncio.Task[None], until_s: float) -> None:
        """Wait until the task is done, something was changed, or it is time."""
        changed = asyncio.create_task(self._changed.wait())
        try:
            timeout_s = max(0.0, until_s - monotonic())
            await asyncio.wait({task, changed}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()

    def _open(self) -> Session:
        self.serial += 1
        session = Session(self._url, self.streams, self._on_frame, self._options, self._log_up, self.received)
        self._sessions[session] = asyncio.create_task(session.run(), name=f"session of {self.name}")
        return session

    def _log_up(self) -> None:
        self._stats.alarms.clear(AlarmKind.STALLED, self.name)
        self._log.info("connection %s is up with %d streams", self.name, len(self.streams))

    def _loss_of(self, session: Session) -> Loss:
        """Why a session ended that is done, and forget it. What is no loss of a connection is raised."""
        try:
            self._sessions.pop(session).result()
        except (SessionLost, WebSocketException, OSError) as lost:
            loss = loss_of(lost)
            if loss.reason == STALLED:
                sentence = f"connection {self.name} is stalled: {loss.sentence} (ingest.stalled_ms)"
                self._stats.alarms.raise_(AlarmKind.STALLED, sentence, self.name)
            return loss
        return Loss(ENDED, "it ended")

    async def _hand_over(self, old: Session) -> Session:
        """Open a new session and end the old one when the new one delivers; the session that goes on."""
        why, self._why = self._why, "it is old"
        self._log.info("connection %s is replaced: %s", self.name, why)
        old.await_event()
        new = self._open()
        ready = asyncio.create_task(new.ready.wait())
        tasks = {ready, self._sessions[new], self._sessions[old]}
        try:
            await asyncio.wait(tasks, timeout=self._timings.hand_over_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        if self._sessions[old].done():
            self._log.warning(
                "connection %s was lost while it was replaced: %s", self.name, self._loss_of(old).sentence
            )
        elif self._sessions[new].done() or not (new.ready.is_set() or (new.up and old.awaits_event)):
            await self._retreat(new, why)
            return old
        else:
            await asyncio.sleep(self._timings.overlap_s)
            await self._close(old)
            self._log.info("connection %s goes on over a new session", self.name)
        self._stats.add("hand_overs", connection=self.name)
        self._stats.alarms.clear(AlarmKind.HAND_OVER, self.name)
        self._hand_over_backoff.reset()
        self._due_s = monotonic() + self._age_s()
        return new

    async def _retreat(self, new: Session, why: str) -> None:
        """The new session is no better: keep the old one, and try again later."""
        if self._sessions[new].done():
            reason = self._loss_of(new).sentence
        else:
            reason = f"it brought nothing within {self._timings.hand_over_s:.0f} s"
            await self._close(new)
        delay_s = self._hand_over_backoff.next_s()
        self._due_s, self._why = monotonic() + delay_s, why
        sentence = f"connection {self.name} cannot be replaced ({reason}); next try in {delay_s:.0f} s"
        if not self._stats.alarms.raise_(AlarmKind.HAND_OVER, sentence, self.name):
            self._log.warning("%s", sentence)

    async def _close(self, *sessions: Session) -> None:
        """End these sessions in order; what still goes wrong with them no longer matters."""
        tasks = [self._sessions.pop(each) for each in sessions]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
