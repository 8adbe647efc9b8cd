"""Format times, sizes and counts for people."""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import datetime
from time import tzset
from typing import TextIO

from ddwd.core.model import is_uid, marked_component, safe_component
from ddwd.core.printable import one_line

_WIDTH = 80
RED, GREEN, YELLOW = "\033[31m", "\033[32m", "\033[33m"
_END = "\033[0m"
_UNMASKED = 2
_MASK = "\N{BULLET}"


def time(moment: object) -> str:
    """Format a stamp in local time to the minute, with its zone: `2026-01-31 23:59 CET`; `never` without one."""
    return _local(moment, "%Y-%m-%d %H:%M %Z") if moment else "never"


def second(moment: str) -> str:
    """Format a stamp in local time to the second, with its zone: `2026-01-31 23:59:59 CET`; empty without one."""
    return _local(moment, "%Y-%m-%d %H:%M:%S %Z") if moment else ""


def day(moment: str) -> str:
    """Format a stamp as its local day: `2026-01-31`."""
    return _local(moment, "%Y-%m-%d")


def clock(moment: str) -> str:
    """Format a stamp as the local time of day: `23:59:59`."""
    return _local(moment, "%H:%M:%S")


def show_utc() -> None:
    """Make UTC the local time of this process: for `--utc`."""
    os.environ["TZ"] = "UTC"
    tzset()


def _local(moment: object, form: str) -> str:
    try:
        return datetime.fromisoformat(str(moment)).astimezone().strftime(form)
    except (ValueError, OverflowError):  # a stamp of a foreign or damaged file is shown as it is
        return one_line(str(moment))


def span(seconds: float) -> str:
    """Format a duration in the unit that fits: `3 min`."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def size(amount: float) -> str:
    """Format bytes with an SI prefix: `1.5 GB`."""
    number, unit = scaled(amount)
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def scaled(amount: float) -> tuple[float, str]:
    """Return bytes as a number below 1000, if possible, and its unit with an SI prefix."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:  # noqa: PLR2004 - what the SI prefixes mean
            return amount, unit
        amount /= 1000
    return amount, "TB"


def terminal_width(out: TextIO) -> int:
    """Return the columns of the terminal that `out` writes to, by COLUMNS if it is set; 80 where it is none."""
    with suppress(ValueError, OSError):
        return int(os.environ.get("COLUMNS") or os.get_terminal_size(out.fileno()).columns)
    return _WIDTH


def is_coloured(out: TextIO) -> bool:
    """Return whether text for `out` has colours: a terminal, unless NO_COLOR is set."""
    return out.isatty() and not os.environ.get("NO_COLOR")


def painted(text: str, colour: str) -> str:
    """Return text for a terminal in one of the colours of this module."""
    return f"{colour}{text}{_END}"


def masked_id(patient_id: str) -> str:
    """Return a PatientID with all but its last two characters hidden."""
    hidden = max(len(patient_id) - _UNMASKED, min(len(patient_id), _UNMASKED))
    return _MASK * min(hidden, 6) + patient_id[hidden:]


def without_patient(folder: str, patient_id: str, instead: str) -> str:
    """Return the path of a folder below OUTPUT_DIR with `instead` for each part that has the PatientID."""
    forms = safe_component(patient_id), marked_component(patient_id)

    def names_patient(part: str) -> bool:
        return part in forms or (not is_uid(part) and any(form in part for form in forms))

    return "/".join(instead if names_patient(part) else part for part in folder.split("/"))


def plain(text: object) -> str:
    """Replace what a terminal would not print as text, whatever a modality sent."""
    return one_line(text)
