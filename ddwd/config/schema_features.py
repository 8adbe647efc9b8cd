"""Part of the schema: the sections beside the path of a study: audit, alerts, drop folder, commitment. Import from schema.py."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ddwd.config import parsers
from ddwd.config.declaration import setting
from ddwd.config.parsers import PORT, Station


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
    """Our own certificate, if the repository requires one; readable for user ddwd."""
    key: Path | None = setting(None, parsers.folder)
    """The key of that certificate."""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Figures for Prometheus, written every few seconds by ddwd-monitor."""

    textfile: Path = setting(Path("/run/ddwd/monitor/ddwd.prom"), parsers.folder)
    """File of metrics for Prometheus. Put it into the folder of node_exporter's textfile collector, which user ddwd must be able to write to."""


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
    """Where it is. Another folder must exist: install -d -o ddwd -g ddwd -m 2770 FOLDER"""
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
