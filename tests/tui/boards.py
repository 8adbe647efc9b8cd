"""Fixed boards: a portal through which images flow, and one in trouble. Used by the tests and for the pictures of README.md and docs/."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.core.clock import stamp
from ddwd.core.model import OrthancId
from ddwd.extractor.quarantine import Entry, QuarantinedObject
from ddwd.status.dashboard import DashboardModel, Patient, Today
from ddwd.status.events import AuditEvent
from ddwd.status.flow import HISTORY, HopRate, Light
from ddwd.status.report import Heartbeat, OrthancState, Report, VolumeState
from ddwd.status.trace import Step, Trace, TracedHop
from ddwd.status.units import UNITS, Unit
from ddwd.store.status_files import (
    AcceptorStatus,
    FinishedStudy,
    InFlightStudy,
    RefusalCount,
    SenderStatus,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.store.operator_requests import Request

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_ROOT = "1.2.826.0.1.3680043.8.498"


def study(number: int) -> OrthancId:
    """Orthanc ID of the made-up study of that number."""
    return OrthancId("-".join([f"{number:08x}"] * 5))


def uid(number: int) -> str:
    """Its StudyInstanceUID."""
    return f"{_ROOT}.{number}"


def _at(seconds_ago: float) -> str:
    return stamp(NOW - timedelta(seconds=seconds_ago))


def in_flight(number: int, state: str, counts: tuple[int, int, int, int], **more: Any) -> InFlightStudy:
    """A row of the status file; `counts` are known, on gateway, on storage, on disk."""
    known, gateway, storage, disk = counts
    row = InFlightStudy(
        study=study(number),
        study_uid=uid(number),
        aet=("CT1", "MR2", "CR3")[number % 3],
        state=state,
        reason="images are still arriving",
        instances=known,
        on_gateway=gateway,
        on_storage=storage,
        on_disk=disk,
        opened_at=_at(10.0 * number),
        newest_at=_at(2.0),
    )
    return replace(row, **more)


def finished(number: int, images: int, seconds: float) -> FinishedStudy:
    """A row of what was just finished."""
    return FinishedStudy(
        study=study(number),
        study_uid=uid(number),
        aet=("CT1", "MR2", "CR3")[number % 3],
        instances=images,
        added=images,
        bytes=images * 526_000,
        revision=1,
        published_at=_at(20.0 * number),
        seconds=seconds,
    )


def _history(peak: float) -> tuple[float, ...]:
    return tuple(round(peak * (0.5 + 0.5 * math.sin(n / 4)), 1) if n > 15 else 0.0 for n in range(HISTORY))


def acceptor() -> AcceptorStatus:
    """Three senders, of which one is refused now."""
    cut_off = "ORTHANC1 cannot parse the data set: its encoding breaks PS3.5"
    refused = (
        RefusalCount("image", cut_off, 3, _at(70), "0xC000", standing=True),
        RefusalCount("presentation context", "C-FIND is not offered here", 12, _at(400)),
    )
    senders = (
        SenderStatus("CT1", "10.1.0.5", 2, 11_204, 0, _at(1)),
        SenderStatus("MR2", "10.1.0.6", 9, 1_204, 0, _at(4)),
        SenderStatus("US4", "10.1.0.9", 1, 17, 15, _at(70), refused, 15),
    )
    return AcceptorStatus(_at(0.5), 4711, 12, 600, senders=senders, since=_at(86_400))


def _report(**changes: Any) -> Report:
    report = Report(
        at=stamp(NOW),
        acceptor=Heartbeat("acceptor", 0.5, acceptor()),
        units=tuple(Unit(name, "active", "running", 0, "") for name in UNITS),
        servers=(
            OrthancState("gateway", "ORTHANC1", "1.12.7", "PostgreSQL", 812, 190_231, 98_000_000_000, 4.0),
            OrthancState("storage", "ORTHANC2", "1.12.7", "PostgreSQL", 812, 190_100, 97_900_000_000, 5.0),
        ),
        hearts=(Heartbeat("scp", 0.8), Heartbeat("extractor", 0.4)),
        volumes=(
            VolumeState(
                "output, data", "/var/lib/ddwd", 812_000_000_000, 2_000_000_000_000, "ok", hours_left=420.0
            ),
        ),
        counts={"arriving": 1, "retrieving": 2},
        in_flight=(
            in_flight(1, "arriving", (250, 250, 180, 120)),
            in_flight(2, "retrieving", (64, 64, 64, 31), reason="33 images are not on disk yet"),
            in_flight(3, "ready", (2, 2, 2, 2), reason="gateway, storage and disk agree"),
        ),
        recent=(finished(4, 512, 5.2), finished(5, 3, 4.1), finished(6, 1240, 6.8)),
        quarantine=0,
    )
    return replace(report, **changes)


def flowing() -> DashboardModel:
    """Images flow."""
    return DashboardModel(
        _report(acceptor=Heartbeat("acceptor", 0.5, replace(acceptor(), senders=acceptor().senders[:2]))),
        (
            HopRate("modality", "MR2"),
            HopRate("gateway", "ORTHANC1", 62.4, 32_800_000, _history(62), associations=12, limit=600),
            HopRate("storage", "ORTHANC2", 60.1, 31_600_000, _history(60), 70, associations=4, limit=32),
            HopRate("scp", "PYTHON_SCP", 58.0, 30_500_000, _history(58), 93, associations=2, limit=96),
            HopRate("disk", "disk", 58.0, 30_500_000, _history(58), 153),
        ),
        Today("2026-01-02", 37, 11_204),
        may_ask=True,
    )


def in_trouble() -> DashboardModel:
    """ORTHANC2 is down, a study waits, an image is in quarantine."""
    board = flowing()
    units = tuple(Unit(name, "failed" if name == "ddwd-storage" else "active", "", 0, "") for name in UNITS)
    problem = "storage does not answer on http://127.0.0.1:8043 (ConnectionError)"
    report = _report(
        units=units,
        servers=(board.report.servers[0], OrthancState("storage", "ORTHANC2", problem=problem)),
        counts={"waiting": 1},
        in_flight=(in_flight(1, "waiting", (250, 250, 180, 120), reason=problem, failures=3),),
        quarantine=2,
    )
    gateway, storage = board.hops[1], board.hops[2]
    broken = replace(
        storage, images_per_second=0, bytes_per_second=0, light=Light.BROKEN, reason="ddwd-storage is failed"
    )
    disk = replace(
        board.hops[4],
        images_per_second=0,
        bytes_per_second=0,
        light=Light.WAITING,
        reason="60 images wait and nothing moves",
    )
    return replace(board, report=report, hops=(board.hops[0], gateway, broken, board.hops[3], disk))


def empty() -> DashboardModel:
    """A portal without a study, seen by a user who is not in group ddwd."""
    report = _report(in_flight=(), recent=(), counts={}, quarantine=None)
    hops = tuple(
        replace(hop, images_per_second=0, bytes_per_second=0, history=(), backlog=0) for hop in flowing().hops
    )
    return DashboardModel(report, hops, None, may_ask=False)


def told() -> Trace:
    """The trace of study 1."""
    return Trace(
        study=study(1),
        study_uid=uid(1),
        accession="A-2026-0001",
        aet="CT1",
        stage="waiting",
        route="",
        complete=False,
        hops=(
            TracedHop("gateway", "ORTHANC1", 250, _at(40), _at(8)),
            TracedHop("storage", "ORTHANC2", 180, _at(39), _at(20)),
            TracedHop("disk", "disk", 120, _at(38), _at(22)),
        ),
        steps=(
            Step(_at(39), "forward-started", "the first images are on storage"),
            Step(_at(38), "retrieve-started", "images are asked for by C-MOVE"),
            Step(
                _at(20),
                "retrieve-failed",
                "will be tried again: C-MOVE ended with 0xA702",
                "some sub-operations could not be done: an image could not be read or sent, see the log of ORTHANC2",
                ok=False,
            ),
            Step(_at(5), "received", "250 images received by the gateway"),
        ),
        missing=(
            "70 images are on the gateway and not on storage",
            "60 images are on storage and not published",
        ),
        verdict="it is on its way, waiting: C-MOVE ended with 0xA702",
        next_step="nothing yet: it is tried again by itself",
    )


class StillFeed:
    """A feed that gives nothing by itself."""

    def start(self) -> None:
        """See Feed."""

    def stop(self) -> None:
        """See Feed."""


class _People:
    def of(self, one: OrthancId) -> Patient:
        """Everybody is made up."""
        number = int(one[:8], 16)
        return Patient(f"DOE-{4710 + number}", f"A-2026-{number:04}")


@dataclass
class MadeUpPortal:
    """What is behind the screens, fixed; `submitted` are the wishes that were left."""

    patients: Any = field(default_factory=_People)
    submitted: list[Request] = field(default_factory=list)
    searched: list[str] = field(default_factory=list)
    error: Exception | None = None

    def _answer(self) -> None:
        if self.error is not None:
            raise self.error

    def trace(self, one: OrthancId) -> Trace:
        """See Portal."""
        self._answer()
        return replace(told(), study=one, study_uid=uid(int(one[:8], 16)))

    def find(self, name: str) -> list[OrthancId]:
        """See Portal."""
        self._answer()
        self.searched.append(name)
        return [study(9)]

    def quarantine(self) -> list[Entry]:
        """See Portal."""
        self._answer()
        subjects = (
            QuarantinedObject("undeliverable", uid(1), "storage does not take it", study(1)),
            QuarantinedObject("conflict", uid(2), "other content under a UID that is taken", study(2)),
        )
        return [
            Entry(f"{n}" * 32, _at(100), subject, 526_000, "", Path("/nonexistent") / f"{n}.json")
            for n, subject in enumerate(subjects, 1)
        ]

    def tail(self) -> Callable[[], list[AuditEvent]]:
        """See Portal."""
        self._answer()
        rows = [
            [
                AuditEvent(
                    _at(5), "published", study(4), uid(4), "512 images published, 512 in all, revision 1"
                )
            ]
        ]
        return lambda: rows.pop() if rows else []

    def submit(self, request: Request) -> None:
        """See Portal."""
        self._answer()
        self.submitted.append(request)
