"""klagg-auditor-lifecycle: the legal life of every bar, from the events alone.

A thin shell around auditors.lifecycle.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from auditors.lifecycle import Lifecycle
from auditors.stream_service import AuditorKind, audit
from klagg.process.service import Context, run
from klagg.process.stats import Flow
from klagg.wire.keys import GROUP_LIFECYCLE

PROCESS: Final = "auditor-lifecycle"
KIND: Final = AuditorKind("lifecycle", GROUP_LIFECYCLE, Lifecycle)


def body(context: Context) -> None:
    """Audit until asked to stop."""
    audit(context, KIND)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process; the exit code."""
    what = "Find steps in the life of a bar that cannot be, and bars that never close."
    return run(PROCESS, what, body, argv=argv, flow=Flow("entries", "ticks"))


if __name__ == "__main__":
    sys.exit(main())
