"""Show the dashboard's first screen: problems, flow, studies in flight, studies just finished, and the foot. All of it is from a DashboardModel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from ddwd.store.status_files import FinishedStudy, InFlightStudy
from ddwd.tui import text

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.events import Resize

    from ddwd.status.dashboard import DashboardModel
    from ddwd.tui.text import Column, PatientMasking


class Overview(Screen[None]):
    """Show the latest DashboardModel, in a layout for the size of the terminal."""

    def __init__(self) -> None:
        super().__init__()
        self._board: DashboardModel | None = None
        self._masking = text.PatientMasking()
        self._rows: dict[str, InFlightStudy | FinishedStudy] = {}

    def compose(self) -> ComposeResult:
        """See Screen."""
        yield Static("D-DW-D Portal: looking ...", id="head", markup=False)
        yield Static(id="trouble", markup=False)
        yield Static(id="flow", markup=False)
        yield Static("in flight", classes="title", id="flight-title", markup=False)
        yield _table("flight")
        yield Static("just finished", classes="title", id="finished-title", markup=False)
        yield _table("finished")
        yield Static(id="foot", markup=False)
        yield Footer()

    def show(self, board: DashboardModel, masking: PatientMasking) -> None:
        """Show this DashboardModel."""
        self._board, self._masking = board, masking
        self._draw()

    def complain(self, reason: str) -> None:
        """Show why there is no new DashboardModel, above the last one."""
        trouble = self.query_one("#trouble", Static)
        trouble.update(Text(f"! {reason}", style="bold red"))
        trouble.display = True

    def on_resize(self, _event: Resize) -> None:
        """Draw the layout for the new size."""
        self._draw()

    @property
    def selected(self) -> InFlightStudy | FinishedStudy | None:
        """The study under the cursor, in the table with the focus, or else in the first table with rows."""
        tables = [self.query_one(f"#{name}", DataTable) for name in ("flight", "finished")]
        for table in sorted(tables, key=lambda one: not one.has_focus):
            if table.row_count:
                key = table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value
                return self._rows.get(f"{table.id}:{key}")
        return None

    def _draw(self) -> None:
        board, width = self._board, self.size.width
        if board is None or not width:
            return
        report = board.report
        trouble = self.query_one("#trouble", Static)
        trouble.update(text.trouble(board, width))
        trouble.display = bool(board.trouble)
        self.query_one("#head", Static).update(text.head(board, width))
        self.query_one("#flow", Static).update(text.flow(board, width))
        self.query_one("#foot", Static).update(text.foot(board, width))
        self.query_one("#flight-title", Static).update(f"in flight: {len(report.in_flight)}")
        self.query_one("#finished-title", Static).update(f"just finished: {len(report.recent)}")
        flight = [
            (row.study, row, text.flight_row(row, self._masking, report.at, width))
            for row in report.in_flight
        ]
        finished = [
            (f"{row.study}/{row.revision}", row, text.finished_row(row, self._masking, width))
            for row in report.recent
        ]
        self._rows = {
            **{f"flight:{key}": row for key, row, _ in flight},
            **{f"finished:{key}": row for key, row, _ in finished},
        }
        _fill(
            self.query_one("#flight", DataTable), text.FLIGHT, width, {key: cells for key, _, cells in flight}
        )
        _fill(
            self.query_one("#finished", DataTable),
            text.FINISHED,
            width,
            {key: cells for key, _, cells in finished},
        )


def _table(name: str) -> DataTable[Text]:
    return DataTable(id=name, cursor_type="row", cell_padding=0)


def _fill(
    table: DataTable[Text], columns: tuple[Column, ...], width: int, rows: dict[str, list[Text]]
) -> None:
    """Fill the table; rows that stay are changed in place, so that the cursor does not move."""
    widths = [column.width(width) for column in columns]
    shown = [str(row.value) for row in table.rows]
    if [column.width for column in table.columns.values()] != widths or shown != list(rows):
        at = _cursor(table)
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


def _cursor(table: DataTable[Text]) -> str:
    """Return the key of the row under the cursor; empty for an empty table."""
    if not table.row_count:
        return ""
    return str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)
