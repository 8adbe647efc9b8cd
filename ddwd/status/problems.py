"""The problems of a report, each as one line for people. Pure.

`ddwd status` and the dashboard show all of them; the alerts and the doctor word theirs by the functions for a kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.extractor.decision import Blocker, Stage
from ddwd.status import chain, postgresql, senders
from ddwd.status.formatting import many, time

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.status.report import Report
    from ddwd.store.status_files import LostStatus


def lines(report: Report) -> Iterator[str]:
    """Yield one line for each problem."""
    if report.database:  # what it explains comes after it
        yield f"{report.database}; see: {postgresql.REMEDY}"
    for unit in report.units:
        if not unit.is_well:
            yield f"{unit.name} is {unit.active}; see: journalctl -u {unit.name} -n 50"
    # without credentials both servers have the same problem, which is reported once
    yield from dict.fromkeys(server.problem for server in report.servers if server.problem)
    hearts = (*report.hearts, report.acceptor) if report.acceptor else report.hearts
    yield from (heart.problem for heart in hearts if heart.problem)
    yield from senders.problems(report).values()
    yield from (volume.problem for volume in report.volumes if volume.problem)
    yield from _not_reached(report)
    if report.chain is not None and report.chain.problem:
        yield f"{report.chain.problem}; see: {chain.REMEDY}"
    if report.self_test is not None and not report.self_test.ok:
        yield f"the last self test failed: {report.self_test.text}; see: ddwd doctor"
    yield from _waiting(report)


def _waiting(report: Report) -> Iterator[str]:
    if waiting := report.counts.get(Stage.WAITING.value, 0):
        yield f"{many(waiting, 'study waits', 'studies wait')} after a failure, and will be tried again"
    if refused := refused_text(report):
        yield refused
    if held := report.counts.get(Stage.HELD.value, 0):
        yield f"{many(held, 'study is', 'studies are')} held: no route matches them; see: ddwd routes list"
    yield from (aside_text(folder, count) for folder, count in report.aside.items())
    if report.lost:
        yield f"{lost_text(report.lost)}; who removed them, and what to do: ddwd trace STUDY; all: ddwd reconcile --dry-run"
    if report.two_patients:
        text = two_patients_text(report.two_patients)
        yield f"{text}; see: ddwd quarantine list; decided by: ddwd quarantine release ID"
    for row in report.destinations:
        if row.state == "away":
            studies = many(row.studies, "study waits", "studies wait")
            away = f"{row.name} does not answer since {time(row.since)} ({row.reason})"
            yield f"{away}; {studies} for it; see: ddwd destinations list"
    if report.hooks:
        studies = many(report.hooks, "published study", "published studies")
        yield f"the hook of {studies} failed, and will be tried again; see: ddwd hooks list"


def _not_reached(report: Report) -> Iterator[str]:
    """Yield the peers that the extractor cannot reach although they answered this process."""
    answering = {server.name for server in report.servers if not server.problem}
    for extractor in report.hearts[-1:]:
        if extractor.problem:
            continue
        for name, reason in extractor.silent_peers.items():
            if name in answering | {"ledger"}:
                yield f"for the extractor: {reason}"


def aside_text(folder: str, count: int) -> str:
    """Return the line for people about `count` objects in a folder whose content differs from the stored ones."""
    images = many(count, "image", "images")
    return f"{images} of other content than the stored ones in {folder}: check and remove them"


def two_patients_text(count: int) -> str:
    """Return the line for people about `count` studies that have the StudyInstanceUID of another patient's."""
    return f"{many(count, 'study has', 'studies have')} the UID of another patient's study"


def lost_text(lost: LostStatus) -> str:
    """Return the line for people about studies of which an Orthanc is missing images."""
    studies = many(lost.studies, "study is", "studies are")
    counts = " and ".join(
        f"{images:,} on {place}"
        for images, place in ((lost.on_gateway, "ORTHANC1"), (lost.on_storage, "ORTHANC2"))
        if images
    )
    return (
        f"{studies} missing images that were received, {counts}, as {lost.example} since {time(lost.since)}"
    )


def refused_text(report: Report) -> str:
    """Return the line for people about studies with images that storage does not take; empty without any."""
    refused = sum(row.blocker == Blocker.REFUSED.value for row in report.in_flight)
    studies = many(refused, "study has images", "studies have images")
    return f"{studies} that ORTHANC2 does not take; why: ddwd trace STUDY" if refused else ""
