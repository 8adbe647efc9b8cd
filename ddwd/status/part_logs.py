"""The journals of the portal's parts, merged: the last lines, and the ones that come. Reads only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddwd.core.audit import journal
from ddwd.core.errors import InvalidValueError, StateError
from ddwd.status import units
from ddwd.status.journal_events import is_readable, written_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

POSTGRESQL = "postgresql"
_OURS = (*units.UNITS, *units.OPTIONAL, "ddwd-doctor")
PARTS = {unit.removeprefix("ddwd-"): f"{unit}.service" for unit in _OURS}
"""Part -> its unit; besides them there is POSTGRESQL, whose units have a version in their names."""
_WAIT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LogLine:
    """One record: its stamp, the part, the priority of syslog(3) from 0 to 7, and the message as it was written."""

    at: str
    part: str
    priority: int
    message: str


class PartLogs:
    """The journal of some parts. Raises InvalidValueError for an unknown part, StateError if the journal cannot be read."""

    def __init__(self, parts: Iterable[str]) -> None:
        wanted = tuple(dict.fromkeys(parts)) or (*PARTS, POSTGRESQL)
        for part in wanted:
            if part not in PARTS and part != POSTGRESQL:
                known = ", ".join((*PARTS, POSTGRESQL))
                raise InvalidValueError(f"{part}: there is no such part; the parts are: {known}")
        if journal is None:
            raise StateError(
                "the journal cannot be read: python3-systemd is missing, or systemd does not run here"
            )
        if not is_readable():
            raise StateError("the journal is for root and group systemd-journal: run it with sudo")
        try:
            self._reader = journal.Reader()
            self._names = {PARTS[part]: part for part in wanted if part in PARTS}
            if POSTGRESQL in wanted:
                found = self._reader.query_unique("_SYSTEMD_UNIT")
                self._names |= {unit: POSTGRESQL for unit in found if str(unit).startswith("postgresql")}
            for unit in self._names:
                self._reader.add_match(f"_SYSTEMD_UNIT={unit}")
            # what systemd itself says of a unit: that it was started, that it failed
            self._reader.add_disjunction()
            self._reader.add_match("_PID=1")
            for unit in self._names:
                self._reader.add_match(f"UNIT={unit}")
        except OSError as error:
            raise StateError(f"the journal cannot be read ({error.strerror})") from error

    def last(self, most: int) -> list[LogLine]:
        """Return the newest lines, the oldest of them first."""
        self._reader.seek_tail()
        found: list[LogLine] = []
        while len(found) < most and (record := self._reader.get_previous()):
            found.append(self._line(record))
        self._reader.seek_tail()
        self._reader.get_previous()
        return found[::-1]

    def follow(self) -> Iterator[LogLine]:
        """Yield each line that comes after those of `last`, without end."""
        while True:
            while record := self._reader.get_next():
                yield self._line(record)
            self._reader.wait(_WAIT_SECONDS)

    def _line(self, record: Mapping[str, Any]) -> LogLine:
        unit = str(record.get("_SYSTEMD_UNIT", ""))
        part = self._names.get(unit) or self._names.get(str(record.get("UNIT", "")), "?")
        return LogLine(
            written_at(record),
            part,
            int(record.get("PRIORITY", 6)),
            str(record.get("MESSAGE", "")),
        )
