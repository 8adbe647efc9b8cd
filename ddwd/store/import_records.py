"""Import the custody records in files into the shared database: once, by the extractor, when a machine starts to share a ledger.

Without them the extractor would verify every study of the archive again. Earlier events stay in the files of the old ledger.
"""

from __future__ import annotations

from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.errors import StateError
from ddwd.store.custody import FORMAT, Custody

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId
    from ddwd.store.custody import Record
    from ddwd.store.postgres import PostgresSession

_AT_ONCE = 200


def import_records(folder: Path, database: PostgresSession, extractor: str, clock: Clock) -> None:
    """Copy each sound record that the database has not, then rename the folder.

    Safe to repeat after an interruption. Raises PeerDownError, and StateError if the files cannot be read.
    """
    if not folder.is_dir():
        return
    try:
        studies = Custody(folder).studies()
        while some := list(islice(studies, _AT_ONCE)):
            _insert(list(_sound(Custody(folder), some)), database, extractor)
        durable.rename(folder, folder.with_name(f"{folder.name}-until-{clock.utc():%Y%m%dT%H%M%SZ}"))
    except OSError as error:
        raise StateError(
            f"{folder}: the records in files cannot be imported into the shared ledger ({error.strerror})"
        ) from error


def _sound(custody: Custody, studies: Iterable[OrthancId]) -> Iterator[Record]:
    """Yield the records that can be read; a study whose record is damaged is verified again."""
    for study in studies:
        with suppress(StateError):
            record = custody.read(study)
            if record is not None:
                yield record


def _insert(records: list[Record], database: PostgresSession, extractor: str) -> None:
    database.rows(
        "insert into custody (study, revision, body, written, extractor)"
        " select study, revision, body, written::timestamptz, %s"
        " from unnest(%s::text[], %s::integer[], %s::text[], %s::text[]) as taken (study, revision, body, written)"
        " on conflict (study) do nothing",
        [
            extractor,
            [record.study for record in records],
            [record.revision for record in records],
            [FORMAT.render(record).decode("ascii") for record in records],
            [record.published_at for record in records],
        ],
    )
