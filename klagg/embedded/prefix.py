"""Programs from Debian packages in a private folder: the Python side of debian-prefix.sh."""

from __future__ import annotations

import logging
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

from klagg.errors import EmbeddedServerError

SCRIPT = Path(__file__).with_name("debian-prefix.sh")

log = logging.getLogger(__name__)


class PrefixUnavailable(EmbeddedServerError):
    """Debian packages cannot be brought in on this machine."""


def cache_directory(environment: Mapping[str, str] = os.environ, uid: int | None = None) -> Path:
    """Where prefixes are kept between runs: KLAGG_CACHE, else XDG's cache, else ~/.cache.

    For root it is /var/cache/klagg: PostgreSQL runs as another user then, to whom root's home is closed.
    """
    if environment.get("KLAGG_CACHE"):
        return Path(environment["KLAGG_CACHE"])
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/var/cache/klagg")
    if environment.get("XDG_CACHE_HOME"):
        return Path(environment["XDG_CACHE_HOME"]) / "klagg"
    return Path(environment.get("HOME") or Path.home()) / ".cache" / "klagg"


def bring_prefix(recipe: str, cache: Path | None = None) -> Path:
    """The folder of RECIPE (see the script), made if it is not cached; PrefixUnavailable says why not.

    The first time takes some seconds and the network; then it is a look into the cache.
    """
    command = ["bash", str(SCRIPT), recipe, str(cache or cache_directory())]
    try:
        script = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except FileNotFoundError:
        raise PrefixUnavailable("bash is missing, which brings in Debian packages.") from None
    assert script.stdout is not None
    assert script.stderr is not None
    with script:
        said = ""
        try:
            for line in script.stderr:  # stdout is one line, so it can wait: it never blocks the script
                said = line.strip().removeprefix("debian-prefix: ") or said
                log.info("%s", said)
            path = script.stdout.read().strip()
        except BaseException:
            script.terminate()
            raise
    if script.returncode != 0 or not path:
        raise PrefixUnavailable(said or f"debian-prefix.sh {recipe} ended with status {script.returncode}.")
    return Path(path)
