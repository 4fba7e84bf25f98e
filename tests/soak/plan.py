"""The seeded faults of a soak: one after the other, now and then two at once, as a fault script."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Final

CALM_S: Final = 60
"""Seconds at the start in which nothing happens: everything connects and the past arrives."""
END_S: Final = 60
"""Seconds at the end in which no fault begins or goes on."""
PAUSE_S: Final = (5, 35)
"""Seconds from the begin of a fault to that of the next one."""
LINES: Final = ("A", "B")

Values = Mapping[str, object]

SHORT, LONG = (2, 12), (8, 40)
KINDS: Final[Mapping[str, tuple[tuple[int, int], Values]]] = {
    "disconnect": (SHORT, {}),
    "refuse": (LONG, {"status": 503}),
    "silent": (LONG, {"connections": 3}),
    "stale_route": (LONG, {}),
    "stall": (LONG, {"connections": 2}),
    "lose": (LONG, {"share": 0.01}),
    "duplicate": (LONG, {"share": 0.1}),
    "reorder": (LONG, {"share": 0.3, "within_ms": 1000}),
    "malformed": (SHORT, {"share": 0.01}),
    "truncated": (SHORT, {"share": 0.01}),
    "wrong_wrapper": (SHORT, {"share": 0.01}),
    "huge_frame": (SHORT, {"share": 0.0002, "size_bytes": 2_000_000}),
    "cut_24h": (SHORT, {"age_s": 30}),
    "rest_429": (LONG, {"retry_after_s": 5}),
    "rest_418": (LONG, {"retry_after_s": 5}),
    "rest_down": (LONG, {"status": 503}),
    "clock_skew": (LONG, {"jump_ms": -3000}),
}
"""How long each kind lasts, from and to, and what else it is given."""
BOTH: Final = frozenset({"disconnect", "lose", "duplicate", "reorder"})
"""Kinds that now and then take both lines."""
NEW: Final = frozenset({"refuse", "stale_route"})
"""Kinds that only meet connections that are made while they last: some are cut at their beginning."""
ANYWHERE: Final = frozenset({"rest_429", "rest_418", "rest_down", "clock_skew"})
"""Kinds that know no lines."""


def plan(seed: int, seconds: int, calm_s: int = CALM_S) -> str:
    """The text of a fault script (TOML) for a soak of so many seconds of exchange time, `calm_s` of them before any
    fault."""
    rng = random.Random(seed)
    tables = [f"seed = {seed}"]
    at_s = calm_s
    kinds: list[str] = []
    while True:
        if not kinds:  # every kind comes before any comes again
            kinds = rng.sample(sorted(KINDS), len(KINDS))
        kind = kinds.pop()
        (shortest_s, longest_s), values = KINDS[kind]
        for_s = rng.randint(shortest_s, longest_s)
        if at_s + for_s > seconds - END_S:
            return "\n\n".join(tables) + "\n"
        rows = {"kind": kind, "at_s": at_s, "for_s": for_s, **values}
        if kind not in ANYWHERE and not (kind in BOTH and rng.random() < 0.3):
            rows["line"] = rng.choice(LINES)
        tables.append(_table(rows))
        if kind in NEW:
            tables.append(_table({"kind": "disconnect", "at_s": at_s, "line": rows["line"], "connections": 3}))
        at_s += rng.randint(*PAUSE_S)


def _table(rows: Values) -> str:
    return "\n".join(["[[fault]]", *(f"{name} = {_text(value)}" for name, value in rows.items())])


def _text(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
