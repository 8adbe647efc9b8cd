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
from typing import TYPE_CHECKING

from tests.appliance.conftest import Portal
from tests.bench import report
from tests.bench.bench import STORESCP, Bench
from tests.bench.rows import FULL, QUICK
from tests.bench.templates import Templates
from tests.machine import Machine
from tests.machine.__main__ import newest_deb
from tests.machine.host import REPO, cache_folder, say
from tests.machine.network import MODALITY_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.bench.rows import Row

FAMILIES = ("tail", "ingest", "hop", "chain", "reception", "memory", "steady", "growth")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 once everything was."""
    parser = argparse.ArgumentParser(prog="make bench", description="the portal beside the plain pipeline")
    parser.add_argument("--quick", action="store_true", help="smaller studies, once each: a few minutes")
    parser.add_argument("--only", nargs="+", choices=FAMILIES, default=FAMILIES, help="these rows only")
    options = parser.parse_args(argv)
    scale = QUICK if options.quick else FULL
    rows: list[Row] = []
    folder = cache_folder()
    with tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as scratch, Machine() as machine:
        installed = Portal(machine, newest_deb())
        _install(installed)
        bench = Bench(installed, Templates(Path(scratch)), scale)
        bench.plain.start()
        facts = report.conditions(machine)
        for family in options.only:
            began = time.monotonic()
            say(f"{family} ...")
            rows += getattr(bench, family)()
            say(f"  {time.monotonic() - began:.0f} s")
            report.write(REPO / "dist", rows, facts, quick=options.quick)
    report.show(rows, facts)
    return 0


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
