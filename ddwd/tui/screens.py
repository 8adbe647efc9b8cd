"""The dashboard's screens: the overview, pages of text (trace, audit, help), the quarantine, a question, a search."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen, Screen
from textual.widgets import DataTable, Footer, Input, Static

from ddwd.core.errors import DdwdError
from ddwd.extractor.quarantine import TWO_PATIENTS
from ddwd.status.formatting import plain, second
from ddwd.store.operator_requests import Request
from ddwd.store.status_files import FinishedStudy, InFlightStudy
from ddwd.tui import text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult
    from textual.events import Resize

    from ddwd.extractor.quarantine import Entry
    from ddwd.status.dashboard import DashboardModel
    from ddwd.status.events import AuditEvent
    from ddwd.status.trace_text import Line
    from ddwd.tui.text import Column, PatientMasking

HELP = """\
The flow: modality, ORTHANC1 (receives), ORTHANC2 (stores), PYTHON_SCP (retrieves), disk.
Each hop shows images and bytes a second now, the last minutes, how many images wait before it, and
how many of its associations are open.

  \u25cf ok        images flow, or none wait
  \u25cf slow      more and more images wait before this hop
  \u25cf waiting   images wait and none moves, or retrieving is paused
  \u25cf broken    the hop is down or out of space: the red lines say why

Under ORTHANC1, ORTHANC2 and disk is the number of images of the study there; the bar is full
only when none is missing. "to disk" is the time from the last image to the published study.

  arrows, Tab   move in a table, to the other table
  Enter         trace the study: why it is not published, and what to do
  /             find a study by accession number, patient ID or UID
  r             retry the study: forget its failures, retrieve missing images again
  p             pause retrieving, and resume it
  x             list the quarantine, and release from it
  s             senders: open associations, images, and who was refused and why
  l             the last events, as they happen
  u             show patient IDs in full, and mask them again
  q             quit; the portal keeps running

Patient IDs and accession numbers are read from the Orthancs while you look, and are not stored."""
_REFRESH_SECONDS = 1.0
FAILURE = "bold red"
"""Style of a line that reports a failure."""


class Overview(Screen[None]):
    """Show the latest DashboardModel, in a layout for the size of the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._board: DashboardModel | None = None
        self._problem = ""
        self._masking = text.PatientMasking()
        self._rows: dict[str, InFlightStudy | FinishedStudy] = {}

    def compose(self) -> ComposeResult:
        yield Static("D-DW-D Portal: reading ...", id="head", markup=False)
        yield Static(id="problems", markup=False)
        yield Static(id="flow", markup=False)
        with VerticalScroll(id="lists", can_focus=False):  # what is around it is always in sight
            yield Static("in flight", classes="title", id="flight-title", markup=False)
            yield _table("flight")
            yield Static("just finished", classes="title", id="finished-title", markup=False)
            yield _table("finished")
        yield Static(id="foot", markup=False)
        yield Footer()

    def show(self, board: DashboardModel, masking: PatientMasking) -> None:
        self._board, self._masking, self._problem = board, masking, ""
        self._draw()

    def show_problem(self, reason: str) -> None:
        """Show why there is no new DashboardModel, above the last one."""
        self._problem = reason
        self._draw()

    def on_mount(self) -> None:
        self._draw()

    def on_resize(self, _event: Resize) -> None:
        self._draw()

    @property
    def selected(self) -> InFlightStudy | FinishedStudy | None:
        """The study under the cursor, in the table with the focus, or else in the first table with rows."""
        if not self._rows:
            return None
        tables = [self.query_one(f"#{name}", DataTable) for name in ("flight", "finished")]
        keys = [key_under_cursor(table) for table in sorted(tables, key=lambda table: not table.has_focus)]
        row = self._rows.get(next(filter(None, keys), ""))
        return row if row and row.study else None

    def _draw(self) -> None:
        width = self.size.width
        if not self.is_mounted or not width:
            return  # what is to be shown came first: on_mount and on_resize draw it
        lines = self._problems(width)
        problems = self.query_one("#problems", Static)
        problems.update(lines)
        problems.display = bool(lines)
        if self._board is not None:
            self._draw_board(self._board, width)

    def _problems(self, width: int) -> Text:
        if self._problem:
            return Text(f"! {self._problem}", style=FAILURE)
        return text.problem_lines(self._board, width) if self._board is not None else Text()

    def _draw_board(self, board: DashboardModel, width: int) -> None:
        report = board.report
        for name, content in (
            ("head", text.head(board, width)),
            ("flow", text.flow(board, width)),
            ("flight-title", f"in flight: {len(report.in_flight)}"),
            ("finished-title", f"just finished: {len(report.recent)}"),
            ("foot", text.foot(board, width)),
        ):
            self.query_one(f"#{name}", Static).update(content)
        flight: dict[str, InFlightStudy] = {row.study: row for row in report.in_flight}
        finished = {f"{row.study}/{row.revision}": row for row in report.recent}
        self._rows = {**flight, **finished}
        masking, now = self._masking, report.at
        cells = {key: text.flight_row(row, masking, now, width) for key, row in flight.items()}
        fill(self.query_one("#flight", DataTable), text.FLIGHT, width, cells)
        cells = {key: text.finished_row(row, masking, width) for key, row in finished.items()}
        fill(self.query_one("#finished", DataTable), text.FINISHED, width, cells)


def _table(name: str) -> DataTable[Text]:
    return DataTable(id=name, cursor_type="row", cell_padding=0)


def fill(
    table: DataTable[Text], columns: tuple[Column, ...], width: int, rows: dict[str, list[Text]]
) -> None:
    """Fill the table; rows that stay are changed in place, so that the cursor does not move."""
    widths = [column.width(width) for column in columns]
    shown = [str(row.value) for row in table.rows]
    if [column.width for column in table.columns.values()] != widths or shown != list(rows):
        at = key_under_cursor(table)
        table.clear(columns=True)
        for column, cells in zip(columns, widths, strict=True):
            table.add_column(column.title, width=cells, key=column.title)
        for key, texts in rows.items():
            table.add_row(*texts, key=key)
        if at in rows:
            table.move_cursor(row=list(rows).index(at), animate=False)
        return
    for key, texts in rows.items():
        for column, cell in zip(columns, texts, strict=True):
            if table.get_cell(key, column.title) != cell:
                table.update_cell(key, column.title, cell)


def key_under_cursor(table: DataTable[Any]) -> str:
    """Return the key of the row under the cursor; empty for an empty table."""
    return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value) if table.row_count else ""


class Page(Screen[None]):
    """A title and lines of text that scroll."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "app.pop_screen", "back")]

    def __init__(self, title: str, lines: Sequence[str | Line] = ()) -> None:
        super().__init__()
        self._title = title
        self._lines = lines
        self._problem = ""

    def compose(self) -> ComposeResult:
        yield Static(self._title, classes="title", markup=False)
        with VerticalScroll():
            yield Static(self._text(), id="body")
        yield Footer()

    def on_mount(self) -> None:
        """Show the lines that arrived while the page was being opened."""
        self._draw()

    def show(self, lines: Sequence[str | Line]) -> None:
        """Replace the lines."""
        self._lines, self._problem = lines, ""
        self._draw()

    def fail(self, problem: str) -> None:
        """Show in place of the lines why there are none."""
        self._lines, self._problem = [], problem
        self._draw()

    def _draw(self) -> None:
        for body in self.query("#body").results(Static):  # none yet while the page is being opened
            body.update(self._text())

    def _text(self) -> Text:
        if self._problem:
            return Text(f"! {self._problem}", style=FAILURE)
        return Text("\n").join(map(_line, self._lines))


def _line(line: str | Line) -> Text:
    if isinstance(line, str):
        return Text(line)
    return Text(line.text, style=FAILURE if line.is_failure else "")


class AuditPage(Page):
    """The last events, to which each new event is added; `new` returns the events since its last call."""

    def __init__(self, new: Callable[[], list[AuditEvent]]) -> None:
        super().__init__("audit: the last events (UTC); with more: journalctl -t ddwd-audit")
        self._new = new

    def on_mount(self) -> None:
        """Read the events, then again every second."""
        super().on_mount()
        self._refresh_lines()
        self.set_interval(_REFRESH_SECONDS, self._refresh_lines)

    def _refresh_lines(self) -> None:
        try:
            fresh = [_event_line(event) for event in self._new()]
        except OSError as error:
            self.fail(f"the ledger cannot be read ({error.strerror}): it is for root and group ddwd")
            return
        except DdwdError as error:
            self.fail(str(error))
            return
        if fresh:
            self.show([*self._lines, *fresh][-500:])
            self.query_one(VerticalScroll).scroll_end(animate=False)
        elif not self._lines:
            self.show(["no events yet"])


def _event_line(event: AuditEvent) -> str:
    about = f"  {plain(event.study_uid)}" if event.study_uid else ""
    return f"{second(event.at)}  {event.event:<17} {plain(event.message)}{about}"


class QuarantineScreen(Screen[None]):
    """One row for each entry; `x` submits a request to release it, after a question."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "release", "release"),
        Binding("escape,q", "app.pop_screen", "back"),
    ]

    def __init__(self, entries: list[Entry], ask: Callable[[str, Request], None]) -> None:
        """`ask` asks the user the question, and submits the request if the answer is yes."""
        super().__init__()
        self._entries = {entry.id: entry for entry in entries}
        self._ask = ask

    def compose(self) -> ComposeResult:
        yield Static(f"quarantine: {len(self._entries)}", classes="title", markup=False)
        yield DataTable(cursor_type="row", zebra_stripes=True)
        yield Static("", id="reason", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        table = self.query_one(DataTable)
        table.add_columns("since", "kind", "ID", "StudyInstanceUID")
        for entry in self._entries.values():
            cells = second(entry.at), entry.subject.kind, entry.id[:8], plain(entry.subject.study_uid)
            table.add_row(*map(Text, cells), key=entry.id)
        if not self._entries:
            self.query_one("#reason", Static).update("the quarantine is empty")

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the reason of the entry under the cursor."""
        entry = self._entries.get(str(event.row_key.value))
        if entry is not None:
            file = entry.file
            where = f"\nfile: {file.name}, {entry.size:,} bytes" if file else "\nits file could not be read"
            if entry.subject.kind == TWO_PATIENTS:
                where = f"\nthis one: study {entry.subject.study}; no file was moved"
            self.query_one("#reason", Static).update(plain(entry.subject.reason) + where)

    def action_release(self) -> None:
        """Release the entry under the cursor, after a question."""
        key = key_under_cursor(self.query_one(DataTable))
        if not key:
            return
        entry = self._entries[key]
        decisions = {"undeliverable": "try it again", TWO_PATIENTS: "record that both studies stay"}
        what = decisions.get(entry.subject.kind, "remove it from the list")
        self._ask(f"Release {key[:8]} ({entry.subject.kind}): {what}?", Request("release", item=key))


class Ask(ModalScreen[bool]):
    """A question: `y` is yes, any other key that closes it is no."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield Static("y yes   n no", markup=False, classes="keys")

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class Find(ModalScreen[str]):
    """One line of text to search for; empty if the dialog was left."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "back")]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static("Find a study by accession number, patient ID or UID:", markup=False)
            yield Input(placeholder="the whole number, ID or UID, then Enter")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())

    def action_leave(self) -> None:
        self.dismiss("")
