"""The dashboard's page of senders: a row for each, and below the table why the one under the cursor was refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from ddwd.status.formatting import plain
from ddwd.tui import text
from ddwd.tui.screens import fill, key_under_cursor

if TYPE_CHECKING:
    from rich.text import Text
    from textual.app import ComposeResult
    from textual.events import Resize

    from ddwd.status.dashboard import DashboardModel


class SendersScreen(Screen[None]):
    """Shows the senders of the latest DashboardModel."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "app.pop_screen", "back")]

    def __init__(self, board: DashboardModel) -> None:
        super().__init__()
        self._board = board

    def compose(self) -> ComposeResult:
        yield Static(id="senders-title", classes="title", markup=False)
        table: DataTable[Text] = DataTable(id="senders", cursor_type="row", cell_padding=0)
        yield table
        yield Static("", id="reason", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        self._draw()

    def on_resize(self, _event: Resize) -> None:
        self._draw()

    def on_data_table_row_highlighted(self) -> None:
        """Show the reasons of the sender under the cursor."""
        self._show_reasons()

    def show(self, board: DashboardModel) -> None:
        """Show another model."""
        self._board = board
        self._draw()

    def _draw(self) -> None:
        width = self.size.width
        if not width or not self.is_mounted:
            return
        self.query_one("#senders-title", Static).update(plain(self._board.senders_title))
        rows = {f"{one.aet}@{one.address}": text.sender_row(one, width) for one in self._board.senders}
        fill(self.query_one(DataTable), text.SENDERS, width, rows)
        self._show_reasons()

    def _show_reasons(self) -> None:
        key = key_under_cursor(self.query_one(DataTable))
        found = next((one for one in self._board.senders if f"{one.aet}@{one.address}" == key), None)
        lines = text.sender_reasons(found) if found else ["no sender since ddwd-acceptor started"]
        self.query_one("#reason", Static).update("\n".join(lines))
