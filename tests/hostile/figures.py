"""What each attack cost its target: a table at the end of the test run, and dist/hostile.json."""

from __future__ import annotations

import fcntl
import json
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path

FILE = Path(__file__).resolve().parents[2] / "dist" / "hostile.json"
_HIGH_WATER = re.compile(r"^VmHWM:\s+(\d+) kB$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Row:
    """One attack on one target; the memory high-water of the target's process in MB, and how often it had to be restarted."""

    target: str
    attack: str
    megabytes: float
    restarts: int
    outcomes: str


def high_water(status: str) -> float:
    """Megabytes (10^6) of a process's memory high-water, by its /proc/PID/status."""
    found = _HIGH_WATER.search(status)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def note(row: Row) -> None:
    """Keep a row in the file, in the place of an earlier one of the same attack and target.

    `make test` attacks the receiver alone and the appliance at the same time: the folder is locked, and the file is never half written.
    """
    FILE.parent.mkdir(exist_ok=True)
    folder = os.open(FILE.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        rows = [one for one in read() if (one.target, one.attack) != (row.target, row.attack)]
        fresh = FILE.with_suffix(".new")
        fresh.write_text(json.dumps([asdict(one) for one in [*rows, row]], indent=1) + "\n", encoding="utf-8")
        fresh.replace(FILE)
    finally:
        os.close(folder)


def read() -> list[Row]:
    """All rows so far."""
    return [Row(**one) for one in json.loads(FILE.read_text(encoding="utf-8"))] if FILE.exists() else []


def table(rows: list[Row]) -> str:
    """The rows for people."""
    lines = [
        f"| {one.target} | {one.attack} | {one.megabytes:.0f} | {one.restarts} | {one.outcomes} |"
        for one in rows
    ]
    head = [
        "| target | attack | memory high-water, MB | restarts | what it was answered |",
        "| --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*head, *lines])
