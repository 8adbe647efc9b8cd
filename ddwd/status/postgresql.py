"""Whether the PostgreSQL server of the indexes takes connections. It is only connected to: nobody logs in."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.config.schema import Config

FOLDER = "/var/run/postgresql"
REMEDY = "systemctl start postgresql"
_SECONDS = 0.5


def problem(config: Config, folder: Path | str = FOLDER) -> str:
    """Return why the server is not reached; empty if it is, if this user may not reach it, or if this machine has no index there.

    A server of `database.url`, which may name several, is not looked for: without all of them the Orthancs do not answer.
    """
    database = config.database
    if database.engine != "postgresql" or not config.own_nodes or database.url is not None:
        return ""
    place = f"{database.host}:{database.port}" if database.host else f"{folder}/.s.PGSQL.{database.port}"
    try:
        if database.host is not None:
            socket.create_connection((database.host, database.port), _SECONDS).close()
        else:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(_SECONDS)
                client.connect(place)
    except PermissionError:
        return ""
    except OSError as error:
        return f"PostgreSQL does not answer on {place} ({error.strerror or error})"
    return ""
