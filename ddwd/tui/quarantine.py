"""The dashboard's list of the quarantine: what waits for the operator, why, and its release."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import DataTable, Footer, Static

from ddwd.status.formatting import plain
from ddwd.store.operator_requests import Request

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult

    from ddwd.extractor.quarantine import Entry


class QuarantineScreen(Screen[None]):
    """One row an entry; `x` asks and leaves a request to release it."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("x", "release", "release"),
        Binding("escape,q", "app.pop_screen", "back"),
    ]

    def __init__(self, entries: list[Entry], wish: Callable[[str, Request], None]) -> None:
        super().__init__()
        self._entries = {entry.id: entry for entry in entries}
        self._wish = wish

    def compose(self) -> ComposeResult:
        """See Screen."""
        yield Static(f"quarantine: {len(self._entries)}", classes="title", markup=False)
        yield DataTable(cursor_type="row", zebra_stripes=True)
        yield Static("", id="reason", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Fill the table."""
        table = self.query_one(DataTable)
        table.add_columns("since (UTC)", "kind", "ID", "StudyInstanceUID")
        for entry in self._entries.values():
            cells = (
                entry.at[:19].replace("T", " "),
                entry.subject.kind,
                entry.id[:8],
                plain(entry.subject.study_uid),
            )
            table.add_row(*map(Text, cells), key=entry.id)
        if not self._entries:
            self.query_one("#reason", Static).update("nothing is in quarantine")

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Tell the reason of the row that the cursor is on."""
        entry = self._entries.get(str(event.row_key.value))
        if entry is not None:
            file = entry.file
            where = f"\nfile: {file.name}, {entry.size:,} bytes" if file else "\nits bytes could not be read"
            self.query_one("#reason", Static).update(plain(entry.subject.reason) + where)

    def action_release(self) -> None:
        """Ask, and leave the request."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return
        key = str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)
        entry = self._entries[key]
        what = "have it tried again" if entry.subject.kind == "undeliverable" else "take it off the list"
        self._wish(f"Release {key[:8]} ({entry.subject.kind}): {what}?", Request("release", item=key))
