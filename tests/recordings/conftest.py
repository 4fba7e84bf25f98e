"""Where the recorded data is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of recorded trades and official klines: ../shared/realdata, or KLAGG_REALDATA."""
    root = Path(__file__).resolve().parents[2]
    folder = Path(os.environ.get("KLAGG_REALDATA") or root.parent / "shared" / "realdata")
    if not folder.is_dir():
        pytest.skip(f"no recordings in {folder}: set KLAGG_REALDATA to their folder")
    return folder
