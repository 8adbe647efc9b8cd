"""Keeps the index of studies up to date beside the extractor's work, and reads from it what was published last before a restart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ddwd.store.status_files import FinishedStudy

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

    from ddwd.store.study_index import IndexedStudy, StudyIndex


@dataclass
class Indexing:
    """Runs the index's pieces of work one after the other, in another thread."""

    index: StudyIndex
    executor: Executor
    _work: Future[Any] | None = None

    def step(self, *, is_busy: bool) -> None:
        """Begin the next piece if one is due and none is running; `is_busy` while studies are in flight."""
        if (self._work is None or self._work.done()) and self.index.is_due(is_busy=is_busy):
            self._work = self.executor.submit(self.index.work)


def finished(row: IndexedStudy) -> FinishedStudy:
    """Return a study of the index as the status file shows those that were just published."""
    return FinishedStudy(
        study=row.study,
        study_uid=row.study_uid,
        aet=row.aet,
        route=row.route,
        instances=row.images,
        added=row.added,
        bytes=row.bytes,
        revision=row.revision,
        published_at=row.at,
        seconds=row.seconds,
    )
