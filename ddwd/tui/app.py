"""The dashboard: screens, keys, and the feed. It writes request files only, after a question."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.worker import get_current_worker

from ddwd.core.errors import DdwdError, failure_of
from ddwd.core.model import OrthancId
from ddwd.status.dashboard import DashboardModel
from ddwd.status.formatting import plain
from ddwd.status.trace_text import marked_lines
from ddwd.store.operator_requests import Request
from ddwd.tui.screens import HELP, Ask, AuditPage, Find, Overview, Page, QuarantineScreen
from ddwd.tui.senders_screen import SendersScreen
from ddwd.tui.text import PatientMasking

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.screen import Screen

    from ddwd.extractor.quarantine import Entry
    from ddwd.status.dashboard import Patients
    from ddwd.status.events import AuditEvent
    from ddwd.status.trace import Trace
    from ddwd.tui.feed import Feed


_Found = TypeVar("_Found")


class Portal(Protocol):
    """What the dashboard needs besides the DashboardModel. Each method may take long, and may raise DdwdError and OSError."""

    patients: Patients

    def trace(self, study: OrthancId) -> Trace:
        """Return the trace of one study."""

    def find(self, name: str) -> list[OrthancId]:
        """Return the studies with this accession number, patient ID or UID."""

    def quarantine(self) -> list[Entry]:
        """Return the entries in quarantine."""

    def tail(self) -> Callable[[], list[AuditEvent]]:
        """Return a function that returns the last events at its first call, then those since the last call."""

    def submit(self, request: Request) -> None:
        """Submit a request to the extractor."""


@dataclass
class Refreshed(Message):
    """A DashboardModel of the feed, or a line that says why there is none."""

    found: DashboardModel | str


class Dashboard(App[None]):
    """The application `ddwd-top`. `feed` makes the feed from the function that receives each DashboardModel."""

    TITLE = "ddwd-top"
    ENABLE_COMMAND_PALETTE = False
    CSS = """
    #head, .title { text-style: bold; width: 100%; }
    .title { color: $text-muted; }
    #problems { display: none; height: auto; }
    #flow { height: 6; margin-bottom: 1; }
    #lists { scrollbar-size-vertical: 0; }
    #flight { height: 1fr; min-height: 3; }
    #finished { height: auto; max-height: 6; }
    #foot { height: auto; }
    #reason { height: auto; margin: 1 0; }
    #senders { height: 1fr; min-height: 4; }
    DataTable { scrollbar-size-vertical: 1; scrollbar-size-horizontal: 0; background: $background; }
    Ask, Find { align: center middle; }
    .dialog { width: 60; height: auto; padding: 1 2; border: round $primary; background: $surface; }
    .keys { margin-top: 1; color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "trace", "trace", priority=False),
        Binding("slash", "find", "find", key_display="/"),
        Binding("r", "retry", "retry"),
        Binding("p", "pause", "pause"),
        Binding("x", "quarantine", "quarantine"),
        Binding("s", "senders", "senders"),
        Binding("l", "audit", "audit"),
        Binding("u", "unmask", "unmask"),
        Binding("question_mark", "help", "help", key_display="?"),
        Binding("q", "quit", "quit"),
    ]

    def __init__(
        self, feed: Callable[[Callable[[DashboardModel | str], object]], Feed], portal: Portal
    ) -> None:
        super().__init__()
        self._feed = feed(lambda found: self.post_message(Refreshed(found)))
        self._portal = portal
        self._overview = Overview()
        self._board: DashboardModel | None = None
        self._unmasked = False

    def get_default_screen(self) -> Screen[None]:
        return self._overview

    def on_mount(self) -> None:
        self._feed.start()

    def on_unmount(self) -> None:
        self._feed.stop()

    def on_refreshed(self, message: Refreshed) -> None:
        if isinstance(message.found, DashboardModel):
            self._board = message.found
            self._show()
            if isinstance(self.screen, SendersScreen):
                self.screen.show(message.found)
        else:
            self._overview.show_problem(message.found)

    def _show(self) -> None:
        if self._board is not None:
            self._overview.show(self._board, PatientMasking(self._portal.patients.of, self._unmasked))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether a key works: those of the overview work only there."""
        if action in {binding.action for binding in self.BINDINGS if isinstance(binding, Binding)}:
            return self.screen is self._overview
        return super().check_action(action, parameters)

    # --- keys -----------------------------------------------------------------------------------------------------------

    def on_data_table_row_selected(self) -> None:
        """Trace the study on which Enter was pressed."""
        if self.screen is self._overview:
            self.action_trace()

    def action_trace(self) -> None:
        if row := self._overview.selected:
            self._trace(row.study)

    def _trace(self, study: OrthancId) -> None:
        width = self.size.width
        self._open_page(
            Page(f"trace {study}", ["reading every hop ..."]),
            lambda: self._portal.trace(study),
            lambda page, trace: page.show(marked_lines(trace, width)),
        )

    def action_find(self) -> None:
        self.push_screen(Find(), self._find)

    def _find(self, name: str | None) -> None:
        """Trace the study with this name; it need not be on the screen."""
        if not name:
            return
        if shown := self._shown(name):
            self._trace(shown)
            return

        def found(page: Page, studies: list[OrthancId]) -> None:
            if len(studies) == 1:
                self.pop_screen()
                self._trace(studies[0])
            else:
                page.show(["several studies match:", *(f"  ddwd trace {study}" for study in studies)])

        page = Page(f"find {name}", ["searching both Orthancs ..."])
        self._open_page(page, lambda: self._portal.find(name), found)

    def _shown(self, name: str) -> OrthancId | None:
        """Return a study on the screen with this accession number, patient ID or UID, or None."""
        if self._board is None:
            return None
        for row in self._board.report.studies:
            patient = self._portal.patients.of(row.study)
            if name in {row.study_uid, row.study, patient.patient_id, patient.accession}:
                return row.study
        return None

    def action_retry(self) -> None:
        if row := self._overview.selected:
            accession = plain(self._portal.patients.of(row.study).accession)
            name = f"with accession number {accession}" if accession else row.study_uid
            self._ask(f"Retry the study {name}?", Request("retry", row.study))

    def action_pause(self) -> None:
        if self._board is not None and self._board.report.paused:
            self._ask("Resume retrieving?", Request("resume"))
        else:
            self._ask("Pause retrieving? Images wait on ORTHANC2 until you resume.", Request("pause"))

    def action_quarantine(self) -> None:
        try:
            entries = self._portal.quarantine()
        except (DdwdError, OSError) as error:
            self.notify(
                f"the quarantine cannot be read: {failure_of(error).reason}", severity="error", markup=False
            )
            return
        self.push_screen(QuarantineScreen(entries, self._ask))

    def action_senders(self) -> None:
        if self._board is not None:
            self.push_screen(SendersScreen(self._board))

    def action_audit(self) -> None:
        self.push_screen(AuditPage(self._portal.tail()))

    def action_unmask(self) -> None:
        self._unmasked = not self._unmasked
        self._show()

    def action_help(self) -> None:
        self.push_screen(Page("help", HELP.splitlines()))

    # --- requests and workers -------------------------------------------------------------------------------------------

    def _ask(self, question: str, request: Request) -> None:
        """Ask the user, and submit the request if the answer is yes."""

        def answered(yes: bool | None) -> None:
            if not yes:
                return
            try:
                self._portal.submit(request)
            except (DdwdError, OSError) as error:
                self.notify(failure_of(error).reason, severity="error", markup=False)
            else:
                self.notify(f"request to the extractor: {request.kind}", markup=False)

        self.push_screen(Ask(question), answered)

    def _open_page(
        self, page: Page, work: Callable[[], _Found], found: Callable[[Page, _Found], None]
    ) -> None:
        """Open the page, run `work` in a thread, and pass its result to `found`; the page shows an error."""
        self.push_screen(page)

        def run() -> None:
            worker = get_current_worker()
            try:
                show = partial(found, page, work())
            except (DdwdError, OSError) as error:
                show = partial(page.fail, failure_of(error).reason)
            if not worker.is_cancelled:
                self.call_from_thread(show)

        self.run_worker(run, thread=True)
