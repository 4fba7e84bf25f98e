"""The consumer groups that a configuration asks for: who must have read an entry before it may be trimmed. Pure."""

from __future__ import annotations

from klagg import contract
from klagg.settings import Settings


def groups_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The consumer groups of a shard's streams, by the stream's name (as in contract.Keys).

    Without a database nobody serves those of the writers, and streams that waited for them would grow to their caps;
    without auditors the same is true of theirs.
    """
    stored, audited = settings.database.enabled, settings.audit.full
    groups = {
        "klines": [(contract.GROUP_WRITERS, stored), (contract.GROUP_COMPLETENESS, audited)],
        "events": [
            (contract.GROUP_HISTORY, stored), (contract.GROUP_COMPLETENESS, audited),
            (contract.GROUP_LIFECYCLE, audited),
        ],
        "findings": [(contract.GROUP_HISTORY, stored)],
        "requests": [(contract.GROUP_REPAIR, True)],
    }  # fmt: skip
    return {
        stream: tuple(group for group, wanted in each if wanted)
        for stream, each in groups.items()
        if any(wanted for _, wanted in each)
    }
