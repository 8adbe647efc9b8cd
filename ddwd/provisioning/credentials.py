"""Generate, write and read the passwords of the two Orthancs. Each installation generates its own; there is no default password.

Provisioning and `ddwd try` write the file if it is missing, `ddwd credentials rotate` writes new passwords. `admin` and `viewer` are web
logins for people. Each unit that asks an Orthanc has a login of its own with the rights it needs (ddwd/orthanc/plugin/rest_rights.py), which
provisioning writes for it alone and systemd hands to it (LoadCredential=): it never sees this file. `gateway` (on storage) is the login of
STOW-RS; `ddwd` that of the commands and the self test, and until 0.2.0 of every unit.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.config.loader import READ_HINT
from ddwd.core import durable
from ddwd.core.errors import ConfigError, ConfigProblem
from ddwd.core.model import VIEWER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ddwd.config.schema import NodeName, Role

_PORTAL = "ddwd"
USERS: Mapping[NodeName, tuple[str, ...]] = {
    "gateway": ("admin", VIEWER, "ddwd", "extractor", "monitor", "courier", "commitment"),
    "storage": ("admin", VIEWER, "ddwd", "gateway", "extractor", "monitor", "commitment"),
}
LOGIN_OF: Mapping[str, str] = {
    "extractor": "extractor",
    "monitor": "monitor",
    "courier": "courier",
    "commitment": "commitment",
    "doctor": _PORTAL,
}
"""Unit -> its login; every other unit has none."""
CREDENTIAL = "rest.json"
"""Name of the login among a unit's credentials."""
_NEW = frozenset({"extractor", "monitor", "courier", "commitment"})
"""Logins that a file of 0.2.0 has not."""
_OF_EXTRACTOR = (_PORTAL, "extractor", "monitor", "commitment")
"""Logins that a machine with the extractor needs on both Orthancs."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """Passwords by Orthanc and user; not shown in a repr."""

    passwords: Mapping[str, Mapping[str, str]] = field(repr=False)

    def of(self, node: NodeName) -> dict[str, str]:
        """Return user -> password of that Orthanc, for its RegisteredUsers."""
        return dict(self.passwords[node])

    def login(self, node: NodeName, user: str = "") -> tuple[str, str]:
        """Return user and password for HTTP basic authentication; without a name that of the commands, or the only one that a unit has."""
        logins = self.passwords[node]
        user = user or (_PORTAL if _PORTAL in logins else next(iter(logins)))
        return user, logins[user]


def generate() -> Credentials:
    """Generate new passwords of 192 bits."""
    return Credentials(
        {node: {user: secrets.token_urlsafe(24) for user in users} for node, users in USERS.items()}
    )


def shared(own: Credentials, roles: Sequence[Role]) -> Credentials:
    """Return the credentials for another machine with these roles: the passwords that it needs, and random unused ones for the others."""
    of_extractor = _OF_EXTRACTOR if "extractor" in roles else ()
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


def add_missing(path: Path) -> None:
    """Add the logins that a file of an older version has not; `read` reports any other mistake in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    grown = _grown(found)
    if grown != found and _is_complete(grown):
        write(path, Credentials(grown), mode=0o600)


def _grown(found: Any) -> Any:
    """Return the content of a file with the logins that an older version has not; what is not such a file is returned as it is.

    The password of a new unit's login is derived from the portal's own, so that machines that share that one agree without a copy.
    """
    if not isinstance(found, dict) or not all(isinstance(found.get(node), dict) for node in USERS):
        return found
    grown: dict[str, dict[str, str]] = {}
    for node, users in USERS.items():
        known = dict(found[node])
        for user in users:
            if user in _NEW and isinstance(known.get(_PORTAL), str):
                known.setdefault(user, _derived(known[_PORTAL], node, user))
            elif user == VIEWER:
                known.setdefault(user, secrets.token_urlsafe(24))
        grown[node] = known
    return grown


def _derived(password: str, node: str, user: str) -> str:
    digest = hmac.digest(password.encode(), f"{user} at {node}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest[:24]).decode()


def hand_out(folder: Path, credentials: Credentials) -> None:
    """Write each unit's login to a file of its own below `folder`, which only root may enter: systemd reads it for the unit."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    for unit, user in LOGIN_OF.items():
        own = {node: {user: users[user]} for node, users in credentials.passwords.items() if user in users}
        durable.replace_file(folder / f"{unit}.json", _text(Credentials(own)), 0o600)


def own(path: Path) -> Credentials:
    """Return the login of this unit, which systemd handed to it, and otherwise what is in the file at `path`. Raises ConfigError."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    handed = Path(folder) / CREDENTIAL if folder else None
    if handed is None or not handed.exists():
        return read(path)
    try:
        found = json.loads(handed.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise _refused(handed, "cannot be read", "restart ddwd, which writes a new one") from None
    return Credentials(found)


def read(path: Path) -> Credentials:
    """Return the credentials in the file. Raises ConfigError, which says how to get access or to make a new file."""
    try:
        found = _grown(json.loads(path.read_text(encoding="utf-8")))
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
    return ConfigError([ConfigProblem(str(path), None, "credentials", what, instead)])
