"""Format times, sizes and counts for people."""

from __future__ import annotations

from ddwd.core.printable import one_line


def time(moment: object) -> str:
    """Shorten a stamp to `2026-01-31 23:59Z`."""
    return f"{moment[:10]} {moment[11:16]}Z" if isinstance(moment, str) else "never"


def second(stamp: str) -> str:
    """Shorten a stamp to `2026-01-31 23:59:59`."""
    return stamp[:19].replace("T", " ")


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


def many(count: int, one: str, more: str) -> str:
    """Format a count: `1 image`, `2 images`."""
    return f"{count:,} {one if count == 1 else more}"


def plain(text: object) -> str:
    """Replace what a terminal would not print as text, whatever a modality sent."""
    return one_line(text)
