"""Commands of the operator: reconcile, retry, release, pause, resume, forget, retention.

Delete a request only after its effect is durable: in the ledger, in a custody record or in the quarantine.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from ddwd.core.audit import Audit, Event
from ddwd.core.errors import DdwdError, HeldElsewhereError, PeerDownError
from ddwd.core.model import OrthancId

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.extractor.flow_control import FlowControl
    from ddwd.extractor.redo import Redo
    from ddwd.extractor.sharing import Sharing
    from ddwd.extractor.sources import Sources
    from ddwd.retention.scheduler import RetentionScheduler
    from ddwd.store.operator_requests import Request, Requests


class OperatorCommands:
    """Executes the requests that `ddwd` commands file."""

    def __init__(
        self,
        requests: Requests,
        redo: Redo,
        flow: FlowControl,
        retention: RetentionScheduler,
        sources: Sources,
        sharing: Sharing,
        audit: Audit,
    ) -> None:
        self._requests = requests
        self._redo = redo
        self._flow = flow
        self._retention = retention
        self._sources = sources
        self._sharing = sharing
        self._audit = audit
        self._passed_on: set[Path] = set()

    def take(self) -> None:
        """Execute what was filed since the last call. Without room on the disk the requests wait."""
        for path, request in self._requests.take():
            try:
                self._execute(request)
                self._sharing.commit()
            except HeldElsewhereError:
                self._pass_on(path, request)
                continue
            except (DdwdError, OSError):
                return  # no room to write it down: the request waits for the next turn
            self._requests.done(path)
            self._passed_on.discard(path)
            self._audit.record(
                Event.REQUESTED,
                f"the operator asks: {request.kind}",
                study=request.study,
                entry=request.item,
                by=request.by,
            )

    def retry(self, study: OrthancId) -> None:
        """Retry a study in flight, as the operator of another extractor asks."""
        # the claim was lost meanwhile, or the shared ledger went away: the turn goes on, and its next question finds that out
        with suppress(HeldElsewhereError, PeerDownError):
            self._redo.retry(study)

    def _pass_on(self, path: Path, request: Request) -> None:
        """Ask the extractor that holds the study, once; the request waits until that one is done with it."""
        if request.kind == "retry" and path not in self._passed_on:
            self._passed_on.add(path)
            with suppress(PeerDownError):
                self._sharing.ask_owner(OrthancId(request.study))

    def _execute(self, request: Request) -> None:
        match request.kind:
            case "reconcile":
                self._sources.look_at(OrthancId(request.study) if request.study else None)
            case "retry":
                self._redo.retry(OrthancId(request.study))
            case "release":
                self._redo.release(request.item)
            case "pause":
                self._flow.pause()
            case "resume":
                self._flow.resume()
            case "forget":
                self._redo.forget(OrthancId(request.study))
            case "retention":
                self._retention.ask()
