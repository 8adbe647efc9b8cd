"""Trace one study over all hops, from every source that knows of it, and say why it is not published and what to do. Reads only.

Both Orthancs, the extractor's status, the custody record, the files on disk, the quarantine and the events in the ledger are asked;
a source that cannot be asked is named, and the rest is shown all the same. No patient ID is part of it.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ddwd.config.paths import Paths
from ddwd.core.audit import WARNINGS
from ddwd.core.errors import DamagedStateError, DdwdError, NotFoundError, PeerDownError, StateError
from ddwd.core.model import OrthancId
from ddwd.extractor.decision import Blocker, Stage
from ddwd.extractor.quarantine import read_entries
from ddwd.status import events
from ddwd.status.formatting import many, plain, time
from ddwd.status.status_codes import explain
from ddwd.store.backends import custody_of
from ddwd.store.custody import Record, is_missing
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.status_files import EXTRACTOR, InFlightStudy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.config.schema import Config
    from ddwd.core.model import Study
    from ddwd.extractor.quarantine import Entry
    from ddwd.orthanc.port import OrthancPort


_NOT_IN_FLIGHT = InFlightStudy()
_NOT_RUNNING = "the extractor does not run: systemctl start ddwd"


@dataclass(frozen=True, slots=True)
class TracedHop:
    """One hop: images there now (None: not known), stamps of the first and last seen there, why it could not be asked.

    `retired` is the stamp of when retention last removed images there.
    """

    name: str
    title: str
    images: int | None
    first: str = ""
    last: str = ""
    problem: str = ""
    retired: str = ""


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
    """The whole trace; `complete` if every image that both Orthancs hold is on disk as recorded."""

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


@dataclass
class _Facts:
    """What was found out about the study, before it is judged."""

    study: OrthancId
    listings: dict[str, Study | None] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    row: InFlightStudy = _NOT_IN_FLIGHT
    record: Record | None = None
    gone: int = 0
    entries: list[Entry] = field(default_factory=list)
    happened: list[events.AuditEvent] = field(default_factory=list)

    def ids(self, node: str) -> frozenset[OrthancId]:
        listing = self.listings.get(node)
        return listing.ids if listing else frozenset()

    @property
    def published(self) -> frozenset[OrthancId]:
        return frozenset(self.record.images) if self.record else frozenset()

    @property
    def removed(self) -> int:
        """Images that retention removed from the disk."""
        return sum(bool(kept.removed) for kept in self.record.images.values()) if self.record else 0

    @property
    def aside(self) -> frozenset[OrthancId]:
        return frozenset(self.record.set_aside) if self.record else frozenset()

    @property
    def passed(self) -> frozenset[OrthancId]:
        return frozenset(self.record.passed) if self.record else frozenset()

    @property
    def listing(self) -> Study | None:
        return self.listings.get("storage") or self.listings.get("gateway")


def trace(study: OrthancId, config: Config, nodes: tuple[OrthancPort, OrthancPort]) -> Trace:
    """Ask every source about one study. Raises NotFoundError if none knows it."""
    known = _Facts(study)
    paths = Paths(config)
    _ask_orthancs(known, nodes)
    _ask_extractor(known, paths)
    _ask_disk(known, paths)
    _ask_ledger(known, paths)
    silent = known.problems.keys() & {"gateway", "storage", "disk"}
    if not (known.listing or known.record or known.row.study or known.entries or silent):
        raise NotFoundError("no hop knows this study; see: ddwd reconcile --dry-run")
    return _assembled(known, config)


# --- asking -----------------------------------------------------------------------------------------------------------


def _ask_orthancs(known: _Facts, nodes: tuple[OrthancPort, OrthancPort]) -> None:
    for node in nodes:
        try:
            known.listings[node.name] = node.study(known.study)
        except DdwdError as error:
            known.problems[node.name] = str(error)


def _ask_extractor(known: _Facts, paths: Paths) -> None:
    try:
        status = EXTRACTOR.read(paths.heartbeat("extractor"))
    except OSError:
        known.problems["extractor"] = _NOT_RUNNING
        return
    except DamagedStateError:
        return  # of another version: the trace goes on without it
    if status is None:
        known.problems["extractor"] = _NOT_RUNNING
        return
    known.row = next((row for row in status.in_flight if row.study == known.study), _NOT_IN_FLIGHT)


def _ask_disk(known: _Facts, paths: Paths) -> None:
    try:
        known.record = custody_of(paths.config).read(known.study)
        if known.record is not None:
            folder = paths.output / known.record.folder
            known.gone = sum(is_missing(folder, kept) for kept in known.record.images.values())
        known.entries = [
            entry for entry in read_entries(paths.quarantine) if entry.subject.study == known.study
        ]
    except (PeerDownError, StateError) as error:
        known.problems["disk"] = str(error)
    except OSError as error:
        known.problems["disk"] = (
            f"the custody records and the output are for root and group ddwd ({error.strerror})"
        )


def _ask_ledger(known: _Facts, paths: Paths) -> None:
    try:
        known.happened = events.of_study(paths.config, known.study)
    except (PeerDownError, StateError) as error:
        known.problems["events"] = str(error)
    except OSError as error:
        known.problems["events"] = f"the ledger is for root and group ddwd ({error.strerror})"


# --- building the trace ------------------------------------------------------------------------------------------------


def _assembled(known: _Facts, config: Config) -> Trace:
    listing, record = known.listing, known.record
    missing = tuple(_missing(known))
    verdict, next_step, complete = _judged(known, missing)
    return Trace(
        study=known.study,
        study_uid=(listing.study_uid if listing else "") or (record.study_uid if record else ""),
        accession=(listing.accession if listing else "") or (record.accession if record else ""),
        aet=next((one.fields["aet"] for one in known.happened if one.fields.get("aet")), ""),
        stage=known.row.state or ("published" if record else "unknown"),
        route=known.row.route or (record.route if record else ""),
        complete=complete,
        hops=tuple(_hops(known, config)),
        steps=tuple(_step(one) for one in known.happened),
        missing=missing,
        verdict=verdict,
        next_step=next_step,
    )


def _hops(known: _Facts, config: Config) -> Iterator[TracedHop]:
    spans, retired = _spans(known), known.record.retired if known.record else {}
    for name, title in (("gateway", config.gateway.aet), ("storage", config.storage.aet)):
        problem = known.problems.get(name, "")
        images = None if problem else len(known.ids(name))
        yield TracedHop(name, title, images, *spans.get(name, ("", "")), problem, retired.get(name, ""))
    on_disk = len(known.published) - known.gone - known.removed if known.record else known.row.on_disk
    problem = known.problems.get("disk", "")
    images = None if problem else on_disk
    yield TracedHop("disk", "disk", images, *spans.get("disk", ("", "")), problem, retired.get("output", ""))
    yield from _elsewhere(known, config)


def _elsewhere(known: _Facts, config: Config) -> Iterator[TracedHop]:
    """Yield the other destinations of its route, each with what it was proved to have."""
    rule = known.row.route or (known.record.route if known.record else "")
    deliveries = DeliveryLog(Paths(config).deliveries)
    for name in next((one.also for one in config.routes if one.name == rule), ()):
        try:
            images, last = len(deliveries.of(name, known.study)), deliveries.last(name, known.study)
        except StateError as error:
            yield TracedHop(f"to {name}", name, None, problem=str(error))
        else:
            yield TracedHop(f"to {name}", name, images, last=last)


def _spans(known: _Facts) -> dict[str, tuple[str, str]]:
    """Return first and last moment at each hop over all revisions; those of a study in flight as far as its status has them."""
    spans: dict[str, tuple[str, str]] = {}
    for revision in known.record.history if known.record else ():
        for hop, (first, last) in revision.get("hops", {}).items():
            spans[hop] = (min(spans.get(hop, (first,))[0], first), last)
    if known.row.study and "gateway" not in spans:
        spans["gateway"] = (known.row.opened_at, known.row.newest_at)
    return spans


def _step(one: events.AuditEvent) -> Step:
    meaning = explain(one.fields.get("status", ""))
    return Step(one.at, one.event, one.message, meaning, one.event not in {event.value for event in WARNINGS})


def _missing(known: _Facts) -> Iterator[str]:
    if known.row.state == Stage.HELD.value:
        return
    not_on_storage = known.ids("gateway") - known.ids("storage") - known.aside - known.passed
    not_on_disk = known.ids("storage") - known.published - known.aside - known.passed
    if not_on_storage and "storage" not in known.problems:
        yield f"{many(len(not_on_storage), 'image is', 'images are')} on the gateway and not on storage"
    if not_on_disk and "disk" not in known.problems:
        yield f"{many(len(not_on_disk), 'image is', 'images are')} on storage and not published"
    if known.gone:
        yield f"{many(known.gone, 'published file is', 'published files are')} gone from the disk or of another size"
    if known.entries:
        yield f"{many(len(known.entries), 'image is', 'images are')} in quarantine"


def _judged(known: _Facts, missing: tuple[str, ...]) -> tuple[str, str, bool]:
    """Return the verdict, what to do next, and whether all of it is on disk."""
    unfinished = _unasked(known) or _in_flight(known) or _in_quarantine(known)
    if unfinished is not None:
        return (*unfinished, False)
    if known.gone:
        return "it was published, and files are gone from the disk since", f"ddwd retry {known.study}", False
    if missing:
        return (*_left(known), False)
    return _at_rest(known)


def _unasked(known: _Facts) -> tuple[str, str] | None:
    """Return what prevents a verdict."""
    silent = [known.problems[one] for one in ("gateway", "storage") if one in known.problems]
    if silent:
        return (
            f"nobody can say whether it is whole: {silent[0]}",
            "systemctl status 'ddwd*' postgresql; what was acknowledged waits",
        )
    if "disk" in known.problems:
        return known.problems["disk"], "run it with sudo, or as a member of group ddwd"
    return None


def _at_rest(known: _Facts) -> tuple[str, str, bool]:
    if known.record is None:
        return "no image of it is left on either Orthanc", "send it again from the modality", False
    if known.record.passed and not known.record.images:
        count = many(len(known.record.passed), "image stays", "images stay")
        return f"its {count} where they are: rule {known.record.route} has it not extracted", "nothing", True
    images = many(len(known.record.images), "image", "images")
    if known.removed:
        gone = many(known.removed, "image", "images")
        when = time(known.record.retired.get("output"))
        verdict = f"it was complete on disk ({images}), and retention removed {gone} there, last {when}"
        return verdict, f"nothing; to have it there again: ddwd retry {known.study}", True
    when = time(known.record.published_at)
    return (
        f"it is complete on disk: {images}, revision {known.record.revision}, published {when}",
        "nothing",
        True,
    )


def _in_flight(known: _Facts) -> tuple[str, str] | None:
    if not known.row.study:
        return None
    state, reason = known.row.state, known.row.reason
    verdict = f"it is on its way, {state}: {reason}" if reason else f"it is on its way, {state}"
    if "extractor" in known.problems:
        return verdict, known.problems["extractor"]
    if known.row.blocker == Blocker.PAUSE.value:
        return verdict, "ddwd resume"
    return verdict, _to_do(state, explain(known.row.status))


def _to_do(state: str, meaning: str) -> str:
    """Return what the operator does about a study in flight, if anything."""
    if state == Stage.WAITING.value:
        return (
            f"{meaning}; it is tried again by itself"
            if meaning
            else "nothing yet: it is tried again by itself"
        )
    if state == Stage.HELD.value:
        return (
            "a rule for it in routes of ddwd.yaml, perhaps a last one that takes the rest; then restart ddwd"
        )
    if state == Stage.ARRIVING.value:
        return "nothing: it is published once no image has come for stable_age seconds"
    return "nothing: it is being worked at"


def _in_quarantine(known: _Facts) -> tuple[str, str] | None:
    if not known.entries:
        return None
    first = known.entries[0]
    count = many(len(known.entries), "image of it waits", "images of it wait")
    return f"{count} in quarantine: {first.subject.reason}", f"ddwd quarantine show {first.id}"


def _left(known: _Facts) -> tuple[str, str]:
    if "extractor" in known.problems:
        return "images are missing, and the extractor does not run", "systemctl start ddwd"
    return "images are missing, and nobody works at them yet", f"ddwd reconcile {known.study}"


# --- showing ----------------------------------------------------------------------------------------------------------


class Line(NamedTuple):
    """One line of text; `is_failure` for one that reports something that went wrong."""

    text: str
    is_failure: bool = False


def lines(told: Trace, width: int) -> list[str]:
    """Return the trace as plain text of that width, for the command line."""
    return [line.text for line in marked_lines(told, width)]


def marked_lines(told: Trace, width: int) -> list[Line]:
    """Return the same lines, with failures marked, for the dashboard."""
    shown = _head_lines(told, width)
    shown += [f"  {line}" for line in told.missing]
    if told.steps:
        shown += ["", "when (UTC)               what"]
    return [*map(Line, shown), *(line for step in told.steps for line in _step_lines(step, width))]


def _head_lines(told: Trace, width: int) -> list[str]:
    return [
        f"study      {plain(told.study_uid) or told.study}",
        f"accession  {plain(told.accession) or '-'}    from {plain(told.aet) or '-'}    Orthanc ID {told.study}",
        *_rule_line(told),
        "",
        *_wrapped("verdict    ", told.verdict, width),
        *_wrapped("do         ", told.next_step, width),
        "",
        "hop              images  first                last",
        *(line for hop in told.hops for line in _hop_lines(hop)),
    ]


def _step_lines(step: Step, width: int) -> Iterator[Line]:
    """Yield the lines of one event; the first line carries the mark."""
    mark = " " if step.ok else "!"
    text = f"{step.event}: {plain(step.text)}" + (f" ({step.meaning})" if step.meaning else "")
    first, *others = _wrapped(f"{mark} {step.at[:19].replace('T', ' ')}  ", text, width)
    yield Line(first, is_failure=not step.ok)
    yield from map(Line, others)


def _rule_line(told: Trace) -> list[str]:
    return [f"rule       {told.route}"] if told.route else []


def _hop_lines(hop: TracedHop) -> Iterator[str]:
    if hop.problem:
        yield f"  {hop.title:<14} not known: {plain(hop.problem)}"
        return
    count = "-" if hop.images is None else f"{hop.images:,}"
    yield f"  {hop.title:<14} {count:>6}  {_moment(hop.first):<19}  {_moment(hop.last)}".rstrip()
    if hop.retired:
        yield f"    removed by retention {_moment(hop.retired)}"


def _moment(at: str) -> str:
    return at[:19].replace("T", " ")


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        plain(text),
        max(width, len(head) + 20),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head]
