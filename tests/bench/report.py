"""What a bench leaves: a table on the terminal, dist/bench.json with every measurement, dist/bench.svg with the tails."""

from __future__ import annotations

import json
import os
import platform
from statistics import median
from typing import TYPE_CHECKING, Any

import pygal
from pygal.style import CleanStyle
from rich.console import Console
from rich.table import Table

from tests.bench.sides import STABLE_AGE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.bench.rows import Row
    from tests.machine import Machine


def conditions(machine: Machine) -> dict[str, Any]:
    """What the figures hold for: cores, memory, kernel, disk, versions, and that nothing was made fast by not being durable."""
    setting = [
        "runuser",
        "-u",
        "postgres",
        "--",
        "psql",
        "-tAc",
        "show fsync",
        "-c",
        "show synchronous_commit",
    ]
    fsync, commit = machine.run(setting).stdout.split()
    source, kind = machine.run(["findmnt", "-no", "SOURCE,FSTYPE", "-T", "/var/lib/ddwd"]).stdout.split()[:2]
    below = os.stat(machine.folder).st_dev  # noqa: PTH116 - the device number alone
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3),
        "processor": platform.machine(),
        "kernel": platform.release(),
        "file_system": f"{kind} ({source}) on device {os.major(below)}:{os.minor(below)}",
        "fsync": {"ours": True, "plain": False, "storescp": False, "postgresql": fsync == "on" and commit == "on"},
        "orthanc": machine.rest("gateway", "/system")["Version"],
        "ddwd": machine.run(["dpkg-query", "-W", "-f", "${Version}", "ddwd"]).stdout,
    }  # fmt: skip


def write(folder: Path, rows: Sequence[Row], facts: Mapping[str, Any], *, quick: bool) -> None:
    """Write bench.json, and the plot where tails were measured."""
    folder.mkdir(exist_ok=True)
    fresh = [row.as_dict() for row in rows]
    names = {row["name"] for row in fresh}
    kept = [row for row in _before(folder, quick=quick) if row["name"] not in names]
    body = {"quick": quick, "conditions": facts, "rows": [*kept, *fresh]}
    (folder / "bench.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    if any(row.name.startswith("tail-") for row in rows):
        (folder / "bench.svg").write_text(_plot(rows), encoding="utf-8")


def _before(folder: Path, *, quick: bool) -> list[dict[str, Any]]:
    """Rows of an earlier bench of the same scale: where only some are measured, the others stay."""
    path = folder / "bench.json"
    if not path.exists():
        return []
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = found["rows"]
    return rows if found["quick"] == quick else []


def _plot(rows: Sequence[Row]) -> str:
    """Tail over the number of images, both sides, and the line that it may not cross."""
    by_name = {row.name: row for row in rows}
    sizes = sorted(
        int(name.removeprefix("tail-")) for name in by_name if name.removeprefix("tail-").isdigit()
    )
    plot = pygal.XY(
        style=CleanStyle, js=[], title="Last image acknowledged to complete study", x_title="images in the study (512 KiB each, 40/s)",
        y_title="seconds", legend_at_bottom=True, width=900, height=500, range=(0, None),
    )  # fmt: skip
    ours = [(size, median(by_name[f"tail-{size}"].ours)) for size in sizes]
    plain = [
        (size, median(by_name[f"tail-{size}-plain"].theirs))
        for size in sizes
        if f"tail-{size}-plain" in by_name
    ]
    plot.add("D-DW-D Portal", ours)
    plot.add("plain pipeline", plain)
    plot.add("StableAge", [(sizes[0], STABLE_AGE), (sizes[-1], STABLE_AGE)], show_dots=False)
    return str(plot.render(is_unicode=True))


def show(rows: Sequence[Row], facts: Mapping[str, Any]) -> None:
    """Print the table."""
    table = Table(title="D-DW-D Portal, medians", title_justify="left")
    for heading in ("", "what", "ours", "theirs", "unit", "figure", "target"):
        numeric = heading in {"ours", "theirs", "figure"}
        table.add_column(heading, justify="right" if numeric else "left", no_wrap=heading != "what")
    for row in rows:
        theirs = f"{median(row.theirs):.2f}" if row.theirs else ""
        target = f"{row.sense} {row.target:g}"
        table.add_row(
            "met" if row.met else "NOT",
            f"{row.name}: {row.what}",
            f"{median(row.ours):.2f}",
            theirs,
            row.unit,
            f"{row.value:.2f}",
            target,
        )
    console = Console(width=150)
    console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False)
