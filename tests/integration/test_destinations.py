"""Other destinations on real Orthancs: ddwd-courier has the gateway send by STOW-RS and by C-STORE, and believes what is proved."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import requests

from ddwd.trial.sandbox import free_ports
from tests.integration.conftest import write_settings
from tests.integration.trial import CLONE, Trial, ddwd, wait_for
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.studies import Study

LIMIT = 40.0
RULES = """
stable_age: 1
destinations:
  - {{name: teaching, url: "http://127.0.0.1:{http}/dicom-web", user: ddwd, password: made-up}}
  - {{name: pacs, aet: PACS, host: 127.0.0.1, port: {dicom}}}
routes:
  - {{name: all, also: [teaching, pacs]}}
"""


class Town:
    """A portal, and one Orthanc that is both destinations: by DICOMweb as `teaching`, by DIMSE as `pacs`."""

    def __init__(self, folder: Path) -> None:
        self.http, self.dicom = free_ports()[:2]
        self.folder = folder / "portal"
        self.folder.mkdir()
        write_settings(self.folder, RULES.format(http=self.http, dicom=self.dicom))
        self._configuration = folder / "teaching.json"
        self._configuration.write_text(json.dumps(self._settings(folder / "teaching")), encoding="utf-8")
        self._said = (folder / "said").open("wb")
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self.trial = Trial(self.folder)

    def _settings(self, area: Path) -> dict[str, Any]:
        return {
            "DicomAet": "PACS",
            "DicomPort": self.dicom,
            "HttpPort": self.http,
            "StorageDirectory": str(area),
            "IndexDirectory": str(area),
            "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
            "RegisteredUsers": {"ddwd": "made-up"},
            "DicomAlwaysAllowStore": True,
        }

    def open(self, name: str) -> None:
        """Start `destination` or `courier`."""
        own = {"DDWD_CONFIG": str(self.folder / "ddwd.yaml"), "DDWD_DEFAULTS": os.devnull}
        orthanc = shutil.which("Orthanc", path=f"/usr/sbin:{os.environ['PATH']}") or "Orthanc"
        commands = {
            "destination": [orthanc, str(self._configuration)],
            "courier": [sys.executable, "-m", "ddwd.daemon.courier"],
        }
        self._running[name] = subprocess.Popen(
            commands[name], stdout=self._said, stderr=self._said, cwd=CLONE, env={**os.environ, **own}
        )
        if name == "destination":
            wait_for(self._answers, "the destination does not answer")

    def close(self, name: str, sign: signal.Signals = signal.SIGKILL) -> None:
        """End it."""
        if (process := self._running.pop(name, None)) is not None:
            process.send_signal(sign)
            process.wait(LIMIT)

    def stop(self) -> None:
        """End all of it."""
        self.close("courier", signal.SIGTERM)
        self.close("destination")
        self.trial.stop()
        self._said.close()

    def _ask(self, path: str) -> Any:
        url = f"http://127.0.0.1:{self.http}{path}"
        return requests.get(url, auth=("ddwd", "made-up"), timeout=10).json()

    def _answers(self) -> bool:
        try:
            return bool(self._ask("/system"))
        except requests.RequestException:
            return False

    def count(self) -> int:
        """Images at the destination."""
        found: int = self._ask("/statistics")["CountInstances"]
        return found

    def send(self, study: Study) -> None:
        """As a user would."""
        sent = ddwd(self.folder, "send", *study.paths)
        assert sent.returncode == 0, sent.stderr

    def told(self) -> dict[str, dict[str, Any]]:
        """`ddwd destinations list`."""
        rows = json.loads(ddwd(self.folder, "destinations", "list", "--json").stdout)["destinations"]
        return {row["name"]: row for row in rows}

    def proved(self, name: str) -> int:
        """Images that it is kept to have, of all studies."""
        files = (self.folder / "data" / "courier" / name).glob("??/*.json")
        return sum(len(json.loads(path.read_text())["images"]) for path in files)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    made = Town(tmp_path_factory.mktemp("destinations"))
    try:
        made.trial.wait_up()
        made.open("destination")
        made.open("courier")
        yield made
    finally:
        made.stop()


def test_both_ways_bring_every_image_and_what_comes_late(town: Town, tmp_path: Path) -> None:
    town.send(made_up_ct(tmp_path / "first", 12, seed=9201, patient_id="ELSEWHERE", size=32))
    wait_for(lambda: (town.proved("teaching"), town.proved("pacs")) == (12, 12), "not all is proved")
    assert town.count() == 12
    town.send(made_up_ct(tmp_path / "late", 15, seed=9201, patient_id="ELSEWHERE", size=32))
    wait_for(
        lambda: (town.proved("teaching"), town.proved("pacs")) == (15, 15),
        "late images are not proved",
    )
    wait_for(lambda: [one["studies"] for one in town.told().values()] == [0, 0], "something waits")
    assert {one["state"] for one in town.told().values()} == {"ok"}


def test_one_that_is_away_is_told_of_and_caught_up_with_after_a_crash_of_the_courier(
    town: Town, tmp_path: Path
) -> None:
    town.close("destination")
    before = town.proved("pacs")
    town.send(made_up_ct(tmp_path / "second", 9, seed=9202, patient_id="ELSEWHERE", size=32))
    wait_for(
        lambda: {one["state"] for one in town.told().values()} == {"away"},
        "nobody sees that it is away",
    )
    assert {one["images"] for one in town.told().values()} == {9}
    town.close("courier")
    town.open("destination")
    town.open("courier")
    wait_for(
        lambda: (town.proved("teaching"), town.proved("pacs")) == (before + 9, before + 9),
        "it is not caught up with",
    )
