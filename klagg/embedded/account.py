"""Who a server runs as, and which folders that user can reach.

PostgreSQL refuses to run as root. Where klagg runs as root, PostgreSQL runs as `nobody`: its files then belong to that
user, and every folder above them must let it through.
"""

from __future__ import annotations

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from klagg.errors import EmbeddedServerError

SYSTEM_DATA_DIRECTORY = Path("/var/lib/klagg")


@dataclass(frozen=True, slots=True)
class Account:
    """A user that a child process becomes; `name` is for sentences."""

    uid: int
    gid: int
    name: str

    def popen_options(self) -> dict[str, Any]:
        """The arguments of subprocess.Popen that make the child this user."""
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can(self, test: str, path: Path) -> bool:
        """Whether this user passes `test` (-r, -w, -x as in test(1)) on PATH, folders above included."""
        return subprocess.run(["test", test, str(path)], check=False, **self.popen_options()).returncode == 0


def unprivileged_account(data: Path | None = None) -> Account | None:
    """The user that PostgreSQL runs as in place of root; None if klagg itself is not root.

    The owner of DATA if that exists and is not root's (made before by `klagg up` as an ordinary user), else nobody.
    """
    if os.geteuid() != 0:
        return None
    if data is not None and data.exists() and data.stat().st_uid != 0:
        owner = data.stat()
        return Account(owner.st_uid, owner.st_gid, f"the user {owner.st_uid}, who owns the data,")
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise EmbeddedServerError(
            "PostgreSQL refuses to run as root, and this system has no user nobody for it: run klagg as another user."
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid, nobody.pw_name)


def blocking_folder(path: Path) -> Path | None:
    """The first folder on the way to PATH whose mode lets only its own through; None if there is none."""
    for folder in reversed([path, *path.parents]):
        if folder.exists() and not folder.stat().st_mode & 0o001:
            return folder
    return None


def require_reach(account: Account | None, path: Path, what: str) -> None:
    """EmbeddedServerError unless ACCOUNT can enter or run PATH; WHAT names it in the sentence."""
    if account is None or account.can("-x", path):
        return
    blocked = blocking_folder(path.parent) or path
    raise EmbeddedServerError(
        f"PostgreSQL refuses to run as root, so klagg runs it as {account.name}, but {account.name} cannot reach "
        f"{what} {path}, because {blocked} is closed to other users: choose another place, for example under /var/lib "
        "or /srv, or run klagg as an ordinary user."
    )


def usable_data_directory(wanted: str | Path) -> Path:
    """WANTED as an absolute path, or /var/lib/klagg where klagg is root and WANTED is closed to PostgreSQL's user.

    For a default that nobody chose, such as `data` in a checkout under /root; a chosen one should fail instead.
    """
    path = Path(wanted).absolute()
    account = unprivileged_account()
    existing = next(folder for folder in [path, *path.parents] if folder.exists())
    return path if account is None or account.can("-x", existing) else SYSTEM_DATA_DIRECTORY


def make_folder(path: Path) -> None:
    """Makes PATH and what is missing above it, open to read whatever the umask; existing ones stay as they are."""
    missing = [folder for folder in [path, *path.parents] if not folder.exists()]
    for folder in reversed(missing):
        try:
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        except OSError as bad:
            raise EmbeddedServerError(f"The folder {folder} cannot be made: {bad.strerror}.") from None
