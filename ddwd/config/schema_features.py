"""Part of the schema: the sections beside the path of a study: audit, alerts, drop folder, commitment. Import from schema.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddwd.config import parsers
from ddwd.config.declaration import setting
from ddwd.config.parsers import PORT, Station


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """Whether audit records carry the patient ID; the audit repository they are sent to, by syslog (PS3.15 A.6)."""

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
    """Our own certificate, if the repository requires one; readable for user ddwd."""
    key: Path | None = setting(None, parsers.folder)
    """The key of that certificate."""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Where the metrics are written for node_exporter's textfile collector."""

    textfile: Path = setting(Path("/run/ddwd/monitor/ddwd.prom"), parsers.folder)
    """File of metrics for Prometheus. Put it into the folder of node_exporter's textfile collector, which user ddwd must be able to write to."""


@dataclass(frozen=True, slots=True)
class AlertsConfig:
    """Minutes that a condition must last before an alert; whether silent modalities are reported; where alerts are POSTed as JSON."""

    after: int = setting(5, parsers.whole(0, 1440))
    """Minutes that a condition must last; an image in quarantine and a failed self test are reported at once."""
    silence: bool = setting(True, parsers.switch)
    """true: a modality that does not send although it has at this hour in each of the last four weeks is reported too."""
    webhook: str | None = setting(None, parsers.url, secret=True)
    """Where each alert is POSTed as JSON (at, subject, standing, over). Empty: nowhere."""


@dataclass(frozen=True, slots=True)
class Mail:
    """How alerts are sent by mail; without a `server` none is."""

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
    """Whether there is a drop folder, where, and the seconds for which its content must not change."""

    enabled: bool = setting(True, parsers.switch)
    """true: use the drop folder (see docs/send.md#the-drop-folder); false: leave it alone."""
    folder: Path = setting(Path("/var/lib/ddwd/inbox"), parsers.folder)
    """Where it is. Another folder must exist: install -d -o ddwd -g ddwd -m 2770 FOLDER"""
    settle: float = setting(10.0, parsers.seconds(1, 3600))
    """Seconds for which a file or folder may not change, so that it counts as complete. A hidden one, or one named
    *.part, waits until it is renamed."""


@dataclass(frozen=True, slots=True)
class CommitmentConfig:
    """Storage commitment: which modalities may ask, and where each gets its report; the condition, and the seconds to wait for it."""

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
    """Whether the portal sends itself a made-up study every hour (ddwd-doctor.timer)."""

    hourly: bool = setting(True, parsers.switch)
    """true: send a made-up study through all hops every hour (ddwd-doctor.timer), and remove it again; false: only by `ddwd doctor --send`."""
