"""Show the dashboard's first screen: problems, flow, studies in flight, studies just finished, and the foot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from ddwd.store.status_files import FinishedStudy, InFlightStudy
from ddwd.tui import text
from ddwd.tui.pages import key_under_cursor

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
        yield Static("D-DW-D Portal: reading ...", id="head", markup=False)
        yield Static(id="trouble", markup=False)
        yield Static(id="flow", markup=False)
        yield Static("in flight", classes="title", id="flight-title", markup=False)
        yield _table("flight")
        yield Static("just finished", classes="title", id="finished-title", markup=False)
        yield _table("finished")
        yield Static(id="foot", markup=False)
        yield Footer()

    def show(self, board: DashboardModel, masking: PatientMasking) -> None:
        self._board, self._masking = board, masking
        self._draw()

    def complain(self, reason: str) -> None:
        """Show why there is no new DashboardModel, above the last one."""
        trouble = self.query_one("#trouble", Static)
        trouble.update(Text(f"! {reason}", style="bold red"))
        trouble.display = True

    def on_resize(self, _event: Resize) -> None:
        self._draw()

    @property
    def selected(self) -> InFlightStudy | FinishedStudy | None:
        """The study under the cursor, in the table with the focus, or else in the first table with rows."""
        tables = [self.query_one(f"#{name}", DataTable) for name in ("flight", "finished")]
        keys = [key_under_cursor(table) for table in sorted(tables, key=lambda table: not table.has_focus)]
        row = self._rows.get(next(filter(None, keys), ""))
        return row if row and row.study else None

    def _draw(self) -> None:
        board, width = self._board, self.size.width
        if board is None or not width:
            return
        report = board.report
        for name, content in (
            ("head", text.head(board, width)),
            ("trouble", text.trouble(board, width)),
            ("flow", text.flow(board, width)),
            ("flight-title", f"in flight: {len(report.in_flight)}"),
            ("finished-title", f"just finished: {len(report.recent)}"),
            ("foot", text.foot(board, width)),
        ):
            self.query_one(f"#{name}", Static).update(content)
        self.query_one("#trouble", Static).display = bool(board.trouble)
        flight: dict[str, InFlightStudy] = {row.study: row for row in report.in_flight}
        finished = {f"{row.study}/{row.revision}": row for row in report.recent}
        self._rows = {**flight, **finished}
        masking, now = self._masking, report.at
        cells = {key: text.flight_row(row, masking, now, width) for key, row in flight.items()}
        _fill(self.query_one("#flight", DataTable), text.FLIGHT, width, cells)
        cells = {key: text.finished_row(row, masking, width) for key, row in finished.items()}
        _fill(self.query_one("#finished", DataTable), text.FINISHED, width, cells)


def _table(name: str) -> DataTable[Text]:
    return DataTable(id=name, cursor_type="row", cell_padding=0)


def _fill(
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
