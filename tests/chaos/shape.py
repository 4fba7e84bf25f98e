"""What a run of chaos is made of: the market's span, its size, and the window whose bars are compared. Pure numbers.

```
 begin        window_from                                   window_to      end
   | warm_ms       | window_minutes, where the faults are       | tail_ms    |
```

Bars count whose whole span lies in the window. Before it every symbol has traded undisturbed, so that both runs know it
equally; behind it every symbol trades undisturbed again, because nobody can miss a last trade that nothing follows.
All times are exchange time in ms.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from klagg.intervals import MINUTE_MS

WINDOW_FROM_MS = 1_793_613_900_000
"""2026-11-02 10:05:00 UTC: no hour begins within a run, so the cold start asks for a few minutes alone."""

INTERVALS = ("5s", "15s", "1m", "5m")

CANDIDATES = 1.5
"""A market is chosen from this many times the symbols that it needs."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One market and its window. `seed` makes the market; the faults have one of their own in the plan."""

    seed: int = 1
    symbols: int = 600
    trades: int = 1_000_000
    window_minutes: int = 8
    warm_ms: int = 50_000
    tail_ms: int = 20_000
    recordings: tuple[str, ...] = ()

    @property
    def begin_ms(self) -> int:
        return WINDOW_FROM_MS - self.warm_ms

    @property
    def window_from_ms(self) -> int:
        return WINDOW_FROM_MS

    @property
    def window_to_ms(self) -> int:
        return WINDOW_FROM_MS + self.window_minutes * MINUTE_MS

    @property
    def end_ms(self) -> int:
        return self.window_to_ms + self.tail_ms

    @property
    def candidate_rate(self) -> float:
        """Aggregate trades a second of all synthetic candidates together.

        More than are wanted: some candidates are left out, and the busiest one where a recording takes its name.
        """
        weights = [rank**-1.05 for rank in range(1, self.symbols)]
        left_out = weights[0] / sum(weights) if self.recordings else 0.0
        return self.trades * 1.1 / (1 - left_out) / ((self.end_ms - self.begin_ms) / 1000)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Shape:
        tree = json.loads(text)
        return cls(**{**tree, "recordings": tuple(tree["recordings"])})
