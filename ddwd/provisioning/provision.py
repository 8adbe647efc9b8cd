"""Prepare the machine as root at each start, before the Orthancs: passwords, databases, rendered configuration, OUTPUT_DIR.

Idempotent: every step changes only what differs. Runs as ddwd-provision.service (oneshot). Reads the settings and the operator's
additions; writes credentials.json, Paths.rendered, Paths.tls and drop-ins of the units. A failure is one line on stderr; the exit
status is that of the error.
"""

from __future__ import annotations

import grp
import ipaddress
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ddwd.config import routing, tls
from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.core import clock
from ddwd.core.durable import replace_file
from ddwd.core.errors import DdwdError, PeerDownError, PeerRefusedError
from ddwd.provisioning import credentials as passwords
from ddwd.provisioning import databases, destinations, machine_link, tls_proxy
from ddwd.provisioning.orthanc_config import RENDERED_NAME, render, senders_bundle

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.config.schema import Config, NodeName
    from ddwd.provisioning.credentials import Credentials

NODES: tuple[NodeName, ...] = ("gateway", "storage")
_START_SECONDS = 90
"""How long PostgreSQL may take to start; recovery after a power cut takes time."""
_COMMAND_SECONDS = 60
_PYTHON_UNITS = ("ddwd-scp", "ddwd-extractor")
_LEDGER_UNITS = ("ddwd-extractor", "ddwd-doctor", "ddwd-commitment")
"""Units that read the custody records and may connect to this machine only."""
_KEYS_OF: Mapping[str, tls.Name] = {
    "ddwd-gateway": "gateway",
    "ddwd-tls@gateway": "gateway",
    "ddwd-storage": "storage",
    "ddwd-tls@storage": "storage",
    "ddwd-scp": "scp",
    "ddwd-extractor": "extractor",
    "ddwd-inbox": "operator",
}
"""The key that each unit gets."""
_FIRST_OPEN_PORT = 1024
"""A lower port needs root or CAP_NET_BIND_SERVICE (Debian's ip_unprivileged_port_start)."""
_SYSTEM_DATA = Path("/var/lib/ddwd")
"""Folder that the units may write to without a drop-in."""


@dataclass(frozen=True, slots=True)
class CommandResult:
    """Result of a command: exit status, standard output, and the line of standard error to show."""

    status: int
    out: str
    complaint: str


class Host(Protocol):
    """What provisioning does to the machine; tests pass a fake."""

    units: Path

    def run(
        self, argv: list[str], user: str | None = None, env: Mapping[str, str] | None = None
    ) -> CommandResult:
        """Run a command to its end, as `user` if given."""

    def give(self, path: Path, user: str, group: str, mode: int) -> None:
        """Set owner, group and mode where they differ."""

    def wait(self, seconds: float) -> None:
        """Wait."""


class SystemHost:
    """The real machine."""

    units = Path("/run/systemd/system")

    def run(
        self, argv: list[str], user: str | None = None, env: Mapping[str, str] | None = None
    ) -> CommandResult:
        """Run a command for at most 60 s; the status is 127 if it cannot be started or takes longer."""
        return completed(argv, user, env, stdout=subprocess.PIPE, timeout=_COMMAND_SECONDS)

    def give(self, path: Path, user: str, group: str, mode: int) -> None:
        """Set owner, group and mode where they differ. Raises PeerRefusedError for an unknown user."""
        try:
            wanted = (pwd.getpwnam(user).pw_uid, grp.getgrnam(group).gr_gid)
        except KeyError as error:
            raise PeerRefusedError(f"{error.args[0]}; run systemd-sysusers, then restart ddwd") from None
        found = path.stat()
        if (found.st_uid, found.st_gid) != wanted:
            os.chown(path, *wanted)
        if found.st_mode & 0o7777 != mode:
            path.chmod(mode)

    def wait(self, seconds: float) -> None:
        """Sleep."""
        clock.sleep(seconds)


def completed(
    argv: list[str], user: str | None, env: Mapping[str, str] | None, **options: Any
) -> CommandResult:
    """Run a command to its end, with further options of subprocess.run; the status is 127 if it cannot be started."""
    drop: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    environment = {**os.environ, **(env or {})}
    try:
        done = subprocess.run(
            argv, stderr=subprocess.PIPE, check=False, cwd="/", env=environment, **drop, **options
        )
    except (OSError, KeyError, subprocess.TimeoutExpired) as error:
        return CommandResult(127, "", str(error))
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    out = (done.stdout or b"").decode(errors="replace").strip()
    return CommandResult(done.returncode, out, lines[-1] if lines else "")


def must(answer: CommandResult, who: str) -> CommandResult:
    """Return the result. Raises PeerRefusedError with the command's error if it failed."""
    if answer.status:
        raise PeerRefusedError(f"{who}: {answer.complaint or f'exit status {answer.status}'}")
    return answer


def main() -> int:
    """Run as /usr/libexec/ddwd/ddwd-provision; return the exit status."""
    try:
        provision(load(), SystemHost())
    except DdwdError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_status
    except OSError as error:
        sys.stderr.write(f"{error.filename or 'provisioning'}: {error.strerror or error}\n")
        return 1
    return 0


def provision(config: Config, host: Host) -> None:
    """Bring the machine to the state that `config` describes. Raises a DdwdError at the first step that fails."""
    ensure_roles(config)
    credentials = ensure_credentials(config, host)
    texts = {node.name: render(config, credentials, node.name) for node in config.own_nodes}
    if config.has("extractor"):
        ensure_output_dir(config, host)
    ensure_tls(config)
    ensure_drop_ins(config, host)
    if config.database.engine == "postgresql":
        ensure_databases(config, host)
    for node, text in texts.items():
        write_rendered(config, node, text, host)
    write_routes(config)
    write_hooks(config, host)


def ensure_roles(config: Config) -> None:
    """Create a file for each role of this machine: systemd skips the units whose file is missing."""
    for path, is_here in machine_link.flags(config).items():
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if is_here:
            path.touch()
        else:
            path.unlink(missing_ok=True)


def ensure_credentials(config: Config, host: Host) -> Credentials:
    """Return the passwords from the credentials file, which is made if it is missing; only root and group ddwd may read it."""
    path = config.credentials_file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        passwords.write(path, passwords.generate(), mode=0o600)
    passwords.add_viewer(path)
    found = passwords.read(path)
    host.give(path, "root", "ddwd", 0o640)
    return found


def write_rendered(config: Config, node: NodeName, text: str, host: Host) -> None:
    """Write the JSON file of that Orthanc, readable by that Orthanc only, and remove any other JSON file in its folder."""
    folder = Paths(config).rendered(node)
    folder.mkdir(parents=True, exist_ok=True)
    host.give(folder, "root", f"ddwd-{node}", 0o750)
    target = folder / RENDERED_NAME
    for stray in folder.glob("*.json"):
        if stray != target:
            stray.unlink()
    replace_file(target, text.encode(), 0o600)
    host.give(target, "root", f"ddwd-{node}", 0o640)


def write_routes(config: Config) -> None:
    """Write the table of routes, which the gateway's Lua and the extractor read."""
    replace_file(Paths(config).routes, routing.rendered(config.routes), 0o644)


def write_hooks(config: Config, host: Host) -> None:
    """Write the table of hooks, which only ddwd-hooks may read: the URL of a webhook may hold a secret."""
    target = Paths(config).hooks_table
    text = json.dumps(hooks_table(config), indent=2) + "\n"
    replace_file(target, text.encode(), 0o600)
    host.give(target, "root", "ddwd-hooks", 0o640)


def hooks_table(config: Config) -> dict[str, dict[str, object]]:
    """Return the hook of each route that has one: the executable or webhook for its published studies."""
    return {
        route.name: {
            "Run": str(route.run) if route.run else None,
            "Webhook": route.webhook,
            "Timeout": config.finished.timeout,
        }
        for route in config.routes
        if route.has_hook
    }


def ensure_output_dir(config: Config, host: Host) -> None:
    """Create OUTPUT_DIR if it is below the portal's data folder; one elsewhere belongs to the operator and must exist."""
    folder = config.output_dir
    if folder.is_relative_to(config.data_dir):
        folder.mkdir(parents=True, exist_ok=True)
        host.give(folder, "ddwd", "ddwd", 0o750)
    elif not folder.is_dir():
        raise DdwdError(f"{folder}: OUTPUT_DIR does not exist; install -d -o ddwd -g ddwd -m 0750 {folder}")


def ensure_drop_ins(config: Config, host: Host) -> None:
    """Write the drop-ins that the settings add to the units, and reload systemd if one changed."""
    changed = [
        _put_drop_in(host.units / f"{unit}.service.d" / name, text)
        for (unit, name), text in drop_ins(config).items()
    ]
    if any(changed):
        must(host.run(["systemctl", "daemon-reload"]), "systemctl daemon-reload")


def _put_drop_in(path: Path, text: str | None) -> bool:
    """Write that text to the file, or remove it for None; return whether it changed."""
    before = path.read_text(encoding="utf-8") if path.exists() else None
    if before == text:
        return False
    if text is None:
        path.unlink()
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return True


def drop_ins(config: Config) -> dict[tuple[str, str], str | None]:
    """Return the drop-ins by unit and file name; None if the settings need none."""
    output = {(unit, "50-output-dir.conf"): output_drop_in(config) for unit in _PYTHON_UNITS}
    inbox = {("ddwd-inbox", "50-folder.conf"): inbox_drop_in(config)}
    addresses = {("ddwd-commitment", "50-modalities.conf"): commitment_drop_in(config)}
    addresses |= {(unit, "50-ledger.conf"): ledger_drop_in(config) for unit in _LEDGER_UNITS}
    keys = {(unit, "50-tls.conf"): tls_drop_in(config, name) for unit, name in _KEYS_OF.items()}
    keys[machine_link.UNIT, "50-tls.conf"] = link_drop_in(config)
    ports = {(unit, "50-low-port.conf"): port_drop_in(*used) for unit, used in _ports_of(config).items()}
    return output | inbox | addresses | keys | ports


def _ports_of(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the ports of each unit for which the settings may choose one below 1024."""
    tunnels = [int(one.accept.rpartition(":")[2]) for one in machine_link.tunnels(config)]
    return {
        machine_link.UNIT: (config.link.port, *tunnels),
        "ddwd-gateway": (config.gateway.dicom_port, config.gateway.http_port),
        "ddwd-storage": (config.storage.dicom_port, config.storage.http_port),
        "ddwd-tls@gateway": (config.tls.gateway_port, config.web.gateway_port),
        "ddwd-tls@storage": (config.tls.dicomweb_port, config.web.storage_port),
    }


def port_drop_in(*ports: int) -> str | None:
    """Return the capability to listen below port 1024, or None if no port is. A private user namespace would make it ineffective."""
    if min(ports) >= _FIRST_OPEN_PORT:
        return None
    return (
        f"# Written by ddwd-provision: a port in ddwd.yaml is below {_FIRST_OPEN_PORT}.\n[Service]\n"
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\nPrivateUsers=no\n"
    )


def output_drop_in(config: Config) -> str | None:
    """Return the drop-in that lets a unit write to an OUTPUT_DIR outside /var/lib/ddwd, or None."""
    if config.output_dir.is_relative_to(_SYSTEM_DATA):
        return None
    return f'# Written by ddwd-provision: OUTPUT_DIR of ddwd.yaml.\n[Service]\nReadWritePaths="{_escaped(config.output_dir)}"\n'


def inbox_drop_in(config: Config) -> str | None:
    """Return the drop-in for a drop folder outside /var/lib/ddwd, or None. If the folder is missing, only ddwd-inbox fails to start."""
    folder = config.inbox.folder
    if folder.is_relative_to(_SYSTEM_DATA):
        return None
    return f'# Written by ddwd-provision: inbox.folder of ddwd.yaml.\n[Service]\nReadWritePaths="{_escaped(folder)}"\n'


def commitment_drop_in(config: Config) -> str | None:
    """Return the drop-in that lets ddwd-commitment connect to the modalities that it answers, or None."""
    places = sorted({one.address for one in config.commitment.modalities})
    if not places:
        return None
    return f"# Written by ddwd-provision: commitment.modalities of ddwd.yaml.\n[Service]\nIPAddressAllow={' '.join(places)}\n"


def ledger_drop_in(config: Config) -> str | None:
    """Return the drop-in that lets a unit connect to the shared ledger, or None.

    With a server given by name any address is allowed: its address may change, and a name server must be reached.
    """
    if not config.ledger.is_shared:
        return None
    hosts = config.ledger.hosts
    places = " ".join(sorted(hosts)) if all(map(_is_address, hosts)) else "any"
    return f"# Written by ddwd-provision: ledger.shared of ddwd.yaml.\n[Service]\nIPAddressAllow={places}\n"


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def tls_drop_in(config: Config, name: tls.Name) -> str | None:
    """Return the drop-in that passes a unit its key, whose file only root can read, or None if the unit uses no TLS."""
    if name not in tls.in_use(config):
        return None
    return _key_drop_in("tls", tls.files(config, name).key)


def link_drop_in(config: Config) -> str | None:
    """Return the drop-in that passes ddwd-tls@link the key of this machine, or None without a link."""
    return _key_drop_in("link", config.link.folder / tls.LINK_KEY) if config.is_linked else None


def _key_drop_in(section: str, path: Path) -> str:
    key = str(path).replace("%", "%%")  # to the end of the line, without quotes
    return f"# Written by ddwd-provision: {section} of ddwd.yaml.\n[Service]\nLoadCredential={tls.CREDENTIAL}:{key}\n"


def _escaped(path: Path) -> str:
    """Return the path for a quoted word of a unit file."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def ensure_tls(config: Config) -> None:
    """Write the settings of the TLS proxies and the authorities that the gateway trusts; none of it is secret."""
    folder = Paths(config).tls
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    texts = {f"{node}.conf": tls_proxy.render(config, node) for node in NODES}
    texts["link.conf"] = machine_link.render(config)
    if trusted := trusted_by_gateway(config):
        texts[senders_bundle(config).name] = "".join(path.read_text(encoding="ascii") for path in trusted)
    if trusted := destinations.authorities(config):
        texts[destinations.bundle(config).name] = "".join(
            path.read_text(encoding="utf-8") for path in trusted
        )
    for name, text in texts.items():
        if text is None:
            (folder / name).unlink(missing_ok=True)
        else:
            replace_file(folder / name, text.encode(), 0o644)


def trusted_by_gateway(config: Config) -> list[Path]:
    """Return the files of the authorities that the gateway trusts by DIMSE; Orthanc has one list for callers and for destinations."""
    served = [tls.senders_authority(config), tls.authority(config)] if config.tls.gateway != "off" else []
    called = [one.ca or tls.authority(config) for one in config.destinations if one.tls]
    return list(dict.fromkeys([*served, *called]))


def ensure_databases(config: Config, host: Host) -> None:
    """Wait for PostgreSQL; create missing roles and databases on a local server, but change no external one."""
    for node in config.own_nodes:
        if config.database.is_local:
            _ensure_local(config, node.name, host)
        else:
            _await_external(config, node.name, host)


def _ensure_local(config: Config, node: NodeName, host: Host) -> None:
    role, name = config.database.user_for(node), config.database.name_for(node)
    login = databases.login(config, node)

    def ask(statement: str) -> CommandResult:
        return host.run(login.psql(statement, "postgres"), login.user)

    def must_ask(statement: str) -> str:
        return must(ask(statement), "PostgreSQL").out

    _await(lambda: ask("SELECT 1"), host, "the local PostgreSQL", "see: systemctl status postgresql")
    if not must_ask(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):  # noqa: S608 - validated in config
        must_ask(f'CREATE ROLE "{role}" LOGIN')
    if not must_ask(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):  # noqa: S608 - validated in config
        must_ask(f'CREATE DATABASE "{name}" OWNER "{role}" ENCODING \'UTF8\' TEMPLATE template0')
        must_ask(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')


def _await_external(config: Config, node: NodeName, host: Host) -> None:
    login = databases.login(config, node)
    where = f"PostgreSQL at {databases.place(config)} (database {config.database.name_for(node)})"
    hint = "check database.*, the roles and pg_hba.conf over there, and the password"
    _await(
        lambda: host.run(login.psql("SELECT 1"), env={**login.env, "PGCONNECT_TIMEOUT": "5"}),
        host,
        where,
        hint,
    )


def _await(ask: Callable[[], CommandResult], host: Host, who: str, hint: str) -> None:
    answer = ask()
    for _ in range(_START_SECONDS):
        if answer.status == 0:
            return
        host.wait(1)
        answer = ask()
    if answer.status != 0:
        raise PeerDownError(f"{who} did not answer within {_START_SECONDS} s ({answer.complaint}); {hint}")


if __name__ == "__main__":
    sys.exit(main())
