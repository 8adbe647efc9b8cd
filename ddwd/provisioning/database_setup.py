"""Make the databases of the Orthancs at each start, as the system user of PostgreSQL, or wait for those of an external server.

Runs as ddwd-databases.service (oneshot), before the Orthancs; `ddwd restore` makes them anew. Idempotent. A failure is one line on
stderr; the exit status is that of the error.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ddwd.config.loader import load
from ddwd.core.errors import DdwdError, PeerDownError
from ddwd.provisioning import databases
from ddwd.provisioning.host import SystemHost, must

if TYPE_CHECKING:
    from ddwd.config.schema import Config, NodeName
    from ddwd.provisioning.host import Host, Login

_START_SECONDS = 90
"""How long PostgreSQL may take to start; recovery after a power cut takes time."""


def main() -> int:
    """Run as /usr/libexec/ddwd/ddwd-databases; return the exit status."""
    try:
        ensure_databases(load(), SystemHost())
    except DdwdError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    return 0


def ensure_databases(config: Config, host: Host) -> None:
    """Wait for PostgreSQL; create missing roles and databases on a local server, but change no external one."""
    if config.database.engine != "postgresql":
        return
    for node in config.own_nodes:
        if config.database.is_local:
            _ensure_local(config, node.name, host)
        else:
            _await_external(config, node.name, host)


def _ensure_local(config: Config, node: NodeName, host: Host) -> None:
    role, name = config.database.user_for(node), config.database.name_for(node)
    login = databases.superuser(config)

    def ask(statement: str) -> str:
        return must(host.run(login.psql(statement), login), "PostgreSQL").out

    hint = "see: systemctl status postgresql"
    _await(host, login.psql("SELECT 1"), login, "the local PostgreSQL", hint)
    if not ask(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):  # noqa: S608 - validated in config
        ask(f'CREATE ROLE "{role}" LOGIN')
    if not ask(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):  # noqa: S608 - validated in config
        ask(f'CREATE DATABASE "{name}" OWNER "{role}" ENCODING \'UTF8\' TEMPLATE template0')
        ask(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')


def _await_external(config: Config, node: NodeName, host: Host) -> None:
    login = databases.login(config, node)
    where = f"PostgreSQL at {databases.place(config)} (database {config.database.name_for(node)})"
    hint = "check database.*, the roles and pg_hba.conf on that server, and the password"
    login = login._replace(env={**login.env, "PGCONNECT_TIMEOUT": "5"})
    _await(host, login.psql("SELECT 1"), login, where, hint)


def _await(host: Host, argv: list[str], login: Login, who: str, hint: str) -> None:
    for _ in range(_START_SECONDS):
        if host.run(argv, login).status == 0:
            return
        host.wait(1)
    if (answer := host.run(argv, login)).status:
        raise PeerDownError(f"{who} did not answer within {_START_SECONDS} s ({answer.complaint}); {hint}")
