"""What the disks and the operator allow: stop the flow hop by hop before a volume is full, or while the operator has paused it.

No image is retrieved while OUTPUT_DIR or the state is short of space, none is forwarded while storage or PostgreSQL is. C-STORE is
refused not here but by the receiver and by the plugin inside Orthanc, by the same rule. The flow resumes by itself when there is space.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
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
    from ddwd.store.ledger import LedgerPort


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


@dataclass(frozen=True, slots=True)
class Volumes:
    """The paths whose volumes limit each purpose, and how their space is measured."""

    paths: Mapping[Purpose, Sequence[Path]]
    measure: Callable[[Path], Space] = disk_space.space_of


@dataclass
class _GuardedVolume:
    """One volume, named by the first of the portal's paths on it."""

    path: Path
    space: Space
    level: SpaceLevel = SpaceLevel.OK
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_SAMPLES))

    def hours_left(self, reserve: int) -> float | None:
        """Return the hours until only the reserve is left, at the rate of the last hour; None while free space does not shrink."""
        if len(self.samples) < _LEAST_SAMPLES:
            return None
        (began, first), (ended, last) = self.samples[0], self.samples[-1]
        if last >= first:
            return None
        return max(0, last - reserve) / (first - last) * (ended - began) / 3600


@dataclass
class FlowControl:
    """Call `look` in each turn. The ledger keeps the operator's pause over restarts; `flag` stops the gateway's own forwarding."""

    volumes: Volumes
    reserve: int
    flag: Path
    ledger: LedgerPort
    clock: Clock
    audit: Audit
    _looked: float = float("-inf")
    _read_only: tuple[Path, ...] = ()
    """Folders that retrieved images are written to and that cannot be written."""
    _device: dict[Path, int] = field(default_factory=dict)
    _by_device: dict[int, _GuardedVolume] = field(default_factory=dict)

    @property
    def is_paused(self) -> bool:
        """Whether the operator has paused retrieving."""
        return self.ledger.state.paused is not None

    @property
    def pause_reason(self) -> str:
        """Who has paused retrieving, in one line for people."""
        by = self.ledger.state.paused.by if self.ledger.state.paused else ""
        return f"retrieving is paused by {by or 'the operator'}; see: ddwd resume"

    @property
    def has_room(self) -> bool:
        """Whether the disks take retrieved images."""
        return self._worst("retrieve") < SpaceLevel.NO_RETRIEVE and not self._read_only

    @property
    def may_retrieve(self) -> bool:
        """Whether images may be retrieved to OUTPUT_DIR."""
        return self.has_room and not self.is_paused

    @property
    def may_forward(self) -> bool:
        """Whether images may be sent to storage."""
        return self._worst("forward") < SpaceLevel.NO_FORWARD

    @property
    def shortage(self) -> str:
        """Which volume stops the flow, in one line for people; empty if none does."""
        for path in self._read_only:
            return f"the volume of {path} is read-only"
        stopping = (volume.path for volume in self._by_device.values() if self._stops(volume))
        return next((f"the volume of {path} is short of room" for path in stopping), "")

    def pause(self, by: str) -> None:
        """Stop retrieving, as that user requests."""
        if not self.is_paused:
            self.ledger.append("paused", by=by)
            text = f"{by or 'the operator'} has paused retrieving: studies wait on storage"
            self.audit.record(Event.PAUSED, text, by=by)

    def resume(self, by: str) -> None:
        """Retrieve again, as that user requests."""
        if self.is_paused:
            self.ledger.append("resumed", by=by)
            self.audit.record(Event.RESUMED, f"{by or 'the operator'} has resumed retrieving", by=by)

    def look(self) -> None:
        """Measure the disks, at most once a second; report every change of level."""
        now = self.clock.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        read_only = []
        for path in dict.fromkeys(path for paths in self.volumes.paths.values() for path in paths):
            try:
                space = self.volumes.measure(path)
            except OSError:
                continue  # does not exist yet: an external server, or an Orthanc that never ran
            self._device[path] = space.device
            if space.is_read_only and path in self.volumes.paths["retrieve"]:
                read_only.append(path)
            self._by_device.setdefault(space.device, _GuardedVolume(path, space)).space = space
        # drop volumes that were unmounted
        self._by_device = {device: self._by_device[device] for device in dict.fromkeys(self._device.values())}
        for volume in self._by_device.values():
            if not volume.samples or now - volume.samples[-1][0] >= _SAMPLE_SECONDS:
                volume.samples.append((now, volume.space.free))
            self._update_level(volume)
        self._update_read_only(tuple(read_only))
        self._update_flag()

    def state(self) -> tuple[VolumeStatus, ...]:
        """Return each volume for the status file."""
        return tuple(map(self._volume_status, self._by_device.values()))

    def _volume_status(self, volume: _GuardedVolume) -> VolumeStatus:
        space = volume.space
        reserve = disk_space.reserve_of(space.total, self.reserve)
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
            read_only=tuple(str(path) for path in self._read_only if self._device[path] == space.device),
        )

    def _worst(self, purpose: Purpose) -> SpaceLevel:
        devices = {self._device[path] for path in self.volumes.paths[purpose] if path in self._device}
        return max((self._by_device[device].level for device in devices), default=SpaceLevel.OK)

    def _stops(self, volume: _GuardedVolume) -> list[Purpose]:
        """Return the purposes that wait for space on this volume."""
        return [
            purpose
            for purpose, (level, _) in _STOPS.items()
            if volume.level >= level
            and any(self._device.get(path) == volume.space.device for path in self.volumes.paths[purpose])
        ]

    def _update_level(self, volume: _GuardedVolume) -> None:
        before, volume.level = volume.level, disk_space.level_of(volume.space, self.reserve, volume.level)
        if volume.level == before:
            return
        stopped = ", ".join(_STOPS[purpose][1] for purpose in self._stops(volume))
        message = f"is short of room: {stopped}" if stopped else "gets short of room"
        if volume.level is SpaceLevel.OK:
            message = "has room again"
        self.audit.record(
            Event.DISK_LOW if volume.level > before else Event.DISK_OK,
            f"the volume of {volume.path} {message} ({volume.space.free / 1e9:.2f} GB free)",
            level=disk_space.level_name(volume.level),
            bytes=volume.space.free,
        )

    def _update_read_only(self, found: tuple[Path, ...]) -> None:
        before, self._read_only = self._read_only, found
        for path in found:
            if path not in before:
                message = f"the volume of {path} is read-only: {_STOPS['retrieve'][1]}"
                self.audit.record(Event.DISK_LOW, message, level="read-only")
        for path in before:
            if path not in found:
                self.audit.record(Event.DISK_OK, f"the volume of {path} can be written again")

    def _update_flag(self) -> None:
        """Write or remove the flag file that stops the gateway's own forwarding: Lua cannot measure."""
        if self.may_forward:
            self.flag.unlink(missing_ok=True)
        elif not self.flag.exists():
            with suppress(OSError):  # no room on /run: tried again at the next turn
                self.flag.parent.mkdir(parents=True, exist_ok=True)
                durable.replace_volatile(self.flag, b"no room on the volume of storage\n")
