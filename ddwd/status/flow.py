"""Rate, backlog and light of each hop, from successive Reports. Pure but for its memory.

The hops are the modality, ORTHANC1, ORTHANC2, PYTHON_SCP and the disk. Rates are those of the last seconds; the history is one value
for each few seconds of the last minutes. Counts that fall (images were deleted, a daemon was restarted) count as no images.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ddwd.status.report import Report

HISTORY = 60
"""Values in a hop's history."""
BUCKET_SECONDS = 5.0
_RATE_SECONDS = 4.0
"""A rate covers at least this long, so that one late look does not show as a dip."""
_STANDS_SECONDS = 15.0
"""Images that wait while none has moved for this long count as stuck."""
_SLOW_SECONDS = 30.0


class Light(StrEnum):
    """The state of a hop in a word; the order is from good to bad."""

    OK = "ok"
    SLOW = "slow"
    WAITING = "waiting"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class HopRate:
    """One hop now: images and bytes a second, `backlog` images that wait before it, and the reason for the light."""

    name: str
    title: str
    images_per_second: float = 0.0
    bytes_per_second: float = 0.0
    history: tuple[float, ...] = ()
    backlog: int = 0
    light: Light = Light.OK
    reason: str = ""


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

    def take(self, sample: _Sample) -> None:
        if self._samples:
            self._count(max(0, sample.images - self._samples[-1].images), sample.at)
        if self._moved_at is None:
            self._moved_at = sample.at
        self._samples.append(sample)
        while len(self._samples) > 2 and sample.at - self._samples[1].at >= _SLOW_SECONDS:  # noqa: PLR2004 - a pair
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
        return tuple(round(one, 2) for one in self._buckets)

    def rates(self) -> tuple[float, float]:
        """Return images and bytes a second over the last seconds."""
        last = self._samples[-1]
        older = [one for one in self._samples if last.at - one.at >= _RATE_SECONDS]
        first = older[-1] if older else self._samples[0]
        if last.at <= first.at:
            return 0.0, 0.0
        span = last.at - first.at
        return max(0, last.images - first.images) / span, max(0, last.bytes - first.bytes) / span

    def stands(self) -> bool:
        """Return whether images wait before the hop and none has moved for a while."""
        last = self._samples[-1]
        return (
            bool(last.backlog) and self._moved_at is not None and last.at - self._moved_at >= _STANDS_SECONDS
        )

    def falls_behind(self) -> bool:
        """Return whether the backlog grows."""
        last = self._samples[-1]
        before = [one.backlog for one in self._samples if last.at - one.at >= _SLOW_SECONDS / 2]
        return bool(before) and last.backlog > 2 * max(before[0], 25)


class Flow:
    """Computes the hops from each Report; remembers the last minutes."""

    def __init__(self) -> None:
        self._meters: dict[str, _Meter] = {}

    def take(self, report: Report, now: float) -> tuple[HopRate, ...]:
        """Return the five hops at this moment; `now` in monotonic seconds."""
        gateway, storage = report.servers
        scp, extractor = report.hearts
        backlog = extractor.extractor.backlog
        totals = extractor.extractor.totals
        received = (scp.scp.received, scp.scp.received_bytes)
        return (
            self._modality(report),
            self._hop(
                "gateway", gateway.aet, now, (gateway.instances, gateway.bytes), 0, _broken(report, "gateway")
            ),
            self._hop(
                "storage",
                storage.aet,
                now,
                (storage.instances, storage.bytes),
                backlog.storage,
                _broken(report, "storage"),
            ),
            self._hop("scp", "PYTHON_SCP", now, received, backlog.disk, _broken(report, "scp")),
            self._hop(
                "disk",
                "disk",
                now,
                (totals.instances, totals.bytes),
                backlog.publish,
                _broken(report, "disk"),
                paused=report.paused,
            ),
        )

    @staticmethod
    def _modality(report: Report) -> HopRate:
        senders = [row.aet for row in report.studies if row.aet]
        return HopRate("modality", senders[0] if senders else "modality")

    def _hop(
        self,
        name: str,
        title: str,
        now: float,
        counts: tuple[int, int],
        backlog: int,
        broken: str,
        *,
        paused: bool = False,
    ) -> HopRate:
        meter = self._meters.setdefault(name, _Meter())
        if not broken:
            meter.take(_Sample(now, *counts, backlog))
        images, size = (0.0, 0.0) if broken else meter.rates()
        light, reason = _judge(meter, broken, backlog, paused=paused)
        return HopRate(name, title, images, size, meter.history, backlog, light, reason)


def _judge(meter: _Meter, broken: str, backlog: int, *, paused: bool) -> tuple[Light, str]:
    if broken:
        return Light.BROKEN, broken
    if paused:
        return Light.WAITING, "retrieving is paused by the operator"
    if meter.stands():
        return Light.WAITING, f"{backlog} images wait and nothing moves"
    if meter.falls_behind():
        return Light.SLOW, f"{backlog} images wait, and it becomes more"
    return Light.OK, ""


def _broken(report: Report, hop: str) -> str:
    """Return why no image can pass this hop; empty if images can."""
    unit = {
        "gateway": "ddwd-gateway",
        "storage": "ddwd-storage",
        "scp": "ddwd-scp",
        "disk": "ddwd-extractor",
    }[hop]
    for one in report.units:
        if one.name == unit and not one.is_well:
            return f"{unit} is {one.active}"
    if hop in {"gateway", "storage"}:
        return _server_problem(report, hop)
    heart = report.hearts[0 if hop == "scp" else 1]
    if hop == "disk":
        return heart.problem or next((one.problem for one in report.volumes if one.problem), "")
    return heart.problem


def _server_problem(report: Report, name: str) -> str:
    """Return what the Orthanc itself answered or, if this reader may not ask it, what the extractor found."""
    server = next(one for one in report.servers if one.name == name)
    if not server.unasked:
        return server.problem
    return report.hearts[1].silent_peers.get(name, "")
