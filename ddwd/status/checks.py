"""Checks of this machine: units, daemons, disks, permissions, clock, network, and the operator's tasks."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from ddwd.config.loader import CONFIG_FILE
from ddwd.config.schema import SECRET_KEYS, flatten
from ddwd.core.errors import DdwdError
from ddwd.core.printable import many
from ddwd.core.problem import problem
from ddwd.core.problem_codes import Code
from ddwd.provisioning.port_holders import strangers
from ddwd.status.formatting import day, span, time
from ddwd.status.senders import remedy, what, who
from ddwd.status.units import log_command
from ddwd.store import rejected_files
from ddwd.store.status_files import HARMLESS, AcceptorStatus, RetentionRound, RetentionStatus, SweepStatus

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.core.problem import Problem
    from ddwd.status.check_context import CheckContext, ProbeContext

_SKEW_SECONDS = 5.0
_SWEEP = timedelta(weeks=1)
_ROUND = timedelta(days=2)


def units_run(context: ProbeContext) -> Iterator[Problem]:
    """Check that the portal starts at boot; the report has the units that are not active."""
    if not context.report.units:
        yield problem(Code.NO_SYSTEMD, "systemd does not run here")
    elif (context.systemctl(["is-enabled", "ddwd.service"]) or "").strip() != "enabled":
        yield problem(Code.NOT_AT_BOOT, "ddwd does not start at boot", "systemctl enable ddwd")


def sweep(context: CheckContext) -> Iterator[Problem]:
    swept = context.report.swept or SweepStatus()
    since = swept.ended_at or swept.began_at
    if since and context.clock.utc() - datetime.fromisoformat(since) > _SWEEP:
        cause = f"not all studies were compared since {day(since)}"
        yield problem(Code.NOT_COMPARED, cause, "check the load of the Orthancs, then: ddwd reconcile")


def retention(context: CheckContext) -> Iterator[Problem]:
    """Check that retention runs and removes what it may, if room gets short."""
    is_short = any(volume.level not in {"", "ok"} for volume in context.report.volumes)
    if not context.config.retention.places(context.config.routes):
        if is_short:
            remedy = f"set retention in {CONFIG_FILE} (docs/retention.md)"
            yield problem(Code.RETENTION_OFF, "room gets short, and nothing is ever removed", remedy)
        return
    last = (context.report.retention or RetentionStatus()).last or RetentionRound()
    if last.problem:
        cause = f"the last round of retention was broken off: {last.problem}"
        yield problem(Code.RETENTION_FAILED, cause, "ddwd status")
    for place, tally in last.places.items():
        for blocked in tally.kept:
            studies = many(blocked.studies, "study has", "studies have")
            cause = f"{studies} to stay on the {place}, as {blocked.example}: {blocked.reason}"
            remedy = "ddwd retention --dry-run"
            yield problem(
                Code.RETENTION_KEEPS, cause, remedy, f"{place} {blocked.reason}", count=blocked.studies
            )
    places = last.places.values()
    if is_short and places and not any(tally.studies or tally.kept for tally in places):
        remedy = "fewer days in retention, or a larger disk"
        yield problem(Code.RETENTION_OFF, "room gets short, and nothing that may go is old enough", remedy)
    since = last.ended_at
    if since and context.clock.utc() - datetime.fromisoformat(since) > _ROUND:
        cause = f"no round of retention has ended since {day(since)}"
        yield problem(Code.RETENTION_LATE, cause, log_command("ddwd-extractor"))


def permissions(context: CheckContext) -> Iterator[Problem]:
    """Check that only the portal and group ddwd can read patient data, and that the portal can write its folders."""
    paths = context.paths
    output = [paths.output] if context.config.has("extractor") else []
    for path in (*output, paths.state, paths.quarantine):
        try:
            found = path.stat()
        except FileNotFoundError:
            remedy = f"install -d -o ddwd -g ddwd -m 0750 {path}"
            yield problem(Code.FOLDER_MISSING, f"{path} is missing", remedy, str(path))
            continue
        if stat.S_IMODE(found.st_mode) & stat.S_IRWXO:
            yield problem(Code.OPEN_TO_ALL, f"{path} is open to every user", f"chmod o= {path}", str(path))
        if not stat.S_IMODE(found.st_mode) & stat.S_IWUSR or found.st_uid != paths.state.stat().st_uid:
            cause = f"{path} does not belong to ddwd, or is read-only"
            remedy = f"chown ddwd:ddwd {path}; chmod 750 {path}"
            yield problem(Code.FOLDER_OWNER, cause, remedy, str(path))
    for file in (context.config.credentials_file, *_with_secrets(context)):
        if file.stat().st_mode & stat.S_IRWXO:
            yield problem(Code.OPEN_TO_ALL, f"{file} is open to every user", f"chmod 640 {file}", str(file))


def _with_secrets(context: CheckContext) -> list[Path]:
    """Return the files of the settings that contain a password."""
    values = flatten(context.config)
    passwords = [values[key] for key in SECRET_KEYS] + [node.password for node in context.config.destinations]
    secret = any(password is not None for password in passwords)
    return [file for file in context.settings if secret and file.exists()]


def synchronised(context: ProbeContext) -> Iterator[Problem]:
    """Check that a time server sets this machine's clock, and that those of the Orthancs agree with it."""
    if context.clock_is_synchronised() is False:
        remedy = "timedatectl set-ntp true (or chrony)"
        yield problem(Code.CLOCK_UNSYNCHRONISED, "the machine's clock is not synchronised", remedy)
    yield from clock(context)


def clock(context: CheckContext) -> Iterator[Problem]:
    """Check that the clocks of the Orthancs agree with this machine's."""
    for node in context.nodes.values():
        try:
            skew = abs((node.now() - context.clock.utc()).total_seconds())
        except DdwdError:
            continue  # reported by the check of the Orthancs
        if skew > _SKEW_SECONDS:
            cause = f"{node.name}'s clock is {span(skew)} off"
            yield problem(Code.CLOCK_DIFFERS, cause, "systemctl restart ddwd", node.name)


def senders(context: CheckContext) -> Iterator[Problem]:
    """Check who may send, and who was refused in the last hour so that an image may be missing."""
    config = context.config
    acceptor = context.report.acceptor.acceptor if context.report.acceptor else AcceptorStatus()
    for sender in acceptor.senders:
        for reason in sender.reasons:
            if reason.kind not in HARMLESS and not reason.standing:
                cause = f"{who(sender)}: {what(reason)}; last {time(reason.last)}"
                subject = f"{sender.aet} {sender.address} {reason.kind} {reason.status}".rstrip()
                yield problem(Code.SENDER_WAS_REFUSED, cause, remedy(reason), subject, count=reason.count)
    if not config.senders and config.has("gateway"):
        cause = f"anyone who reaches port {config.gateway.dicom_port} may send, by any AE title"
        yield problem(Code.SENDERS_OPEN, cause, f"list your modalities in senders in {CONFIG_FILE}")


def ports(context: ProbeContext) -> Iterator[Problem]:
    """Check that no other process holds a port of the portal, which keeps its service from starting."""
    for port, holder in strangers(context.config, context.holders):
        cause = f"port {port.number} ({port.key}) is held by {holder}: its service cannot start"
        remedy = f"end that process (ss -ltnp 'sport = :{port.number}'), and keep its user from it"
        yield problem(Code.PORT_HELD, cause, remedy, port.key.partition(".")[0])


def firewall(context: ProbeContext) -> Iterator[Problem]:
    """Check that the table of nftables exists as it is configured. With `auto` a machine without one is as it should be, and it is noted."""
    wanted, is_there = context.config.network.firewall, context.has_firewall()
    remedy = "systemctl restart ddwd-firewall; journalctl -u ddwd-firewall -n 20"
    if is_there is None:
        return
    if wanted == "true" and not is_there:
        yield problem(Code.FIREWALL_MISSING, "network.firewall is true, and the table is missing", remedy)
    elif wanted == "false" and is_there:
        yield problem(Code.FIREWALL_LEFT, "network.firewall is false, and the table still exists", remedy)
    elif wanted == "auto" and not is_there:
        text = "no table of nftables: the Orthancs still answer this machine alone, any local user may take a port that is free"
        yield problem(
            Code.NO_FIREWALL, text, f"apt install nftables; {remedy}; or write network.firewall: false"
        )


def waiting(context: CheckContext) -> Iterator[Problem]:
    """Check that no file was rejected; the report has everything else that waits."""
    for folder, (one, several) in _rejecting(context.paths).items():
        if bad := len(list(folder.glob(rejected_files.PATTERN))):
            cause = f"{many(bad, one, several)} damaged and ignored"
            remedy = f"ls -l {folder}; rm -r {folder}/*.bad"
            yield problem(Code.FILES_REJECTED, cause, remedy, str(folder), count=bad)


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


def self_test(context: CheckContext) -> Iterator[Problem]:
    """Check that it has run; the report has one that failed."""
    if not context.config.has("extractor"):
        yield problem(Code.SELF_TEST_UNKNOWN, "it runs on the extractor's machine")
    elif context.report.self_test is None:
        yield problem(Code.SELF_TEST_UNKNOWN, "it has not run yet", "ddwd doctor --send")
