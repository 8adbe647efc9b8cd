"""The settings: defaults, ddwd.yaml, /etc/default/ddwd and the environment become one frozen Config.

Read by every process at start; the operator is the only writer of the files. A later source wins: defaults,
the YAML file, the defaults file, the environment. All that is wrong is collected and named in one run.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import chain, combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import yaml

from ddwd.config import sections
from ddwd.config.parsers import (
    DEFAULT,
    Many,
    Network,
    Parser,
    Raw,
    Receiver,
    Sender,
    Source,
    Station,
    WrongValueError,
    address,
    aet,
    choice,
    database_hosts,
    database_url,
    days,
    folder,
    host,
    identifier,
    network,
    receiver,
    seconds,
    secret,
    sender,
    servers_url,
    share,
    size,
    station,
    switch,
    url,
    whole,
)
from ddwd.config.retention import Retention
from ddwd.config.routing import Destination, Route
from ddwd.core.errors import AccessProblem, ConfigError, Problem

NodeName = Literal["gateway", "storage"]
Role = Literal["gateway", "storage", "extractor"]
ROLES: tuple[Role, ...] = get_args(Role)

HERE = "127.0.0.1"
CONFIG_FILE = Path("/etc/ddwd/ddwd.yaml")
DEFAULTS_FILE = Path("/etc/default/ddwd")
READ_HINT = "run it with sudo, or as a member of group ddwd (adduser NAME ddwd, then log in again)"


@dataclass(frozen=True, slots=True)
class OrthancNode:
    """One of the two Orthancs. Its ports are on this machine's loopback, also where it runs on `host`: the link leads there."""

    name: NodeName
    aet: str
    dicom_port: int
    http_port: int
    host: str = HERE

    @property
    def url(self) -> str:
        """Base of its REST API, which answers on the loopback only."""
        return f"http://127.0.0.1:{self.http_port}"


@dataclass(frozen=True, slots=True)
class Scp:
    """Where the portal's own C-STORE SCP listens."""

    aet: str = "PYTHON_SCP"
    host: str = "127.0.0.1"
    port: int = 11112


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """How the machines of one portal reach each other: one port on each, by TLS with certificates on both sides.

    `networks` may reach it where ddwd-firewall closes ports; () is every one.
    """

    port: int = 8450
    networks: tuple[Network, ...] = ()
    folder: Path = Path("/etc/ddwd/link")


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """Networks whose senders are acknowledged at once, by routes of ddwd-quickack's own; whether ddwd-firewall closes ports."""

    quickack: tuple[Network, ...] = (ipaddress.IPv4Network("127.0.0.0/8"),)
    firewall: bool = False


@dataclass(frozen=True, slots=True)
class TlsConfig:
    """Which hops are encrypted, each with certificates on both sides (PS3.15 annex B, BCP 195), and where these lie.

    `gateway` is off, both (a port for TLS beside the plain one) or only. What is None is the file of that name in `folder`.
    """

    gateway: str = "off"
    gateway_port: int = 2762
    dicomweb: bool = False
    dicomweb_port: int = 8444
    storage: bool = False
    scp: bool = False
    folder: Path = Path("/etc/ddwd/tls")
    gateway_certificate: Path | None = None
    gateway_key: Path | None = None
    senders_ca: Path | None = None

    @property
    def is_used(self) -> bool:
        """Whether any hop is encrypted."""
        return self.gateway != "off" or self.dicomweb or self.storage or self.scp


@dataclass(frozen=True, slots=True)
class WebConfig:
    """Whether other machines reach the Orthancs' web pages, by HTTPS and login; `networks` () is every one."""

    open: bool = False
    networks: tuple[Network, ...] = ()
    gateway_port: int = 8442
    storage_port: int = 8443

    def port_for(self, node: NodeName) -> int:
        """Port for HTTPS of that Orthanc's pages."""
        return self.gateway_port if node == "gateway" else self.storage_port


@dataclass(frozen=True, slots=True)
class Forward:
    """How the gateway's Lua sends; after `grace` seconds the extractor sends what it left."""

    mode: str = "streaming"
    batch: int = 40
    grace: float = 5.0


@dataclass(frozen=True, slots=True)
class Database:
    """Where the two indexes live; `host` and `url` None is the local server, by Unix socket and peer authentication.

    `url` names the servers of a cluster, without role, password and database.
    """

    engine: str = "postgresql"
    url: str | None = None
    host: str | None = None
    port: int = 5432
    gateway_name: str = "ddwd_gateway"
    storage_name: str = "ddwd_storage"
    gateway_user: str = "ddwd-gateway"
    storage_user: str = "ddwd-storage"
    password: str | None = field(default=None, repr=False)
    password_file: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether the indexes are on this machine's PostgreSQL server."""
        return self.engine == "postgresql" and self.host is None and self.url is None

    def name_for(self, node: NodeName) -> str:
        """Database of that Orthanc."""
        return self.gateway_name if node == "gateway" else self.storage_name

    def user_for(self, node: NodeName) -> str:
        """Role of that Orthanc; locally it is its system user too."""
        return self.gateway_user if node == "gateway" else self.storage_user


@dataclass(frozen=True, slots=True)
class FinishedConfig:
    """Seconds that a rule's hook may take."""

    timeout: float = 600.0


@dataclass(frozen=True, slots=True)
class Retrieve:
    """One C-MOVE asks for at most `batch` instances and may be silent for `timeout` seconds.

    An image that failed `tries` times while others passed goes to quarantine.
    """

    batch: int = 200
    timeout: float = 300.0
    tries: int = 6


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes kept free on each volume, but at most a twentieth of it (ddwd/core/disk_space.py)."""

    reserve: int = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """Size in bytes at which a segment is rotated; days that old segments are kept.

    `shared` is the database in which several extractors keep ledger and custody records together (a URL without password); None is
    files, for the one extractor there is.
    """

    segment_bytes: int = 8 * 1024 * 1024
    keep_days: int = 400
    shared: str | None = None
    password_file: Path | None = None

    @property
    def is_shared(self) -> bool:
        """Whether several extractors share the work."""
        return self.shared is not None

    @property
    def hosts(self) -> tuple[str, ...]:
        """The servers of the shared database."""
        return database_hosts(self.shared) if self.shared else ()


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """Whether audit records carry the patient ID; the audit repository they are sent to, by syslog (PS3.15 A.6)."""

    patient_id: bool = False
    host: str | None = None
    port: int = 6514
    transport: str = "tls"
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Where the metrics are written for node_exporter's textfile collector."""

    textfile: Path = Path("/run/ddwd/monitor/ddwd.prom")


@dataclass(frozen=True, slots=True)
class AlertsConfig:
    """Minutes that something must last to be told; whether silent modalities are; where it is POSTed as JSON."""

    after: int = 5
    silence: bool = True
    webhook: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Mail:
    """How alerts go out by mail; without a `server` none does."""

    server: str | None = None
    port: int = 587
    tls: str = "starttls"
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    sender: str = "ddwd@localhost"
    recipient: str = "root@localhost"


@dataclass(frozen=True, slots=True)
class InboxConfig:
    """Whether there is a drop folder, where, and the seconds for which what is put there must not change."""

    enabled: bool = True
    folder: Path = Path("/var/lib/ddwd/inbox")
    settle: float = 10.0


@dataclass(frozen=True, slots=True)
class CommitmentConfig:
    """Storage commitment: who may ask, and where each is answered; what it is given on, and the seconds to wait for that."""

    modalities: tuple[Station, ...] = ()
    after: str = "stored"
    wait: float = 3600.0


@dataclass(frozen=True, slots=True)
class SelfTestConfig:
    """Whether the portal sends itself a made-up study every hour (ddwd-doctor.timer)."""

    hourly: bool = True


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting; `roles` is what runs here; `poll_interval` and `stable_age` are seconds."""

    roles: tuple[Role, ...] = ROLES
    gateway: OrthancNode = field(default_factory=lambda: OrthancNode("gateway", "ORTHANC1", 4242, 8042))
    storage: OrthancNode = field(default_factory=lambda: OrthancNode("storage", "ORTHANC2", 4243, 8043))
    scp: Scp = field(default_factory=Scp)
    extractors: tuple[Receiver, ...] = ()
    link: LinkConfig = field(default_factory=LinkConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    senders: tuple[Sender, ...] = ()
    tls: TlsConfig = field(default_factory=TlsConfig)
    web: WebConfig = field(default_factory=WebConfig)
    output_dir: Path = Path("/var/lib/ddwd/received_dicom")
    poll_interval: float = 5.0
    stable_age: int = 3
    forward: Forward = field(default_factory=Forward)
    database: Database = field(default_factory=Database)
    routes: tuple[Route, ...] = ()
    destinations: tuple[Destination, ...] = ()
    finished: FinishedConfig = field(default_factory=FinishedConfig)
    retrieve: Retrieve = field(default_factory=Retrieve)
    disk: Disk = field(default_factory=Disk)
    retention: Retention = field(default_factory=Retention)
    ledger: LedgerConfig = field(default_factory=LedgerConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)
    mail: Mail = field(default_factory=Mail)
    inbox: InboxConfig = field(default_factory=InboxConfig)
    commitment: CommitmentConfig = field(default_factory=CommitmentConfig)
    self_test: SelfTestConfig = field(default_factory=SelfTestConfig)
    data_dir: Path = Path("/var/lib/ddwd")
    run_dir: Path = Path("/run/ddwd")
    credentials_file: Path = Path("/etc/ddwd/credentials.json")

    def node(self, name: NodeName) -> OrthancNode:
        """The Orthanc of that name."""
        return self.gateway if name == "gateway" else self.storage

    def has(self, role: Role) -> bool:
        """Whether that part runs on this machine."""
        return role in self.roles

    @property
    def is_linked(self) -> bool:
        """Whether other machines belong to this portal."""
        return set(self.roles) != set(ROLES) or bool(self.extractors)

    @property
    def own_nodes(self) -> tuple[OrthancNode, ...]:
        """The Orthancs of this machine."""
        return tuple(node for node in (self.gateway, self.storage) if self.has(node.name))

    @property
    def known_nodes(self) -> tuple[OrthancNode, ...]:
        """The Orthancs that are asked by REST from this machine: both where an extractor is, else its own."""
        return (self.gateway, self.storage) if self.has("extractor") else self.own_nodes


@dataclass(frozen=True, slots=True)
class Loaded:
    """A Config and, for each dotted key, the source its value came from."""

    config: Config
    sources: Mapping[str, Source]

    def problem(self, key: str, what: str, instead: str) -> Problem:
        """A Problem found later (a taken port, a read-only folder), placed where the value was written."""
        source = self.sources.get(key, DEFAULT)
        return Problem(source.name, source.line, key, what, instead)


class _Table(NamedTuple):
    """The entries of a list of sections, and where it begins."""

    entries: tuple[object, ...]
    source: Source


_Written = Raw | Many | _Table | None
"""What stands at a key: one value, a list, a list of sections, or nothing."""


class _Setting(NamedTuple):
    """One key: how it is parsed, which variables set it (the first wins), whether nothing is a value.

    `many`: a tuple of values, each parsed by itself; written as a YAML list, or in one line with commas.
    `table`: a list of sections, read as a whole (ddwd/config/sections.py).
    """

    parse: Parser
    variables: tuple[str, ...] = ()
    optional: bool = False
    many: bool = False
    table: Callable[[yaml.Node, str, sections.Say], tuple[object, ...]] | None = None


_PORT = whole(1, 65535)

SETTINGS: Mapping[str, _Setting] = {
    "roles": _Setting(choice(*ROLES), many=True),
    "gateway.aet": _Setting(aet),
    "gateway.host": _Setting(host),
    "gateway.dicom_port": _Setting(_PORT, ("DICOM_PORT1",)),
    "gateway.http_port": _Setting(_PORT, ("HTTP_PORT1",)),
    "storage.aet": _Setting(aet),
    "storage.host": _Setting(host),
    "storage.dicom_port": _Setting(_PORT, ("DICOM_PORT2",)),
    "storage.http_port": _Setting(_PORT, ("HTTP_PORT2",)),
    "scp.aet": _Setting(aet),
    "scp.host": _Setting(host),
    "scp.port": _Setting(_PORT),
    "extractors": _Setting(receiver, many=True),
    "link.port": _Setting(_PORT),
    "link.networks": _Setting(network, many=True),
    "link.folder": _Setting(folder),
    "network.quickack": _Setting(network, many=True),
    "network.firewall": _Setting(switch),
    "senders": _Setting(sender, many=True),
    "tls.gateway": _Setting(choice("off", "both", "only")),
    "tls.gateway_port": _Setting(_PORT),
    "tls.dicomweb": _Setting(switch),
    "tls.dicomweb_port": _Setting(_PORT),
    "tls.storage": _Setting(switch),
    "tls.scp": _Setting(switch),
    "tls.folder": _Setting(folder),
    "tls.gateway_certificate": _Setting(folder, optional=True),
    "tls.gateway_key": _Setting(folder, optional=True),
    "tls.senders_ca": _Setting(folder, optional=True),
    "web.open": _Setting(switch),
    "web.networks": _Setting(network, many=True),
    "web.gateway_port": _Setting(_PORT),
    "web.storage_port": _Setting(_PORT),
    "output_dir": _Setting(folder, ("OUTPUT_DIR",)),
    "poll_interval": _Setting(seconds(0.1, 3600), ("POLL_INTERVAL",)),
    "stable_age": _Setting(whole(1, 3600), ("STABLE_AGE", "ORTHANC__STABLE_AGE")),
    "forward.mode": _Setting(choice("streaming", "stable")),
    "forward.batch": _Setting(whole(1, 1000)),
    "forward.grace": _Setting(seconds(1, 86400)),
    "database.engine": _Setting(choice("postgresql", "sqlite")),
    "database.url": _Setting(servers_url, optional=True),
    "database.host": _Setting(host, optional=True),
    "database.port": _Setting(_PORT),
    "database.gateway_name": _Setting(identifier),
    "database.storage_name": _Setting(identifier),
    "database.gateway_user": _Setting(identifier),
    "database.storage_user": _Setting(identifier),
    "database.password": _Setting(secret, ("POSTGRES_PASSWORD",), optional=True),
    "database.password_file": _Setting(folder, optional=True),
    "routes": _Setting(sections.one_line, table=sections.routes),
    "destinations": _Setting(sections.one_line, table=sections.destinations),
    "finished.timeout": _Setting(seconds(1, 86400)),
    "retrieve.batch": _Setting(whole(1, 10_000)),
    "retrieve.timeout": _Setting(seconds(10, 86400)),
    "retrieve.tries": _Setting(whole(2, 1000)),
    "disk.reserve": _Setting(size(64 * 1024**2, 1024**4)),
    "retention.gateway_days": _Setting(days, optional=True),
    "retention.storage_days": _Setting(days, optional=True),
    "retention.output_days": _Setting(days, optional=True),
    "retention.gateway_free": _Setting(share, optional=True),
    "retention.storage_free": _Setting(share, optional=True),
    "retention.output_free": _Setting(share, optional=True),
    "retention.least_days": _Setting(days),
    "retention.remove_last_copy": _Setting(switch),
    "ledger.segment_bytes": _Setting(whole(64 * 1024, 1024**3)),
    "ledger.keep_days": _Setting(whole(1, 36500)),
    "ledger.shared": _Setting(database_url, optional=True),
    "ledger.password_file": _Setting(folder, optional=True),
    "audit.patient_id": _Setting(switch),
    "audit.host": _Setting(host, optional=True),
    "audit.port": _Setting(_PORT),
    "audit.transport": _Setting(choice("tls", "udp")),
    "audit.ca": _Setting(folder, optional=True),
    "audit.certificate": _Setting(folder, optional=True),
    "audit.key": _Setting(folder, optional=True),
    "metrics.textfile": _Setting(folder),
    "alerts.after": _Setting(whole(0, 1440)),
    "alerts.silence": _Setting(switch),
    "alerts.webhook": _Setting(url, optional=True),
    "mail.server": _Setting(host, optional=True),
    "mail.port": _Setting(_PORT),
    "mail.tls": _Setting(choice("starttls", "tls", "none")),
    "mail.user": _Setting(secret, optional=True),
    "mail.password": _Setting(secret, optional=True),
    "mail.sender": _Setting(address),
    "mail.recipient": _Setting(address),
    "inbox.enabled": _Setting(switch),
    "inbox.folder": _Setting(folder),
    "inbox.settle": _Setting(seconds(1, 3600)),
    "commitment.modalities": _Setting(station, many=True),
    "commitment.after": _Setting(choice("stored", "verified")),
    "commitment.wait": _Setting(seconds(1, 86400)),
    "self_test.hourly": _Setting(switch),
    "data_dir": _Setting(folder),
    "run_dir": _Setting(folder),
    "credentials_file": _Setting(folder),
}
"""Every key that ddwd.yaml may hold, in the order of etc/ddwd.yaml."""

SECRET_KEYS = frozenset({"database.password", "mail.password", "alerts.webhook"})
PORT_KEYS = (
    "gateway.dicom_port",
    "gateway.http_port",
    "storage.dicom_port",
    "storage.http_port",
    "scp.port",
    "tls.gateway_port",
    "tls.dicomweb_port",
    "web.gateway_port",
    "web.storage_port",
    "link.port",
)
"""Every key of a port; those of TLS are listened on where TLS has them (`ports`)."""
AET_KEYS = ("gateway.aet", "storage.aet", "scp.aet")
VARIABLES = {name: key for key, setting in SETTINGS.items() for name in setting.variables}
_SECTIONS = frozenset(key.partition(".")[0] for key in SETTINGS if "." in key)


def flatten(config: Config) -> dict[str, object]:
    """Every dotted key with its value, in the order of SETTINGS; secrets in clear."""
    return {key: _get(config, key) for key in SETTINGS}


def ports(config: Config) -> list[str]:
    """The keys of the ports that are listened on with these settings."""
    unused = set() if config.tls.gateway == "both" else {"tls.gateway_port"}
    unused |= set() if config.tls.dicomweb else {"tls.dicomweb_port"}
    unused |= set() if config.web.open else {"web.gateway_port", "web.storage_port"}
    unused |= set() if config.is_linked else {"link.port"}
    if not config.has("extractor"):
        unused |= {"scp.port", *(key for key in PORT_KEYS if key.startswith(_away(config)))}
    return [key for key in PORT_KEYS if key not in unused]


def _away(config: Config) -> tuple[str, ...]:
    """How the keys of Orthancs begin that this machine neither has nor reaches."""
    away = () if config.has("gateway") else ("gateway.",)
    return away if config.has("storage") or config.has("gateway") else (*away, "storage.")


def _get(config: Config, key: str) -> object:
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value


def load(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Read every source and return the settings; raises ConfigError with all problems at once.

    `path` is the YAML file (else $DDWD_CONFIG, else /etc/ddwd/ddwd.yaml, which may be absent).
    """
    return load_with_sources(path, environ).config


def load_with_sources(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Loaded:
    """Do as `load`, and tell for each key where its value was written."""
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    raws: dict[str, _Written] = {}
    named = path or (Path(environ["DDWD_CONFIG"]) if environ.get("DDWD_CONFIG") else None)
    raws.update(_read_yaml(named or CONFIG_FILE, must_exist=named is not None, problems=problems))
    assigned = _read_defaults(Path(environ.get("DDWD_DEFAULTS") or DEFAULTS_FILE), problems)
    raws.update(_of_variables(assigned))
    raws.update(_of_environment(environ, assigned))
    if all(isinstance(problem, AccessProblem) for problem in problems):
        del problems[1:]  # one line is enough for who may read neither file
    loaded, wrong = _build(raws)
    problems += chain.from_iterable(wrong.values())
    problems += _clashes(loaded, [key for key in ports(loaded.config) if key not in wrong], "port")
    problems += _clashes(loaded, [key for key in AET_KEYS if key not in wrong], "AE title")
    problems += _nowhere(loaded)
    problems += _asked_twice(loaded)
    problems += _unkeepable(loaded)
    if problems:
        raise ConfigError(sorted(problems, key=lambda problem: (problem.source, problem.line or 0)))
    return loaded


def _unreadable(path: Path, error: OSError) -> Problem:
    what = f"cannot be read ({error.strerror or error})"
    if isinstance(error, PermissionError):
        return AccessProblem(str(path), None, "file", what, READ_HINT)
    return Problem(str(path), None, "file", what, "put the file back, or correct the path")


def _read_yaml(path: Path, *, must_exist: bool, problems: list[Problem]) -> dict[str, _Written]:
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except FileNotFoundError as error:
        problems += [_unreadable(path, error)] if must_exist else []
        return {}
    except OSError as error:
        problems.append(_unreadable(path, error))
        return {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problems.append(_not_yaml(path, error))
        return {}
    return _YamlFile(path, problems).read(root)


def _not_yaml(path: Path, error: Exception) -> Problem:
    mark = getattr(error, "problem_mark", None)
    said = getattr(error, "problem", None) or getattr(error, "reason", None) or "unreadable"
    instead = "write `key: value` lines, sections indented, as in the file of the package"
    if "alias" in str(getattr(error, "context", "")) + said:
        instead = 'put text that begins with * in quotes, as "* from 10.3.0.0/16"'
    return Problem(str(path), None if mark is None else mark.line + 1, "syntax", f"not YAML: {said}", instead)


class _YamlFile:
    """Walks the nodes of one YAML file, which still know their lines."""

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self._name = str(path)
        self._problems = problems

    def read(self, root: yaml.Node | None) -> dict[str, _Written]:
        """Return key -> value as written (None: written empty); problems go to the list."""
        if root is None:
            return {}
        found: dict[str, _Written] = {}
        for key, node in self._entries(root, "", "the file"):
            if key in _SECTIONS:
                found.update(self._section(key, node))
            else:
                self._value(key, node, found)
        return found

    def _section(self, section: str, node: yaml.Node) -> dict[str, _Written]:
        found: dict[str, _Written] = {}
        if self._is_null(node):
            return found
        for key, value in self._entries(node, f"{section}.", section):
            self._value(key, value, found)
        return found

    def _entries(self, node: yaml.Node, prefix: str, what: str) -> list[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self._say(node, what, "is not a section", "write `key: value` lines, indented below it")
            return []
        entries: dict[str, yaml.Node] = {}
        for key_node, value in node.value:
            key = prefix + str(key_node.value)
            if key in entries:
                self._say(key_node, key, "is given twice", "keep one of the two lines")
            elif key in SETTINGS or key in _SECTIONS:
                entries[key] = value
            else:
                self._say(key_node, key, "is not a known key", _nearest_key(key, prefix))
        return list(entries.items())

    def _value(self, key: str, node: yaml.Node, found: dict[str, _Written]) -> None:
        if read := SETTINGS[key].table:
            entries = read(node, self._name, self._say)
            found[key] = _Table(entries, Source(self._name, _line(node)))
        elif SETTINGS[key].many:
            self._many(key, node, found)
        else:
            self._scalar(key, node, found)

    def _many(self, key: str, node: yaml.Node, found: dict[str, _Written]) -> None:
        """Take a list, or the same in one line with commas; nothing is a list of nothing."""
        source = Source(self._name, _line(node))
        if isinstance(node, yaml.SequenceNode):
            texts = [(entry, getattr(entry, "value", None)) for entry in node.value]
        elif isinstance(node, yaml.ScalarNode):
            texts = [] if self._is_null(node) else [(node, text) for text in node.value.split(",")]
        else:
            texts = [(node, None)]
        for entry, text in texts:
            if not isinstance(text, str):
                self._say(entry, key, "has a list or a section for an entry", "write a list, as [A, B]")
        raws = (
            Raw(text.strip(), True, Source(self._name, _line(entry)))
            for entry, text in texts
            if isinstance(text, str)
        )
        found[key] = Many(tuple(raws), source)

    def _scalar(self, key: str, node: yaml.Node, found: dict[str, _Written]) -> None:
        if not isinstance(node, yaml.ScalarNode):
            self._say(node, key, "has a list or a section for a value", "write one value")
        elif not self._is_null(node):
            found[key] = Raw(node.value, node.style is None, Source(self._name, _line(node)))
        elif SETTINGS[key].optional:
            found[key] = None
        else:
            self._say(node, key, "has no value", "write one, or remove the line for the default")

    @staticmethod
    def _is_null(node: yaml.Node) -> bool:
        return bool(node.tag == "tag:yaml.org,2002:null")

    def _say(self, node: yaml.Node, key: str, what: str, instead: str) -> None:
        self._problems.append(Problem(self._name, _line(node), key, what, instead))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _nearest_key(key: str, prefix: str) -> str:
    """Say which known key was meant: by its variable's name, its spelling here, or its spelling elsewhere."""
    last = key.removeprefix(prefix)
    if last.upper() in VARIABLES:
        return f"write {VARIABLES[last.upper()]}"
    here = [known.removeprefix(prefix) for known in SETTINGS if known.startswith(prefix)]
    here = sorted({known.partition(".")[0] for known in here})
    if near := difflib.get_close_matches(last.lower(), here, n=1):
        return f"write {prefix}{near[0]}"
    elsewhere = {known.rpartition(".")[2]: known for known in reversed(list(SETTINGS))}
    if near := difflib.get_close_matches(last.lower(), list(elsewhere), n=1):
        return f"write {elsewhere[near[0]]}"
    return f"known here: {', '.join(here)}"


def _read_defaults(path: Path, problems: list[Problem]) -> dict[str, Raw]:
    """Read the KEY=VALUE lines of /etc/default/ddwd; variable -> value."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        known = error if isinstance(error, OSError) else OSError("not UTF-8 text")
        problems.append(_unreadable(path, known))
        return {}
    found: dict[str, Raw] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith(("#", ";")):
            _read_assignment(line, Source(str(path), number), found, problems)
    return found


def _read_assignment(line: str, source: Source, found: dict[str, Raw], problems: list[Problem]) -> None:
    name, equals, written = line.strip().removeprefix("export ").partition("=")
    name = name.strip()
    try:
        words = shlex.split(written, comments=True)
    except ValueError:
        words = ["", ""]
    if not equals or len(words) > 1:
        problems.append(Problem(*source, name or "line", "is not NAME=VALUE", 'write NAME="VALUE"'))
    elif name in VARIABLES:
        if words and words[0]:
            found[name] = Raw(words[0], bare=True, source=source, variable=name)
    elif near := difflib.get_close_matches(name.upper(), list(VARIABLES), n=1, cutoff=0.8):
        problems.append(Problem(*source, name, "is not a known variable", f"write {near[0]}"))


def _of_variables(assigned: Mapping[str, Raw]) -> dict[str, Raw]:
    """Key -> value; of two variables for one key the one listed first wins."""
    return {VARIABLES[name]: assigned[name] for name in reversed(list(VARIABLES)) if name in assigned}


def _of_environment(environ: Mapping[str, str], assigned: Mapping[str, Raw]) -> dict[str, Raw]:
    """Key -> value; a variable that systemd took from the defaults file keeps that file as its source."""
    source = Source("environment")
    raws = {}
    for name in VARIABLES:
        if text := environ.get(name, ""):
            same = name in assigned and assigned[name].text == text
            raws[name] = assigned[name] if same else Raw(text, bare=True, source=source, variable=name)
    return _of_variables(raws)


def _build(raws: Mapping[str, _Written]) -> tuple[Loaded, dict[str, list[Problem]]]:
    """Parse every value; a wrong one becomes a Problem under its key, and its default stays."""
    values = flatten(Config())
    sources = dict.fromkeys(SETTINGS, DEFAULT)
    wrong: dict[str, list[Problem]] = {}
    for key, raw in raws.items():
        if raw is None:
            values[key] = None
            continue
        sources[key] = raw.source if isinstance(raw, _Table) else _source_shown(raw)
        if isinstance(raw, _Table):
            values[key] = raw.entries
            continue
        parsed, problems = _parsed(key, raw)
        if problems:
            wrong[key] = problems
        else:
            values[key] = parsed if isinstance(raw, Many) else parsed[0]
    return Loaded(_assemble(Config(), "", values), sources), wrong


def _parsed(key: str, written: Raw | Many) -> tuple[tuple[object, ...], list[Problem]]:
    """Each value at that key, and a Problem for each that is wrong."""
    values, problems = [], []
    for raw in written.entries if isinstance(written, Many) else (written,):
        try:
            values.append(SETTINGS[key].parse(raw))
        except WrongValueError as error:
            problems.append(Problem(*raw.source, raw.variable or key, error.what, error.instead))
    return tuple(values), problems


def _source_shown(raw: Raw | Many) -> Source:
    """The environment is named with its variable; a file needs only its line."""
    return Source(f"environment {raw.variable}") if raw.source.name == "environment" else raw.source


def _assemble(template: Any, prefix: str, values: Mapping[str, object]) -> Any:
    """Rebuild a dataclass of settings (and the sections in it) from the flat table."""
    arguments = {}
    for item in fields(template):
        old = getattr(template, item.name)
        nested = is_dataclass(old)
        key = f"{prefix}{item.name}"
        arguments[item.name] = _assemble(old, f"{key}.", values) if nested else values.get(key, old)
    return type(template)(**arguments)


def _clashes(loaded: Loaded, keys: list[str], what: str) -> list[Problem]:
    """Name each pair with the same value, at the one of the two that was written down."""
    problems = []
    for first, second in combinations(keys, 2):
        value = _get(loaded.config, first)
        if value == _get(loaded.config, second):
            blamed, other = (second, first) if loaded.sources[second] != DEFAULT else (first, second)
            taken = f"{what} {value} is used by {other} too"
            problems.append(loaded.problem(blamed, taken, f"give each its own {what}"))
    return problems


def _asked_twice(loaded: Loaded) -> list[Problem]:
    """Name each AE title that is to be answered at two places."""
    titles = [one.aet.lower() for one in loaded.config.commitment.modalities]
    return [
        loaded.problem(
            "commitment.modalities", f"{one.aet} stands there twice", "give each AE title one place"
        )
        for number, one in enumerate(loaded.config.commitment.modalities)
        if one.aet.lower() in titles[:number]
    ]


def _nowhere(loaded: Loaded) -> list[Problem]:
    """Name each rule that sends to a destination that is not in `destinations`."""
    known = {one.name for one in loaded.config.destinations}
    return [
        loaded.problem(
            "routes", f"{name!r} in also of {route.name} is no destination", "name it in destinations"
        )
        for route in loaded.config.routes
        for name in route.also
        if name not in known
    ]


def _unkeepable(loaded: Loaded) -> list[Problem]:
    """Name what `retention` and the routes say that can never be done, or would lose the last copy unasked."""
    config = loaded.config
    return [loaded.problem(*said) for said in config.retention.contradictions(config.routes)]
