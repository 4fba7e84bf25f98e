"""klagg-auditor-completeness: every bar once, in order, none missing, and right.

A thin shell around auditors.completeness.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from auditors.completeness import Completeness
from auditors.stream_service import AuditorKind, audit
from klagg.process.service import Context, run
from klagg.process.stats import Flow
from klagg.wire.keys import GROUP_COMPLETENESS

PROCESS: Final = "auditor-completeness"
KIND: Final = AuditorKind("completeness", GROUP_COMPLETENESS, Completeness, groups=True)


def body(context: Context) -> None:
    """Audit until asked to stop."""
    audit(context, KIND)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the process; the exit code."""
    what = "Find bars that are missing, doubled, out of order or wrong in themselves."
    return run(PROCESS, what, body, argv=argv, flow=Flow("entries", "ticks"))


if __name__ == "__main__":
    sys.exit(main())
