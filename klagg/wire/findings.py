"""What a person should know, as entries of `findings:{n}`: part of the stream contract.

A finding with an id stands until an entry with the same id says `closed`; found again later, it stands again. One
without an id is a notice of a moment.
"""

from __future__ import annotations

from typing import Final

from klagg.wire.fields import Fields

INFO: Final = "info"
WARNING: Final = "warning"
ERROR: Final = "error"
SEVERITIES: Final = (INFO, WARNING, ERROR)


def finding_entry(
    kind: str,
    severity: str,
    evidence: str,
    *,
    symbol: str = "",
    time_ms: int = 0,
    finding_id: str = "",
    interval: str = "",
    open_time: int = 0,
    closed: bool = False,
) -> Fields:
    """The entry without its stamp. `severity` is one of SEVERITIES, `time_ms` exchange time; `interval` and `open_time`
    (ms) name the bar that it is about, if there is one. `closed` settles the finding with this `finding_id`, and
    `evidence` then says by what.
    """
    fields = {"kind": kind, "severity": severity, "symbol": symbol, "time": str(time_ms), "evidence": evidence}
    if interval:
        fields |= {"interval": interval, "open_time": str(open_time)}
    if closed:
        fields["closed"] = "1"
    return {"id": finding_id, **fields} if finding_id else fields
