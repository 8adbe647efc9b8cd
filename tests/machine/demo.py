"""`make demo`: real studies through a fresh machine with the .deb, each file that comes out compared with what went in.

Called by `python -m tests.machine demo`. Where no machine can be booted, the same is done with `ddwd try`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tests.machine.__main__ import newest_deb
from tests.machine.host import MachineError, become_root, cache_folder, say
from tests.machine.machine import Machine
from tests.studies import Study, faults, is_complete, made_up_ct, real_studies

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OUTPUT_DIR = "/var/lib/ddwd/received_dicom"
CT_SLICES = 100
COMPLETE_LIMIT = 120.0
LIVE = sys.stdout.isatty()
DDWD = (sys.executable, "-m", "ddwd.cli.main")


class Sender(Protocol):
    """What both targets give: a running sender for some files."""

    def __call__(self, paths: Sequence[Path]) -> subprocess.Popen[bytes]:
        """Start sending; the process ends with status 0 if all was accepted."""


@dataclass(slots=True)
class Trip:
    """One study on its way: when its last image was acknowledged and when it was complete on disk (monotonic s)."""

    study: Study
    sent: float = 0.0
    complete: float = 0.0
    refused: bool = False


@dataclass(slots=True)
class Journey:
    """All studies on their way to one output folder."""

    output: Path
    send: Sender
    trips: list[Trip]
    began: float = field(default_factory=time.monotonic)

    def run(self) -> None:
        """Send study by study, watching the output all the while; wait for the rest up to COMPLETE_LIMIT."""
        for trip in self.trips:
            process = self.send(trip.study.paths)
            while process.poll() is None:
                self.watch()
                time.sleep(0.05)
            trip.sent, trip.refused = time.monotonic(), process.returncode != 0
        deadline = time.monotonic() + COMPLETE_LIMIT
        while self.watch() and time.monotonic() < deadline:
            time.sleep(0.1)
        _live("")

    def watch(self) -> int:
        """Look which studies have become complete, show one live line; return how many are not yet."""
        for trip in self.trips:
            if not trip.complete and is_complete(trip.study, self.output):
                trip.complete = time.monotonic()
        complete = [trip for trip in self.trips if trip.complete]
        sent = sum(1 for trip in self.trips if trip.sent)
        total = len(self.trips)
        bar = "#" * (30 * len(complete) // total)
        seconds = time.monotonic() - self.began
        _live(
            f"[{bar:30}] sent {sent}/{total} studies, complete on disk {len(complete)}/{total}, {seconds:.0f} s"
        )
        return total - len(complete)


def _live(line: str) -> None:
    if LIVE:
        sys.stdout.write(f"\r\033[K{line}")
        sys.stdout.flush()


def main(deb: Path | None = None) -> int:
    """Run the demonstration; return 0 if every file is there and equal, 1 otherwise."""
    try:
        become_root(["demo"])
        return _in_machine(deb or newest_deb())
    except MachineError as error:
        say(f"no machine can be booted here: {error}")
        say("falling back to `ddwd try`: the same portal in one folder, without systemd and PostgreSQL")
        return _in_sandbox()


def _in_machine(deb: Path) -> int:
    began = time.monotonic()
    say("booting a throw-away Debian 13 machine")
    with Machine() as machine:
        say(f"  up after {time.monotonic() - began:.0f} s; apt install ./{deb.name}")
        began = time.monotonic()
        machine.install(deb)
        units = [f"ddwd{part}" for part in ("", "-gateway", "-storage", "-scp", "-extractor")]
        machine.wait_for(lambda: machine.is_active(*units), limit=60, what="the portal is not active")
        say(f"  installed and all five units active after {time.monotonic() - began:.0f} s")

        def send(paths: Sequence[Path]) -> subprocess.Popen[bytes]:
            return machine.modality.start(machine.modality.dcmsend_argv(*paths)).process

        status = _demonstrate(machine.path(OUTPUT_DIR), send, "dcmsend -aec ORTHANC1 10.99.0.1 4242")
        if status:
            say(machine.journal("ddwd*", lines=80))
    say("machine stopped and removed")
    return status


def _in_sandbox() -> int:
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="try-", dir=cache_folder()) as scratch:
        folder = Path(scratch) / "portal"
        own = {"DDWD_CONFIG": str(folder / "ddwd.yaml"), "DDWD_DEFAULTS": os.devnull}
        environment = {**os.environ, **own}
        portal = subprocess.Popen([*DDWD, "try", str(folder)])
        try:
            _wait_up(portal, folder / "try.json")

            def send(paths: Sequence[Path]) -> subprocess.Popen[bytes]:
                command = [*DDWD, "send", "--json", *map(str, paths)]
                return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

            output = Path(json.loads((folder / "try.json").read_text(encoding="utf-8"))["output_dir"])
            return _demonstrate(output, send, "ddwd send")
        except MachineError as error:
            say(f"{error}")
            return 1
        finally:
            portal.terminate()
            portal.wait(60)


def _wait_up(portal: subprocess.Popen[bytes], sign: Path) -> None:
    deadline = time.monotonic() + COMPLETE_LIMIT
    while not sign.exists():
        if portal.poll() is not None or time.monotonic() > deadline:
            msg = "`ddwd try` did not come up; what it said stands above"
            raise MachineError(msg)
        time.sleep(0.1)


def _demonstrate(output: Path, send: Sender, how: str) -> int:
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="demo-", dir=cache_folder()) as scratch:
        studies = [*real_studies(), made_up_ct(Path(scratch) / "ct", CT_SLICES)]
        images = sum(len(study.instances) for study in studies)
        say(f"sending {len(studies)} studies, {images} images: {how}")
        journey = Journey(output, send, [Trip(study) for study in studies])
        journey.run()
        say()
        _print_tree(output)
        _print_times(journey.trips)
        return _compare(journey.trips, output)


def _print_tree(output: Path) -> None:
    """Print OUTPUT_DIR, two entries of each folder with many."""
    say(f"{output.name}/")

    def show(folder: Path, indent: str, most: Callable[[int], int]) -> None:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        shown = entries[: most(len(entries))]
        for path in shown:
            say(f"{indent}{path.name}{'/' if path.is_dir() else ''}")
            if path.is_dir():
                show(path, indent + "    ", lambda count: count if count <= 3 else 2)
        if len(shown) < len(entries):
            say(f"{indent}... {len(entries) - len(shown)} more")

    show(output, "    ", lambda count: count)


def _print_times(trips: Sequence[Trip]) -> None:
    say()
    say(f"{'last image acknowledged -> complete':>36}  images  study")
    for trip in trips:
        took = f"{max(0.0, trip.complete - trip.sent):.1f} s" if trip.complete else "NOT COMPLETE"
        say(
            f"{took:>36}  {len(trip.study.instances):6}  {trip.study.uid}{'  REFUSED' if trip.refused else ''}"
        )


def _compare(trips: Sequence[Trip], output: Path) -> int:
    instances = [instance for trip in trips for instance in trip.study.instances]
    wrong = [f"{trip.study.uid}: {line}" for trip in trips for line in faults(trip.study, output)]
    wrong += [f"{trip.study.uid}: refused by the gateway" for trip in trips if trip.refused]
    for line in wrong[:40]:
        say(f"  {line}")
    size = sum(instance.path.stat().st_size for instance in instances) / 1e6
    classes = sorted({instance.sop_class for instance in instances})
    syntaxes = sorted({instance.transfer_syntax for instance in instances})
    say()
    say(
        f"compared, all elements and pixel data: {len(instances)} files ({size:.0f} MB) of {len(trips)} studies"
    )
    say(f"  SOP classes: {', '.join(classes)}")
    say(f"  transfer syntaxes: {', '.join(syntaxes)}")
    say(f"  {'all equal to what was sent' if not wrong else f'{len(wrong)} FAULTS'}")
    return 1 if wrong else 0
