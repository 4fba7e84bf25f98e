"""Arrays that come and go no longer cost page faults."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import resource, sys
import numpy as np
from klagg.process.memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        [np.ones(200_000) for _ in range(20)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

kept = keep_freed_memory() if sys.argv[1] == "kept" else False
faults()
print(kept, faults())
"""


def faults(word: str) -> tuple[str, int]:
    """What the script says: whether memory is kept, and the page faults of twenty times twenty arrays of 1.6 MB."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, word], check=True, capture_output=True, text=True)
    kept, count = done.stdout.split()
    return kept, int(count)


def test_freed_memory_stays() -> None:
    kept, few = faults("kept")
    assert kept == "True", "the tests run on glibc"
    _, many = faults("default")
    assert few < many / 10, (few, many)
