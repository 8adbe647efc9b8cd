"""Make one printable line of any text: a modality, a peer or another user may have put control characters into it. Format counts."""

from __future__ import annotations

import logging


def one_line(value: object) -> str:
    """Return the text as one line, with `?` for each character that is not printable.

    A line end would make a second record of the journal, whose text a stranger chose, and an escape sequence may rewrite a terminal.
    """
    return "".join(char if char.isprintable() else "?" for char in str(value))


def many(count: int, one: str, more: str) -> str:
    """Format a count: `1 image`, `2 images`."""
    return f"{count:,} {one if count == 1 else more}"


class OneLineFormatter(logging.Formatter):
    """Write each record as one line; a traceback as lines of its own, which are indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the lines of the record."""
        lines = [one_line(record.getMessage())]
        if record.exc_info:
            text = self.formatException(record.exc_info)
            lines += [f"  {one_line(line)}" for line in text.split("\n")]
        return "\n".join(lines)
