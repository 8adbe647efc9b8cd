"""`python -m tests.bench [--quick] [--only FAMILY...]`: both sides in a machine of its own (`make bench`).

Prints a table; all measurements go to dist/bench.json, the tails' plot to dist/bench.svg. Exit status 0 whatever the figures are:
it fails only where something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.appliance.conftest import Portal
from tests.bench import report
from tests.bench.bench import STORESCP, Bench
from tests.bench.rows import FULL, QUICK
from tests.bench.templates import Templates
from tests.machine import Machine
from tests.machine.__main__ import newest_deb
from tests.machine.host import REPO, cache_folder, say

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.bench.rows import Row, Scale

GROUPS = (("ingest", "tail", "hop", "chain", "reception", "memory"), ("growth",), ("steady",))
"""What is measured in one machine each: years of finished studies, and half an hour of new ones, leave it as no other row wants it."""
FAMILIES = tuple(family for families in GROUPS for family in families)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 once everything was."""
    parser = argparse.ArgumentParser(prog="make bench", description="the portal beside the plain pipeline")
    parser.add_argument("--quick", action="store_true", help="smaller studies, once each: a few minutes")
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=FAMILIES, help="these rows only")
    options = parser.parse_args(argv)
    scale = QUICK if options.quick else FULL
    done = Measured(quick=options.quick)
    for families in GROUPS:
        wanted = [family for family in families if family in options.only]
        if wanted:
            _measure(done, wanted, scale)
    report.show(done.rows, done.facts)
    return 0


def _measure(done: Measured, families: Sequence[str], scale: Scale) -> None:
    """In a machine of their own."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir=cache_folder()) as scratch, Machine() as machine:
        installed = Portal(machine, newest_deb())
        _install(installed)
        bench = Bench(installed, Templates(Path(scratch)), scale)
        bench.plain.start()
        done.facts = done.facts or report.conditions(machine)
        for family in families:
            done.take(family, getattr(bench, family))


class Measured:
    """What there is so far; written after each family, so that a bench that breaks off leaves what it has."""

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self.rows: list[Row] = []
        self.facts: dict[str, Any] = {}

    def take(self, family: str, measure: Callable[[], list[Row]]) -> None:
        """Measure a family of rows."""
        say(f"{family} ...")
        began = time.monotonic()
        self.rows += measure()
        say(f"  {time.monotonic() - began:.0f} s")
        report.write(REPO / "dist", self.rows, self.facts, quick=self.quick)


def _install(installed: Portal) -> None:
    """The package with DCMTK's receiver known to ORTHANC2 and the modality's network named; its own hourly study kept away."""
    machine = installed.machine
    addition = machine.path("/etc/ddwd/orthanc/storage.d/bench.json")
    addition.parent.mkdir(parents=True, exist_ok=True)
    addition.write_text(json.dumps(STORESCP), encoding="utf-8")
    installed.install()
    machine.run("systemctl mask --now ddwd-doctor.timer")


if __name__ == "__main__":
    sys.exit(main())
