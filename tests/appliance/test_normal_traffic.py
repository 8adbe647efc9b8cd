"""A mixed day in minutes: whatever modalities do in normal traffic, no view alarms, and every image is on disk.

A few minutes by default; `make traffic MINUTES=15` is a quarter of an hour.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.appliance.conftest import Portal, installed
from tests.machine.machine import INBOX
from tests.machine.modality import GATEWAY_PORT
from tests.machine.network import MACHINE_ADDRESS
from tests.studies import Study, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.machine.modality import Sending

MINUTES = float(os.environ.get("DDWD_TRAFFIC_MINUTES", "3"))
SENDERS = 20
RESTART_SECONDS = 10.0
"""How long a part that the operator restarts may be named as not there: it is a problem then."""


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A machine of its own, at rest."""
    with installed(deb) as fresh:
        yield fresh


def _sender(
    portal: Portal, study: Study, aet: str, rate: float = 0.0, images: slice = slice(None)
) -> Sending:
    """Start a modality that sends these images of a study, at so many a second; 0 is as fast as it goes."""
    words = [sys.executable, "-m", "tests.machine.paced", MACHINE_ADDRESS, str(GATEWAY_PORT), aet, str(rate)]
    paths = [str(path) for path in study.paths[images]]
    return portal.modality.start_on_host([*portal.modality.netns_argv(), *words, *paths])


def _sent(*senders: Sending) -> None:
    for one in senders:
        assert one.process.wait(timeout=300) == 0, one.log.read_text(encoding="utf-8", errors="replace")[
            -2000:
        ]


class Day:
    """One round of everything that modalities, timers and operators do; each has studies of its own."""

    def __init__(self, portal: Portal, folder: Path, number: int) -> None:
        self._portal = portal
        self._folder = folder
        self._seed = 7500 + 100 * number
        self.studies: list[Study] = []
        self.restarts: list[float] = []

    def _study(self, images: int, size: int = 64) -> Study:
        self._seed += 1
        study = made_up_ct(
            self._folder / str(self._seed), images, seed=self._seed, patient_id=f"Day {self._seed}", size=size
        )
        self.studies.append(study)
        return study

    def run(self) -> None:
        """Go through the round; each part waits only for what its modality would wait for."""
        portal = self._portal
        ct, mr, late = self._study(300, 128), self._study(600), self._study(12)
        crowd = [self._study(10) for _ in range(SENDERS)]
        scanner = _sender(portal, ct, "CT1", 40.0)
        time.sleep(3)
        self.restarts.append(time.time())
        portal.machine.run("systemctl restart ddwd-scp")
        _sent(scanner, _sender(portal, late, "XA1", images=slice(0, 6)))
        _sent(*(_sender(portal, one, f"CR{number}") for number, one in enumerate(crowd)))
        _sent(_sender(portal, mr, "MR1"))
        portal.machine.run("systemctl start ddwd-doctor.service", timeout=200)
        for study in (ct, mr, *crowd):
            portal.wait_complete(study)
        time.sleep(30)
        for _ in range(3):  # after idleness
            _sent(_sender(portal, self._study(8), "US1", 2.0))
            time.sleep(5)
        _sent(_sender(portal, late, "XA1", images=slice(6, None)))
        for study in self.studies:
            portal.wait_complete(study)


def _words(look: dict[str, Any]) -> set[str]:
    """What each view says at one moment, with its name."""
    return {
        f"{view}: {' '.join(map(str, row)) if isinstance(row, list) else row}"
        for view, rows in look["views"].items()
        for row in rows
    }


def _alarms(looks: list[dict[str, Any]], at_rest: set[str], restarts: list[float]) -> Counter[str]:
    """What the views said beyond what is so at rest, each with how often; without what the restart of the receiver is and brings about."""
    said: Counter[str] = Counter()
    for look in looks:
        is_restarting = any(0 <= look["at"] - at <= RESTART_SECONDS for at in restarts)
        said.update(
            words
            for words in _words(look) - at_rest
            if not (is_restarting and re.search("scp|studies-wait|study waits", words, re.IGNORECASE))
        )
    return said


def _views(portal: Portal, seconds: float) -> Sending:
    """Look at every view, each second, for at most so long."""
    command = ["timeout", str(seconds), "python3", "-I", f"{INBOX}/views.py", str(seconds)]
    return portal.modality.start_on_host(portal.machine.argv(command))


def _looks(views: Sending) -> list[dict[str, Any]]:
    views.process.wait(timeout=30)
    lines = views.log.read_text(encoding="utf-8").splitlines()
    looks = [json.loads(line) for line in lines if line.endswith("}")]
    assert looks, "\n".join(lines[-20:])
    return looks


@pytest.mark.timeout(MINUTES * 180 + 600, func_only=True)
def test_no_view_alarms_in_normal_traffic(own: Portal, tmp_path: Path) -> None:
    own.machine.copy_in(Path(__file__).parent / "views.py", f"{INBOX}/views.py")
    own.machine.run("systemctl start ddwd-doctor.service", timeout=200)
    time.sleep(20)  # the metrics are those of after the start
    own.machine.run(["ddwd", "status"])
    (rest, *_) = _looks(_views(own, 1))
    views, end = _views(own, MINUTES * 60 + 500), time.monotonic() + MINUTES * 60
    days: list[Day] = []
    while not days or time.monotonic() < end:
        days.append(Day(own, tmp_path / str(len(days)), len(days)))
        days[-1].run()
    time.sleep(5)
    views.process.terminate()
    looks = _looks(views)
    said = _alarms(looks, _words(rest), [at for day in days for at in day.restarts])
    studies = [study for day in days for study in day.studies]
    sys.stdout.write(f"{len(days)} rounds, {len(studies)} studies, {len(looks)} looks\n")
    sys.stdout.writelines(f"{count:>5}  {words}\n" for words, count in sorted(said.items()))
    assert not said
    assert len(looks) > MINUTES * 20
    own.assert_equal(studies)
    own.machine.run(["ddwd", "status"])
