"""A fault script at work: what the server asks it, beside the hub that carries out what happens to connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from random import Random
from typing import NamedTuple

from klagg.simulator.faults import REST_KINDS, TICKER_KINDS, Fault, FaultScript, Where
from klagg.simulator.faulty_hub import FaultyHub
from klagg.simulator.market import ContractListing


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a request is turned away: with this HTTP status (None: its connection is reset), and with or without the
    header Retry-After."""

    status: int | None
    retry_after_s: int = 0
    header: bool = True


class TickerTale(NamedTuple):
    """What a ticker of exchange time now tells: the ids of `behind_ms` ago and `ids` more, with the times of `late_ms`
    ago."""

    behind_ms: int = 0
    late_ms: int = 0
    ids: int = 0


TRUTH = TickerTale()


class FaultPlayer:
    """Plays a script. `turn` moves its time; the answers are those of the time of the last turn."""

    def __init__(self, script: FaultScript, hub: FaultyHub) -> None:
        self._script = script
        self._hub = hub
        self._elapsed_ms = 0
        self._chances = {fault: Random(f"{script.seed} {fault.number}") for fault in script.faults}
        self._acted: Counter[int] = Counter()

    def turn(self, elapsed_ms: int) -> None:
        """Moves to this exchange time, in ms since the exchange's start."""
        self._elapsed_ms = elapsed_ms
        self._hub.turn(elapsed_ms)

    def handshake(self, line: str) -> Refusal | None:
        """Whether a WebSocket handshake of this line is refused, and how."""
        for fault in self._active({"refuse"}):
            if fault.line in {None, line} and self._strikes(fault):
                return Refusal(fault.status)
        return None

    def request(self, path: str) -> Refusal | None:
        """Whether a REST request of this path is refused, and how."""
        endpoint = path.rpartition("/")[2]
        for fault in self._active(REST_KINDS):
            if (fault.paths is None or endpoint in fault.paths) and self._strikes(fault):
                if fault.kind == "rest_down":
                    return Refusal(fault.status)
                return Refusal(429 if fault.kind == "rest_429" else 418, fault.retry_after_s, fault.header)
        return None

    def skew_ms(self) -> int:
        """What REST adds to the server time that it tells."""
        skews = self._active({"clock_skew"})
        self._acted.update(fault.number for fault in skews)
        return sum(fault.jump_ms for fault in skews)

    def ticker(self, where: Where, symbol: str) -> TickerTale | None:
        """What the ticker of this symbol tells; None: it is left out."""
        tale = TRUTH
        for fault in self._active(TICKER_KINDS):
            if fault.where not in (None, where) or (fault.symbols is not None and symbol not in fault.symbols):
                continue
            self._acted[fault.number] += 1
            if fault.kind == "missing_ticker":
                return None
            if fault.kind == "late_ticker":
                tale = tale._replace(behind_ms=max(tale.behind_ms, fault.late_ms), late_ms=fault.late_ms)
            elif fault.kind == "frozen_ticker":
                tale = tale._replace(behind_ms=max(tale.behind_ms, fault.lasts_ms(self._elapsed_ms)))
            else:
                tale = tale._replace(ids=tale.ids + fault.ids)
        return tale

    def listed(self, listings: Iterable[ContractListing]) -> list[ContractListing]:
        """The listings as exchangeInfo has them: with the statuses of the faults that go on."""
        told = list(listings)
        for fault in self._active({"status"}):
            for at, each in enumerate(told):
                if each.symbol in (fault.symbols or ()):
                    kind = each.contract_type if fault.contract_type is None else fault.contract_type
                    told[at] = replace(each, status=fault.word, contract_type=kind)
                    self._acted[fault.number] += 1
        return told

    def state(self) -> list[dict[str, object]]:
        """Every fault of the script, whether it goes on, and how often it acted."""
        acted = self._acted + self._hub.acted
        rows: list[dict[str, object]] = []
        for fault in self._script.faults:
            active = fault.is_active(self._elapsed_ms)
            rows.append({"number": fault.number, "kind": fault.kind, "active": active, "acted": acted[fault.number]})
        return rows

    def _active(self, kinds: set[str] | frozenset[str]) -> list[Fault]:
        return [each for each in self._script.faults if each.kind in kinds and each.is_active(self._elapsed_ms)]

    def _strikes(self, fault: Fault) -> bool:
        if self._chances[fault].random() >= fault.share:
            return False
        self._acted[fault.number] += 1
        return True
