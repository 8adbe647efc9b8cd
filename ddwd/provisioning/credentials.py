"""Generate, write and read the passwords of the two Orthancs. Each installation generates its own; there is no default password.

Provisioning and `ddwd try` write the file if it is missing, `ddwd credentials rotate` writes new passwords; orthanc_config, the
daemons and the commands read it. `admin` and `viewer` are web logins for people; ddwd/orthanc/plugin/admission.py lets `viewer` only
read. `ddwd` is the login of the extractor and the commands, `gateway` (on storage) that of STOW-RS.
"""

from __future__ import annotations

import json
import secrets
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.config.loader import READ_HINT
from ddwd.core import durable
from ddwd.core.errors import ConfigError, Problem
from ddwd.core.model import VIEWER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ddwd.config.schema import NodeName, Role

USERS: Mapping[NodeName, tuple[str, ...]] = {
    "gateway": ("admin", VIEWER, "ddwd"),
    "storage": ("admin", VIEWER, "ddwd", "gateway"),
}


@dataclass(frozen=True, slots=True)
class Credentials:
    """Passwords by Orthanc and user; not shown in a repr."""

    passwords: Mapping[str, Mapping[str, str]] = field(repr=False)

    def of(self, node: NodeName) -> dict[str, str]:
        """Return user -> password of that Orthanc, for its RegisteredUsers."""
        return dict(self.passwords[node])

    def login(self, node: NodeName, user: str = "ddwd") -> tuple[str, str]:
        """Return user and password for HTTP basic authentication."""
        return user, self.passwords[node][user]


def generate() -> Credentials:
    """Generate new passwords of 192 bits."""
    return Credentials(
        {node: {user: secrets.token_urlsafe(24) for user in users} for node, users in USERS.items()}
    )


def shared(own: Credentials, roles: Sequence[Role]) -> Credentials:
    """Return the credentials for another machine with these roles: the passwords that it needs, and random unused ones for the others."""
    of_extractor = ("ddwd",) if "extractor" in roles else ()
    needed: dict[NodeName, tuple[str, ...]] = {
        node: users if node in roles else of_extractor for node, users in USERS.items()
    }
    if "gateway" in roles:
        needed["storage"] += ("gateway",)
    unused = generate().passwords
    return Credentials(
        {
            node: {**unused[node], **{user: own.passwords[node][user] for user in users}}
            for node, users in needed.items()
        }
    )


def write(path: Path, credentials: Credentials, mode: int = 0o640) -> None:
    """Write the credentials file in one step."""
    durable.replace_file(path, _text(credentials), mode)


def _text(credentials: Credentials) -> bytes:
    return (json.dumps(credentials.passwords, indent=2) + "\n").encode()


def rotate(path: Path) -> None:
    """Replace all passwords by new ones; owner, group and mode of the file stay."""
    before = path.stat()
    owner, mode = (before.st_uid, before.st_gid), stat.S_IMODE(before.st_mode)
    durable.replace_file(path, _text(generate()), mode, exact_mode=True, owner=owner)


def add_viewer(path: Path) -> None:
    """Add the user `viewer` to a file of an older version; `read` reports any other mistake in it."""
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
    """Return the credentials in the file. Raises ConfigError, which says how to get access or to make a new file."""
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
    """Return whether a file's content has a password for every user of both Orthancs."""
    return isinstance(found, dict) and all(
        isinstance(found.get(node), dict)
        and all(isinstance(password := found[node].get(user), str) and password for user in users)
        for node, users in USERS.items()
    )


def _refused(path: Path, what: str, instead: str) -> ConfigError:
    return ConfigError([Problem(str(path), None, "credentials", what, instead)])
