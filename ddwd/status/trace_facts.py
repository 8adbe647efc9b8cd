"""Read what every source has about one study, for its trace. Reads only.

The sources are both Orthancs, the extractor's status, the custody record, the files on disk, the quarantine and the events in
the ledger, and the journal. A source that cannot be read is one of the `problems`, and the others are read all the same.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ddwd.config.paths import Paths
from ddwd.core.errors import DamagedStateError, DdwdError, NotFoundError, PeerDownError, StateError
from ddwd.core.model import OrthancId
from ddwd.extractor.lost_images import LostImages, accepted, is_covered, lost_images
from ddwd.extractor.quarantine import TWO_PATIENTS, read_entries
from ddwd.status import trace_lost
from ddwd.status.events import AuditEvent, of_study
from ddwd.store.backends import custody_of
from ddwd.store.custody import Record, is_missing
from ddwd.store.status_files import EXTRACTOR, InFlightStudy, LostStudy

if TYPE_CHECKING:
    from ddwd.config.schema import Config
    from ddwd.core.model import Study
    from ddwd.extractor.quarantine import Entry
    from ddwd.orthanc.port import OrthancPort
    from ddwd.status.journal_events import JournalEvents


@dataclass
class StudyFacts:
    """The contents of all sources. `record` is an empty record with revision 0 if there is none; `gone` are images whose files are missing.

    `undecided` are entries of the quarantine about its StudyInstanceUID, this study's or a namesake's.
    """

    study: OrthancId
    record: Record
    gone: frozenset[OrthancId] = frozenset()
    listings: dict[str, Study | None] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    row: InFlightStudy = field(default_factory=InFlightStudy)
    entries: list[Entry] = field(default_factory=list)
    undecided: list[Entry] = field(default_factory=list)
    namesakes: frozenset[OrthancId] = frozenset()
    events: list[AuditEvent] = field(default_factory=list)
    refused: list[AuditEvent] = field(default_factory=list)
    changes: list[AuditEvent] = field(default_factory=list)
    accepted: LostStudy | None = None

    def ids(self, node: str) -> frozenset[OrthancId]:
        """Return the images on an Orthanc; none if it does not have the study, or is among the problems."""
        listing = self.listings.get(node)
        return listing.ids if listing else frozenset()

    @property
    def removed(self) -> int:
        """Images that retention removed from the disk."""
        return sum(bool(image.removed) for image in self.record.images.values())

    @property
    def lost(self) -> LostImages:
        """Images that were received and that an Orthanc no longer has; none while that is not known, or the extractor works on it."""
        if self.row.study or self.problems.keys() & {"gateway", "storage", "disk"}:
            return LostImages(frozenset(), frozenset())
        lost = lost_images(self.record, self.ids("gateway"), self.ids("storage"))
        return (
            LostImages(frozenset(), frozenset())
            if self.accepted and is_covered(lost, self.accepted)
            else lost
        )

    @property
    def nowhere(self) -> frozenset[OrthancId]:
        """Images that are on neither Orthanc and not on disk, although retention did not remove them from storage."""
        removed = frozenset(one for one, image in self.record.images.items() if image.removed)
        return self.lost.storage & (self.gone | removed)

    @property
    def study_uid(self) -> str:
        """Its StudyInstanceUID; empty if no source has it."""
        return (self.listing.study_uid if self.listing else "") or self.record.study_uid or self.row.study_uid

    @property
    def not_here(self) -> list[AuditEvent]:
        """The refusals of images that are not published: those of the others are over."""
        published = {image.sop_uid for image in self.record.images.values()}
        return [event for event in self.refused if event.fields.get("sop_uid") not in published]

    @property
    def listing(self) -> Study | None:
        """The study as storage lists it, or else the gateway; None if neither has it."""
        return self.listings.get("storage") or self.listings.get("gateway")

    @property
    def route(self) -> str:
        """The name of its route; empty without one."""
        return self.row.route or self.record.route


def read_facts(
    study: OrthancId,
    config: Config,
    nodes: tuple[OrthancPort, OrthancPort],
    refusals: JournalEvents,
    changes: JournalEvents,
) -> StudyFacts:
    """Read every source about one study. Raises NotFoundError if none has it."""
    facts = StudyFacts(study, Record(study, "", "", "", revision=0, published_at=""))
    paths = Paths(config)
    for node in nodes:
        try:
            facts.listings[node.name] = node.study(study)
        except DdwdError as error:
            facts.problems[node.name] = str(error)
    _read_extractor(facts, paths)
    for source, read, content in (
        ("disk", _read_disk, "the custody records and the output are"),
        ("events", _read_ledger, "the ledger is"),
    ):
        try:
            read(facts, paths)
        except (PeerDownError, StateError) as error:
            facts.problems[source] = str(error)
        except OSError as error:
            facts.problems[source] = f"{content} for root and group ddwd ({error.strerror})"
    facts.accepted = accepted(paths.lost).get(study)
    _find_namesakes(facts, nodes)
    unread = facts.problems.keys() & {"gateway", "storage", "disk"}
    if not (facts.listing or facts.record.revision or facts.row.study or facts.entries or unread):
        raise NotFoundError("no hop knows this study; see: ddwd reconcile --dry-run")
    try:
        facts.refused = refusals(facts.study_uid)
        facts.changes = trace_lost.of_record(changes(study), facts.record)
    except StateError as error:
        facts.problems["refused"] = str(error)
    return facts


def _read_extractor(facts: StudyFacts, paths: Paths) -> None:
    try:
        status = EXTRACTOR.read(paths.heartbeat("extractor"))
    except OSError:
        status = None
    except DamagedStateError:
        return  # of another version: the trace goes on without it
    if status is None:
        facts.problems["extractor"] = "the extractor does not run: systemctl start ddwd"
        return
    facts.row = next((row for row in status.in_flight if row.study == facts.study), facts.row)


def _read_disk(facts: StudyFacts, paths: Paths) -> None:
    record = custody_of(paths.config).read(facts.study)
    if record is not None:
        facts.record = record
        folder = paths.output / record.folder
        facts.gone = frozenset(one for one, image in record.images.items() if is_missing(folder, image))
    for entry in read_entries(paths.quarantine):
        if entry.subject.kind == TWO_PATIENTS and entry.subject.study_uid == facts.study_uid:
            facts.undecided.append(entry)
        elif entry.subject.study == facts.study:
            facts.entries.append(entry)


def _find_namesakes(facts: StudyFacts, nodes: tuple[OrthancPort, OrthancPort]) -> None:
    """Ask both Orthancs for studies of the same StudyInstanceUID; one that does not answer is named elsewhere."""
    found = {*facts.record.namesakes, *(OrthancId(entry.subject.study) for entry in facts.undecided)}
    for node in nodes if facts.study_uid else ():
        with suppress(DdwdError):
            found.update(node.find_study(facts.study_uid))
    facts.namesakes = frozenset(found - {facts.study})


def _read_ledger(facts: StudyFacts, paths: Paths) -> None:
    facts.events = of_study(paths.config, facts.study)
