"""Whatever a stranger puts into a name, a daemon's journal has one line for each record, and systemd one state."""

from __future__ import annotations

import io
import logging

from ddwd.core.printable import OneLineFormatter, one_line
from ddwd.daemon.loop import Loop, TickResult

FORGED = "ORTHANC1\nddwd-audit: published\x1b[2J\r\u2028\x85\0\u202e"


def _logged(message: str, *args: object, error: Exception | None = None) -> str:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(OneLineFormatter())
    record = logging.LogRecord("ddwd", logging.WARNING, "", 0, message, args, None)
    if error is not None:
        record.exc_info = (type(error), error, error.__traceback__)
    handler.emit(record)
    return out.getvalue()


def test_one_record_is_one_line() -> None:
    said = _logged("an association ends: it called %s", FORGED)
    assert said == "an association ends: it called ORTHANC1?ddwd-audit: published?[2J?????\n"


def test_a_traceback_forges_no_line() -> None:
    lines: list[str] = []
    try:
        int(FORGED)
    except ValueError as error:
        lines = _logged("failed", error=ValueError(FORGED).with_traceback(error.__traceback__)).splitlines()
    assert lines[0] == "failed"
    assert all(line.startswith("  ") and line == one_line(line) for line in lines[1:])


def test_text_of_any_language_stays() -> None:
    assert one_line("Käse 映像 ß") == "Käse 映像 ß"


def test_a_state_for_systemd_carries_no_second_message() -> None:
    messages: list[str] = []
    loop: Loop

    def turn() -> TickResult:
        loop.stop()
        return TickResult("an item waits: x\nWATCHDOG=trigger")

    loop = Loop(turn, 1.0, messages.append)
    loop.run()
    lines = "\n".join(messages).splitlines()
    assert "STATUS=an item waits: x?WATCHDOG=trigger" in lines
    assert "WATCHDOG=trigger" not in lines
