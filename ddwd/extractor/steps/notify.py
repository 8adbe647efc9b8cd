"""Notify step: write the marker file of a published study, and queue its notification hook.

Called after the custody record is durable and before the ledger closes the study. A crash between the two repeats it: both effects
are idempotent.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from ddwd.store.custody import FORMAT
from ddwd.store.hook_queue import Notice

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ddwd.config.paths import Paths
    from ddwd.config.routing import Route
    from ddwd.store.custody import Record
    from ddwd.store.hook_queue import HookQueue
    from ddwd.store.output_tree import OutputTree


class PublishNotifier:
    """Serves the routes that have a marker, a command or a webhook."""

    def __init__(self, routes: Iterable[Route], paths: Paths, output: OutputTree, notices: HookQueue) -> None:
        self._routes = {one.name: one for one in routes if one.has_hook or one.marker}
        self._paths = paths
        self._output = output
        self._notices = notices

    def notify(self, record: Record) -> None:
        """Notify of one published study. Raises StorageFullError, LinkedError and OSError: call it again then."""
        route = self._routes.get(record.route)
        if route is None:
            return
        if route.marker:
            self._output.mark(record, route.marker, _marker(record))
        if route.has_hook:
            notice = Notice(
                study=record.study,
                study_uid=record.study_uid,
                route=record.route,
                path=str(self._paths.output / record.folder),
                revision=record.revision,
                instances=len(record.images),
                published_at=record.published_at,
                custody=FORMAT.body(record),
            )
            self._notices.put(notice)


def _marker(record: Record) -> bytes:
    """Return the content of the marker file; the same for the same revision."""
    body = {
        "study_uid": record.study_uid,
        "revision": record.revision,
        "instances": len(record.images),
        "published_at": record.published_at,
    }
    return json.dumps(body).encode("ascii") + b"\n"
