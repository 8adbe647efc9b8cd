"""Checks of this machine: units, daemons, disks, permissions, clock, network, and the operator's tasks."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ddwd.config.loader import CONFIG_FILE
from ddwd.config.schema import SECRET_KEYS, flatten
from ddwd.core.errors import DdwdError
from ddwd.provisioning.port_holders import strangers
from ddwd.status import chain, postgresql
from ddwd.status.findings import CheckContext, Finding, broken, note, warn
from ddwd.status.formatting import many, span, time
from ddwd.status.problems import aside_text, lost_text, two_patients_text
from ddwd.status.senders import problems, remedy, what, who
from ddwd.store import rejected_files
from ddwd.store.status_files import HARMLESS, AcceptorStatus, RetentionRound, RetentionStatus, SweepStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddwd.config.paths import Paths

_SKEW_SECONDS = 5.0
_SWEEP = timedelta(weeks=1)
_ROUND = timedelta(days=2)


def units_run(context: CheckContext) -> Iterator[Finding]:
    for unit in context.report.units:
        if not unit.is_well:
            yield broken(f"{unit.name} is {unit.active}", f"journalctl -u {unit.name} -n 50")
    if not context.report.units:
        yield note("systemd does not run here")
        return
    if (context.systemctl(["is-enabled", "ddwd.service"]) or "").strip() != "enabled":
        yield warn("ddwd does not start at boot", "systemctl enable ddwd")
    if context.report.database:
        yield broken(context.report.database, postgresql.REMEDY)


def daemons(context: CheckContext) -> Iterator[Finding]:
    for heart in context.report.hearts:
        if heart.problem:
            yield broken(heart.problem, f"journalctl -u ddwd-{heart.daemon} -n 50")
    if context.report.paused:
        yield warn("retrieving is paused by the operator", "ddwd resume")
    for extractor in context.report.hearts[-1:]:
        for name, reason in extractor.silent_peers.items():
            yield broken(f"the extractor cannot reach {name}: {reason}", "ddwd status")
    if context.report.chain is not None and context.report.chain.problem:
        yield broken(context.report.chain.problem, chain.REMEDY)


def sweep(context: CheckContext) -> Iterator[Finding]:
    swept = context.report.swept or SweepStatus()
    since = swept.ended_at or swept.began_at
    if since and context.clock.utc() - datetime.fromisoformat(since) > _SWEEP:
        yield warn(
            f"not all studies were compared since {since[:10]}",
            "check the load of the Orthancs, then: ddwd reconcile",
        )


def disks(context: CheckContext) -> Iterator[Finding]:
    for volume in context.report.volumes:
        if volume.problem:
            yield broken(volume.problem, "make it writable, make room, or set output_dir to a larger disk")
        elif volume.level not in {"", "ok"}:
            yield warn(f"{volume.path} gets short of room", "make room")
    yield from _retention(context)


def _retention(context: CheckContext) -> Iterator[Finding]:
    """Check that retention runs and removes what it may, if room gets short."""
    is_short = any(volume.level not in {"", "ok"} for volume in context.report.volumes)
    if not context.config.retention.places(context.config.routes):
        if is_short:
            remedy = f"set retention in {CONFIG_FILE} (docs/retention.md)"
            yield warn("room gets short, and nothing is ever removed", remedy)
        return
    retention = context.report.retention or RetentionStatus()
    last = retention.last or RetentionRound()
    if last.problem:
        yield warn(f"the last round of retention was broken off: {last.problem}", "ddwd status")
    for place, tally in last.places.items():
        for blocked in tally.kept:
            studies = many(blocked.studies, "study has", "studies have")
            text = f"{studies} to stay on the {place}, as {blocked.example}: {blocked.reason}"
            yield warn(text, "ddwd retention --dry-run")
    places = last.places.values()
    if is_short and places and not any(tally.studies or tally.kept for tally in places):
        remedy = "fewer days in retention, or a larger disk"
        yield warn("room gets short, and nothing that may go is old enough", remedy)
    since = last.ended_at
    if since and context.clock.utc() - datetime.fromisoformat(since) > _ROUND:
        yield warn(
            f"no round of retention has ended since {since[:10]}", "journalctl -u ddwd-extractor -n 50"
        )


def permissions(context: CheckContext) -> Iterator[Finding]:
    """Check that only the portal and group ddwd can read patient data, and that the portal can write its folders."""
    paths = context.paths
    output = [paths.output] if context.config.has("extractor") else []
    for path in (*output, paths.state, paths.quarantine):
        try:
            found = path.stat()
        except FileNotFoundError:
            yield broken(f"{path} is missing", f"install -d -o ddwd -g ddwd -m 0750 {path}")
            continue
        if stat.S_IMODE(found.st_mode) & stat.S_IRWXO:
            yield broken(f"{path} is open to every user", f"chmod o= {path}")
        if not stat.S_IMODE(found.st_mode) & stat.S_IWUSR or found.st_uid != paths.state.stat().st_uid:
            yield broken(
                f"{path} does not belong to ddwd, or is read-only",
                f"chown ddwd:ddwd {path}; chmod 750 {path}",
            )
    for file in (context.config.credentials_file, *_with_secrets(context)):
        if file.stat().st_mode & stat.S_IRWXO:
            yield broken(f"{file} is open to every user", f"chmod 640 {file}")


def _with_secrets(context: CheckContext) -> list[Path]:
    """Return the files of the settings that contain a password."""
    values = flatten(context.config)
    passwords = [values[key] for key in SECRET_KEYS] + [node.password for node in context.config.destinations]
    secret = any(password is not None for password in passwords)
    return [file for file in context.settings if secret and file.exists()]


def clock(context: CheckContext) -> Iterator[Finding]:
    if context.clock_is_synchronised() is False:
        yield warn("the machine's clock is not synchronised", "timedatectl set-ntp true (or chrony)")
    for node in context.nodes.values():
        try:
            skew = abs((node.now() - context.clock.utc()).total_seconds())
        except DdwdError:
            continue  # reported by the check of the Orthancs
        if skew > _SKEW_SECONDS:
            yield broken(f"{node.name}'s clock is {span(skew)} off", "systemctl restart ddwd")


def senders(context: CheckContext) -> Iterator[Finding]:
    """Check who may send, whether associations run out, and who was refused in the last hour so that an image may be missing."""
    config = context.config
    for key, text in problems(context.report).items():
        if not key.startswith("refused"):
            yield warn(text, "see docs/senders.md")
    acceptor = context.report.acceptor.acceptor if context.report.acceptor else AcceptorStatus()
    for sender in acceptor.senders:
        for reason in sender.reasons:
            if reason.kind not in HARMLESS:
                yield warn(f"{who(sender)}: {what(reason)}; last {time(reason.last)}", remedy(reason))
    if not config.senders and config.has("gateway"):
        text = f"anyone who reaches port {config.gateway.dicom_port} may send, by any AE title"
        yield warn(text, f"list your modalities in senders in {CONFIG_FILE}")


def ports(context: CheckContext) -> Iterator[Finding]:
    """Check that no other process holds a port of the portal, which keeps its service from starting."""
    for port, holder in strangers(context.config, context.holders):
        text = f"port {port.number} ({port.key}) is held by {holder}: its service cannot start"
        yield broken(text, f"end that process (ss -ltnp 'sport = :{port.number}'), and keep its user from it")


def firewall(context: CheckContext) -> Iterator[Finding]:
    """Check that the table of nftables exists as it is configured. With `auto` a machine without one is as it should be, and it is noted."""
    wanted, is_there = context.config.network.firewall, context.has_firewall()
    remedy = "systemctl restart ddwd-firewall; journalctl -u ddwd-firewall -n 20"
    if is_there is None:
        return
    if wanted == "true" and not is_there:
        yield broken("network.firewall is true, and the table is missing", remedy)
    elif wanted == "false" and is_there:
        yield warn("network.firewall is false, and the table still exists", remedy)
    elif wanted == "auto" and not is_there:
        text = "no table of nftables: the Orthancs still answer this machine alone, any local user may take a port that is free"
        yield note(text, f"apt install nftables; {remedy}; or write network.firewall: false")


def waiting(context: CheckContext) -> Iterator[Finding]:
    if context.report.quarantine:
        text = f"{many(context.report.quarantine, 'image waits', 'images wait')} in quarantine"
        yield warn(text, "ddwd quarantine list")
    if context.report.two_patients:
        remedy = "ddwd quarantine list; decided by: ddwd quarantine release ID"
        yield warn(two_patients_text(context.report.two_patients), remedy)
    if context.report.lost:
        remedy = "ddwd reconcile --dry-run; who removed them, and what to do: ddwd trace STUDY"
        yield broken(lost_text(context.report.lost), remedy)
    for folder, (one, several) in _rejecting(context.paths).items():
        if bad := len(list(folder.glob(rejected_files.PATTERN))):
            text = f"{many(bad, one, several)} damaged and ignored"
            yield warn(text, f"ls -l {folder}; rm -r {folder}/*.bad")
    for aside, count in context.report.aside.items():
        yield warn(aside_text(aside, count), f"ls -l {aside}")
    if waiting := context.report.counts.get("waiting", 0):
        text = f"{many(waiting, 'study waits', 'studies wait')} after a failure"
        yield warn(text, "ddwd-top, or ddwd trace STUDY")


def _rejecting(paths: Paths) -> dict[Path, tuple[str, str]]:
    """Return the folders in which a daemon puts aside what is no file that it can work with, and what to call that."""
    return {
        paths.requests: ("request was", "requests were"),
        paths.conflicts("gateway"): (
            "object put aside by ORTHANC1 was",
            "objects put aside by ORTHANC1 were",
        ),
        paths.conflicts("storage"): (
            "object put aside by ORTHANC2 was",
            "objects put aside by ORTHANC2 were",
        ),
        paths.commitments: ("request for storage commitment was", "requests for storage commitment were"),
        paths.hooks / "waiting": ("notice for a hook was", "notices for a hook were"),
        paths.deliveries: ("request to retry was", "requests to retry were"),
    }


def self_test(context: CheckContext) -> Iterator[Finding]:
    last = context.report.self_test
    if not context.config.has("extractor"):
        yield note("it runs on the extractor's machine")
    elif last is None:
        yield note("it has not run yet", "ddwd doctor --send")
    elif not last.ok:
        yield broken(f"the last one failed: {last.text}", "ddwd doctor --send")
