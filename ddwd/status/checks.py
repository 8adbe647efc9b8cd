"""Checks of this machine: units, daemons, disks, permissions, clock, network, and what waits for the operator."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ddwd.config.loader import CONFIG_FILE
from ddwd.config.schema import SECRET_KEYS, flatten
from ddwd.core.errors import DdwdError
from ddwd.provisioning import quickack
from ddwd.status import units
from ddwd.status.findings import CheckContext, Finding, Severity
from ddwd.status.formatting import many, span
from ddwd.status.report import aside_text
from ddwd.store.status_files import RetentionRound, RetentionStatus, SweepStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SKEW_SECONDS = 5.0
_SWEEP = timedelta(weeks=1)
_ROUND = timedelta(days=2)


def units_run(context: CheckContext) -> Iterator[Finding]:
    for unit in context.report.units:
        if not unit.is_well:
            yield Finding(
                "units", Severity.BROKEN, f"{unit.name} is {unit.active}", f"journalctl -u {unit.name} -n 50"
            )
    if not context.report.units:
        yield Finding("units", Severity.NOTE, "systemd does not run here")
        return
    enabled = context.systemctl(["is-enabled", "ddwd.service"])
    if (enabled or "").strip() != "enabled":
        yield Finding("units", Severity.WARN, "ddwd does not start at boot", "systemctl enable ddwd")
    if context.config.database.is_local and not units.is_active(context.systemctl, "postgresql.service"):
        yield Finding("units", Severity.BROKEN, "postgresql is not active", "systemctl start postgresql")


def daemons(context: CheckContext) -> Iterator[Finding]:
    for heart in context.report.hearts:
        if heart.problem:
            yield Finding(
                "daemons", Severity.BROKEN, heart.problem, f"journalctl -u ddwd-{heart.daemon} -n 50"
            )
    if context.report.paused:
        yield Finding("daemons", Severity.WARN, "fetching is paused by the operator", "ddwd resume")
    for extractor in context.report.hearts[-1:]:
        for name, reason in extractor.silent_peers.items():
            text = f"the extractor cannot reach {name}: {reason}"
            yield Finding("daemons", Severity.BROKEN, text, "ddwd status")


def sweep(context: CheckContext) -> Iterator[Finding]:
    """Check that all studies are compared regularly."""
    swept = context.report.swept or SweepStatus()
    since = swept.ended_at or swept.began_at
    if since and context.clock.utc() - datetime.fromisoformat(since) > _SWEEP:
        text = f"not all studies were compared since {since[:10]}"
        yield Finding("comparison", Severity.WARN, text, "look at the Orthancs' load, then: ddwd reconcile")


def disks(context: CheckContext) -> Iterator[Finding]:
    for volume in context.report.volumes:
        if volume.problem:
            yield Finding(
                "disk", Severity.BROKEN, volume.problem, "make room, or set output_dir to a larger disk"
            )
        elif volume.level not in {"", "ok"}:
            yield Finding("disk", Severity.WARN, f"{volume.path} gets short of room", "make room")
    yield from _retention(context)


def _retention(context: CheckContext) -> Iterator[Finding]:
    """Check that retention runs and removes what it may, if room gets short."""
    is_short = any(volume.level not in {"", "ok"} for volume in context.report.volumes)
    if not context.config.retention.places(context.config.routes):
        if is_short:
            text = "room gets short, and nothing is ever removed"
            yield Finding("disk", Severity.WARN, text, f"set retention in {CONFIG_FILE} (docs/retention.md)")
        return
    retention = context.report.retention or RetentionStatus()
    last = retention.last or RetentionRound()
    if last.problem:
        text = f"the last round of retention was broken off: {last.problem}"
        yield Finding("disk", Severity.WARN, text, "ddwd status")
    for place, tally in last.places.items():
        for kept in tally.kept:
            studies = many(kept.studies, "study has", "studies have")
            text = f"{studies} to stay on the {place}, as {kept.example}: {kept.reason}"
            yield Finding("disk", Severity.WARN, text, "ddwd retention --dry-run")
    places = last.places.values()
    if is_short and places and not any(tally.studies or tally.kept for tally in places):
        text = "room gets short, and nothing that may go is old enough"
        yield Finding("disk", Severity.WARN, text, "fewer days in retention, or a larger disk")
    since = last.ended_at
    if since and context.clock.utc() - datetime.fromisoformat(since) > _ROUND:
        text = f"no round of retention has ended since {since[:10]}"
        yield Finding("disk", Severity.WARN, text, "journalctl -u ddwd-extractor -n 50")


def permissions(context: CheckContext) -> Iterator[Finding]:
    """Check that patient data is for the portal and group ddwd alone, and that the portal can write where it must."""
    paths = context.paths
    output = [paths.output] if context.config.has("extractor") else []
    for path in (*output, paths.state, paths.quarantine):
        try:
            found = path.stat()
        except FileNotFoundError:
            yield Finding(
                "permissions",
                Severity.BROKEN,
                f"{path} is missing",
                f"install -d -o ddwd -g ddwd -m 0750 {path}",
            )
            continue
        if stat.S_IMODE(found.st_mode) & stat.S_IRWXO:
            yield Finding("permissions", Severity.BROKEN, f"{path} is open to every user", f"chmod o= {path}")
        if not stat.S_IMODE(found.st_mode) & stat.S_IWUSR or found.st_uid != paths.state.stat().st_uid:
            yield Finding(
                "permissions",
                Severity.BROKEN,
                f"{path} is not ddwd's to write",
                f"chown ddwd:ddwd {path}; chmod 750 {path}",
            )
    for file in (context.config.credentials_file, *_with_secrets(context)):
        if file.stat().st_mode & stat.S_IRWXO:
            yield Finding(
                "permissions", Severity.BROKEN, f"{file} is open to every user", f"chmod 640 {file}"
            )


def _with_secrets(context: CheckContext) -> list[Path]:
    """Return the files of the settings that contain a password."""
    values = flatten(context.config)
    passwords = [values[key] for key in SECRET_KEYS] + [one.password for one in context.config.destinations]
    secret = any(one is not None for one in passwords)
    return [file for file in context.settings if secret and file.exists()]


def clock(context: CheckContext) -> Iterator[Finding]:
    if context.clock_is_synchronised() is False:
        remedy = "timedatectl set-ntp true (or chrony)"
        yield Finding("clock", Severity.WARN, "the machine's clock is not synchronised", remedy)
    for node in context.nodes.values():
        try:
            skew = abs((node.now() - context.clock.utc()).total_seconds())
        except DdwdError:
            continue  # reported by the check of the Orthancs
        if skew > _SKEW_SECONDS:
            yield Finding(
                "clock", Severity.BROKEN, f"{node.name}'s clock is {span(skew)} off", "systemctl restart ddwd"
            )


def senders(context: CheckContext) -> Iterator[Finding]:
    """Check who may send."""
    config = context.config
    if not config.senders and config.has("gateway"):
        text = f"anyone who reaches port {config.gateway.dicom_port} may send, by any AE title"
        remedy = f"list your modalities in senders in {CONFIG_FILE}"
        yield Finding("senders", Severity.WARN, text, remedy)


def firewall(context: CheckContext) -> Iterator[Finding]:
    """Check that the table of nftables exists if it is configured, and only then."""
    wanted = context.config.network.firewall
    if context.login is not None and context.has_firewall() is not wanted:
        text = f"network.firewall is {'on' if wanted else 'off'}, and the table is {'not there' if wanted else 'still there'}"
        remedy = "systemctl restart ddwd-firewall; journalctl -u ddwd-firewall -n 20"
        yield Finding("firewall", Severity.BROKEN if wanted else Severity.WARN, text, remedy)


def quickack_routes(context: CheckContext) -> Iterator[Finding]:
    """Check that senders in these networks are acknowledged at once."""
    routes = context.routes()
    for network in context.config.network.quickack:
        wanted, notes = quickack.twins(routes, network)
        for note in notes:
            remedy = "ip route; or take it out of network.quickack in /etc/ddwd/ddwd.yaml"
            yield Finding("quickack", Severity.WARN, note, remedy)
        if not set(wanted) <= set(quickack.own(routes)):
            text = f"senders in {network} may wait 40 ms for each acknowledgement"
            remedy = "systemctl restart ddwd-quickack; journalctl -u ddwd-quickack -n 20"
            yield Finding("quickack", Severity.WARN, text, remedy)


def waiting(context: CheckContext) -> Iterator[Finding]:
    """Report what waits for the operator."""
    if context.report.quarantine:
        text = f"{many(context.report.quarantine, 'image waits', 'images wait')} in quarantine"
        yield Finding("waiting", Severity.WARN, text, "ddwd quarantine list")
    bad = sorted(context.paths.requests.glob("*.bad"))
    if bad:
        text = f"{many(len(bad), 'request was', 'requests were')} damaged and not done"
        yield Finding("waiting", Severity.WARN, text, f"rm {context.paths.requests}/*.bad")
    for folder, count in context.report.aside.items():
        yield Finding("waiting", Severity.WARN, aside_text(folder, count), f"ls -l {folder}")
    if waiting := context.report.counts.get("waiting", 0):
        text = f"{many(waiting, 'study waits', 'studies wait')} after a failure"
        yield Finding("waiting", Severity.WARN, text, "ddwd-top, or ddwd trace STUDY")


def self_test(context: CheckContext) -> Iterator[Finding]:
    """Report the result of the last self test."""
    last = context.report.self_test
    if not context.config.has("extractor"):
        yield Finding("self test", Severity.NOTE, "the extractor's machine makes it")
    elif last is None:
        yield Finding("self test", Severity.NOTE, "none was made yet", "ddwd doctor --send")
    elif not last.ok:
        yield Finding("self test", Severity.BROKEN, f"the last one failed: {last.text}", "ddwd doctor --send")
