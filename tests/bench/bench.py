"""The measurements themselves, one method a row (or a family of rows). Both sides take turns; nothing else runs meanwhile.

A study is deleted everywhere once it is measured, and the disk is synced, so that each measurement finds the same machine.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from contextlib import contextmanager
from statistics import fmean, median
from typing import TYPE_CHECKING

from ddwd.core.model import EXTRACTOR_AET
from tests.bench import growth
from tests.bench.inside import memory, standing
from tests.bench.rows import Row
from tests.bench.senders import Paced, at_once, dcmsend
from tests.bench.sides import STABLE_AGE, Plain, Portal
from tests.bench.templates import HUGE_UID
from tests.machine.host import MachineError, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.appliance.conftest import Portal as Installed
    from tests.bench.rows import Scale
    from tests.bench.sides import Side
    from tests.bench.templates import Study, Templates

PACE = 40.0
"""Images a second of a scanner."""
CT, MR, MIDDLE = 512, 64, 128
"""Rows and columns of 16 bit: 512, 8 and 32 KiB an image."""
TAIL = STABLE_AGE + 0.5
_LOOK = 0.05
_LIMIT = 600.0
_SENDERS, _STUDIES = 4, 10
_SHARE_OF_PEAK = 0.7
_SAMPLE_SECONDS = 5.0
_MEMORY_UNITS = ("ddwd-scp", "ddwd-extractor")
_STORESCP_PORT = 11313
_THEIRS = "/srv/storescp"
STORESCP = {
    "DicomModalities": {
        "STORESCP": {"AET": "STORESCP", "Host": "127.0.0.1", "Port": _STORESCP_PORT},
        "DCMSEND": {"AET": "DCMSEND", "Host": "127.0.0.1", "Port": 104},
    }
}
"""Addition to ORTHANC2's configuration: where it finds DCMTK's receiver, and who may send to it past the gateway."""


class _Storage(Portal):
    """Past the gateway, straight onto ORTHANC2."""

    aet, port = "ORTHANC2", 4243


class Bench:
    """Measures in one booted machine that has both sides."""

    def __init__(self, installed: Installed, templates: Templates, scale: Scale) -> None:
        self.machine = installed.machine
        self.installed = installed
        self.ours = Portal(self.machine)
        self.plain = Plain(self.machine)
        self.templates = templates
        self.scale = scale

    # --- the tail ----------------------------------------------------------------------------------------------------

    def tail(self) -> list[Row]:
        """Last image acknowledged to complete, by size of the study, a scanner's pace; the plain pipeline beside it."""
        rows = []
        for images, plain_times in self.scale.tails.items():
            row = Row(
                f"tail-{images}",
                f"CT of {images} at {PACE:g}/s: last image acknowledged to published",
                "s",
                TAIL,
                "<=",
            )
            theirs: list[float] = []
            for turn in range(max(self.scale.times, plain_times)):
                if turn < self.scale.times:
                    row.ours.append(self._tail(self.ours, images))
                if turn < plain_times:
                    theirs.append(self._tail(self.plain, images))
            rows.append(row)
            if theirs:
                what = f"the same against the plain pipeline, CT of {images}"
                target = 5.0 if images == self.scale.compared else 1.0
                rows.append(Row(f"tail-{images}-plain", what, "s", target, ">=", row.ours, theirs))
        return rows

    def _tail(self, side: Side, images: int) -> float:
        with self._study(images, CT, side) as study:
            sent = Paced(self.machine, side, PACE, study).wait()[0]
            return self._complete(side, study) - sent.last

    # --- ingest ------------------------------------------------------------------------------------------------------

    def ingest(self) -> list[Row]:
        """C-STORE into the gateway by plain dcmsend (Nagle on), and by one with TCP_NODELAY, against Orthanc as Debian ships it."""
        most, others = self.scale.ingest, self.scale.ingest_others
        rows = [self._ingest("ingest-nagle", 8.0, most, nagle=True, loopback=True)]
        rows.append(self._ingest("ingest-nodelay", 1.0, others or most, nagle=False, loopback=True))
        if others:
            rows.append(self._ingest("ingest-nagle-lan", 1.0, others, nagle=True, loopback=False))
        return rows

    def _ingest(self, name: str, target: float, images: int, *, nagle: bool, loopback: bool) -> Row:
        way = "over its loopback" if loopback else "over the LAN"
        what = f"{images} x 8 KiB into the gateway, {'plain dcmsend' if nagle else 'dcmsend with TCP_NODELAY'}, {way}"
        row = Row(name, what, "s", target, ">=")
        for _ in range(self.scale.times):
            for side, into in ((self.ours, row.ours), (self.plain, row.theirs)):
                with self._study(images, MR, side) as study:
                    sent = dcmsend(self.machine, side, study, nagle=nagle, loopback=loopback)
                    into.append(sent.last - sent.first)
                    self._complete(side, study)
        return row

    # --- the storage hop ---------------------------------------------------------------------------------------------

    def hop(self) -> list[Row]:
        """A study on ORTHANC2 to durable, verified, published files, against the same C-MOVE into storescp without fsync."""
        self.machine.run(["mkdir", "-p", _THEIRS])
        receiver = ["storescp", "+xa", "-aet", "STORESCP", "-od", _THEIRS, str(_STORESCP_PORT)]
        self.machine.run(["systemd-run", "--unit=bench-storescp", "--setenv=TCP_NODELAY=1", *receiver])
        try:
            return [
                self._hop("hop-ct", self.scale.hop_ct, CT, "512 KiB"),
                self._hop("hop-mr", self.scale.hop_mr, MR, "8 KiB"),
            ]
        finally:
            self.machine.run(["systemctl", "stop", "bench-storescp"])

    def _hop(self, name: str, images: int, size: int, each: str) -> Row:
        what = f"C-MOVE of {images} x {each} to verified, durable files, against storescp (no fsync)"
        row = Row(name, what, "s", 1.0, ">=")
        for turn in range(self.scale.times):
            with self._study(images, size, self.ours) as study:
                self.machine.run(["ddwd", "pause"])
                # the firewall lets no other machine reach ORTHANC2
                dcmsend(self.machine, _Storage(self.machine), study, nagle=False, loopback=True)
                time.sleep(STABLE_AGE + 1)
                measure = {"ours": self._retrieved, "theirs": self._moved_by_dcmtk}
                took = {name: measure[name](study) for name in sorted(measure, reverse=bool(turn % 2))}
                row.ours.append(
                    took["ours"]
                )  # whoever is second finds the files in memory, so they take turns
                row.theirs.append(took["theirs"])
        return row

    def _moved_by_dcmtk(self, study: Study) -> float:
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study.uid}"]
        call = [
            "movescu",
            "-S",
            "-aec",
            "ORTHANC2",
            "-aet",
            EXTRACTOR_AET,
            "-aem",
            "STORESCP",
            "127.0.0.1",
            "4243",
        ]
        os.sync()
        timed = f"date +%s.%N; TCP_NODELAY=1 {shlex.join([*call, *keys])}; date +%s.%N"
        began, end = map(float, self.machine.run(timed, timeout=_LIMIT).stdout.split())
        found = self.machine.run(f"ls {_THEIRS} | wc -l; rm -rf {_THEIRS}; mkdir {_THEIRS}").stdout.strip()
        if int(found) != study.images:
            raise MachineError(f"storescp received {found} of {study.images} images")
        return end - began

    def _retrieved(self, study: Study) -> float:
        """From the extractor's own "resumed" to its "published", so that the start of a Python command does not count."""
        os.sync()
        self.machine.run(["ddwd", "resume"])
        self._complete(self.ours, study)
        return self._told("published", study.uid) - self._told("resumed")

    def _told(self, event: str, study_uid: str = "") -> float:
        """When an audit event was last told (seconds); waits a moment for the journal."""
        match = [f"DDWD_EVENT={event}", *([f"DDWD_STUDY_UID={study_uid}"] if study_uid else [])]
        call = ["journalctl", "-q", "-t", "ddwd-audit", "-n", "1", "-o", "json", *match]
        told: list[str] = []

        def is_told() -> bool:
            told[:] = self.machine.run(call).stdout.splitlines()
            return bool(told)

        self.machine.wait_for(is_told, limit=30, what=f"no {event} in the journal")
        return float(json.loads(told[0])["__REALTIME_TIMESTAMP"]) / 1e6

    # --- everything at once ------------------------------------------------------------------------------------------

    def chain(self) -> list[Row]:
        """Ten studies at once from four plain dcmsend: images a second from the first one sent to the last one published."""
        what = f"{_STUDIES} CT of {self.scale.chain} at once from {_SENDERS} senders, first sent to last published"
        row = Row("chain", what, "images/s", 4.0, ">=", bigger_is_better=True)
        for _ in range(self.scale.times):
            row.ours.append(self._chain(self.ours, self.scale.chain, CT))
            row.theirs.append(self._chain(self.plain, self.scale.chain, CT))
        return [row]

    def _chain(self, side: Side, images: int, size: int) -> float:
        with self._studies(_STUDIES, images, size, side) as studies:
            sent = at_once(self.machine, side, [studies[first::_SENDERS] for first in range(_SENDERS)])
            end = max(self._complete(side, study) for study in studies)
            return sent.images / (end - sent.first)

    def reception(self) -> list[Row]:
        """C-STORE flat out while the later hops work, against the same with the extractor stopped."""
        what = (
            f"C-STORE of CT of {self.scale.reception} flat out, against the same with the extractor stopped"
        )
        row = Row("reception", what, "images/s", 0.8, ">=", bigger_is_better=True)
        for _ in range(max(2, self.scale.times)):
            row.ours.append(self._received())
            self.machine.run(["systemctl", "stop", "ddwd-extractor"])
            row.theirs.append(
                self._received(lambda: self.machine.run(["systemctl", "start", "ddwd-extractor"]))
            )
        return [row]

    def _received(self, afterwards: Callable[[], object] = lambda: None) -> float:
        with self._study(self.scale.reception, CT, self.ours) as study:
            sent = dcmsend(self.machine, self.ours, study, nagle=False)
            afterwards()
            self._complete(self.ours, study)
            return sent.rate

    # --- for long ----------------------------------------------------------------------------------------------------

    def steady(self) -> list[Row]:
        """A steady flow at a share of the peak: the backlog and the memory of the last third against those of the middle one."""
        peak = median(self._chain(self.ours, 4 * self.scale.chain, MIDDLE) for _ in range(3))
        rate = peak * _SHARE_OF_PEAK
        say(f"  peak {peak:.1f} images/s of 32 KiB; {rate:.1f} for {self.scale.steady_seconds:g} s")
        template, seconds = self.templates.template(4 * self.scale.chain, MIDDLE), self.scale.steady_seconds
        first = self.templates.seeds(2 + int(rate * seconds / template.images))
        sender = Paced(self.machine, self.ours, rate, template, seconds=seconds, seed=first)
        samples = list(self._samples(sender))
        sent = sender.wait()
        images = sum(one.images for one in sent)
        self._wait_idle()
        return self._steady_rows(samples, images, rate * (sent[-1].last - sent[0].first))

    def _samples(self, sender: Paced) -> Iterator[dict[str, float]]:
        while not sender.is_over():
            time.sleep(_SAMPLE_SECONDS)
            yield {"backlog": float(sum(standing(self.machine)["backlog"].values()))} | {
                unit: memory(self.machine, unit) for unit in _MEMORY_UNITS
            }

    def _steady_rows(self, samples: Sequence[dict[str, float]], images: int, wanted: float) -> list[Row]:
        third = max(1, len(samples) // 3)
        middle, last = samples[third : 2 * third] or samples, samples[-third:]

        def compared(name: str, what: str, unit: str, target: float, key: str) -> Row:
            ours, theirs = [one[key] for one in last], [one[key] for one in middle]
            # the ratio of the means, ours above: a backlog swings with each study
            return Row(name, what, unit, target, "<=", [fmean(ours) / max(1.0, fmean(theirs))])

        length = f"{self.scale.steady_seconds:g} s at {_SHARE_OF_PEAK:.0%} of the peak"
        return [
            compared("steady-backlog", f"{length}: images under way, last third against the middle one", "x", 1.25, "backlog"),
            compared("steady-scp-memory", f"{length}: resident memory of the SCP, likewise", "x", 1.1, "ddwd-scp"),
            compared("steady-extractor-memory", f"{length}: of the extractor, likewise", "x", 1.1, "ddwd-extractor"),
            Row("steady-rate", f"{length}: images taken, against those due", "x", 0.98, ">=", [images / wanted]),
        ]  # fmt: skip

    def _wait_idle(self) -> None:
        self.machine.wait_for(
            lambda: not standing(self.machine)["in_flight"], limit=_LIMIT, what="studies stay in flight"
        )

    def memory(self) -> list[Row]:
        """The SCP's most while one huge multi-frame object comes in."""
        size = self.scale.object_bytes
        what = f"most resident memory of the SCP while an object of {size / 1024**3:g} GiB comes in"
        row = Row("memory-scp", what, "MB", 150.0, "<=")
        path = self.templates.huge(size)
        self.machine.run(["systemctl", "restart", "ddwd-scp"])
        self.machine.wait_for(
            lambda: self.machine.is_active("ddwd-scp"), limit=60, what="the SCP does not start"
        )
        inside = "/srv/huge.dcm"
        self.machine.copy_in(path, inside)
        self.machine.run(
            ["dcmsend", "-aec", "PYTHON_SCP", "127.0.0.1", "11112", inside],
            env={"TCP_NODELAY": "1"},
            timeout=_LIMIT,
        )
        row.ours.append(memory(self.machine, "ddwd-scp", "VmHWM"))
        # nobody asked for it: the sweep would take it for a stray and put it in quarantine
        spool = self.machine.path("/var/lib/ddwd/received_dicom/.ddwd")
        for left in (path, self.machine.path(inside), *spool.glob(f"**/{HUGE_UID}*.dcm")):
            left.unlink()
        return [row]

    def growth(self) -> list[Row]:
        """What may not grow with the number of finished studies."""
        return growth.rows(self.installed, self.scale)

    # --- common ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _study(self, images: int, size: int, side: Side) -> Iterator[Study]:
        with self._studies(1, images, size, side) as (study,):
            yield study

    @contextmanager
    def _studies(self, number: int, images: int, size: int, side: Side) -> Iterator[list[Study]]:
        studies = [self.templates.study(images, size) for _ in range(number)]
        os.sync()  # what is measured next shall not wait for them
        try:
            yield studies
        finally:
            for study in studies:
                self._forget(side, study)

    def _forget(self, side: Side, study: Study) -> None:
        side.forget(study)
        study.remove()
        os.sync()

    @staticmethod
    def _complete(side: Side, study: Study) -> float:
        """Wait until the study is complete in the output; when that was (monotonic)."""
        deadline = time.monotonic() + _LIMIT
        while not side.is_complete(study):
            if time.monotonic() > deadline:
                raise MachineError(f"{study.uid} is not complete on the {side.name} side")
            time.sleep(_LOOK)
        return time.monotonic()
