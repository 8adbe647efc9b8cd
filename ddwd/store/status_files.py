"""The status files of the daemons on /run, as frozen dataclasses that the one writer and all readers share.

Each file has a StateFormat at the end: the writer calls `write_status`, readers `read` or `read_or_none`. Every user of the machine
may read these files; they have no patient data. Every field has a default, so that a file of an older version, which has fewer
keys, is read. Stamps are UTC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from ddwd.config.retention import Place
from ddwd.core.model import OrthancId
from ddwd.store.statefile import StateFormat, stored

_NO_STUDY = OrthancId("")

# --- ddwd-scp ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScpStatus:
    """What the receiver did since its start; `alive` is whether it responded to its own last C-ECHO.

    `associations` are open now, of at most `limit`; 0 in the file of a version that did not write it. `progressed` is the seconds since the last bytes arrived, `strangers` counts rejected connections from other machines.
    """

    associations: int = 0
    received: int = 0
    received_bytes: int = 0
    refused: int = 0
    last_received: str | None = None
    progressed: float = 0.0
    strangers: int = 0
    alive: bool = True
    at: str = ""
    pid: int = 0
    limit: int = field(default=0, metadata=stored(omit_empty=True))


# --- ddwd-acceptor ----------------------------------------------------------------------------------------------------


class RefusalKind(StrEnum):
    """What was refused, or ended before its time.

    CONTEXT is of an association in which images of other contexts are taken, CONTEXTS of one without any context for images. CUT is an
    association that ended in the middle of a message, ABORT one that ended between two.
    """

    CONNECTION = "connection"
    CERTIFICATE = "certificate"
    ASSOCIATION = "association"
    CONTEXT = "presentation context"
    CONTEXTS = "every presentation context"
    IMAGE = "image"
    CUT = "unfinished message"
    ABORT = "abort"


HARMLESS = frozenset({RefusalKind.CONNECTION, RefusalKind.CONTEXT, RefusalKind.ABORT})
"""Refusals that keep no image from the portal: port scans, contexts that a vendor proposes besides, associations without a release."""

RETRY = "0xA700"
"""The one status after which sending the same image again can help (PS3.4 table B.2-1: out of resources)."""


@dataclass(frozen=True, slots=True)
class RefusalCount:
    """One reason for which a sender was refused in the last hour: how often, and when last; `status` is empty or as 0xC000.

    `standing` is whether it is a problem now: an image may be missing, and the sender has not had success since.
    """

    kind: str = ""
    reason: str = ""
    count: int = 0
    last: str = ""
    status: str = ""
    standing: bool = False


@dataclass(frozen=True, slots=True)
class SenderStatus:
    """What one AE title at one address did since the start of ddwd-acceptor: open associations, stored images, refusals.

    `recent` counts the refusals of the last hour, also those whose reason is no longer in `reasons`.
    """

    aet: str = ""
    address: str = ""
    open: int = 0
    images: int = 0
    refused: int = 0
    seen: str = ""
    reasons: tuple[RefusalCount, ...] = ()
    recent: int = 0


@dataclass(frozen=True, slots=True)
class AcceptorStatus:
    """Open associations and their limit, the senders, and the addresses that are held off with the seconds that are left.

    All counts begin at `since`, the start of ddwd-acceptor.
    """

    at: str = ""
    pid: int = 0
    associations: int = 0
    limit: int = 0
    held_off: dict[str, int] = field(default_factory=dict)
    senders: tuple[SenderStatus, ...] = ()
    since: str = ""


# --- ddwd-extractor ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeptStudies:
    """Studies that retention did not remove because of `reason`; `example` is the StudyInstanceUID of one."""

    reason: str = ""
    studies: int = 0
    example: str = ""


@dataclass(frozen=True, slots=True)
class PlaceReport:
    """What retention removed from one place, and the studies that it did not remove, the most frequent reason first."""

    studies: int = 0
    images: int = 0
    bytes: int = 0
    kept: tuple[KeptStudies, ...] = ()


@dataclass(frozen=True, slots=True)
class RetentionRound:
    """One round of retention: UTC stamps of its begin and end, the error that ended it early, and a report for each place."""

    began_at: str = ""
    ended_at: str = ""
    problem: str = ""
    places: dict[Place, PlaceReport] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RetentionStatus:
    """The last round of retention and the current one, if any."""

    last: RetentionRound | None = None
    now: RetentionRound | None = None


@dataclass(frozen=True, slots=True)
class WorkTotals:
    """What the extractor did since its start: published studies, retrieved images and bytes, forwarded images, late revisions.

    `failures` counts audit events by the name of their Event in lower case.
    """

    studies: int = 0
    instances: int = 0
    bytes: int = 0
    forwarded: int = 0
    late: int = 0
    failures: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SweepStatus:
    """Progress of the sweep: studies compared in this round, its begin, and the end of the last complete round."""

    compared: int = 0
    began_at: str = ""
    ended_at: str = ""


@dataclass(frozen=True, slots=True)
class LostStudy:
    """One published study, and how many of its images are missing on each Orthanc since when, though retention did not remove them.

    `accepted` is the stamp of when the operator said that they were removed on purpose.
    """

    study: OrthancId = _NO_STUDY
    study_uid: str = ""
    gateway: int = 0
    storage: int = 0
    since: str = ""
    accepted: str = field(default="", metadata=stored(omit_empty=True))


@dataclass(frozen=True, slots=True)
class LostStatus:
    """The sums of all LostStudy that were not accepted; `example` is the StudyInstanceUID of one, `since` the earliest stamp."""

    studies: int = 0
    on_gateway: int = 0
    on_storage: int = 0
    since: str = ""
    example: str = ""


@dataclass(frozen=True, slots=True)
class Backlog:
    """Images of the open studies that wait before each hop."""

    storage: int = 0
    disk: int = 0
    publish: int = 0


@dataclass(frozen=True, slots=True)
class VolumeStatus:
    """One volume: free and total bytes and inodes, the reserve in bytes, and its level as disk_space.level_name.

    `paths` are all watched paths on it; `stops` names the steps that wait for space; `hours_left` is None unless it fills up;
    `read_only` are the paths that are written to and cannot be.
    """

    path: str = ""
    paths: tuple[str, ...] = ()
    free: int = 0
    total: int = 0
    inodes_free: int = 0
    inodes: int = 0
    reserve: int = 0
    level: str = ""
    stops: tuple[str, ...] = ()
    hours_left: float | None = None
    read_only: tuple[str, ...] = field(default=(), metadata=stored(omit_empty=True))


@dataclass(frozen=True, slots=True)
class InFlightStudy:
    """One open study: its stage as `state`, the reason, and how many of its images each hop has.

    `status` is the DIMSE status of the last failure, `blocker` the extractor's Blocker.
    """

    study: OrthancId = _NO_STUDY
    study_uid: str = ""
    aet: str = ""
    state: str = ""
    route: str = ""
    reason: str = ""
    status: str = ""
    blocker: str = ""
    instances: int = 0
    on_gateway: int = 0
    on_storage: int = 0
    on_disk: int = 0
    set_aside: int = 0
    failures: int = 0
    opened_at: str = ""
    newest_at: str = ""


@dataclass(frozen=True, slots=True)
class FinishedStudy:
    """One study that was just published; `seconds` from the arrival of its newest image on an Orthanc to publication."""

    study: OrthancId = _NO_STUDY
    study_uid: str = ""
    aet: str = ""
    route: str = ""
    instances: int = 0
    added: int = 0
    bytes: int = 0
    revision: int = 1
    published_at: str = ""
    seconds: float = 0.0
    state: str = "published"


@dataclass(frozen=True, slots=True)
class ExtractorStatus:
    """State of the extractor: `counts` are open studies by stage, `peers` is "ok" or a reason for each server.

    `swept` is None in the file of a version without a sweep, `retention` if the settings allow no removal, `lost` if no image is missing.
    """

    updated: str = ""
    pid: int = 0
    paused: bool = False
    paused_by: str = field(default="", metadata=stored(omit_empty=True))
    paused_at: str = field(default="", metadata=stored(omit_empty=True))
    counts: dict[str, int] = field(default_factory=dict)
    totals: WorkTotals = field(default_factory=WorkTotals)
    turn_seconds: float = 0.0
    swept: SweepStatus | None = field(default=None, metadata=stored(blank=True))
    retention: RetentionStatus | None = field(default=None, metadata=stored(blank=True))
    lost: LostStatus | None = field(default=None, metadata=stored(omit_empty=True))
    backlog: Backlog = field(default_factory=Backlog)
    peers: dict[str, str] = field(default_factory=dict)
    disk: tuple[VolumeStatus, ...] = ()
    in_flight: tuple[InFlightStudy, ...] = ()
    recent: tuple[FinishedStudy, ...] = ()


# --- ddwd-signer ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignerStatus:
    """State of the chain: signed entries, root and time of the newest head, size and time of the last published one.

    `problem` is why events wait in the journal or, with `is_broken`, why the chain is not extended any more.
    """

    at: str = ""
    pid: int = 0
    entries: int = 0
    signed_at: str = ""
    root: str = ""
    published: int = 0
    published_at: str = ""
    is_broken: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ChainPublication:
    """How far the published heads of the chain of key `log` were brought elsewhere: all up to `size` entries, at `at`.

    `problem` is what is in the way of the next one since `since`, empty if there is none.
    """

    log: str = ""
    size: int = 0
    at: str = ""
    problem: str = ""
    since: str = ""


# --- ddwd-courier, ddwd-hooks, the self test --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """State of one destination: `state` is ok or away since `since`; studies and images that wait for it.

    `wait`, which is not stored, is the seconds until its queue is due again; None if its queue is empty.
    """

    name: str = ""
    kind: str = ""
    state: str = ""
    since: str = ""
    reason: str = ""
    studies: int = 0
    images: int = 0
    oldest: str = ""
    delivered: int = 0
    delivered_at: str = ""
    wait: float | None = field(default=None, metadata=stored(transient=True))


@dataclass(frozen=True, slots=True)
class CourierStatus:
    """All destinations that ddwd-courier serves."""

    at: str = ""
    destinations: tuple[DestinationStatus, ...] = ()


@dataclass(frozen=True, slots=True)
class WaitingNotice:
    """One study whose hook has not succeeded yet; `seconds` until the next attempt, at the time `at`."""

    study: OrthancId = _NO_STUDY
    study_uid: str = ""
    route: str = ""
    revision: int = 0
    since: str = ""
    running: bool = False
    failures: int = 0
    reason: str = ""
    seconds: int = 0
    at: str = ""


@dataclass(frozen=True, slots=True)
class HooksStatus:
    """Notified studies since the start of ddwd-hooks, and the waiting notices."""

    at: str = ""
    told: int = 0
    waiting: tuple[WaitingNotice, ...] = ()


@dataclass(frozen=True, slots=True)
class SelfTestResult:
    """Result of a self test: seconds since the last image was sent, for each hop that was reached."""

    at: str = ""
    ok: bool = False
    text: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class NoticedProblem:
    """One problem as ddwd-monitor stores it; the fields are those of core.problem.Problem, its code as text."""

    code: str
    cause: str
    remedy: str = ""
    subject: str = ""
    study: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True)
class MonitorStatus:
    """What ddwd-monitor alone notices, and since when each problem of the portal lasts: a stamp by its key."""

    at: str = ""
    problems: tuple[NoticedProblem, ...] = ()
    since: dict[str, str] = field(default_factory=dict)


MONITOR = StateFormat(MonitorStatus, "status file")
SCP = StateFormat(ScpStatus, "status file")
ACCEPTOR = StateFormat(AcceptorStatus, "status file")
EXTRACTOR = StateFormat(ExtractorStatus, "status file", indent=1)
CHAIN_PUBLICATION = StateFormat(ChainPublication, "status file")
SIGNER = StateFormat(SignerStatus, "status file")
COURIER = StateFormat(CourierStatus, "status file")
HOOKS = StateFormat(HooksStatus, "status file")
SELF_TEST = StateFormat(SelfTestResult, "result of the self test")
