"""The consumer groups of a configuration: who must have read an entry before it may be trimmed. Pure."""

from __future__ import annotations

from klagg.settings import Settings
from klagg.wire.keys import GROUP_COMPLETENESS, GROUP_HISTORY, GROUP_LIFECYCLE, GROUP_REPAIR, GROUP_WRITERS


def groups_of(settings: Settings) -> dict[str, tuple[str, ...]]:
    """The consumer groups of a shard's streams, by the stream's name (as in Keys).

    Without a database nobody serves those of the writers, and streams that waited for them would grow to their caps;
    without auditors the same is true of theirs.
    """
    stored, audited = settings.database.enabled, settings.audit.full
    groups = {
        "klines": [(GROUP_WRITERS, stored), (GROUP_COMPLETENESS, audited)],
        "events": [
            (GROUP_HISTORY, stored),
            (GROUP_COMPLETENESS, audited),
            (GROUP_LIFECYCLE, audited),
        ],
        "findings": [(GROUP_HISTORY, stored)],
        "requests": [(GROUP_REPAIR, True)],
    }
    return {
        stream: tuple(group for group, wanted in each if wanted)
        for stream, each in groups.items()
        if any(wanted for _, wanted in each)
    }
