"""The tail of Redis' append-only file: where it ended a moment ago, and how to cut it off there."""

from __future__ import annotations

import re
from collections import deque
from pathlib import Path

KEPT_S = 3.0

_INCREMENT = re.compile(r"\.(\d+)\.incr\.aof\Z")


class TailWatch:
    """Remembers how long the newest increment of the file was at each look of the last seconds."""

    def __init__(self, folder: Path) -> None:
        """`folder` is Redis' data folder."""
        self._folder = folder / "appendonlydir"
        self._looks: deque[tuple[float, Path, int]] = deque()

    def look(self, now_s: float) -> None:
        """Note the length; `now_s` is monotonic."""
        newest = self._newest()
        if newest is not None:
            self._looks.append((now_s, newest, newest.stat().st_size))
        while self._looks and self._looks[0][0] < now_s - KEPT_S:
            self._looks.popleft()

    def cut(self, died_s: float, age_ms: int) -> int:
        """Cut the newest increment to its oldest known length of the last `age_ms` before `died_s`, when Redis had been
        killed; the bytes that are lost. It may end within a record: Redis drops that one when it loads the file."""
        newest = self._newest()
        known = [size for at_s, path, size in self._looks if path == newest and at_s >= died_s - age_ms / 1000]
        self._looks.clear()
        if newest is None or not known:
            return 0
        lost = newest.stat().st_size - known[0]
        with newest.open("r+b") as file:
            file.truncate(known[0])
        return lost

    def _newest(self) -> Path | None:
        numbered = []
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                found = _INCREMENT.search(path.name)
                if found:
                    numbered.append((int(found[1]), path))
        return max(numbered)[1] if numbered else None
