"""Prepare the machine as root at each start, before the Orthancs: passwords, rendered configuration, drop-ins, OUTPUT_DIR.

Idempotent: every step changes only what differs. Runs as ddwd-provision.service (oneshot). Reads the settings and the operator's
additions; writes credentials.json, Paths.logins, Paths.rendered, Paths.tls and drop-ins of the units. A failure is one line on stderr; the exit
status is that of the error.
"""

from __future__ import annotations

import ipaddress
import json
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ddwd.config import routing, tls
from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.config.schema import ROLES
from ddwd.core import durable
from ddwd.core.audit import DOWNGRADE, Audit, Event
from ddwd.core.errors import DdwdError
from ddwd.provisioning import credentials as passwords
from ddwd.provisioning import destinations, handover, machine_link, port_reservation, tls_proxy
from ddwd.provisioning.host import SystemHost, must
from ddwd.provisioning.orthanc_config import RENDERED_NAME, render

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ddwd.config.schema import Config, NodeName
    from ddwd.provisioning.credentials import Credentials
    from ddwd.provisioning.host import Host

_LEDGER_UNITS = ("ddwd-extractor", "ddwd-doctor", "ddwd-commitment")
"""Units that read the custody records and may connect to this machine only."""
_KEYS_OF: Mapping[str, tls.Name] = {
    "ddwd-acceptor": "gateway",
    "ddwd-gateway": "gateway",
    "ddwd-tls@web-gateway": "gateway",
    "ddwd-storage": "storage",
    "ddwd-tls@storage": "storage",
    "ddwd-tls@web-storage": "storage",
    "ddwd-scp": "scp",
    "ddwd-extractor": "extractor",
    "ddwd-inbox": "operator",
}
"""The key that each unit gets."""
_FIRST_OPEN_PORT = 1024
"""A lower port needs root or CAP_NET_BIND_SERVICE (Debian's ip_unprivileged_port_start)."""
_SYSTEM_DATA = Path("/var/lib/ddwd")
"""Folder that the units may write to without a drop-in."""


def main() -> int:
    """Run as /usr/libexec/ddwd/ddwd-provision; return the exit status.

    The maintainer scripts call one step: `hand-over` after an upgrade, `hand-back` before an older version, `release-ports` before the removal.
    """
    try:
        match sys.argv[1:]:
            case ["release-ports"]:
                reserve_ports(None, SystemHost())
            case ["hand-over"]:
                hand_over(load(), SystemHost())
            case ["hand-back"]:
                hand_back(load(), SystemHost())
            case _:
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
    hand_over(config, host)
    credentials = ensure_credentials(config, host)
    texts = {node.name: render(config, credentials, node.name) for node in config.own_nodes}
    if config.has("extractor"):
        ensure_output_dir(config, host)
    ensure_tls(config)
    ensure_drop_ins(config, host)
    reserve_ports(port_reservation.drop_in(config), host)
    for node, text in texts.items():
        write_rendered(config, node, text, host)
    durable.replace_file(Paths(config).routes, routing.rendered(config.routes), 0o644)
    write_hooks(config, host)


def hand_over(config: Config, host: Host) -> None:
    """Give the folders that user ddwd owned until 0.2.0 to their new users; called by postinst too, for those that the unit may not write to."""
    for one in handover.handovers(config):
        host.hand_over(one.folder, handover.FORMER_OWNER, one.user, one.group, one.mode)


def hand_back(config: Config, host: Host) -> None:
    """Undo for 0.2.0 and before what their units cannot live with: folders of users besides ddwd, reserved ports. prerm calls it before a downgrade."""
    for one in handover.handovers(config):
        host.hand_over(one.folder, one.user, handover.FORMER_OWNER, one.group, one.mode)
    reserve_ports(None, host)  # they do not run in ddwd.slice
    # the signer reads the place: the older version states no custody record
    Audit().record(Event.REQUESTED, "an older version is installed", place=DOWNGRADE)


def ensure_roles(config: Config) -> None:
    """Create a file for each role of this machine: systemd skips the units whose file is missing."""
    for role in ROLES:
        path = Paths(config).role(role)
        durable.make_dirs(path.parent, 0o755)
        if config.has(role):
            durable.replace_volatile(path, b"")
        else:
            durable.unlink(path)


def ensure_credentials(config: Config, host: Host) -> Credentials:
    """Return the passwords from the credentials file, which is made if it is missing; only root and group ddwd may read it."""
    path = config.credentials_file
    if not path.exists():
        durable.make_dirs(path.parent, 0o755)
        passwords.write(path, passwords.generate(), mode=0o600)
    passwords.add_missing(path)
    found = passwords.read(path)
    host.give(path, "root", "ddwd", 0o640)
    passwords.hand_out(Paths(config).logins, found)
    return found


def write_rendered(config: Config, node: NodeName, text: str, host: Host) -> None:
    """Write the JSON file of that Orthanc, readable by that Orthanc only, and remove any other JSON file in its folder."""
    folder = Paths(config).rendered(node)
    durable.make_dirs(folder, 0o755)
    host.give(folder, "root", f"ddwd-{node}", 0o750)
    target = folder / RENDERED_NAME
    for stray in folder.glob("*.json"):
        if stray != target:
            durable.unlink(stray)
    durable.replace_file(target, text.encode(), 0o600)
    host.give(target, "root", f"ddwd-{node}", 0o640)


def write_hooks(config: Config, host: Host) -> None:
    """Write the hook of each route that has one; only ddwd-hooks may read it: the URL of a webhook may hold a secret."""
    target = Paths(config).hooks_table
    table = {
        route.name: {
            "Run": str(route.run) if route.run else None,
            "Webhook": route.webhook,
            "Timeout": config.finished.timeout,
        }
        for route in config.routes
        if route.has_hook
    }
    durable.replace_file(target, (json.dumps(table, indent=2) + "\n").encode(), 0o600)
    host.give(target, "root", "ddwd-hooks", 0o640)


def ensure_output_dir(config: Config, host: Host) -> None:
    """Create OUTPUT_DIR if it is below the portal's data folder; one elsewhere belongs to the operator and must exist."""
    folder = config.output_dir
    if folder.is_relative_to(config.data_dir):
        durable.make_dirs(folder)
        host.give(folder, "ddwd", "ddwd", 0o750)
    elif not folder.is_dir():
        raise DdwdError(f"{folder}: OUTPUT_DIR does not exist; install -d -o ddwd -g ddwd -m 0750 {folder}")


def ensure_drop_ins(config: Config, host: Host) -> None:
    """Write the drop-ins that the settings add to the units, and reload systemd if one changed."""
    changed = [
        _replace_drop_in(host.units / f"{unit}.service.d" / name, text)
        for (unit, name), text in drop_ins(config).items()
    ]
    if any(changed):
        must(host.run(["systemctl", "daemon-reload"]), "systemctl daemon-reload")


def reserve_ports(text: str | None, host: Host) -> None:
    """Write that drop-in of each slice, or remove it for None, and bring it into force."""
    changed = [_replace_drop_in(place, text) for place in port_reservation.places(host.slices)]
    if any(changed):
        for command in port_reservation.ENFORCE:
            must(host.run(command), shlex.join(command))


def _replace_drop_in(path: Path, text: str | None) -> bool:
    """Write that text to the file, or remove it for None; return whether it changed."""
    before = path.read_text(encoding="utf-8") if path.exists() else None
    if before == text:
        return False
    if text is None:
        durable.unlink(path)
        with suppress(OSError):  # another file is in it
            path.parent.rmdir()
    else:
        durable.make_dirs(path.parent, 0o755)
        durable.replace_volatile(path, text.encode())
    return True


def drop_ins(config: Config) -> dict[tuple[str, str], str | None]:
    """Return the drop-ins by unit and file name; None if the settings need none."""
    modalities = sorted({modality.address for modality in config.commitment.modalities})
    link_key = config.link.folder / tls.LINK_KEY
    found = {
        # if that folder is missing, only ddwd-inbox fails to start
        ("ddwd-inbox", "50-folder.conf"): _write_access("inbox.folder", config.inbox.folder),
        ("ddwd-monitor", "50-chain.conf"): _chain_access(config),
        ("ddwd-commitment", "50-modalities.conf"): _network_access("commitment.modalities", modalities),
        (machine_link.UNIT, "50-tls.conf"): _key("link", link_key) if config.is_linked else None,
    }
    for instance in tls_proxy.WEB:
        limits = _drop_in("web.open of ddwd.yaml", *tls_proxy.WEB_LIMITS) if config.web.open else None
        found[tls_proxy.UNIT.format(instance=instance), "50-people.conf"] = limits
    found["ddwd-extractor", "50-output-dir.conf"] = _write_access("OUTPUT_DIR", config.output_dir)
    # of the default OUTPUT_DIR the unit may write to the private folder alone
    is_default = config.output_dir == _SYSTEM_DATA / "received_dicom"
    found["ddwd-scp", "50-output-dir.conf"] = (
        None if is_default else _drop_in("OUTPUT_DIR of ddwd.yaml", _read_write(config.output_dir))
    )
    for unit in _LEDGER_UNITS:
        found[unit, "50-ledger.conf"] = _network_access("ledger.shared", _ledger_addresses(config))
    in_use = tls.in_use(config)
    for unit, name in _KEYS_OF.items():
        found[unit, "50-tls.conf"] = _key("tls", tls.files(config, name).key) if name in in_use else None
    found["ddwd-databases", "50-external.conf"] = _external_database(config)
    for unit, ports in ports_of(config).items():
        found[unit, "50-low-port.conf"] = _low_port(ports)
    return found


def _drop_in(reason: str, *lines: str) -> str:
    return "\n".join([f"# Written by ddwd-provision: {reason}.", "[Service]", *lines, ""])


def _chain_access(config: Config) -> str | None:
    folder = config.chain.publish_folder
    return None if folder is None else _write_access("chain.publish_to", folder)


def _write_access(setting: str, folder: Path) -> str | None:
    """Return the drop-in that lets a unit write to a folder outside /var/lib/ddwd, or None."""
    if folder.is_relative_to(_SYSTEM_DATA):
        return None
    return _drop_in(f"{setting} of ddwd.yaml", _read_write(folder))


def _read_write(folder: Path) -> str:
    quoted = str(folder).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'ReadWritePaths="{quoted}"'


def _network_access(setting: str, addresses: Sequence[str]) -> str | None:
    """Return the drop-in that lets a unit connect to these addresses, or None without any."""
    return _drop_in(f"{setting} of ddwd.yaml", f"IPAddressAllow={' '.join(addresses)}") if addresses else None


def _external_database(config: Config) -> str | None:
    """Return the drop-in with which ddwd-databases asks a server elsewhere, as a user who may read its password; None for the local one."""
    if config.database.engine != "postgresql" or config.database.is_local:
        return None
    return _drop_in(
        "database.host of ddwd.yaml",
        "User=ddwd",
        "Group=ddwd",
        "Environment=HOME=/nonexistent",  # libpq fails at a home that it may not enter
        "PrivateNetwork=no",
        "RestrictAddressFamilies=AF_INET AF_INET6",
        "IPAddressAllow=any",
    )


def _ledger_addresses(config: Config) -> list[str]:
    """Return the addresses of the shared ledger; `any` if a name is among them.

    The address of a name may change, and a name server must be reached.
    """
    hosts = sorted(config.ledger.hosts)
    try:
        for host in hosts:
            ipaddress.ip_address(host)
    except ValueError:
        return ["any"]
    return hosts


def _key(setting: str, path: Path) -> str:
    """Return the drop-in that passes a unit its key, whose file only root can read."""
    escaped = str(path).replace("%", "%%")  # to the end of the line, without quotes
    return _drop_in(f"{setting} of ddwd.yaml", f"LoadCredential={tls.CREDENTIAL}:{escaped}")


def ports_of(config: Config) -> dict[str, tuple[int, ...]]:
    """Return the ports of each unit for which the settings may choose one below 1024."""
    tunnels = [int(tunnel.accept.rpartition(":")[2]) for tunnel in machine_link.tunnels(config)]
    return {
        machine_link.UNIT: (config.link.port, *tunnels),
        "ddwd-acceptor": (config.gateway.dicom_port, config.tls.gateway_port),
        "ddwd-gateway": (config.gateway.orthanc_port, config.gateway.http_port),
        "ddwd-storage": (config.storage.dicom_port, config.storage.http_port),
        "ddwd-scp": (config.scp.port,),
        "ddwd-tls@storage": (config.tls.dicomweb_port,),
        "ddwd-tls@web-gateway": (config.web.gateway_port,),
        "ddwd-tls@web-storage": (config.web.storage_port,),
    }


def _low_port(ports: Iterable[int]) -> str | None:
    """Return the capability to listen below port 1024, or None if no port is."""
    if min(ports) >= _FIRST_OPEN_PORT:
        return None
    capability = "CAP_NET_BIND_SERVICE"
    return _drop_in(
        f"a port in ddwd.yaml is below {_FIRST_OPEN_PORT}",
        f"CapabilityBoundingSet={capability}",
        f"AmbientCapabilities={capability}",
        "PrivateUsers=no",  # a private user namespace would make the capability ineffective
    )


def ensure_tls(config: Config) -> None:
    """Write the settings of the TLS proxies and the authorities that the gateway trusts; none of it is secret."""
    folder = Paths(config).tls
    durable.make_dirs(folder, 0o755)
    texts = {f"{instance}.conf": tls_proxy.render(config, instance) for instance in tls_proxy.INSTANCES}
    texts["gateway.conf"] = None  # until 0.2.0 the instance for people
    texts["link.conf"] = machine_link.render(config)
    if trusted := destinations.dimse_authorities(config):
        texts[destinations.dimse_bundle(config).name] = "".join(path.read_text("ascii") for path in trusted)
    if trusted := destinations.authorities(config):
        texts[destinations.bundle(config).name] = "".join(path.read_text("utf-8") for path in trusted)
    for name, text in texts.items():
        if text is None:
            durable.unlink(folder / name)
        else:
            durable.replace_file(folder / name, text.encode(), 0o644)


if __name__ == "__main__":
    sys.exit(main())
