"""The exchange's exchangeInfo as the clock process keeps it in Redis for the gateway. A part of the contract.

It is one hash under one key, and each change is one command, so no reader sees half of it, and it lies in one slot of a
Redis Cluster (Redis docs, "Redis cluster specification"). It has no time to live: a restart finds it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from klagg.errors import ContractError
from klagg.wire.fields import Fields, RawFields, integer_of, text_of, upgraded

MARK: Final = ("writer", "seq")
"""The fields that are different when the answer is another one: a reader that knows them need not read the body."""

TIMES: Final = ("asked", "local", "speed")
"""The fields that alone are written when the exchange was asked again and answered the same."""

_SPEED: Final = re.compile(r"[0-9]{1,7}(\.[0-9]{1,9})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class KeptExchangeInfo:
    """`body` is the answer as text, unchanged. `carried` are the names that klagg was configured to carry and that the
    answer lists, in its quote assets, contract types and symbols.

    `asked_ms` is the exchange time at which it was asked (0: not known), `local_ms` the clock process's wall clock (ms)
    then, `speed` how fast the exchange's clock runs.
    """

    body: str
    carried: Sequence[str]
    asked_ms: int
    local_ms: int
    speed: float = 1.0

    def to_fields(self) -> Fields:
        """The fields of the hash, without what `stamp` adds."""
        return {**self.times(), "carried": ",".join(self.carried), "body": self.body}

    def times(self) -> Fields:
        """The fields TIMES."""
        return {"asked": str(self.asked_ms), "local": str(self.local_ms), "speed": f"{self.speed:.9f}"}

    def asked_again(self, raw: RawFields) -> KeptExchangeInfo:
        """The same answer with the fields TIMES of `raw`; ContractError if one is missing or not as it should be."""
        speed = text_of(raw, "speed")
        if not _SPEED.fullmatch(speed):
            raise ContractError(f"the field speed is not a number: {speed[:40]!r}")
        asked_ms, local_ms = integer_of(raw, "asked"), integer_of(raw, "local")
        return replace(self, asked_ms=asked_ms, local_ms=local_ms, speed=float(speed))

    def now_ms(self, local_ms: float) -> int:
        """Exchange time (ms) at this wall-clock time, for as long as no tick tells it; 0: not known."""
        return int(self.asked_ms + max(0.0, local_ms - self.local_ms) * self.speed) if self.asked_ms else 0


def kept_exchange_info_of(raw: RawFields) -> KeptExchangeInfo:
    """The hash as it was written; ContractError if a field is missing or not as it should be."""
    fields = upgraded(raw)
    carried = tuple(filter(None, text_of(fields, "carried").split(",")))
    return KeptExchangeInfo(text_of(fields, "body"), carried, 0, 0).asked_again(fields)
