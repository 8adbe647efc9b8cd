"""Log in to PostgreSQL: options, URIs and statements for its clients and for Orthanc's PostgreSQL plugin."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from ddwd.core.errors import ConfigError, ConfigProblem, PeerDownError
from ddwd.provisioning.host import Host, Login

if TYPE_CHECKING:
    from ddwd.config.schema import Config, NodeName

_WRITABLE = "target_session_attrs=read-write"
"""Selects the writable server of a cluster; libpq looks for it at each new connection."""
_SAFE_PATH = {"PGOPTIONS": "-c search_path=pg_catalog"}
"""Functions of PostgreSQL itself are found first, whatever path the owner of a database has set for it."""


def superuser(config: Config) -> Login:
    """Return the login of the superuser of the local server, by the Unix socket: to create and drop databases and roles.

    It never enters a database that another role owns: the owner could make the superuser run functions of its own, by a default
    `search_path`, a constraint or a trigger.
    """
    return Login(["-p", str(config.database.port)], "postgres", _SAFE_PATH, "postgres")


def login(config: Config, node: NodeName) -> Login:
    """Return the login as the role of that Orthanc: on the local server by its system user, on an external one by a password."""
    database = config.database
    if database.is_local:
        user = database.user_for(node)
        return Login(["-p", str(database.port)], user, _SAFE_PATH, database.name_for(node))
    env = {"PGPASSWORD": password(config) or "", "PGCONNECT_TIMEOUT": "10"}
    return Login(["-w"], None, env, address(config, node))


def address(config: Config, node: NodeName, password: str | None = None) -> str:
    """Return the libpq URI of that Orthanc's database; with a password it is a secret."""
    database = config.database
    servers, _, options = _servers(config).partition("?")
    servers = servers.removeprefix("postgresql://").rstrip("/")
    if "target_session_attrs=" not in options:
        options = f"{options}&{_WRITABLE}".lstrip("&")
    secret = "" if password is None else f":{quote(password, safe='')}"
    user, name = quote(database.user_for(node), safe=""), quote(database.name_for(node), safe="")
    return f"postgresql://{user}{secret}@{servers}/{name}?{options}"


def ask(config: Config, node: NodeName, statement: str, host: Host) -> str:
    """Run a statement on that Orthanc's database and return its output. Raises PeerDownError with the server's error."""
    own = login(config, node)
    answer = host.run(own.psql(statement), own)
    if answer.status:
        hint = "see: systemctl status postgresql" if config.database.is_local else "check database.*"
        raise PeerDownError(f"PostgreSQL: {answer.complaint}; {hint}")
    return answer.out


def place(config: Config) -> str:
    """Return the servers in the form that messages show."""
    return re.sub(r"^postgresql://|/?\?.*$|/$", "", _servers(config))


def password(config: Config) -> str | None:
    """Return the password of both database roles, None without one. Raises ConfigError if its file cannot be read."""
    path = config.database.password_file
    if path is None:
        return config.database.password
    try:
        return path.read_text(encoding="utf-8").rstrip("\n")
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read ({getattr(error, 'strerror', None) or 'not text'})"
        hint = f"write the password there, then: chgrp ddwd {path}; chmod 640 {path}"
        raise ConfigError([ConfigProblem(str(path), None, "database.password_file", what, hint)]) from None


def _servers(config: Config) -> str:
    database = config.database
    return database.url or f"postgresql://{database.host}:{database.port}"
