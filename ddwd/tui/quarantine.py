"""Show the dashboard's list of the quarantine, with the reason of each entry, and release entries."""

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
            self.query_one("#reason", Static).update("the quarantine is empty")

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show the reason of the entry under the cursor."""
        entry = self._entries.get(str(event.row_key.value))
        if entry is not None:
            file = entry.file
            where = f"\nfile: {file.name}, {entry.size:,} bytes" if file else "\nits file could not be read"
            self.query_one("#reason", Static).update(plain(entry.subject.reason) + where)

    def action_release(self) -> None:
        """Release the entry under the cursor, after a question."""
        table = self.query_one(DataTable)
        if not table.row_count:
            return
        key = str(table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value)
        entry = self._entries[key]
        what = "try it again" if entry.subject.kind == "undeliverable" else "remove it from the list"
        self._ask(f"Release {key[:8]} ({entry.subject.kind}): {what}?", Request("release", item=key))
