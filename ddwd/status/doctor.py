"""Is every part as it should be: what a new operator would look at, one part after the other, each with what to do. Reads only.

Each check is a generator of Findings over the same Bench; one that fails itself becomes a finding and hides no other.
"""

from __future__ import annotations

import json
import re
import ssl
import stat
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ddwd.config import tls
from ddwd.config.loader import CONFIG_FILE, SECRET_KEYS, flatten
from ddwd.config.paths import Paths
from ddwd.core.errors import ConfigError, DdwdError, PeerDownError, Problem
from ddwd.provisioning import databases, machine_link, orthanc_config, quickack
from ddwd.status import units
from ddwd.status.formatting import many, span, time
from ddwd.status.report import aside_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ddwd.config.loader import Config, NodeName
    from ddwd.core.clock import Clock
    from ddwd.orthanc.port import ServerChecks
    from ddwd.provisioning.credentials import Credentials
    from ddwd.provisioning.quickack import JsonRoute
    from ddwd.status.report import Report
    from ddwd.status.units import Systemctl

Part = Literal["gateway", "storage", "scp"]
"""What answers a C-ECHO."""

_SKEW_SECONDS = 5.0
EXPIRES_DAYS = 30
_SWEEP = timedelta(weeks=1)
_ROUND = timedelta(days=2)
_FLAWS = (
    ((1, 12, 0), "CVE-2023-33466: a login may overwrite files on the machine"),
    ((1, 12, 11), "CVE-2026-5437 to CVE-2026-5445: a crafted file or request may crash it, or worse"),
)
"""Orthanc's known weaknesses, each with the first version without it (CERT/CC and the CVE records)."""
_CERTIFICATE_KEYS = (
    "SslCertificate",
    "DicomTlsCertificate",
    "HttpsCACertificates",
    "DicomTlsTrustedCertificates",
)


class Level(IntEnum):
    """How bad a finding is; the order is from good to bad."""

    OK = 0
    NOTE = 1
    WARN = 2
    BROKEN = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a part, and what to do where it is not well."""

    part: str
    level: Level
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything the checks look at."""

    config: Config
    report: Report
    nodes: Mapping[NodeName, ServerChecks]
    login: Credentials | None
    systemctl: Systemctl
    echo: Callable[[Part], bool]
    ask_database: Callable[[NodeName], None]
    """Ask the server of that Orthanc's index. Raises PeerDownError with its words."""
    clock_is_synchronised: Callable[[], bool | None]
    expiry: Callable[[Path], datetime]
    routes: Callable[[], list[JsonRoute]]
    has_firewall: Callable[[], bool]
    clock: Clock
    settings: tuple[Path, ...]

    @property
    def paths(self) -> Paths:
        """The portal's files."""
        return Paths(self.config)


def examine(bench: Bench) -> list[Finding]:
    """Every part, in the order of the flow."""
    found: list[Finding] = []
    for part, check in CHECKS.items():
        try:
            mine = list(check(bench))
        except (DdwdError, OSError) as error:
            mine = [_unlooked(part, error)]
        found += mine or [Finding(part, Level.OK, _FINE[part])]
    return found


def _unlooked(part: str, error: Exception) -> Finding:
    said = (
        str(error) if isinstance(error, DdwdError) else getattr(error, "strerror", "") or type(error).__name__
    )
    if isinstance(error, PermissionError):
        return Finding(part, Level.NOTE, "not looked at: this user may not", "run it with sudo")
    return Finding(part, Level.BROKEN, said, "see: ddwd status")


# --- the checks -------------------------------------------------------------------------------------------------------


def _units(bench: Bench) -> Iterator[Finding]:
    for unit in bench.report.units:
        if not unit.is_well:
            yield Finding(
                "units", Level.BROKEN, f"{unit.name} is {unit.active}", f"journalctl -u {unit.name} -n 50"
            )
    if not bench.report.units:
        yield Finding("units", Level.NOTE, "systemd does not run here")
        return
    enabled = bench.systemctl(["is-enabled", "ddwd.service"])
    if (enabled or "").strip() != "enabled":
        yield Finding("units", Level.WARN, "ddwd does not start at boot", "systemctl enable ddwd")
    if bench.config.database.is_local and not units.is_active(bench.systemctl, "postgresql.service"):
        yield Finding("units", Level.BROKEN, "postgresql is not active", "systemctl start postgresql")


def _settings(bench: Bench) -> Iterator[Finding]:
    if bench.login is None:
        yield Finding(
            "settings", Level.NOTE, "the additions to the Orthancs were not looked at", "run it with sudo"
        )
        return
    for node in _nodes(bench.config):
        for problem in orthanc_config.problems_of(bench.config, bench.login, node):
            yield Finding(
                "settings", Level.BROKEN, f"{problem.source}: {problem.key}: {problem.what}", problem.instead
            )


def _rendered(bench: Bench) -> Iterator[Finding]:
    """What the Orthancs were started with, held against what they would be started with now."""
    if bench.login is None:
        yield Finding("configuration", Level.NOTE, "not looked at: this user may not", "run it with sudo")
        return
    for node in _nodes(bench.config):
        for path in sorted(bench.paths.rendered(node).glob("*.json")):
            tree = json.loads(path.read_text(encoding="utf-8"))
            yield from _against_minimum(node, tree)
            if tree != json.loads(_wanted(bench, bench.login, node)):
                text = f"{node} runs with other settings than those of now"
                yield Finding("configuration", Level.WARN, text, "systemctl restart ddwd")


def _wanted(bench: Bench, login: Credentials, node: NodeName) -> str:
    try:
        return orthanc_config.render(bench.config, login, node)
    except ConfigError:  # told by the check of the settings
        return "{}"


def _against_minimum(node: NodeName, tree: dict[str, Any]) -> Iterator[Finding]:
    for rule in orthanc_config.MINIMUM:
        if not rule.holds(_at(tree, rule.path)):
            key = ".".join(rule.path)
            text = f"{node} runs with {key} set so that images may be lost"
            yield Finding(
                "configuration", Level.BROKEN, text, f"systemctl restart ddwd; it must be {rule.instead}"
            )


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _orthancs(bench: Bench) -> Iterator[Finding]:
    """They answer, are the right ones, and have their plugins."""
    for server in bench.report.servers:
        if server.unasked:
            yield Finding("Orthancs", Level.NOTE, "not asked: this user may not", "run it with sudo")
            return
        if server.problem:
            remedy = _log_of(bench.config, "gateway" if server.name == "gateway" else "storage")
            yield Finding("Orthancs", Level.BROKEN, server.problem, remedy)
            continue
        if server.database != "PostgreSQL" and bench.config.database.engine == "postgresql":
            text = f"{server.name} keeps its index in {server.database}, not in PostgreSQL"
            yield Finding("Orthancs", Level.BROKEN, text, "systemctl restart ddwd")
        node = bench.nodes["gateway" if server.name == "gateway" else "storage"]
        if "dicom-web" not in node.plugins():
            text = f"{server.name} runs without its DICOMweb plugin"
            yield Finding(
                "Orthancs", Level.BROKEN, text, "apt install orthanc-dicomweb, then systemctl restart ddwd"
            )
    yield from _external(bench)


def _log_of(config: Config, node: NodeName) -> str:
    """Where an Orthanc's log is; one elsewhere may be well, and the link to it broken."""
    there = config.node(node).host
    log = f"journalctl -u ddwd-{node} -n 50"
    return log if config.has(node) else f"journalctl -u ddwd-tls@link -n 50; on {there}: {log}"


def _external(bench: Bench) -> Iterator[Finding]:
    """A server elsewhere is reached, as each Orthanc's role; the local one is told of with the units."""
    if bench.config.database.is_local or bench.config.database.engine != "postgresql":
        return
    for node in _nodes(bench.config):
        try:
            bench.ask_database(node)
        except PeerDownError as error:
            text = f"the index of {node} at {databases.place(bench.config)}: {error}"
            remedy = "look at the servers, their pg_hba.conf and the password"
            yield Finding("Orthancs", Level.BROKEN, text, remedy)


def _versions(bench: Bench) -> Iterator[Finding]:
    """Known weaknesses. A distribution may have mended one without a new number, so it is a warning."""
    for version in {server.version for server in bench.report.servers if server.version}:
        numbers = tuple(map(int, re.findall(r"\d+", version)[:3]))
        for mended, flaw in _FLAWS:
            if numbers and numbers < mended:
                wanted = ".".join(map(str, mended))
                remedy = (
                    f"let only your modalities reach it; apt upgrade brings {wanted} or a mended {version}"
                )
                yield Finding("versions", Level.WARN, f"Orthanc {version} has {flaw}", remedy)


def _echoes(bench: Bench) -> Iterator[Finding]:
    """Each DICOM port answers a C-ECHO under its AE title."""
    config = bench.config
    known: tuple[tuple[Part, int, str], ...] = (
        ("gateway", config.gateway.dicom_port, config.gateway.aet),
        ("storage", config.storage.dicom_port, config.storage.aet),
        ("scp", config.scp.port, config.scp.aet),
    )
    reached = (
        {"scp", "gateway", "storage"} if config.has("extractor") else {node.name for node in config.own_nodes}
    )
    for part, port, aet in known:
        if part in reached and not bench.echo(part):
            text = f"{aet} does not answer a C-ECHO on port {port}"
            log = f"journalctl -u ddwd-{part} -n 50" if part == "scp" else _log_of(config, part)
            yield Finding("C-ECHO", Level.BROKEN, text, f"ss -ltnp 'sport = :{port}'; {log}")


def _hops(bench: Bench) -> Iterator[Finding]:
    """Each part reaches the next as it will have to: STOW-RS by DICOMweb, C-MOVE by C-ECHO; and the other destinations."""
    yield from _destinations(bench)
    if bench.login is None:
        yield Finding("hops", Level.NOTE, "not asked: this user may not", "run it with sudo")
        return
    if "gateway" in bench.nodes:
        yield from _reaches_storage(bench.nodes["gateway"])
    if "storage" in bench.nodes:
        for one in machine_link.receivers(bench.config):
            yield from _reaches_receiver(bench.nodes["storage"], one.aet)


def _reaches_storage(gateway: ServerChecks) -> Iterator[Finding]:
    try:
        gateway.reaches(orthanc_config.STORAGE_SERVER)
    except DdwdError as error:
        yield Finding(
            "hops", Level.BROKEN, f"ORTHANC1 does not reach ORTHANC2 by DICOMweb: {error}", "ddwd status"
        )


def _reaches_receiver(storage: ServerChecks, aet: str) -> Iterator[Finding]:
    try:
        storage.echoes(aet)
    except DdwdError as error:
        text = f"ORTHANC2 does not reach the SCP {aet}: {error}"
        yield Finding("hops", Level.BROKEN, text, "journalctl -u ddwd-scp -n 50, on its machine")


def _destinations(bench: Bench) -> Iterator[Finding]:
    """Each answers, and takes what it is sent."""
    told = {row["name"]: row for row in bench.report.destinations}
    for one in bench.config.destinations if bench.config.has("gateway") else ():
        row = told.get(one.name)
        if row is None:
            text = f"ddwd-courier has not told of {one.name} yet"
            yield Finding("hops", Level.NOTE, text, "systemctl status ddwd-courier")
        elif row["state"] == "away":
            text = f"{one.name} does not answer since {time(row['since'])}: {row['reason']}"
            yield Finding("hops", Level.BROKEN, text, "ddwd destinations list")
        elif row["reason"]:
            studies = many(row["studies"], "study", "studies")
            text = f"{one.name} answers, and {studies} could not be sent: {row['reason']}"
            yield Finding("hops", Level.WARN, text, "ddwd destinations list")


def _daemons(bench: Bench) -> Iterator[Finding]:
    for heart in bench.report.hearts:
        if heart.problem:
            yield Finding("daemons", Level.BROKEN, heart.problem, f"journalctl -u ddwd-{heart.daemon} -n 50")
    if bench.report.paused:
        yield Finding("daemons", Level.WARN, "fetching is paused by the operator", "ddwd resume")
    for extractor in bench.report.hearts[-1:]:
        for name, reason in extractor.silent_peers.items():
            text = f"the extractor cannot reach {name}: {reason}"
            yield Finding("daemons", Level.BROKEN, text, "ddwd status")


def _sweep(bench: Bench) -> Iterator[Finding]:
    """That all studies are compared again and again: a round that never ends guards nothing."""
    swept = bench.report.swept
    since = swept.get("ended_at") or swept.get("began_at")
    if since and bench.clock.utc() - datetime.fromisoformat(since) > _SWEEP:
        text = f"not all studies were compared since {since[:10]}"
        yield Finding("comparison", Level.WARN, text, "look at the Orthancs' load, then: ddwd reconcile")


def _disks(bench: Bench) -> Iterator[Finding]:
    for volume in bench.report.volumes:
        if volume.problem:
            yield Finding(
                "disk", Level.BROKEN, volume.problem, "make room, or set output_dir to a larger disk"
            )
        elif volume.level not in {"", "ok"}:
            yield Finding("disk", Level.WARN, f"{volume.path} gets short of room", "make room")
    yield from _retention(bench)


def _retention(bench: Bench) -> Iterator[Finding]:
    """Whether what may be removed is, where room gets short."""
    is_short = any(volume.level not in {"", "ok"} for volume in bench.report.volumes)
    if not bench.config.retention.places(bench.config.routes):
        if is_short:
            text = "room gets short, and nothing is ever removed"
            yield Finding("disk", Level.WARN, text, f"set retention in {CONFIG_FILE} (docs/retention.md)")
        return
    last = bench.report.retention.get("last") or {}
    if last.get("problem"):
        text = f"the last round of retention was broken off: {last['problem']}"
        yield Finding("disk", Level.WARN, text, "ddwd status")
    for place, tally in last.get("places", {}).items():
        for kept in tally["kept"]:
            studies = many(kept["studies"], "study has", "studies have")
            text = f"{studies} to stay on the {place}, as {kept['example']}: {kept['reason']}"
            yield Finding("disk", Level.WARN, text, "ddwd retention --dry-run")
    places = last.get("places", {}).values()
    if is_short and places and not any(tally["studies"] or tally["kept"] for tally in places):
        text = "room gets short, and nothing that may go is old enough"
        yield Finding("disk", Level.WARN, text, "fewer days in retention, or a larger disk")
    since = last.get("ended_at")
    if since and bench.clock.utc() - datetime.fromisoformat(since) > _ROUND:
        text = f"no round of retention has ended since {since[:10]}"
        yield Finding("disk", Level.WARN, text, "journalctl -u ddwd-extractor -n 50")


def _permissions(bench: Bench) -> Iterator[Finding]:
    """Patient data is for the portal and group ddwd alone; and the portal can write where it must."""
    paths = bench.paths
    output = [paths.output] if bench.config.has("extractor") else []
    for path in (*output, paths.state, paths.quarantine):
        try:
            found = path.stat()
        except FileNotFoundError:
            yield Finding(
                "permissions",
                Level.BROKEN,
                f"{path} is missing",
                f"install -d -o ddwd -g ddwd -m 0750 {path}",
            )
            continue
        if stat.S_IMODE(found.st_mode) & stat.S_IRWXO:
            yield Finding("permissions", Level.BROKEN, f"{path} is open to every user", f"chmod o= {path}")
        if not stat.S_IMODE(found.st_mode) & stat.S_IWUSR or found.st_uid != paths.state.stat().st_uid:
            yield Finding(
                "permissions",
                Level.BROKEN,
                f"{path} is not ddwd's to write",
                f"chown ddwd:ddwd {path}; chmod 750 {path}",
            )
    for file in (bench.config.credentials_file, *_with_secrets(bench)):
        if file.stat().st_mode & stat.S_IRWXO:
            yield Finding("permissions", Level.BROKEN, f"{file} is open to every user", f"chmod 640 {file}")


def _with_secrets(bench: Bench) -> list[Path]:
    """The files of the settings, where a password is among them."""
    values = flatten(bench.config)
    passwords = [values[key] for key in SECRET_KEYS] + [one.password for one in bench.config.destinations]
    secret = any(one is not None for one in passwords)
    return [file for file in bench.settings if secret and file.exists()]


def _clock(bench: Bench) -> Iterator[Finding]:
    if bench.clock_is_synchronised() is False:
        remedy = "timedatectl set-ntp true (or chrony)"
        yield Finding("clock", Level.WARN, "the machine's clock is not synchronised", remedy)
    for node in bench.nodes.values():
        try:
            skew = abs((node.now() - bench.clock.utc()).total_seconds())
        except DdwdError:
            continue  # told by the check of the Orthancs
        if skew > _SKEW_SECONDS:
            yield Finding(
                "clock", Level.BROKEN, f"{node.name}'s clock is {span(skew)} off", "systemctl restart ddwd"
            )


@dataclass(frozen=True, slots=True)
class Expiring:
    """A certificate file that has expired or will within EXPIRES_DAYS, and what to do."""

    path: Path
    left: timedelta
    remedy: str = "put a new one there, then systemctl restart ddwd"

    @property
    def has_expired(self) -> bool:
        """Whether it is no longer valid."""
        return self.left <= timedelta(0)

    @property
    def text(self) -> str:
        """One line for people."""
        if self.has_expired:
            return f"{self.path} has expired"
        return f"{self.path} expires in {many(self.left.days, 'day', 'days')}"


def expiring(
    config: Config, login: Credentials, now: datetime, expiry: Callable[[Path], datetime]
) -> Iterator[Expiring]:
    """Yield the certificates in use that have expired or will soon. Raises ConfigError for one that cannot be read."""
    for path in certificate_files(config, login):
        left = expiry(path) - now
        if left < timedelta(days=EXPIRES_DAYS):
            yield Expiring(path, left)


def _certificates(bench: Bench) -> Iterator[Finding]:
    """What the Orthancs and the audit relay were given for TLS."""
    files = list(certificate_files(bench.config, bench.login)) if bench.login else []
    if not files:
        yield Finding("certificates", Level.NOTE, "none in use: DICOM and the web pages are not encrypted")
    if bench.login is not None:
        for one in expiring(bench.config, bench.login, bench.clock.utc(), bench.expiry):
            level = Level.BROKEN if one.has_expired else Level.WARN
            yield Finding("certificates", level, one.text, one.remedy)


def certificate_files(config: Config, login: Credentials) -> Iterator[Path]:
    """Every file of the configuration that holds certificates."""
    found = dict.fromkeys([*tls.certificates_in_use(config), *tls.of_link(config)])
    for node in _nodes(config):
        tree = orthanc_config.merged(config, login, node)[0].tree
        found |= dict.fromkeys(Path(str(tree[key])) for key in _CERTIFICATE_KEYS if tree.get(key))
    yield from found
    yield from (path for path in (config.audit.ca, config.audit.certificate) if path is not None)


def _senders(bench: Bench) -> Iterator[Finding]:
    """Who may send."""
    config = bench.config
    if not config.senders and config.has("gateway"):
        text = f"anyone who reaches port {config.gateway.dicom_port} may send, by any AE title"
        remedy = f"list your modalities in senders in {CONFIG_FILE}"
        yield Finding("senders", Level.WARN, text, remedy)


def _firewall(bench: Bench) -> Iterator[Finding]:
    """The table of nftables is there where it is wanted, and only then."""
    wanted = bench.config.network.firewall
    if bench.login is not None and bench.has_firewall() is not wanted:
        text = f"network.firewall is {'on' if wanted else 'off'}, and the table is {'not there' if wanted else 'still there'}"
        remedy = "systemctl restart ddwd-firewall; journalctl -u ddwd-firewall -n 20"
        yield Finding("firewall", Level.BROKEN if wanted else Level.WARN, text, remedy)


def _quickack(bench: Bench) -> Iterator[Finding]:
    """Senders in these networks are acknowledged at once."""
    routes = bench.routes()
    for network in bench.config.network.quickack:
        wanted, notes = quickack.twins(routes, network)
        for note in notes:
            remedy = "ip route; or take it out of network.quickack in /etc/ddwd/ddwd.yaml"
            yield Finding("quickack", Level.WARN, note, remedy)
        if not set(wanted) <= set(quickack.own(routes)):
            text = f"senders in {network} may wait 40 ms for each acknowledgement"
            remedy = "systemctl restart ddwd-quickack; journalctl -u ddwd-quickack -n 20"
            yield Finding("quickack", Level.WARN, text, remedy)


def _waiting(bench: Bench) -> Iterator[Finding]:
    """What waits for the operator."""
    if bench.report.quarantine:
        text = f"{many(bench.report.quarantine, 'image waits', 'images wait')} in quarantine"
        yield Finding("waiting", Level.WARN, text, "ddwd quarantine list")
    bad = sorted(bench.paths.requests.glob("*.bad"))
    if bad:
        text = f"{many(len(bad), 'request was', 'requests were')} damaged and not done"
        yield Finding("waiting", Level.WARN, text, f"rm {bench.paths.requests}/*.bad")
    for folder, count in bench.report.aside.items():
        yield Finding("waiting", Level.WARN, aside_text(folder, count), f"ls -l {folder}")
    if waiting := bench.report.counts.get("waiting", 0):
        text = f"{many(waiting, 'study waits', 'studies wait')} after a failure"
        yield Finding("waiting", Level.WARN, text, "ddwd-top, or ddwd trace STUDY")


def _self_test(bench: Bench) -> Iterator[Finding]:
    """What the last study of our own did."""
    last = bench.report.self_test
    if not bench.config.has("extractor"):
        yield Finding("self test", Level.NOTE, "the extractor's machine makes it")
    elif last is None:
        yield Finding("self test", Level.NOTE, "none was made yet", "ddwd doctor --send")
    elif not last.get("ok"):
        yield Finding(
            "self test", Level.BROKEN, f"the last one failed: {last.get('text')}", "ddwd doctor --send"
        )


def _nodes(config: Config) -> tuple[NodeName, ...]:
    """The Orthancs whose settings are made on this machine."""
    return tuple(node.name for node in config.own_nodes)


CHECKS: dict[str, Callable[[Bench], Iterator[Finding]]] = {
    "units": _units,
    "settings": _settings,
    "configuration": _rendered,
    "Orthancs": _orthancs,
    "versions": _versions,
    "C-ECHO": _echoes,
    "hops": _hops,
    "daemons": _daemons,
    "comparison": _sweep,
    "disk": _disks,
    "permissions": _permissions,
    "clock": _clock,
    "certificates": _certificates,
    "senders": _senders,
    "firewall": _firewall,
    "quickack": _quickack,
    "waiting": _waiting,
    "self test": _self_test,
}
_FINE = {
    "units": "all active, enabled at boot",
    "settings": "sound, with every addition",
    "configuration": "both Orthancs run with what was set, and lose nothing by it",
    "Orthancs": "both answer, with PostgreSQL and DICOMweb",
    "versions": "no known weakness",
    "C-ECHO": "all three AE titles answer",
    "hops": "ORTHANC1 reaches ORTHANC2, ORTHANC2 reaches the SCP",
    "daemons": "both heartbeats fresh, both Orthancs reached",
    "comparison": "every study is compared again and again",
    "disk": "room everywhere",
    "permissions": "patient data is for group ddwd alone",
    "clock": "synchronised, and the same everywhere",
    "certificates": "valid",
    "senders": "only those in the list may send",
    "firewall": "as network.firewall says",
    "quickack": "every network of network.quickack has its routes",
    "waiting": "nothing waits for you",
    "self test": "the last one passed",
}


def expiry_of(path: Path) -> datetime:
    """When the first certificate of a PEM file ends. Raises ConfigError where there is none."""
    try:
        # the interpreter's own reader: it takes a file, and gives what X.509 says as a dict
        facts: dict[str, Any] = ssl._ssl._test_decode_cert(str(path))  # type: ignore[attr-defined]
    except (OSError, ssl.SSLError, ValueError) as error:
        what, instead = "is no certificate that can be read", "put one in PEM form there"
        raise ConfigError([Problem(str(path), None, "certificate", what, instead)]) from error
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(facts["notAfter"]), UTC)
