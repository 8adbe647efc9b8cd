"""The passwords of the two Orthancs, generated once for each installation; never a default one.

Written by provision (and `ddwd try`) when missing, anew by `ddwd credentials rotate`; read by render, the extractor and the CLI.
`admin` and `viewer` are web logins for people, the second one held to looking by ddwd/orthanc/plugin/admission.py; `ddwd` is the extractor and the
CLI, `gateway` (on the storage) what STOW-RS logs in with.
"""

from __future__ import annotations

import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.config.loader import READ_HINT
from ddwd.core import durable
from ddwd.core.errors import ConfigError, Problem
from ddwd.core.model import VIEWER

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from ddwd.config.loader import NodeName, Role

USERS: Mapping[NodeName, tuple[str, ...]] = {
    "gateway": ("admin", VIEWER, "ddwd"),
    "storage": ("admin", VIEWER, "ddwd", "gateway"),
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Node -> user -> password; not shown in a repr."""

    passwords: Mapping[str, Mapping[str, str]] = field(repr=False)

    def of(self, node: NodeName) -> dict[str, str]:
        """User -> password of that Orthanc, for its RegisteredUsers."""
        return dict(self.passwords[node])

    def login(self, node: NodeName, user: str = "ddwd") -> tuple[str, str]:
        """User and password for HTTP basic authentication."""
        return user, self.passwords[node][user]


def generate() -> Credentials:
    """Make fresh passwords, 192 bits each."""
    return Credentials(
        {node: {user: secrets.token_urlsafe(24) for user in users} for node, users in USERS.items()}
    )


def shared(own: Credentials, roles: Sequence[Role]) -> Credentials:
    """For another machine of the portal that has these roles: the passwords that it needs there, and fresh ones, good for nothing, else."""
    known = generate().passwords
    needed: dict[NodeName, Iterable[str]] = {
        "gateway": USERS["gateway"] if "gateway" in roles else ("ddwd",) if "extractor" in roles else (),
        "storage": USERS["storage"] if "storage" in roles else ("ddwd",) if "extractor" in roles else (),
    }
    if "gateway" in roles:
        needed["storage"] = {*needed["storage"], "gateway"}
    return Credentials(
        {
            node: dict(known[node]) | {user: own.of(node)[user] for user in users}
            for node, users in needed.items()
        }
    )


def write(path: Path, credentials: Credentials, mode: int = 0o640) -> None:
    """Put the credentials file in place, whole or not at all."""
    durable.replace_file(path, _text(credentials), mode)


def _text(credentials: Credentials) -> bytes:
    return (json.dumps(credentials.passwords, indent=2) + "\n").encode()


def rotate(path: Path) -> None:
    """Put fresh passwords in the place of all, for the same owner and group."""
    before = path.stat()
    fresh = path.with_name(f".{path.name}.new")
    durable.unlink(fresh)
    file = durable.NewFile(fresh)
    try:
        os.fchmod(file.descriptor, stat.S_IMODE(before.st_mode))
        os.fchown(file.descriptor, before.st_uid, before.st_gid)
        file.write(_text(generate()))
        file.sync()
        durable.rename(fresh, path)
    except BaseException:
        file.abandon()
        raise


def add_viewer(path: Path) -> None:
    """Give a file of an older version its one user more; anything else is left for `read` to tell of."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if isinstance(found, dict) and not _is_complete(found):
        fresh = generate()
        grown: dict[str, dict[str, str]] = {
            node: {VIEWER: fresh.of(node)[VIEWER]} | dict(found[node])
            for node in USERS
            if isinstance(found.get(node), dict)
        }
        if _is_complete(grown):
            write(path, Credentials(grown), mode=0o600)


def read(path: Path) -> Credentials:
    """Read the credentials file; raises ConfigError that says how to get at it, or to make a new one."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except PermissionError:
        raise _refused(path, "cannot be read by this user", READ_HINT) from None
    except FileNotFoundError:
        hint = "start ddwd once (systemctl start ddwd): it writes this file"
        raise _refused(path, "does not exist yet", hint) from None
    except (OSError, ValueError):
        found = None
    if not _is_complete(found):
        hint = "remove it and restart ddwd, which writes a new one"
        raise _refused(path, "is not a credentials file with every user in it", hint)
    return Credentials(found)


def _is_complete(found: object) -> bool:
    return isinstance(found, dict) and all(
        isinstance(found.get(node), dict) and all(_sound(found[node].get(user)) for user in users)
        for node, users in USERS.items()
    )


def _sound(password: object) -> bool:
    return isinstance(password, str) and len(password) > 0


def _refused(path: Path, what: str, instead: str) -> ConfigError:
    return ConfigError([Problem(str(path), None, "credentials", what, instead)])
