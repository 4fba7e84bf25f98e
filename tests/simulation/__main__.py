"""`python -m tests.simulation SEED…`: single seeds, with what happened in them."""

from __future__ import annotations

import sys

from tests.simulation.play import play


def main() -> int:
    """Play the seeds of the command line; 1 if one of them failed."""
    failed = False
    for word in sys.argv[1:]:
        outcome = play(int(word))
        print(f"seed {word}: {outcome.error or 'right'}\n{dict(outcome.seen)}")
        failed |= bool(outcome.error)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
