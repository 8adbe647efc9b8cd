"""Read this machine's journal from a stored position on. Two readers: the signer of the chain, and the monitor for refusals.

A position is a cursor of journald: it holds through rotation, restarts of journald and steps of the clock. Where the record that it
names is gone, reading goes on with the next one that is left. Without python3-systemd there are no records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from ddwd.core.audit import journal
from ddwd.core.errors import StateError

Record = Mapping[str, Any]
Reader = Callable[[], Iterable[Record]]
"""Returns the records since its last call, each with `__CURSOR` and, as text of microseconds, `__REALTIME_TIMESTAMP`."""


def open_reader(matches: Sequence[str], cursor: str, since: timedelta) -> Reader:
    """Open the journal behind `cursor`, or `since` ago if there is none; `matches` are FIELD=VALUE. Raises StateError."""
    if journal is None:
        return tuple
    try:
        reader = journal.Reader(converters={"__REALTIME_TIMESTAMP": _microseconds})
        reader.fileno()  # from here on `process` detects a journal file that was replaced
        for match in matches:
            reader.add_match(match)
        if cursor:
            reader.seek_cursor(cursor)
        else:
            reader.seek_realtime(datetime.now(UTC) - since)
    except OSError as error:
        raise StateError(f"the journal cannot be read ({error.strerror})") from error
    before = cursor

    def new_records() -> Iterable[Record]:
        nonlocal before
        reader.process()
        for record in iter(reader.get_next, {}):
            if before and reader.test_cursor(before):
                before = ""
                continue  # the record that the cursor names was handled before
            before = ""
            yield record

    return new_records


def _microseconds(moment: Any) -> str:
    return str(int(moment.timestamp() * 1_000_000)) if isinstance(moment, datetime) else str(moment)
