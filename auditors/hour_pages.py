"""What an auditor keeps of one symbol's bars, in pages of an hour, so that only changed hours are saved again. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from klagg.intervals import HOUR_MS, INTERVALS

PAGE_MS: Final = HOUR_MS


class HourPages:
    """Values by table and open time. A table is called `<anything>/<interval>`.

    Values are what JSON can hold, or have a `to_json` that gives it.
    """

    def __init__(self) -> None:
        self._pages: dict[int, dict[str, dict[int, Any]]] = {}
        self.dirty: set[int] = set()

    def get(self, table: str, open_time: int) -> Any:
        """The value, None if there is none."""
        return self._pages.get(open_time // PAGE_MS, {}).get(table, {}).get(open_time)

    def put(self, table: str, open_time: int, value: Any) -> None:
        """Keep a value."""
        page = open_time // PAGE_MS
        self._pages.setdefault(page, {}).setdefault(table, {})[open_time] = value
        self.dirty.add(page)

    def touch(self, open_time: int) -> None:
        """Mark the value with this open time as changed in place."""
        self.dirty.add(open_time // PAGE_MS)

    def drop(self, tables: Iterable[str]) -> None:
        """Forget whole tables."""
        for number, page in self._pages.items():
            for table in tables:
                if page.pop(table, None) is not None:
                    self.dirty.add(number)

    def expire(self, floor_ms: int, kept_from: dict[str, int]) -> None:
        """Forget bars that had closed by `floor_ms` (exchange ms), but none that opens at or after its table's
        `kept_from`."""
        for number in [each for each in self._pages if (each + 1) * PAGE_MS <= floor_ms]:
            page = self._pages[number]
            for table in list(page):
                kind = INTERVALS[table.partition("/")[2]]
                kept_ms = kept_from.get(table, floor_ms)
                old = [each for each in page[table] if each < kept_ms and kind.close_time(each) < floor_ms]
                for each in old:
                    del page[table][each]
                if old:
                    self.dirty.add(number)
                if not page[table]:
                    del page[table]
            if not page:
                del self._pages[number]
                self.dirty.add(number)

    def drain_dirty(self) -> dict[int, str]:
        """The pages that changed since the last call, by number, as JSON; "" for a page that is gone."""
        dirty, self.dirty = self.dirty, set()
        return {number: _text(self._pages.get(number)) for number in sorted(dirty)}

    def restore(self, number: int, text: str) -> None:
        """Put back a page that `drain_dirty` gave."""
        tables = json.loads(text)
        self._pages[number] = {
            table: {int(open_time): value for open_time, value in values.items()} for table, values in tables.items()
        }


def _text(page: dict[str, dict[int, Any]] | None) -> str:
    return json.dumps(page, separators=(",", ":"), default=_saved) if page else ""


def _saved(value: Any) -> Any:
    return value.to_json()
