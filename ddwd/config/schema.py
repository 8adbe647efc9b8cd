"""The settings: every section and key of ddwd.yaml, each declared once, and the frozen Config that all processes read.

A field is a setting: its default, its parser with the limits, the variables that set it too, and, as its docstring, the comment that
etc/ddwd.yaml and ddwd.yaml(5) have; for a section it is the docstring of the class. The order of the fields is the order of the file.
After a change here: `make manual`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from ddwd.config import parsers, sections
from ddwd.config.declaration import Setting, declared, section, setting
from ddwd.config.parsers import DEFAULT, PORT, Receiver, Sender, Source, Station, database_hosts
from ddwd.config.retention import Retention
from ddwd.config.routing import Destination, Route
from ddwd.config.schema_network import (
    HERE,
    Gateway,
    LinkConfig,
    NetworkConfig,
    NodeName,
    OrthancNode,
    Scp,
    Storage,
    TlsConfig,
    WebConfig,
)
from ddwd.core.errors import ConfigProblem

if TYPE_CHECKING:
    from collections.abc import Mapping

# what others import from here; names of this module need no entry
__all__ = [
    "HERE", "Gateway", "LinkConfig", "NetworkConfig", "NodeName", "OrthancNode", "Scp", "Storage", "TlsConfig", "WebConfig",
]  # fmt: skip
Role = Literal["gateway", "storage", "extractor"]
ROLES: tuple[Role, ...] = get_args(Role)

MOST_NAMED = 500
"""Instances that one C-MOVE may name: a UI value has a length of two bytes, and a UID with its backslash takes up to 65."""
LONGEST_POLL = 10.0
"""Seconds: the main loop waits for at most a third of WatchdogSec, which is 30 in ddwd-extractor.service."""


@dataclass(frozen=True, slots=True)
class Forward:
    """From ORTHANC1 to ORTHANC2, by STOW-RS."""

    mode: str = setting("streaming", parsers.choice("streaming", "stable"))
    """streaming: send batches while the study is still arriving; stable: send the study once it is stable."""
    batch: int = setting(40, parsers.whole(1, 1000))
    """Images in one batch."""
    grace: float = setting(5.0, parsers.seconds(1, 86400))
    """Seconds after which the extractor sends what is still missing on ORTHANC2."""


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """The indexes of the two Orthancs."""

    engine: str = setting("postgresql", parsers.choice("postgresql", "sqlite"))
    """Leave it at postgresql; sqlite is for `ddwd try` only."""
    url: str | None = setting(None, parsers.servers_url)
    """External servers, of a highly available cluster too, as postgresql://HOST1,HOST2/?sslmode=verify-full with further options of libpq.
    The one that can be written to is used. Without role, password and database: those are below."""
    host: str | None = setting(None, parsers.host)
    """Or the host of one external server. Empty: the local server over its Unix socket, without any password."""
    port: int = setting(5432, PORT)
    """Port of the external server."""
    gateway_name: str = setting("ddwd_gateway", parsers.identifier)
    """Database of ORTHANC1."""
    storage_name: str = setting("ddwd_storage", parsers.identifier)
    """Database of ORTHANC2; never the same."""
    gateway_user: str = setting("ddwd-gateway", parsers.identifier)
    """Role of ORTHANC1. On the local server the roles are the system users: leave them."""
    storage_user: str = setting("ddwd-storage", parsers.identifier)
    """Role of ORTHANC2."""
    password: str | None = setting(None, parsers.secret, "POSTGRES_PASSWORD", secret=True)
    """Password of both roles on an external server; better in /etc/default/ddwd."""
    password_file: Path | None = setting(None, parsers.folder)
    """Or the file with it, one line, readable for group ddwd."""

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
    """The notification hook for a published study: run or webhook of a route."""

    timeout: float = setting(600.0, parsers.seconds(1, 86400))
    """Seconds that the hook of a route may take; after that it is ended, and tried again later."""


@dataclass(frozen=True, slots=True)
class Retrieve:
    """From ORTHANC2 to the disk, by C-MOVE."""

    batch: int = setting(200, parsers.whole(1, MOST_NAMED))
    """Images requested by UID in one C-MOVE, 500 at most; a series of which no image is on disk is requested as a whole."""
    timeout: float = setting(300.0, parsers.seconds(10, 86400))
    """Seconds without progress after which a C-MOVE is ended and repeated."""
    tries: int = setting(6, parsers.whole(2, 1000))
    """An image that failed so often while others succeeded goes to quarantine, and its study is published without it."""


@dataclass(frozen=True, slots=True)
class Disk:
    """Space that is kept free on every volume the portal writes to, PostgreSQL's included."""

    reserve: int = setting(2 * 1024**3, parsers.size(64 * 1024**2, 1024**4))
    """Space kept free on each volume, at most a twentieth of it; C-STORE is refused with 0xA700 below it. As 2 GiB or 500 MiB. Below four
    times this there is a warning, below twice it retrieving stops, below one and a half times forwarding stops."""


@dataclass(frozen=True, slots=True)
class LedgerConfig:
    """The record of what is done, in /var/lib/ddwd/state/ledger."""

    segment_bytes: int = setting(8 * 1024 * 1024, parsers.whole(64 * 1024, 1024**3))
    """Bytes after which a new segment begins."""
    keep_days: int = setting(400, parsers.whole(1, 36500))
    """Days that old segments are kept."""
    shared: str | None = setting(None, parsers.database_url)
    """Database (PostgreSQL) in which the extractors of several machines keep ledger and custody records together. As
    postgresql://ddwd@HOST:5432/ddwd_ledger?sslmode=verify-full; more servers of one cluster as HOST1:5432,HOST2:5432 (the one that can
    be written to is found). Every machine then needs a scp.aet of its own, and the same output_dir, shared. Empty: files."""
    password_file: Path | None = setting(None, parsers.folder)
    """The file with its password, one line, readable for group ddwd."""

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
    """The audit trail: journalctl -t ddwd-audit"""

    patient_id: bool = setting(False, parsers.switch)
    """true: records of a study carry its patient ID (DDWD_PATIENT_ID); false: no record has any data of a patient."""
    host: str | None = setting(None, parsers.host)
    """Audit repository that gets DICOM audit messages (PS3.15) by syslog. Empty: none."""
    port: int = setting(6514, PORT)
    """Its port: 6514 is the usual one for TLS, 514 for UDP."""
    transport: str = setting("tls", parsers.choice("tls", "udp"))
    """tls, or udp (which may lose messages and does not encrypt them)."""
    ca: Path | None = setting(None, parsers.folder)
    """Certificate in PEM form that its own is checked against. Empty: those of the system."""
    certificate: Path | None = setting(None, parsers.folder)
    """Our own certificate, if the repository requires one; readable for group ddwd."""
    key: Path | None = setting(None, parsers.folder)
    """The key of that certificate."""


@dataclass(frozen=True, slots=True)
class ChainConfig:
    """The chain: what happened to studies, as signed entries that cannot be changed unseen. Its heads are in the journal, too."""

    publish_to: str | None = setting(None, parsers.folder_or_url, secret=True)
    """Where each published head of the chain goes, daily and at each 10,000 entries: a folder that user ddwd-monitor may write to, best on another
    machine, or a URL of HTTPS that it is POSTed to as JSON. Empty: nowhere else."""
    timestamp_url: str | None = setting(None, parsers.url)
    """Time stamp authority (RFC 3161) that stamps each published head. Empty: none."""
    timestamp_ca: Path | None = setting(None, parsers.folder)
    """Certificate in PEM form that its stamps are checked against. Empty: those of the system."""

    @property
    def publish_folder(self) -> Path | None:
        """The folder that heads are published to, if it is one."""
        return Path(self.publish_to) if self.publish_to and self.publish_to.startswith("/") else None


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Figures for Prometheus, written every few seconds by ddwd-monitor."""

    textfile: Path = setting(Path("/run/ddwd/monitor/ddwd.prom"), parsers.folder)
    """File of metrics for Prometheus. Put it into the folder of node_exporter's textfile collector, which user ddwd-monitor must be able to write to."""


@dataclass(frozen=True, slots=True)
class AlertsConfig:
    """Alerts by mail and webhook when something is wrong."""

    after: int = setting(5, parsers.whole(0, 1440))
    """Minutes that a condition must last; an image in quarantine and a failed self test are reported at once."""
    silence: bool = setting(True, parsers.switch)
    """true: a modality that does not send although it has at this hour in each of the last four weeks is reported too."""
    webhook: str | None = setting(None, parsers.url, secret=True)
    """Where each alert is POSTed as JSON (at, subject, standing, over). Empty: nowhere."""


@dataclass(frozen=True, slots=True)
class Mail:
    """The mail server that alerts go through. Test it: ddwd alert"""

    server: str | None = setting(None, parsers.host)
    """Mail server for alerts, its name or address. Empty: no mail."""
    port: int = setting(587, PORT)
    """Its port."""
    tls: str = setting("starttls", parsers.choice("starttls", "tls", "none"))
    """starttls, tls, or none; the server's certificate is checked."""
    user: str | None = setting(None, parsers.secret)
    """Login, if the server requires one."""
    password: str | None = setting(None, parsers.secret, secret=True)
    """Its password."""
    sender: str = setting("ddwd@localhost", parsers.address)
    """Address that alerts come from."""
    recipient: str = setting("root@localhost", parsers.address)
    """Address that alerts go to; one address."""


@dataclass(frozen=True, slots=True)
class InboxConfig:
    """The drop folder: a file, folder, zip or DICOMDIR in it is sent to ORTHANC1, and then moved to its sub-folder sent. What is not DICOM
    is moved to rejected; what cannot be sent yet is listed in waiting."""

    enabled: bool = setting(True, parsers.switch)
    """true: use the drop folder (see docs/send.md#the-drop-folder); false: leave it alone."""
    folder: Path = setting(Path("/var/lib/ddwd/inbox"), parsers.folder)
    """Where it is. Another folder must exist: install -d -o ddwd-inbox -g ddwd -m 2770 FOLDER"""
    settle: float = setting(10.0, parsers.seconds(1, 3600))
    """Seconds for which a file or folder may not change, so that it counts as complete. A hidden one, or one named
    *.part, waits until it is renamed."""


@dataclass(frozen=True, slots=True)
class CommitmentConfig:
    """Storage commitment: a modality asks ORTHANC1 (N-ACTION) whether its images are kept, and gets a report (N-EVENT-REPORT)."""

    modalities: tuple[Station, ...] = setting((), parsers.station)
    """Who may request storage commitment (see docs/commitment.md), and where each gets its report, as ["CT1 at 10.1.2.3:104"]. [] is none.
    The association of any other modality is aborted, and recorded in the audit."""
    after: str = setting("stored", parsers.choice("stored", "verified"))
    """When an image counts as kept: `stored`, once ORTHANC1 (or ORTHANC2) has it and its file is whole; `verified`, once it is published and
    its file is the one in the custody record."""
    wait: float = setting(3600.0, parsers.seconds(1, 86400))
    """Seconds to wait for that; an image that is not kept by then is reported as failed (0x0110), and the modality keeps it."""


@dataclass(frozen=True, slots=True)
class SelfTestConfig:
    """A made-up study of the portal's own, through all hops and removed again: the last result is on the dashboard."""

    hourly: bool = setting(True, parsers.switch)
    """true: send a made-up study through all hops every hour (ddwd-doctor.timer), and remove it again; false: only by `ddwd doctor --send`."""


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting; `roles` is what runs on this machine."""

    roles: tuple[Role, ...] = setting(ROLES, parsers.choice(*ROLES))
    """What runs on this machine (see docs/several.md). All three is the whole portal; a part that is left out runs on another machine."""
    gateway: Gateway = section(Gateway)
    storage: OrthancNode = section(Storage)
    scp: Scp = section(Scp)
    extractors: tuple[Receiver, ...] = setting((), parsers.receiver)
    """Extractors on other machines that ORTHANC2 of this machine sends to: scp.aet of that machine and its host, as
    ["PYTHON_SCP_B at 10.0.0.2"]. Several extractors share the work by ledger.shared."""
    link: LinkConfig = section(LinkConfig)
    network: NetworkConfig = section(NetworkConfig)
    senders: tuple[Sender, ...] = setting((), parsers.sender)
    """Who may send to ORTHANC1 (see docs/send.md#who-may-send), as ["CT1 from 10.1.2.3", "MR* from 10.2.0.0/16"]. [] is everyone, by any
    AE title. An entry is an AE title (* and ? are wildcards; upper and lower case are the same) with the network it sends from; without
    "from", any network. Any other sender gets no association, or 0xA700 for each image, and a record in the audit. ddwd's own commands
    on this machine may always send."""
    tls: TlsConfig = section(TlsConfig)
    web: WebConfig = section(WebConfig)
    output_dir: Path = setting(Path("/var/lib/ddwd/received_dicom"), parsers.folder, "OUTPUT_DIR")
    """Where studies appear; another folder must exist and be writable for user ddwd. An image is at
    PatientID/StudyInstanceUID/SeriesInstanceUID/SOPInstanceUID.dcm
    Make a folder elsewhere:
        install -d -o ddwd -g ddwd -m 0750 /srv/dicom
    Use one file system with enough space: received images wait in its sub-folder .ddwd first."""
    poll_interval: float = setting(5.0, parsers.seconds(0.1, LONGEST_POLL), "POLL_INTERVAL")
    """Seconds between two polls of ORTHANC2 when it reports no change, 10 at most."""
    stable_age: int = setting(3, parsers.whole(1, 3600), "STABLE_AGE", "ORTHANC__STABLE_AGE")
    """Seconds without a new image after which a study counts as stable, whole number."""
    forward: Forward = section(Forward)
    database: DatabaseConfig = section(DatabaseConfig)
    routes: tuple[Route, ...] = setting((), sections.one_line, table=sections.routes)
    """What is done with which study: the first route that matches the study's first image, once (see docs/routes.md). [] is: every study is
    forwarded and extracted. With routes, a study that no route takes is held on ORTHANC1 and reported; a last route without `when` takes
    all others. An entry:
      - name: research                    # letters, digits, _ and -
        when:                             # all of these; * and ? are wildcards, a list is any of them
          CallingAET: [CT1, MR*]          # or any main DICOM tag: Modality, StationName, StudyDescription, PatientID ...
          StudyDescription: "*trial*"
        forward: true                     # by STOW-RS to ORTHANC2
        also: [teaching]                  # and to these of `destinations`
        extract: true                     # to the disk; needs forward
        layout: research/{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}
        priority: normal                  # high and low go before and after the others
        run: /opt/ris/finished            # when a study is published: this is run (see ddwd hooks --help), or, in its place,
        webhook: https://HOST/PATH        # the same is POSTed there as JSON
        marker: study.done                # a file of that name in the study's folder, once all of it is there
        keep_gateway: 7                   # days until retention may remove it there, or forever; also keep_storage, keep_output
    Test them: ddwd routes test FILE"""
    destinations: tuple[Destination, ...] = setting((), sections.one_line, table=sections.destinations)
    """Where ORTHANC1 sends studies besides ORTHANC2, for the `also` of a route (see docs/destinations.md). By DICOMweb (url, user, password,
    ca) or by DIMSE (aet, host, port, tls, ca), as {name: teaching, url: "https://HOST/dicom-web/"} or
    {name: pacs, aet: PACS, host: 10.1.2.9, port: 104}. Each has its own backlog, which is tried for ever: ddwd destinations list. Without
    any, ddwd-courier does not run."""
    finished: FinishedConfig = section(FinishedConfig)
    retrieve: Retrieve = section(Retrieve)
    disk: Disk = section(Disk)
    retention: Retention = section(Retention)
    ledger: LedgerConfig = section(LedgerConfig)
    audit: AuditConfig = section(AuditConfig)
    chain: ChainConfig = section(ChainConfig)
    metrics: MetricsConfig = section(MetricsConfig)
    alerts: AlertsConfig = section(AlertsConfig)
    mail: Mail = section(Mail)
    inbox: InboxConfig = section(InboxConfig)
    commitment: CommitmentConfig = section(CommitmentConfig)
    self_test: SelfTestConfig = section(SelfTestConfig)
    data_dir: Path = setting(Path("/var/lib/ddwd"), parsers.folder)
    """Leave it and the next two as they are: the systemd units name them too. Studies' indexes, state and quarantine."""
    run_dir: Path = setting(Path("/run/ddwd"), parsers.folder, joined=True)
    """Leave it: rendered configuration, heartbeats, doorbells."""
    credentials_file: Path = setting(Path("/etc/ddwd/credentials.json"), parsers.folder, joined=True)
    """Leave it: passwords of the two Orthancs, generated at install (ddwd credentials)."""

    def node(self, name: NodeName) -> OrthancNode:
        """Return the Orthanc of that name."""
        return self.gateway if name == "gateway" else self.storage

    def has(self, role: Role) -> bool:
        """Return whether that part runs on this machine."""
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
        """The Orthancs that this machine asks by REST: both if it has an extractor, else its own."""
        return (self.gateway, self.storage) if self.has("extractor") else self.own_nodes


@dataclass(frozen=True, slots=True)
class Loaded:
    """A Config and, for each dotted key, the source its value came from."""

    config: Config
    sources: Mapping[str, Source]

    def problem(self, key: str, what: str, instead: str) -> ConfigProblem:
        """Return a ConfigProblem that is found later (a port in use, a read-only folder), placed where the value was written."""
        source = self.sources.get(key, DEFAULT)
        return ConfigProblem(source.name, source.line, key, what, instead)


DECLARED = tuple(declared(Config))
"""Every section and key, in the order of etc/ddwd.yaml."""
SETTINGS: Mapping[str, Setting] = {
    field.key: field.setting for field in DECLARED if field.setting is not None
}
"""Every key that ddwd.yaml may hold, in the order of etc/ddwd.yaml."""
SECTIONS = frozenset(field.key for field in DECLARED if field.setting is None)
VARIABLES = {name: key for key, item in SETTINGS.items() for name in item.variables}
SECRET_KEYS = frozenset(key for key, item in SETTINGS.items() if item.secret)
PORT_KEYS = tuple(key for key, item in SETTINGS.items() if item.listens)
"""Ports that this machine listens on; which of them it does depends on the settings (checks.ports)."""
AET_KEYS = tuple(key for key, item in SETTINGS.items() if item.parse is parsers.aet)


def flatten(config: Config) -> dict[str, object]:
    """Return every dotted key with its value, in the order of SETTINGS; secrets in clear."""
    return {key: value_of(config, key) for key in SETTINGS}


def value_of(config: Config, key: str) -> object:
    """Return the value of a dotted key."""
    value: object = config
    for part in key.split("."):
        value = getattr(value, part)
    return value
