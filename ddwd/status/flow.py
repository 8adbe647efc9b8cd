"""Rate, backlog and light of each hop, computed from successive Reports.

The hops are the modality, ORTHANC1, ORTHANC2, PYTHON_SCP and the disk. Rates are those of the last seconds; the history is one value
for each few seconds of the last minutes. Counts that fall (images were deleted, a daemon was restarted) count as no images.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from ddwd.core.printable import many
from ddwd.core.problem import problem
from ddwd.core.problem_codes import Code

if TYPE_CHECKING:
    from ddwd.core.problem import Problem
    from ddwd.status.report import Report

HISTORY = 60
"""Values in a hop's history."""
BUCKET_SECONDS = 5.0
_RATE_SECONDS = 4.0
"""A rate covers at least this long, so that one late report does not show as a dip."""
_STUCK_SECONDS = 15.0
"""Images that wait for this long while none moves count as stuck."""
_SLOW_SECONDS = 60.0
"""A hop is slow if it had a backlog at each moment of twice this long, and it grew in each half: bursts come and go."""
_FEW = 50
"""Images that wait in a steady flow, and are no backlog."""
_HUNG_SECONDS = 6.0
"""A server that does not answer counts as broken after this long."""


class Light(StrEnum):
    """The state of a hop in a word; the order is from good to bad."""

    OK = "ok"
    SLOW = "slow"
    WAITING = "waiting"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class HopRate:
    """One hop now: images and bytes a second, `backlog` images that wait before it, and the reason for the light.

    `code` is set where the hop stands still or is slow, which no single report shows.
    `associations` are open, of `limit` possible ones; a limit of 0 where they are not known.
    """

    name: str
    title: str
    images_per_second: float = 0.0
    bytes_per_second: float = 0.0
    history: tuple[float, ...] = ()
    backlog: int = 0
    light: Light = Light.OK
    reason: str = ""
    associations: int = 0
    limit: int = 0
    code: Code | None = None

    @property
    def problem(self) -> Problem | None:
        """The problem that the hop is; None if it is none, or if the report has it."""
        if self.code is None:
            return None
        return problem(
            self.code, f"{self.title}: {self.reason}", "ddwd trace STUDY", self.name, count=self.backlog
        )


@dataclass(frozen=True, slots=True)
class _Sample:
    at: float
    images: int
    bytes: int
    backlog: int


class _Meter:
    """The samples of one hop."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()
        self._buckets: deque[float] = deque([0.0] * HISTORY, maxlen=HISTORY)
        self._bucket = -1
        self._moved_at: float | None = None
        self._waits_since: float | None = None

    def take(self, sample: _Sample) -> None:
        if self._samples:
            self._count(max(0, sample.images - self._samples[-1].images), sample.at)
        if self._moved_at is None:
            self._moved_at = sample.at
        if not sample.backlog:
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = sample.at
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.at - self._samples[1].at >= 2 * _SLOW_SECONDS:  # noqa: PLR2004 - a pair
            self._samples.popleft()

    def _count(self, images: int, at: float) -> None:
        number = int(at // BUCKET_SECONDS)
        for _ in range(min(HISTORY, number - self._bucket) if self._bucket >= 0 else 1):
            self._buckets.append(0.0)
        self._bucket = number
        self._buckets[-1] += images / BUCKET_SECONDS
        if images:
            self._moved_at = at

    @property
    def history(self) -> tuple[float, ...]:
        return tuple(round(value, 2) for value in self._buckets)

    def rates(self) -> tuple[float, float]:
        """Return images and bytes a second over the last seconds."""
        last = self._samples[-1]
        older = [sample for sample in self._samples if last.at - sample.at >= _RATE_SECONDS]
        first = older[-1] if older else self._samples[0]
        if last.at <= first.at:
            return 0.0, 0.0
        span = last.at - first.at
        return max(0, last.images - first.images) / span, max(0, last.bytes - first.bytes) / span

    def is_stuck(self) -> bool:
        """Return whether images have waited before the hop for a while, and none has moved meanwhile."""
        if self._waits_since is None or self._moved_at is None:
            return False
        return self._samples[-1].at - max(self._waits_since, self._moved_at) >= _STUCK_SECONDS

    def is_slow(self) -> bool:
        """Return whether there was a backlog all the time, and it grew, and grew before."""
        last = self._samples[-1]
        once, twice = self._backlog(last.at - _SLOW_SECONDS), self._backlog(last.at - 2 * _SLOW_SECONDS)
        if once is None or twice is None or min(one.backlog for one in self._samples) <= _FEW:
            return False
        return last.backlog > once > twice

    def _backlog(self, at: float) -> int | None:
        """Return what waited at that moment; None before the first sample."""
        return next((sample.backlog for sample in reversed(self._samples) if sample.at <= at), None)


class Flow:
    """Compute the hops from each Report; keeps the samples of the last minutes."""

    def __init__(self) -> None:
        self._meters: dict[str, _Meter] = {}
        self._hangs_since: dict[str, float] = {}

    def take(self, report: Report, now: float) -> tuple[HopRate, ...]:
        """Return the five hops at this moment; `now` in monotonic seconds."""
        gateway, storage = report.servers
        scp, extractor = report.hearts[0].scp, report.hearts[1].extractor
        totals, backlogs = extractor.totals, extractor.backlog
        hops = [HopRate("modality", next((row.aet for row in report.studies if row.aet), "modality"))]
        for name, title, images, size, backlog in (
            ("gateway", gateway.aet, gateway.instances, gateway.bytes, 0),
            ("storage", storage.aet, storage.instances, storage.bytes, backlogs.storage),
            ("scp", "PYTHON_SCP", scp.received, scp.received_bytes, backlogs.disk),
            ("disk", "disk", totals.instances, totals.bytes, backlogs.publish),
        ):
            meter = self._meters.setdefault(name, _Meter())
            rates = 0.0, 0.0
            trouble = _problem(report, name)
            if not trouble:
                meter.take(_Sample(now, images, size, backlog))
                rates = meter.rates()
            paused = report.paused and name == "disk"
            light, reason, code = _light(meter, trouble, backlog, paused=paused)
            if seconds := self._hangs_for(report, name, now):
                light = Light.BROKEN if seconds >= _HUNG_SECONDS else Light.WAITING
            counts = _associations(report, name)
            hops.append(HopRate(name, title, *rates, meter.history, backlog, light, reason, *counts, code))
        return tuple(hops)

    def _hangs_for(self, report: Report, name: str, now: float) -> float:
        """Return for how long the server of a hop has been asked without an answer; 0 if it answers, or does not listen."""
        patience = next((server.hangs for server in report.servers if server.name == name), 0.0)
        if not patience:
            self._hangs_since.pop(name, None)
            return 0.0
        return now - self._hangs_since.setdefault(name, now - patience)


def _associations(report: Report, hop: str) -> tuple[int, int]:
    """Return the open associations of a hop and their limit; those of ORTHANC1 are at ddwd-acceptor."""
    acceptor, scp = report.acceptor, report.hearts[0].scp
    if hop == "gateway" and acceptor is not None:
        return acceptor.acceptor.associations, acceptor.acceptor.limit
    if hop == "storage":
        return report.servers[1].associations or 0, report.servers[1].limit
    return (scp.associations, scp.limit) if hop == "scp" else (0, 0)


def _light(meter: _Meter, trouble: str, backlog: int, *, paused: bool) -> tuple[Light, str, Code | None]:
    """Return the light of a hop, the reason, and the code of the problem where the report does not show it as one."""
    if trouble:
        return Light.BROKEN, trouble, None
    if paused:
        return Light.WAITING, "retrieving is paused by the operator", None
    if meter.is_stuck():
        return Light.WAITING, f"{many(backlog, 'image waits', 'images wait')} and none moves", Code.HOP_STILL
    if meter.is_slow():
        return Light.SLOW, f"{backlog:,} images wait, and the number grows", Code.HOP_SLOW
    return Light.OK, "", None


def _problem(report: Report, hop: str) -> str:
    """Return why no image can pass this hop; empty if images can."""
    names = {"disk": ("ddwd-extractor",), "gateway": ("ddwd-gateway", "ddwd-acceptor")}.get(
        hop, (f"ddwd-{hop}",)
    )
    for unit in report.units:
        if unit.name in names and not unit.is_well:
            return f"{unit.name} is {unit.active}"
    if hop == "gateway" and report.acceptor is not None and report.acceptor.problem:
        return report.acceptor.problem
    scp, extractor = report.hearts
    if hop == "scp":
        return scp.problem
    if hop == "disk":
        return extractor.problem or next((volume.problem for volume in report.volumes if volume.problem), "")
    server = next(server for server in report.servers if server.name == hop)
    # without credentials, what the extractor found
    return extractor.silent_peers.get(hop, "") if server.unasked else server.problem
