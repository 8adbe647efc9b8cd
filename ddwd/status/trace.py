"""Trace one study over all hops: where its images are, why it is not published, and what to do. Reads only.

trace_facts.py reads the sources. A source that cannot be read is named, and the trace has the others all the same. It contains no patient ID.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths
from ddwd.core.audit import WARNINGS, Event
from ddwd.core.errors import NotFoundError, StateError
from ddwd.core.model import OrthancId
from ddwd.core.printable import many
from ddwd.extractor.decision import Blocker, Stage
from ddwd.orthanc.plugin.rest_rights import PORTAL_LOGINS
from ddwd.status import journal_events, trace_lost
from ddwd.status.formatting import second, time, without_patient
from ddwd.status.root_causes import of_unfinished
from ddwd.status.senders import again
from ddwd.status.status_codes import explain
from ddwd.status.trace_facts import read_facts
from ddwd.store.custody import BY_REST
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.record_check import as_orthanc_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ddwd.config.schema import Config
    from ddwd.core.problem import Problem
    from ddwd.orthanc.port import OrthancPort
    from ddwd.status.events import AuditEvent
    from ddwd.status.journal_events import JournalEvents
    from ddwd.status.trace_facts import StudyFacts
    from ddwd.store.custody import Record

_FAILURES = frozenset(event.value for event in WARNINGS)
_NEXT_STEPS = {
    Stage.HELD.value: "add a route that matches it to ddwd.yaml (the last one may match all), then restart ddwd",
    Stage.ARRIVING.value: "none: it is published once no image has come for stable_age seconds",
}


@dataclass(frozen=True, slots=True)
class TracedHop:
    """One hop: images there now (None: not known), stamps of the first and last image there, why it could not be read.

    `retired` is the stamp of when retention last removed images there. `by_rest` counts the published images that came there by REST,
    since STOW-RS did not bring them.
    """

    name: str
    title: str
    images: int | None
    first: str = ""
    last: str = ""
    problem: str = ""
    retired: str = ""
    by_rest: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One event; `meaning` explains its status, `ok` is False for a failure."""

    at: str
    event: str
    text: str
    meaning: str = ""
    ok: bool = True


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole trace; `complete` is True if every image of both Orthancs is on disk as recorded.

    `namesakes` are the studies that have its StudyInstanceUID under another PatientID.
    """

    study: OrthancId
    study_uid: str
    accession: str
    aet: str
    stage: str
    route: str
    complete: bool
    hops: tuple[TracedHop, ...]
    steps: tuple[Step, ...]
    missing: tuple[str, ...]
    verdict: str
    next_step: str
    namesakes: tuple[OrthancId, ...] = ()
    folder: str = ""
    """Where it is on disk, with `*` for what names the patient, as a shell expands it; empty if it was not published."""


def trace(
    study: OrthancId,
    config: Config,
    nodes: tuple[OrthancPort, OrthancPort],
    problems: Iterable[Problem],
    refusals: JournalEvents = journal_events.refusals_of,
    changes: JournalEvents = journal_events.changes_of,
) -> Trace:
    """Read every source about one study. Raises NotFoundError if none has it.

    `problems` are those of the portal: one that keeps studies from being complete is why this one is not.
    Of a study of which every image was refused, `study` is its StudyInstanceUID: see `or_refused`.
    """
    if as_orthanc_id(study) is None:
        return _trace_of_refused(study, refusals(study))
    return _trace_of(read_facts(study, config, nodes, refusals, changes), config, of_unfinished(problems))


def or_refused(name: str, find: Callable[[str], list[OrthancId]], refusals: JournalEvents) -> list[OrthancId]:
    """Return the studies that `find` finds; of a study of which every image was refused, the StudyInstanceUID instead, for `trace`.

    Raises what `find` raises, if no image of that name was refused either.
    """
    try:
        return find(name)
    except NotFoundError as error:
        try:
            refused = refusals(name.strip())
        except StateError as unread:
            raise NotFoundError(f"{error}; {unread}") from error
        if not refused:
            raise
        return [OrthancId(name.strip())]


# --- building the trace -----------------------------------------------------------------------------------------------


def _trace_of(facts: StudyFacts, config: Config, cause: Problem | None) -> Trace:
    listing, record = facts.listing, facts.record
    missing = tuple(_missing(facts))
    unfinished = (
        _unread(facts) or _in_flight(facts) or _in_quarantine(facts) or _incomplete(facts, missing, config)
    )
    verdict, next_step = unfinished or _undecided(facts) or _at_rest(facts)
    if unfinished and cause is not None and _is_moved_by_the_portal(facts):
        verdict, next_step = f"{verdict}; {cause.cause}", cause.remedy
    if facts.not_here:
        verdict = f"{verdict}; {_refused_text(facts.not_here)}"
        next_step = next_step if unfinished else _send_again(facts.not_here)
    return Trace(
        study=facts.study,
        study_uid=facts.study_uid,
        accession=(listing.accession if listing else "") or record.accession,
        aet=next((event.fields["aet"] for event in facts.events if event.fields.get("aet")), ""),
        stage=facts.row.state or ("published" if record.revision else "unknown"),
        route=facts.route,
        complete=unfinished is None,
        hops=(*_hops(facts, config), *_destinations(facts, config)),
        steps=_steps([*facts.events, *facts.refused, *_by_people(facts.changes)]),
        missing=(
            *missing,
            *trace_lost.missing(facts.lost, facts.accepted),
            *([facts.problems["refused"]] if "refused" in facts.problems else ()),
        ),
        verdict=verdict,
        next_step=next_step,
        namesakes=tuple(sorted(facts.namesakes)),
        folder=_folder(record, config),
    )


def _folder(record: Record, config: Config) -> str:
    if not record.images:
        return ""
    return f"{config.output_dir}/{without_patient(record.folder, record.patient_id, '*')}"


def _hops(facts: StudyFacts, config: Config) -> Iterator[TracedHop]:
    spans, record = _spans(facts), facts.record
    on_disk = len(record.images) - len(facts.gone) - facts.removed if record.revision else facts.row.on_disk
    for name, title, place, images in (
        ("gateway", config.gateway.aet, "gateway", len(facts.ids("gateway"))),
        ("storage", config.storage.aet, "storage", len(facts.ids("storage"))),
        ("disk", "disk", "output", on_disk),
    ):
        problem = facts.problems.get(name, "")
        first, last = spans.get(name, ("", ""))
        retired = record.retired.get(place, "")
        by_rest = sum(image.way == BY_REST for image in record.images.values()) if name == "storage" else 0
        yield TracedHop(name, title, None if problem else images, first, last, problem, retired, by_rest)


def _destinations(facts: StudyFacts, config: Config) -> Iterator[TracedHop]:
    """Yield the other destinations of its route, each with the images that were verified there."""
    deliveries = DeliveryLog(Paths(config).deliveries)
    for name in next((route.also for route in config.routes if route.name == facts.route), ()):
        try:
            images, last = len(deliveries.of(name, facts.study)), deliveries.last(name, facts.study)
        except StateError as error:
            yield TracedHop(f"to {name}", name, None, problem=str(error))
        else:
            yield TracedHop(f"to {name}", name, images, last=last)


def _spans(facts: StudyFacts) -> dict[str, tuple[str, str]]:
    """Return first and last moment at each hop over all revisions; those of a study in flight as far as its status has them."""
    spans: dict[str, tuple[str, str]] = {}
    for revision in facts.record.history:
        for hop, (first, last) in revision.get("hops", {}).items():
            spans[hop] = (min(spans.get(hop, (first,))[0], first), last)
    if facts.row.study:
        spans.setdefault("gateway", (facts.row.opened_at, facts.row.newest_at))
    return spans


def _trace_of_refused(study_uid: OrthancId, refused: list[AuditEvent]) -> Trace:
    """Return the trace of a study of which no hop knows an image. Raises NotFoundError if none was refused either."""
    if not refused:
        raise NotFoundError("no hop knows this study, and no image of it was refused")
    return Trace(
        study=study_uid,
        study_uid=study_uid,
        accession="",
        aet=refused[-1].fields.get("aet", ""),
        stage="refused",
        route="",
        complete=False,
        hops=(),
        steps=_steps(refused),
        missing=(),
        verdict=f"no image of it is here; {_refused_text(refused)}",
        next_step=_send_again(refused),
    )


def _send_again(refused: list[AuditEvent]) -> str:
    return f"{again(refused[-1].fields.get('status', ''))} (docs/senders.md)"


def _refused_text(refused: list[AuditEvent]) -> str:
    count = many(len(refused), "image was refused", "images were refused")
    return f"{count} by ORTHANC1, last at {second(refused[-1].at)}: {refused[-1].message}"


def _steps(events: list[AuditEvent]) -> tuple[Step, ...]:
    return tuple(map(_step, sorted(events, key=lambda event: event.at)))


def _step(event: AuditEvent) -> Step:
    status = event.fields.get("status", "")
    meaning = again(status) if event.event == Event.IMAGE_REFUSED else explain(status)
    return Step(event.at, event.event, event.message, meaning, event.event not in _FAILURES)


def _by_people(changes: list[AuditEvent]) -> list[AuditEvent]:
    """Return the requests by other logins than the portal's own, whose work has events of its own."""
    return [event for event in changes if event.fields.get("user") not in PORTAL_LOGINS]


def _missing(facts: StudyFacts) -> Iterator[str]:
    if facts.row.state == Stage.HELD.value:
        return
    not_expected = facts.record.set_aside.keys() | facts.record.passed
    not_on_storage = facts.ids("gateway") - facts.ids("storage") - not_expected
    not_on_disk = facts.ids("storage") - facts.record.images.keys() - not_expected
    if not_on_storage and "storage" not in facts.problems:
        yield f"{many(len(not_on_storage), 'image is', 'images are')} on the gateway and not on storage"
    if not_on_disk and "disk" not in facts.problems:
        yield f"{many(len(not_on_disk), 'image is', 'images are')} on storage and not published"
    if facts.gone:
        files = many(len(facts.gone), "published file is", "published files are")
        yield f"{files} missing on the disk or of another size"
    if facts.entries:
        yield f"{many(len(facts.entries), 'image is', 'images are')} in quarantine"


# --- verdict and next step: of the first function that returns them ---------------------------------------------------


def _unread(facts: StudyFacts) -> tuple[str, str] | None:
    """Return what prevents a verdict."""
    for name in ("gateway", "storage"):
        if name in facts.problems:
            return (
                f"it is not known whether the study is complete: {facts.problems[name]}",
                "systemctl status 'ddwd*' postgresql; no acknowledged image is lost",
            )
    if "disk" in facts.problems:
        return facts.problems["disk"], "run it with sudo, or as a member of group ddwd"
    return None


def _in_flight(facts: StudyFacts) -> tuple[str, str] | None:
    if not facts.row.study:
        return None
    state, reason = facts.row.state, facts.row.reason
    verdict = f"it is in progress, {state}: {reason}" if reason else f"it is in progress, {state}"
    if "extractor" in facts.problems:
        return verdict, facts.problems["extractor"]
    if facts.row.blocker == Blocker.PAUSE.value:
        return verdict, "ddwd resume"
    if facts.row.blocker == Blocker.REFUSED.value:
        meaning = explain(facts.row.status) or "see the log of ORTHANC2"
        return verdict, f"{meaning}; the extractor tries again, and then puts the images in quarantine"
    if state in {Stage.RETRYING.value, Stage.WAITING.value}:
        return verdict, f"{explain(facts.row.status) or 'none yet'}; the extractor retries it"
    return verdict, _NEXT_STEPS.get(state, "none: the extractor works on it")


def _is_moved_by_the_portal(facts: StudyFacts) -> bool:
    """Return whether nothing but a part of the portal keeps it from going on: no pause, no image that storage refuses or in quarantine."""
    return facts.row.blocker not in {Blocker.PAUSE.value, Blocker.REFUSED.value} and not facts.entries


def _in_quarantine(facts: StudyFacts) -> tuple[str, str] | None:
    if not facts.entries:
        return None
    first = facts.entries[0]
    count = many(len(facts.entries), "image of it waits", "images of it wait")
    return f"{count} in quarantine: {first.subject.reason}", f"ddwd quarantine show {first.id}"


def _incomplete(facts: StudyFacts, missing: tuple[str, ...], config: Config) -> tuple[str, str] | None:
    lost = trace_lost.verdict(facts.lost, facts.events, facts.changes)
    if facts.nowhere:
        count = many(len(facts.nowhere), "image is", "images are")
        return f"{count} left in no place; {lost}", "send it again from the modality, or restore a backup"
    if facts.gone:
        return "it was published, and files are missing on the disk since", f"ddwd retry {facts.study}"
    if missing:
        is_stopped = "extractor" in facts.problems
        why = "the extractor does not run" if is_stopped else "no work on them is queued"
        do = "systemctl start ddwd" if is_stopped else f"ddwd reconcile {facts.study}"
        return f"images are missing, and {why}", do
    if facts.lost:
        return lost, trace_lost.remedy(config, facts.record)
    if not facts.record.revision:
        return "no image of it is left on either Orthanc", "send it again from the modality"
    return None


def _undecided(facts: StudyFacts) -> tuple[str, str] | None:
    if not facts.undecided:
        return None
    verdict, _ = _at_rest(facts)
    why = "its StudyInstanceUID is in use under another PatientID too, and nobody has decided"
    return f"{verdict}; {why}", f"ddwd quarantine show {facts.undecided[0].id}"


def _at_rest(facts: StudyFacts) -> tuple[str, str]:
    record = facts.record
    if record.passed and not record.images:
        count = many(len(record.passed), "image stays", "images stay")
        return f"its {count} on storage: route {record.route} does not extract it", "none"
    images = many(len(record.images), "image", "images")
    if facts.removed:
        removed, when = many(facts.removed, "image", "images"), time(record.retired.get("output"))
        verdict = f"it was complete on disk ({images}), and retention removed {removed} there, last {when}"
        return verdict, f"none; to restore the files: ddwd retry {facts.study}"
    when = time(record.published_at)
    return f"it is complete on disk: {images}, revision {record.revision}, published {when}", "none"
