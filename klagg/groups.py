"""The consumer groups that a configuration asks for: who must have read an entry before it may be trimmed. Pure."""

from __future__ import annotations

from klagg import contract
from klagg.settings import Settings


def groups_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The consumer groups of a shard's streams, by the stream's name (as in contract.Keys)."""
    writers = (contract.GROUP_WRITERS,) if settings.database.enabled else ()
    completeness = (contract.GROUP_COMPLETENESS,) if settings.audit.full else ()
    lifecycle = (contract.GROUP_LIFECYCLE,) if settings.audit.full else ()
    return {
        "klines": (*writers, *completeness),
        "events": (*completeness, *lifecycle),
        "requests": (contract.GROUP_REPAIR,),
    }
