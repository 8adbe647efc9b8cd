"""Part of the schema: the sections of what stands beside the way of a study: audit, alerts, drop folder, commitment. Import from schema.py."""

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
    """true: records of a study carry its patient ID (DDWD_PATIENT_ID); false: no record has anything of a patient."""
    host: str | None = setting(None, parsers.host)
    """Audit repository that gets DICOM audit messages (PS3.15) by syslog. Nothing here: none."""
    port: int = setting(6514, PORT)
    """Its port: 6514 is the usual one for TLS, 514 for UDP."""
    transport: str = setting("tls", parsers.choice("tls", "udp"))
    """tls, or udp (which may lose messages and hides nothing)."""
    ca: Path | None = setting(None, parsers.folder)
    """Certificate in PEM form that its own is checked against. Nothing here: those of the system."""
    certificate: Path | None = setting(None, parsers.folder)
    """Our own certificate and its key, where it wants them; readable for user ddwd."""
    key: Path | None = setting(None, parsers.folder)
    """The key of that certificate."""


@dataclass(frozen=True, slots=True)
class MetricsConfig:
    """Where the metrics are written for node_exporter's textfile collector."""

    textfile: Path = setting(
        Path("/run/ddwd/monitor/ddwd.prom"),
        parsers.folder,
        brief="file of figures for Prometheus' node_exporter",
    )
    """The file; put it into the folder of node_exporter's textfile collector, which user ddwd must be able to write to."""


@dataclass(frozen=True, slots=True)
class AlertsConfig:
    """Minutes that a condition must last before an alert; whether silent modalities are reported; where alerts are POSTed as JSON."""

    after: int = setting(5, parsers.whole(0, 1440))
    """Minutes that something must last; what is in quarantine and a failed self test are told at once."""
    silence: bool = setting(True, parsers.switch)
    """true: a modality that does not send although it has at this hour in each of the last four weeks is told too."""
    webhook: str | None = setting(None, parsers.url, secret=True)
    """Where each alert is POSTed as JSON (at, subject, standing, over). Nothing here: nowhere."""


@dataclass(frozen=True, slots=True)
class Mail:
    """How alerts are sent by mail; without a `server` none is."""

    server: str | None = setting(None, parsers.host, brief="mail server for alerts; empty: no mail")
    """Its name or address. Nothing here: no mail."""
    port: int = setting(587, PORT)
    """Its port."""
    tls: str = setting("starttls", parsers.choice("starttls", "tls", "none"))
    """starttls, tls, or none; the server's certificate is checked."""
    user: str | None = setting(None, parsers.secret)
    """Login, if it wants one."""
    password: str | None = setting(None, parsers.secret, secret=True)
    """Its password."""
    sender: str = setting("ddwd@localhost", parsers.address, brief="address that alerts come from")
    """From whom."""
    recipient: str = setting("root@localhost", parsers.address, brief="address that they go to")
    """To whom; one address."""


@dataclass(frozen=True, slots=True)
class InboxConfig:
    """Whether there is a drop folder, where, and the seconds for which its content must not change."""

    enabled: bool = setting(
        True, parsers.switch, brief="`true`: look after the [drop folder](send.md#the-drop-folder)"
    )
    """true: look after it; false: leave it alone."""
    folder: Path = setting(
        Path("/var/lib/ddwd/inbox"),
        parsers.folder,
        brief="where it is; another folder must exist and belong to user `ddwd`",
    )
    """Where it is. One elsewhere must exist: install -d -o ddwd -g ddwd -m 2770 FOLDER"""
    settle: float = setting(10.0, parsers.seconds(1, 3600))
    """Seconds for which nothing of it may change, so that it counts as complete. What is hidden or called *.part waits until it is renamed."""


@dataclass(frozen=True, slots=True)
class CommitmentConfig:
    """Storage commitment: who may ask, and where each takes its report; the condition, and the seconds to wait for it."""

    modalities: tuple[Station, ...] = setting(
        (),
        parsers.station,
        brief="who may ask for [storage commitment](commitment.md), as `CT1 at 10.1.2.3:104`; empty: nobody",
    )
    """Who may ask, and where each takes its report: ["CT1 at 10.1.2.3:104", "MR1 at 10.2.0.7:11112"]. [] is nobody. Who is not in
    the list has its association aborted, and a line in the audit."""
    after: str = setting(
        "stored",
        parsers.choice("stored", "verified"),
        brief="`stored`: answered once an image is stored; `verified`: once it is on disk",
    )
    """When an image counts as kept. stored: ORTHANC1 (or ORTHANC2) has it, and its file is whole. verified: it is published, and its
    file is the one in the custody record."""
    wait: float = setting(3600.0, parsers.seconds(1, 86400))
    """Seconds to wait for that; what is not kept by then is reported as failed (0x0110), and the modality keeps it."""


@dataclass(frozen=True, slots=True)
class SelfTestConfig:
    """Whether the portal sends itself a made-up study every hour (ddwd-doctor.timer)."""

    hourly: bool = setting(
        True,
        parsers.switch,
        brief="`true`: send a made-up study through all hops every hour, and remove it again",
    )
    """true: every hour (ddwd-doctor.timer); false: only when asked, by `ddwd doctor --send`."""
