"""Show the dashboard's dialogs: yes or no before a request to the extractor, and one line of text to search for."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

if TYPE_CHECKING:
    from textual.app import ComposeResult


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
        """See Screen."""
        with Vertical(classes="dialog"):
            yield Static(self._question, markup=False)
            yield Static("y yes   n no", markup=False, classes="keys")

    def action_answer(self, answer: bool) -> None:
        """Close with this answer."""
        self.dismiss(answer)


class Find(ModalScreen[str]):
    """One line of text to search for; empty if the dialog was left."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "leave", "back")]

    def compose(self) -> ComposeResult:
        """See Screen."""
        with Vertical(classes="dialog"):
            yield Static("Find a study by accession number, patient ID or UID:", markup=False)
            yield Input(placeholder="the whole number, ID or UID, then Enter")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Close with the text."""
        self.dismiss(event.value.strip())

    def action_leave(self) -> None:
        """Close with an empty text."""
        self.dismiss("")
