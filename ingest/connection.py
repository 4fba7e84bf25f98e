"""One connection to the exchange, kept up: sessions that are lost begin anew, and those that grow old hand over."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection
from time import monotonic
from typing import Final

from websockets.exceptions import WebSocketException

from ingest.alarms import HAND_OVER, STALLED, alarm, expect
from ingest.reasons import ENDED, REASONS, Loss, SessionLost, loss_of
from ingest.session import Manner, Received, Session, Take
from klagg.backoff import Backoff
from klagg.binance.endpoints import StreamUrl
from klagg.clock import ExchangeClock, steady_ms
from klagg.process.stats import Stats

RECONNECT_FIRST_S: Final = 0.5
RECONNECT_CAP_S: Final = 30.0
STEADY_MS: Final = 30_000
"""A connection that held this long was a good one: the next failure begins with the shortest delay again."""

AGE_SPREAD: Final = 0.1
"""By up to this part the age at which a connection is replaced is shortened, so that not all are at once."""

HAND_OVER_S: Final = 15.0
"""Within this time a new session must bring something, if the old one does."""

OVERLAP_S: Final = 1.0
"""For this long both sessions go on; what comes twice, the ledger drops."""

AGAIN_FIRST_S: Final = 30.0
AGAIN_CAP_S: Final = 600.0
"""Between two tries to hand over."""


class Connection:
    """Carries a changing set of streams over `way`; frames go to `take` as they come. At most two sessions at a time.

    Without streams it is not connected.
    """

    def __init__(
        self,
        name: str,
        way: StreamUrl,
        streams: Collection[str],
        take: Take,
        *,
        manner: Manner,
        stats: Stats,
        log: logging.Logger,
    ) -> None:
        self.name = name
        self.streams = frozenset(streams)
        self.serial = 0
        """Counts the sessions that were begun: what is judged over time, is judged anew when it has grown."""
        self.received = Received()
        """What came since somebody took it from here."""
        self._way, self._take, self._manner, self._stats, self._log = way, take, manner, stats, log
        self._backoff = Backoff(RECONNECT_FIRST_S, RECONNECT_CAP_S, random.random)
        self._again = Backoff(AGAIN_FIRST_S, AGAIN_CAP_S, random.random)
        self._sessions: dict[Session, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._due_s = 0.0
        self._why = ""
        expect(stats, STALLED, HAND_OVER)
        for reason in REASONS:  # Prometheus sees growth only in what it saw before
            stats.add("reconnects", 0, connection=name, reason=reason)

    @property
    def is_up(self) -> bool:
        """Whether it is connected and the exchange has acknowledged all its streams once."""
        return any(each.up for each in self._sessions)

    @property
    def confirmed(self) -> frozenset[str]:
        """The streams that are asked for and acknowledged."""
        return frozenset().union(*(each.confirmed for each in self._sessions if each.up)) & self.streams

    @property
    def delivers(self) -> bool:
        """Whether events have come over a session that is up."""
        return any(each.up and each.delivered for each in self._sessions)

    def alive_ms(self, clock: ExchangeClock) -> int | None:
        """The exchange time of the last sign of life (frame or pong); None while the connection is down."""
        return clock.now_ms(steady_ms() - self.silent_ms) if self.is_up else None

    @property
    def silent_ms(self) -> float:
        """How long ago (real ms) the last sign of life came; 0 while the connection is down."""
        return min((each.silent_ms for each in self._sessions if each.up), default=0.0)

    def follow(self, streams: Collection[str]) -> None:
        """Carry these streams from now on."""
        self.streams = frozenset(streams)
        for session in self._sessions:
            session.follow(self.streams)
        self._changed.set()

    def again(self, streams: Collection[str]) -> None:
        """Subscribe to these streams anew."""
        for session in self._sessions:
            session.again(streams)

    def replace(self, why: str) -> None:
        """Hand over to a new session soon: the old one ends when the new one has brought something."""
        self._due_s, self._why = 0.0, why
        self._changed.set()

    def cut(self, reason: str, sentence: str) -> None:
        """End what there is at once and begin anew; `reason` is one of losses.REASONS."""
        for session in self._sessions:
            session.give_up(reason, sentence)

    async def run(self) -> None:
        """Keep it up until cancelled. ConfigError if the URL or a proxy can never work; errors of `take` are raised."""
        try:
            while True:
                while not self.streams:
                    self._changed.clear()
                    await self._changed.wait()
                started_ms = steady_ms()
                loss = await self._until_lost()
                if loss is None or not self.streams:
                    continue
                if steady_ms() - started_ms >= STEADY_MS:
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
        return self._manner.age_s * (1 - AGE_SPREAD * random.random())

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
        session = Session(self._way, self.streams, self._take, self._manner, self._say_up, self.received)
        self._sessions[session] = asyncio.create_task(session.run(), name=f"session of {self.name}")
        return session

    def _say_up(self) -> None:
        self._log.info("connection %s is up with %d streams", self.name, len(self.streams))

    def _loss_of(self, session: Session) -> Loss:
        """Why a session that is done ended; what is no loss of a connection is raised. It is forgotten."""
        try:
            self._sessions.pop(session).result()
        except (SessionLost, WebSocketException, OSError) as lost:
            loss = loss_of(lost)
            if loss.reason == STALLED:
                alarm(self._stats, self._log, STALLED, f"connection {self.name} is stalled: {loss.sentence}")
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
            await asyncio.wait(tasks, timeout=HAND_OVER_S, return_when=asyncio.FIRST_COMPLETED)
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
            await asyncio.sleep(OVERLAP_S)
            await self._close(old)
            self._log.info("connection %s goes on over a new session", self.name)
        self._stats.add("hand_overs", connection=self.name)
        self._again.reset()
        self._due_s = monotonic() + self._age_s()
        return new

    async def _retreat(self, new: Session, why: str) -> None:
        """The new session is no better: keep the old one, and try again later."""
        if self._sessions[new].done():
            reason = self._loss_of(new).sentence
        else:
            reason = f"it brought nothing within {HAND_OVER_S:.0f} s"
            await self._close(new)
        delay_s = self._again.next_s()
        self._due_s, self._why = monotonic() + delay_s, why
        sentence = f"connection {self.name} cannot be replaced ({reason}); next try in {delay_s:.0f} s"
        alarm(self._stats, self._log, HAND_OVER, sentence)

    async def _close(self, *sessions: Session) -> None:
        """End these sessions in order; what still goes wrong with them no longer matters."""
        tasks = [self._sessions.pop(each) for each in sessions]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
