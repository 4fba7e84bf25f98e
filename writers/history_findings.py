"""What findings say, as rows of the table `findings`: pure.

A finding without an id is a notice: one row that never changes. One with an id stands until an entry settles it, and is
one row: who says that it stands last gives its values, and it is open unless an entry behind that settles it. So rows
are the same in whatever order, and however often, entries come.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from klagg.errors import ContractError
from klagg.wire.entry_id import EntryId
from klagg.wire.fields import RawFields, integer_of, text_of, upgraded

NEVER: Final = ""
"""The place in the stream of an entry that never was."""
_BEFORE_ALL: Final = EntryId(-1, -1)


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of `findings`; `evidence` and `closed_by` are JSON, times exchange ms, None where nothing is known.

    `said_entry` and `closed_entry` are ids of entries of the stream (NEVER: none), both empty in a notice.
    """

    id: str
    shard: int
    kind: str
    severity: str
    symbol: str | None
    interval: str | None
    open_ms: int | None
    writer: str
    said_ms: int | None
    evidence: str
    standing: bool = False
    closed_ms: int | None = None
    closed_by: str | None = None
    said_entry: str = NEVER
    closed_entry: str = NEVER


def finding_of(raw: RawFields, shard: int, entry_id: str) -> Finding:
    """The row of an entry of `findings:{n}`; ContractError if it cannot be one."""
    raw = upgraded(raw)
    writer, time_ms, evidence = text_of(raw, "writer"), integer_of(raw, "time"), _json_of(text_of(raw, "evidence"))
    interval = text_of(raw, "interval") if b"interval" in raw else None
    said = Finding(
        id=f"{shard}:{writer}:{integer_of(raw, 'seq')}",
        shard=shard,
        kind=text_of(raw, "kind"),
        severity=text_of(raw, "severity"),
        symbol=text_of(raw, "symbol") or None,
        interval=interval or None,
        open_ms=integer_of(raw, "open_time") if interval else None,
        writer=writer,
        said_ms=time_ms or None,
        evidence=evidence,
    )
    closed = raw.get(b"closed", b"0")
    if closed not in (b"0", b"1"):
        raise ContractError(f"the field closed is neither 0 nor 1: {closed[:40]!r}")
    if b"id" not in raw:
        if closed == b"1":
            raise ContractError("the entry settles a finding and does not say which: it has no id")
        return said
    said = replace(said, id=f"{shard}:{text_of(raw, 'id')}", standing=True)
    if closed == b"0":
        return replace(said, said_entry=entry_id)
    return replace(said, closed_entry=entry_id, closed_ms=time_ms or _place(entry_id).ms, closed_by=evidence)


def merged(one: Finding, other: Finding) -> Finding:
    """Two rows of the same standing finding as one; the order does not matter."""
    said = max(one, other, key=lambda each: (_place(each.said_entry), _place(each.closed_entry)))
    closing = max(one, other, key=lambda each: _place(each.closed_entry))
    open_again = _place(said.said_entry) > _place(closing.closed_entry)
    return replace(
        said,
        said_ms=min((each.said_ms for each in (one, other) if each.said_ms is not None), default=None),
        closed_entry=closing.closed_entry,
        closed_ms=None if open_again else closing.closed_ms,
        closed_by=None if open_again else closing.closed_by,
    )


def changed(known: Iterable[Finding], published: Iterable[Finding]) -> list[Finding]:
    """The standing rows to write, sorted by id, where the table has `known` and entries say `published`."""
    before = {each.id: each for each in known}
    rows = dict(before)
    for each in published:
        rows[each.id] = merged(rows[each.id], each) if each.id in rows else each
    return [row for key, row in sorted(rows.items()) if before.get(key) != row]


def _place(entry_id: str) -> EntryId:
    """The id in the order of the stream; NEVER comes before everything."""
    return EntryId.of(entry_id) if entry_id else _BEFORE_ALL


def _json_of(evidence: str) -> str:
    """A JSON object stays one; anything else is a sentence, as a JSON string."""
    if evidence.startswith("{"):
        try:
            json.loads(evidence, parse_constant=_refused)
        except ValueError:
            pass
        else:
            return evidence
    return json.dumps(evidence, ensure_ascii=False)


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
