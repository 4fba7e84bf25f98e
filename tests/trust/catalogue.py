"""What a row of the catalogue is: a sentence of trust, the fault that makes it false, and what is said then.

A row is run against the real code twice. Without the fault the sentence must be said, with the fault it must not, and
the other one must. `tests/trust/test_catalogue.py` looks that every sentence of trust in the source has a row.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sentence:
    """`said` and `then` are parts of what a user reads at `where`; `fault` says in words what is planted."""

    where: str
    said: str
    fault: str
    then: str

    def wrong(self, without_fault: str, with_fault: str) -> list[str]:
        """What is wrong with what was said without and with the fault; a sentence each."""
        found = []
        if self.said not in without_fault:
            found.append(f"{self.where}: {self.said!r} is not said though all is well, but {without_fault!r}")
        if self.said in with_fault:
            found.append(f"{self.where}: {self.said!r} is still said with the fault: {self.fault}")
        if self.then not in with_fault:
            found.append(f"{self.where}: with the fault ({self.fault}) {self.then!r} is not said, but {with_fault!r}")
        return found
