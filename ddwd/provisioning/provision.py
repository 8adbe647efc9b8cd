"""What root does once at each start, before the Orthancs: passwords, databases, rendered configuration, OUTPUT_DIR.

Idempotent: every step looks first and changes only what differs. Runs as ddwd-provision.service (oneshot); reads the
settings and the operator's additions, writes credentials.json, Paths.rendered, Paths.tls and drop-ins of the units. One line on stderr for each failure; the exit status is that of the error.
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
from typing import TYPE_CHECKING, Protocol

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

    from ddwd.config.loader import Config, NodeName
    from ddwd.provisioning.credentials import Credentials

NODES: tuple[NodeName, ...] = ("gateway", "storage")
_PATIENCE = 90
"""Seconds that PostgreSQL may take to come up; a recovery after a power cut takes some."""
_COMMAND_SECONDS = 60
_PYTHON_UNITS = ("ddwd-scp", "ddwd-extractor")
_LEDGER_UNITS = ("ddwd-extractor", "ddwd-doctor", "ddwd-commitment")
"""What reads the custody records and may reach nothing but this machine."""
_KEYS_OF: Mapping[str, tls.Name] = {
    "ddwd-gateway": "gateway",
    "ddwd-tls@gateway": "gateway",
    "ddwd-storage": "storage",
    "ddwd-tls@storage": "storage",
    "ddwd-scp": "scp",
    "ddwd-extractor": "extractor",
    "ddwd-inbox": "operator",
}
"""Whose key each unit is given."""
_FIRST_OPEN_PORT = 1024
"""Below it a port is for root, or for who has CAP_NET_BIND_SERVICE (ip_unprivileged_port_start of Debian)."""
_SYSTEM_DATA = Path("/var/lib/ddwd")
"""What the units may write to without a drop-in."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command said: exit status, standard output, last line of its complaint."""

    status: int
    out: str
    complaint: str


class Host(Protocol):
    """What provisioning needs of the machine; tests put their own behind it."""

    units: Path

    def run(self, argv: list[str], user: str | None = None, env: Mapping[str, str] | None = None) -> Answer:
        """Run a command to its end, as `user` if given."""

    def give(self, path: Path, user: str, group: str, mode: int) -> None:
        """Set owner, group and mode where they differ."""

    def wait(self, seconds: float) -> None:
        """Let time pass."""


class SystemHost:
    """The machine itself."""

    units = Path("/run/systemd/system")

    def run(self, argv: list[str], user: str | None = None, env: Mapping[str, str] | None = None) -> Answer:
        """Run a command; one that cannot be started answers with status 127."""
        drop = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        try:
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                check=False,
                timeout=_COMMAND_SECONDS,
                cwd="/",
                env={**os.environ, **(env or {})},
                **drop,  # type: ignore[call-overload] # the three arguments that drop privileges
            )
        except (OSError, KeyError, subprocess.TimeoutExpired) as error:
            return Answer(127, "", str(error))
        lines = done.stderr.strip().splitlines()
        return Answer(done.returncode, done.stdout.strip(), lines[-1] if lines else "")

    def give(self, path: Path, user: str, group: str, mode: int) -> None:
        """Set owner, group and mode where they differ; an unknown user is a PeerRefusedError."""
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


def main() -> int:
    """Entry point of /usr/libexec/ddwd/ddwd-provision; returns the exit status."""
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
    """Bring the machine to what `config` says; raises a DdwdError at the first step that cannot be done."""
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
    """Tell the units which of them this machine has: the others are skipped by a condition."""
    for path, is_here in machine_link.flags(config).items():
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if is_here:
            path.touch()
        else:
            path.unlink(missing_ok=True)


def ensure_credentials(config: Config, host: Host) -> Credentials:
    """Read the passwords, or make and keep new ones; the file is for root and group ddwd only."""
    path = config.credentials_file
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        passwords.write(path, passwords.generate(), mode=0o600)
    passwords.add_viewer(path)
    found = passwords.read(path)
    host.give(path, "root", "ddwd", 0o640)
    return found


def write_rendered(config: Config, node: NodeName, text: str, host: Host) -> None:
    """Put the one JSON file in place, readable for that Orthanc alone, and nothing else beside it."""
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
    """Write the one table of rules, which the gateway's Lua and the extractor read."""
    replace_file(Paths(config).routes, routing.rendered(config.routes), 0o644)


def write_hooks(config: Config, host: Host) -> None:
    """Tell ddwd-hooks what it is to run; a webhook may hold a secret, so nobody else reads it."""
    target = Paths(config).hooks_table
    text = json.dumps(hooks_table(config), indent=2) + "\n"
    replace_file(target, text.encode(), 0o600)
    host.give(target, "root", "ddwd-hooks", 0o640)


def hooks_table(config: Config) -> dict[str, dict[str, object]]:
    """Rule -> what is run or told when a study of it is finished; those without are not in it."""
    return {
        route.name: {
            "Run": str(route.run) if route.run else None,
            "Webhook": route.webhook,
            "Timeout": config.finished.timeout,
        }
        for route in config.routes
        if route.speaks
    }


def ensure_output_dir(config: Config, host: Host) -> None:
    """Create OUTPUT_DIR where it is the portal's own; one elsewhere is the operator's, and must exist."""
    folder = config.output_dir
    if folder.is_relative_to(config.data_dir):
        folder.mkdir(parents=True, exist_ok=True)
        host.give(folder, "ddwd", "ddwd", 0o750)
    elif not folder.is_dir():
        raise DdwdError(f"{folder}: OUTPUT_DIR does not exist; install -d -o ddwd -g ddwd -m 0750 {folder}")


def ensure_drop_ins(config: Config, host: Host) -> None:
    """Give the units what the settings add to them; tell systemd if that changed."""
    changed = [
        _put_drop_in(host.units / f"{unit}.service.d" / name, text)
        for (unit, name), text in drop_ins(config).items()
    ]
    if any(changed):
        _must(host.run(["systemctl", "daemon-reload"]), "systemctl daemon-reload")


def _put_drop_in(path: Path, text: str | None) -> bool:
    """Have the file hold that text, or not be there; whether it was otherwise."""
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
    """Unit and file name -> text, None where there is to be none."""
    output = {(unit, "50-output-dir.conf"): output_drop_in(config) for unit in _PYTHON_UNITS}
    inbox = {("ddwd-inbox", "50-folder.conf"): inbox_drop_in(config)}
    asked = {("ddwd-commitment", "50-modalities.conf"): commitment_drop_in(config)}
    asked |= {(unit, "50-ledger.conf"): ledger_drop_in(config) for unit in _LEDGER_UNITS}
    keys = {(unit, "50-tls.conf"): tls_drop_in(config, name) for unit, name in _KEYS_OF.items()}
    keys[machine_link.UNIT, "50-tls.conf"] = link_drop_in(config)
    ports = {(unit, "50-low-port.conf"): port_drop_in(*used) for unit, used in _ports_of(config).items()}
    return output | inbox | asked | keys | ports


def _ports_of(config: Config) -> dict[str, tuple[int, ...]]:
    """What each unit listens on that may be given a port below 1024."""
    led = [int(way.accept.rpartition(":")[2]) for way in machine_link.ways(config)]
    return {
        machine_link.UNIT: (config.link.port, *led),
        "ddwd-gateway": (config.gateway.dicom_port, config.gateway.http_port),
        "ddwd-storage": (config.storage.dicom_port, config.storage.http_port),
        "ddwd-tls@gateway": (config.tls.gateway_port, config.web.gateway_port),
        "ddwd-tls@storage": (config.tls.dicomweb_port, config.web.storage_port),
    }


def port_drop_in(*ports: int) -> str | None:
    """The one capability that listening can need, below 1024; a user namespace of its own would make it void."""
    if min(ports) >= _FIRST_OPEN_PORT:
        return None
    return (
        f"# Written by ddwd-provision: a port in ddwd.yaml is below {_FIRST_OPEN_PORT}.\n[Service]\n"
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\nAmbientCapabilities=CAP_NET_BIND_SERVICE\nPrivateUsers=no\n"
    )


def output_drop_in(config: Config) -> str | None:
    """Lets a unit write to an OUTPUT_DIR outside /var/lib/ddwd."""
    if config.output_dir.is_relative_to(_SYSTEM_DATA):
        return None
    return f'# Written by ddwd-provision: OUTPUT_DIR of ddwd.yaml.\n[Service]\nReadWritePaths="{_escaped(config.output_dir)}"\n'


def inbox_drop_in(config: Config) -> str | None:
    """Lets the drop folder be elsewhere; one that is missing keeps its own unit alone from starting."""
    folder = config.inbox.folder
    if folder.is_relative_to(_SYSTEM_DATA):
        return None
    return f'# Written by ddwd-provision: inbox.folder of ddwd.yaml.\n[Service]\nReadWritePaths="{_escaped(folder)}"\n'


def commitment_drop_in(config: Config) -> str | None:
    """Lets ddwd-commitment speak to the modalities that it answers."""
    places = sorted({one.address for one in config.commitment.modalities})
    if not places:
        return None
    return f"# Written by ddwd-provision: commitment.modalities of ddwd.yaml.\n[Service]\nIPAddressAllow={' '.join(places)}\n"


def ledger_drop_in(config: Config) -> str | None:
    """Lets a unit reach the shared ledger. Of servers by name it is not known what addresses they have next, nor where names are asked."""
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
    """Gives a unit its own key, which only root can read where it lies."""
    if name not in tls.in_use(config):
        return None
    return _key_drop_in("tls", tls.files(config, name).key)


def link_drop_in(config: Config) -> str | None:
    """Gives ddwd-tls@link the key of this machine."""
    return _key_drop_in("link", config.link.folder / tls.LINK_KEY) if config.is_linked else None


def _key_drop_in(section: str, path: Path) -> str:
    key = str(path).replace("%", "%%")  # to the end of the line, without quotes
    return f"# Written by ddwd-provision: {section} of ddwd.yaml.\n[Service]\nLoadCredential={tls.CREDENTIAL}:{key}\n"


def _escaped(path: Path) -> str:
    """For a quoted word of a unit file."""
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def ensure_tls(config: Config) -> None:
    """Render what stands before the Orthancs, and whom the gateway trusts; nothing of it is secret."""
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
    """Whose certificates the gateway takes by DIMSE; Orthanc has one list for those that call it and those that it calls."""
    served = [tls.senders_authority(config), tls.authority(config)] if config.tls.gateway != "off" else []
    called = [one.ca or tls.authority(config) for one in config.destinations if one.tls]
    return list(dict.fromkeys([*served, *called]))


def ensure_databases(config: Config, host: Host) -> None:
    """Wait for PostgreSQL; locally make the roles and databases that are missing, elsewhere only look."""
    for node in (own.name for own in config.own_nodes):
        if config.database.is_local:
            _ensure_local(config, node, host)
        else:
            _await_external(config, node, host)


def _ensure_local(config: Config, node: NodeName, host: Host) -> None:
    role, name = config.database.user_for(node), config.database.name_for(node)
    sql = _LocalPostgres(config, host)
    sql.wait_up()
    if not sql.ask(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):  # noqa: S608 - validated in config
        sql.ask(f'CREATE ROLE "{role}" LOGIN')
    if not sql.ask(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):  # noqa: S608 - validated in config
        sql.ask(f'CREATE DATABASE "{name}" OWNER "{role}" ENCODING \'UTF8\' TEMPLATE template0')
        sql.ask(f'REVOKE ALL ON DATABASE "{name}" FROM PUBLIC')


class _LocalPostgres:
    """The local server, asked as its superuser over the Unix socket."""

    def __init__(self, config: Config, host: Host) -> None:
        self._host = host
        self._argv = ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"]
        self._argv += ["-p", str(config.database.port), "-d", "postgres", "-c"]

    def ask(self, statement: str) -> str:
        """Run one statement; raises PeerRefusedError with the server's words."""
        return _must(self._host.run([*self._argv, statement], user="postgres"), "PostgreSQL").out

    def wait_up(self) -> None:
        """Return once it answers; raises PeerDownError after 90 s."""
        _await(
            lambda: self._host.run([*self._argv, "SELECT 1"], user="postgres"),
            self._host,
            "the local PostgreSQL",
            "see: systemctl status postgresql",
        )


def _await_external(config: Config, node: NodeName, host: Host) -> None:
    database = config.database
    argv = ["psql", "-X", "-A", "-t", "-q", "-w", "-d", databases.address(config, node), "-c", "SELECT 1"]
    env = {"PGPASSWORD": databases.password(config) or "", "PGCONNECT_TIMEOUT": "5"}
    where = f"PostgreSQL at {databases.place(config)} (database {database.name_for(node)})"
    hint = "check database.*, the roles and pg_hba.conf over there, and the password"
    _await(lambda: host.run(argv, env=env), host, where, hint)


def _await(ask: Callable[[], Answer], host: Host, who: str, hint: str) -> None:
    answer = ask()
    for _ in range(_PATIENCE):
        if answer.status == 0:
            return
        host.wait(1)
        answer = ask()
    if answer.status != 0:
        raise PeerDownError(f"{who} did not answer within {_PATIENCE} s ({answer.complaint}); {hint}")


def _must(answer: Answer, who: str) -> Answer:
    if answer.status != 0:
        raise PeerRefusedError(f"{who}: {answer.complaint or f'exit status {answer.status}'}")
    return answer


if __name__ == "__main__":
    sys.exit(main())
