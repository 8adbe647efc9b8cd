"""The dashboard's pages of text that scroll: a study's trace, the audit tail, the help. Each is left with Escape."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import Screen
from textual.widgets import Footer, Static

from ddwd.core.errors import DdwdError
from ddwd.status.formatting import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from textual.app import ComposeResult
    from textual.timer import Timer

    from ddwd.status.events import AuditEvent
    from ddwd.status.trace import Line

HELP = """\
The flow: modality, ORTHANC1 (receives), ORTHANC2 (stores), PYTHON_SCP (fetches), disk.
At each hop: images and bytes a second now, the last minutes, and how many images wait before it.

  \u25cf ok        images flow, or there are none
  \u25cf slow      ever more images wait before this hop
  \u25cf waiting   images wait and nothing moves, or fetching is paused
  \u25cf broken    the hop is down, or has no room: the red lines say why

Under ORTHANC1, ORTHANC2 and disk stands how many images of the study are there; the bar is full
only when none is missing. "to disk" is the time from the last image to the finished study.

  arrows, Tab   move in a table, to the other table
  Enter         trace of the study: why is it not there, and what to do
  /             find a study by accession number, patient ID or UID
  r             retry the study: failures forgotten, what is missing fetched again
  p             pause the fetching, and resume it
  x             quarantine: look, and release
  l             the last events, as they happen
  u             show patient IDs whole, and mask them again
  q             leave; the portal goes on

Patient IDs and accession numbers are asked of the Orthancs while you look and kept nowhere."""
_REFRESH_SECONDS = 1.0
FAILURE = "bold red"
"""Style of a line that reports a failure."""


class Page(Screen[None]):
    """A title and lines of text."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "app.pop_screen", "back")]

    def __init__(self, title: str, lines: Sequence[str | Line] = ()) -> None:
        super().__init__()
        self._title = title
        self._lines = lines
        self._problem = ""

    def compose(self) -> ComposeResult:
        """See Screen."""
        yield Static(self._title, classes="title", markup=False)
        with VerticalScroll():
            yield Static(self._text(), id="body")
        yield Footer()

    def on_mount(self) -> None:
        """Show what came while the page was being opened."""
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


def help_page() -> Page:
    """The help."""
    return Page("help", HELP.splitlines())


class AuditPage(Page):
    """The last events, and each new one."""

    def __init__(self, new: Callable[[], list[AuditEvent]]) -> None:
        super().__init__("audit: the last events (UTC); with more: journalctl -t ddwd-audit")
        self._new = new
        self._timer: Timer | None = None

    def on_mount(self) -> None:
        """Read, and read again each second."""
        super().on_mount()
        self._refresh_lines()
        self._timer = self.set_interval(_REFRESH_SECONDS, self._refresh_lines)

    def _refresh_lines(self) -> None:
        try:
            fresh = [_event_line(one) for one in self._new()]
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


def _event_line(one: AuditEvent) -> str:
    about = f"  {plain(one.study_uid)}" if one.study_uid else ""
    return f"{one.at[:19].replace('T', ' ')}  {one.event:<17} {plain(one.message)}{about}"
