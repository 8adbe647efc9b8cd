"""Watch the free space of every volume that the portal writes to, and stop the flow hop by hop before one is full.

No image is retrieved while OUTPUT_DIR or the state is short of space, none is forwarded while storage or PostgreSQL is. C-STORE is
refused not here but by the receiver and by the plugin inside Orthanc, by the same rule. The flow resumes by itself when there is space.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from ddwd.core import disk_space, durable
from ddwd.core.audit import Audit, Event
from ddwd.core.disk_space import SpaceLevel
from ddwd.store.status_files import VolumeStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from ddwd.core.clock import Clock
    from ddwd.core.disk_space import Space

Purpose = Literal["retrieve", "forward", "receive"]

_LOOK_SECONDS = 1.0
_SAMPLE_SECONDS = 60.0
_SAMPLES = 61
_LEAST_SAMPLES = 5
_STOPS: Mapping[Purpose, tuple[SpaceLevel, str]] = {
    "retrieve": (SpaceLevel.NO_RETRIEVE, "no more images are retrieved onto it"),
    "forward": (SpaceLevel.NO_FORWARD, "no more images are forwarded onto it"),
    "receive": (SpaceLevel.REFUSE, "no more images are accepted onto it"),
}


@dataclass
class _GuardedVolume:
    """One volume, named by the first of the portal's paths on it."""

    path: Path
    space: Space
    level: SpaceLevel = SpaceLevel.OK
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def sample(self, now: float) -> None:
        """Record the free bytes once a minute."""
        if not self.samples or now - self.samples[-1][0] >= _SAMPLE_SECONDS:
            self.samples.append((now, self.space.free))

    def hours_left(self, reserve: int) -> float | None:
        """Return the hours until only the reserve is left, at the rate of the last hour; None while free space does not shrink."""
        if len(self.samples) < _LEAST_SAMPLES:
            return None
        (began, first), (ended, last) = self.samples[0], self.samples[-1]
        if last >= first:
            return None
        return max(0, last - reserve) / (first - last) * (ended - began) / 3600


class DiskGuard:
    """Call `look` in each turn; `may_retrieve`, `may_forward` and `reason` give the result."""

    def __init__(
        self,
        places: Mapping[Purpose, Sequence[Path]],
        reserve: int,
        flag: Path,
        clock: Clock,
        audit: Audit,
        measure: Callable[[Path], Space] = disk_space.space_of,
    ) -> None:
        self._places = places
        self._reserve = reserve
        self._flag = flag
        self._clock = clock
        self._audit = audit
        self._measure = measure
        self._looked = float("-inf")
        self._device: dict[Path, int] = {}
        self._volumes: dict[int, _GuardedVolume] = {}

    @property
    def may_retrieve(self) -> bool:
        """Whether images may be retrieved to OUTPUT_DIR."""
        return self._worst("retrieve") < SpaceLevel.NO_RETRIEVE

    @property
    def may_forward(self) -> bool:
        """Whether images may be sent to storage."""
        return self._worst("forward") < SpaceLevel.NO_FORWARD

    @property
    def reason(self) -> str:
        """Which volume stops the flow, in one line for people; empty if none does."""
        stopping = (
            f"the volume of {one.path} is short of room" for one in self._volumes.values() if self._stops(one)
        )
        return next(stopping, "")

    def look(self) -> None:
        """Measure, at most once a second; report every change of level."""
        now = self._clock.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        for path in dict.fromkeys(path for paths in self._places.values() for path in paths):
            try:
                space = self._measure(path)
            except OSError:
                continue  # does not exist yet: an external server, or an Orthanc that never ran
            self._device[path] = space.device
            self._volumes.setdefault(space.device, _GuardedVolume(path, space)).space = space
        # drop volumes that were unmounted
        self._volumes = {device: self._volumes[device] for device in dict.fromkeys(self._device.values())}
        for volume in self._volumes.values():
            self._judge(volume, now)
        self._tell_gateway()

    def state(self) -> tuple[VolumeStatus, ...]:
        """Return each volume for the status file."""
        return tuple(map(self._volume_status, self._volumes.values()))

    def _volume_status(self, volume: _GuardedVolume) -> VolumeStatus:
        space = volume.space
        reserve = disk_space.reserve_of(space.total, self._reserve)
        return VolumeStatus(
            path=str(volume.path),
            paths=tuple(str(path) for path, device in self._device.items() if device == space.device),
            free=space.free,
            total=space.total,
            inodes_free=space.inodes_free,
            inodes=space.inodes,
            reserve=reserve,
            level=disk_space.level_name(volume.level),
            stops=tuple(self._stops(volume)),
            hours_left=volume.hours_left(reserve),
        )

    def _worst(self, purpose: Purpose) -> SpaceLevel:
        devices = {self._device[path] for path in self._places[purpose] if path in self._device}
        return max((self._volumes[device].level for device in devices), default=SpaceLevel.OK)

    def _stops(self, volume: _GuardedVolume) -> list[Purpose]:
        """Return the purposes that wait for space on this volume."""
        return [
            purpose
            for purpose, (level, _) in _STOPS.items()
            if volume.level >= level
            and any(self._device.get(path) == volume.space.device for path in self._places[purpose])
        ]

    def _said(self, volume: _GuardedVolume) -> str:
        if volume.level is SpaceLevel.OK:
            return "has room again"
        stopped = ", ".join(_STOPS[purpose][1] for purpose in self._stops(volume))
        return f"is short of room: {stopped}" if stopped else "gets short of room"

    def _judge(self, volume: _GuardedVolume, now: float) -> None:
        volume.sample(now)
        before, volume.level = volume.level, disk_space.level_of(volume.space, self._reserve, volume.level)
        if volume.level == before:
            return
        event = Event.DISK_LOW if volume.level > before else Event.DISK_OK
        self._audit.record(
            event,
            f"the volume of {volume.path} {self._said(volume)} ({volume.space.free / 1e9:.2f} GB free)",
            level=disk_space.level_name(volume.level),
            bytes=volume.space.free,
        )

    def _tell_gateway(self) -> None:
        """Write or remove the flag file that stops the gateway's own forwarding: Lua cannot measure."""
        if self.may_forward:
            self._flag.unlink(missing_ok=True)
        elif not self._flag.exists():
            self._flag.parent.mkdir(parents=True, exist_ok=True)
            durable.replace_volatile(self._flag, b"no room on the volume of storage\n")
