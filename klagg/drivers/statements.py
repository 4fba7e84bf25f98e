"""SQL statements and Lua scripts stand in files of their own, beside the module that runs them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


def load_statements(path: Path) -> Mapping[str, str]:
    """The statements of a `.sql` or `.lua` file, each by the name in the line `-- name: …` above it.

    Both languages begin a comment with `--`. Comments before the first name describe the file. ValueError if a name
    repeats.
    """
    parts = _NAME.split(path.read_text(encoding="utf-8"))[1:]
    names, statements = parts[::2], parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"a name repeats in {path}: {', '.join(names)}")
    return MappingProxyType({name: text.strip() for name, text in zip(names, statements, strict=True)})
