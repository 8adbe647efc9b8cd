"""The problems of a report: one typed list, which every view, the alerts, the metrics and the exit statuses read. Pure.

What a problem explains stands below it as its consequence (`root_causes`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ddwd.core.printable import many
from ddwd.core.problem import Problem, problem
from ddwd.core.problem_codes import Code
from ddwd.extractor.decision import Blocker, Stage
from ddwd.status import chain, postgresql, senders
from ddwd.status.formatting import span, time
from ddwd.status.root_causes import folded
from ddwd.status.units import log_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.status.report import Report, VolumeState
    from ddwd.store.status_files import LostStatus

_ROOM = "make room, set retention, or move output_dir to a larger volume"


def problems_of(report: Report) -> tuple[Problem, ...]:
    """Return the problems of a report: what is broken first, each with its consequences."""
    found = (
        *_parts(report),
        *senders.problems(report),
        *_volumes(report),
        *_studies(report),
        *report.noticed,
    )
    return folded(one if one.since else replace(one, since=report.since.get(one.key, "")) for one in found)


def _parts(report: Report) -> Iterator[Problem]:
    if report.database:
        yield problem(Code.POSTGRESQL_DOWN, report.database, postgresql.REMEDY)
    for unit in report.units:
        if not unit.is_well:
            cause = f"{unit.name} is {unit.active}"
            yield problem(Code.UNIT_DOWN, cause, log_command(unit.name), unit.name)
    yield from _servers(report)
    for heart in (*report.hearts, *([report.acceptor] if report.acceptor else [])):
        if heart.problem:
            remedy = log_command(f"ddwd-{heart.daemon}")
            yield problem(Code.DAEMON_SILENT, heart.problem, remedy, heart.daemon)
    yield from _not_reached(report)
    if report.chain is not None and report.chain.problem:
        yield problem(report.chain.code, report.chain.problem, chain.REMEDY)
    if (test := report.self_test) is not None and not test.ok:
        cause = f"the last self test failed: {test.text}"
        yield problem(Code.SELF_TEST_FAILED, cause, "ddwd doctor --send", since=test.at)


def _servers(report: Report) -> Iterator[Problem]:
    unasked = [server for server in report.servers if server.unasked]
    if unasked:  # both have the same problem
        yield problem(Code.LOGIN_UNREADABLE, unasked[0].problem)
    for server in report.servers:
        if server.problem and not server.unasked:
            yield problem(Code.ORTHANC_SILENT, server.problem, server.log, server.name)


def _not_reached(report: Report) -> Iterator[Problem]:
    """Yield the peers that the extractor cannot reach although they answered this process."""
    answering = {server.name for server in report.servers if not server.problem}
    for extractor in report.hearts[-1:]:
        if extractor.problem:
            continue
        for name, reason in extractor.silent_peers.items():
            if name == "ledger":
                cause = f"{reason}: studies wait on ORTHANC2 until it is back"
                yield problem(Code.LEDGER_UNREACHED, cause, "start its PostgreSQL server")
            elif name in answering:
                remedy = log_command("ddwd-extractor")
                yield problem(Code.PEER_UNREACHED, f"for the extractor: {reason}", remedy, name)


def _volumes(report: Report) -> Iterator[Problem]:
    for volume in report.volumes:
        if volume.read_only:
            remedy = f"dmesg says why; then: mount -o remount,rw {volume.path}"
            yield problem(Code.VOLUME_READ_ONLY, volume.problem, remedy, volume.use)
        elif volume.problem and not volume.total:
            yield problem(
                Code.VOLUME_UNREADABLE, volume.problem, "mount it, or give it back its rights", volume.use
            )
        elif volume.problem:
            yield problem(Code.VOLUME_FULL, volume.problem, _ROOM, volume.use)
        elif volume.level not in {"", "ok"}:
            yield problem(
                Code.VOLUME_SHORT, f"{volume.path} gets short of room{_left(volume)}", _ROOM, volume.use
            )


def _left(volume: VolumeState) -> str:
    return "" if volume.hours_left is None else f", full in {span(volume.hours_left * 3600)}"


def _studies(report: Report) -> Iterator[Problem]:
    """Yield what keeps studies from being complete, and what waits for the operator."""
    if waiting := report.counts.get(Stage.WAITING.value, 0):
        cause = f"{many(waiting, 'study waits', 'studies wait')} after a failure, and will be tried again"
        yield problem(
            Code.STUDIES_WAIT, cause, "ddwd trace STUDY", count=waiting, study=_first(report, Stage.WAITING)
        )
    refused = [row for row in report.in_flight if row.blocker == Blocker.REFUSED.value]
    if refused:
        cause = f"{many(len(refused), 'study has images', 'studies have images')} that ORTHANC2 does not take"
        study = refused[0].study_uid
        yield problem(Code.IMAGES_REFUSED, cause, "ddwd trace STUDY", count=len(refused), study=study)
    if held := report.counts.get(Stage.HELD.value, 0):
        cause = f"{many(held, 'study is', 'studies are')} held on ORTHANC1: no route matches"
        yield problem(
            Code.STUDIES_HELD, cause, "ddwd routes list", count=held, study=_first(report, Stage.HELD)
        )
    if (lost := report.lost) is not None:
        remedy = "ddwd trace STUDY says who removed them, and what to do; all: ddwd reconcile --dry-run"
        yield problem(
            Code.IMAGES_LOST, _lost(lost), remedy, since=lost.since, study=lost.example, count=lost.studies
        )
    yield from _for_the_operator(report)
    for row in report.destinations:
        if row.state == "away":
            studies = many(row.studies, "study waits", "studies wait")
            cause = f"{row.name} does not answer since {time(row.since)} ({row.reason}); {studies} for it"
            yield problem(
                Code.DESTINATION_SILENT,
                cause,
                "ddwd destinations list",
                row.name,
                since=row.since,
                count=row.studies,
            )
    if report.hooks:
        studies = many(report.hooks, "published study", "published studies")
        cause = f"the hook of {studies} failed, and will be tried again"
        yield problem(Code.HOOKS_FAIL, cause, "ddwd hooks list", count=report.hooks)


def _first(report: Report, stage: Stage) -> str:
    return next((row.study_uid for row in report.in_flight if row.state == stage.value), "")


def _lost(lost: LostStatus) -> str:
    counts = " and ".join(
        f"{images:,} on {place}"
        for images, place in ((lost.on_gateway, "ORTHANC1"), (lost.on_storage, "ORTHANC2"))
        if images
    )
    studies = many(lost.studies, "study is", "studies are")
    return (
        f"{studies} missing images that were received, {counts}, as {lost.example} since {time(lost.since)}"
    )


def _for_the_operator(report: Report) -> Iterator[Problem]:
    """Yield what does not end without a decision of the operator."""
    for folder, count in report.aside.items():
        images = many(count, "image", "images")
        cause = f"{images} of other content than the stored ones in {folder}"
        yield problem(
            Code.OBJECTS_ASIDE, cause, f"check and remove them: ls -l {folder}", folder, count=count
        )
    if count := report.two_patients:
        cause = f"{many(count, 'study has', 'studies have')} the UID of another patient's study"
        remedy = "ddwd quarantine list; decided by: ddwd quarantine release ID"
        yield problem(Code.TWO_PATIENTS, cause, remedy, count=count)
    if count := report.quarantine or 0:
        cause = f"{many(count, 'image waits', 'images wait')} for you in quarantine"
        yield problem(Code.QUARANTINE, cause, "ddwd quarantine list", count=count)
    if report.paused:
        since = f" since {time(report.paused_at)}" if report.paused_at else ""
        cause = f"retrieving is paused by {report.paused_by or 'the operator'}{since}"
        yield problem(Code.PAUSED, cause, "ddwd resume", since=report.paused_at)
