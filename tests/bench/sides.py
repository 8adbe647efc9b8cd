"""What is compared: the portal as the package installs it, and the plain pipeline, side by side in one booted machine.

The plain pipeline is what the parts give without the portal: two Orthancs with Debian's defaults on PostgreSQL databases of their own,
a Lua script that sends a stable study on by STOW-RS, a poll every 5 s, one C-MOVE a study, and an SCP that decodes and saves.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tests.appliance.conftest import OUTPUT_DIR
from tests.bench.templates import PATIENT

if TYPE_CHECKING:
    from tests.bench.templates import Study
    from tests.machine import Machine

STABLE_AGE = 3
_HERE = Path(__file__).parent / "plain"
_FOLDER = "/srv/plain"
_OUTPUT = f"{_FOLDER}/received"
_PLUGINS = ("libOrthancDicomWeb.so", "libOrthancPostgreSQLIndex.so")
_CONNECTIONS = 8
"""As many as the portal's; Debian's example has one, the plugin's own default of 50 for each would take all that PostgreSQL has."""
_NODES = {"plain1": ("PLAIN1", 4342, 8142), "plain2": ("PLAIN2", 4343, 8143)}
_SCP_PORT = 11212


class Side(Protocol):
    """One of the two pipelines, by where studies are sent and where they appear."""

    name: str
    aet: str
    port: int

    def is_complete(self, study: Study) -> bool:
        """Whether every image of the study is in the output."""

    def forget(self, study: Study) -> None:
        """Delete the study everywhere: the next measurement shall find an empty disk."""


class Portal:
    """Ours."""

    name = "ours"
    aet, port = "ORTHANC1", 4242

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.output = machine.path(OUTPUT_DIR)

    def folder(self, study: Study) -> Path:
        """Where the study appears, at once and whole."""
        return self.output / PATIENT / study.uid

    def is_complete(self, study: Study) -> bool:
        """See Side. A sender that pauses for longer than StableAge has its study published in parts: then the last part counts."""
        folder = self.folder(study)
        return folder.is_dir() and _images(folder) == study.images

    def forget(self, study: Study) -> None:
        """See Side."""
        for node in ("gateway", "storage"):
            for found in self.machine.rest(node, "/tools/lookup", method="POST", body=study.uid):
                self.machine.rest(node, found["Path"], method="DELETE")
        shutil.rmtree(self.folder(study), ignore_errors=True)


class Plain:
    """The plain pipeline; `start` lays it into the machine and runs it beside the portal."""

    name, aet, port = "plain", "PLAIN1", 4342

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.output = machine.path(_OUTPUT)

    def start(self) -> None:
        """Make databases and configuration, start the three processes, wait until they answer."""
        machine = self.machine
        machine.copy_in(_HERE, _FOLDER)
        machine.run(
            "runuser -u postgres -- createuser orthanc; "
            "for name in plain1 plain2; do runuser -u postgres -- createdb -O orthanc $name || exit; done"
        )
        for node in _NODES:
            machine.run(["mkdir", "-p", f"{_FOLDER}/{node}/files"])
            machine.path(f"{_FOLDER}/{node}/orthanc.json").write_text(
                json.dumps(_configuration(node)), "utf-8"
            )
        machine.run(f"mkdir -p {_OUTPUT} && chown -R orthanc:orthanc {_FOLDER}")
        for node in _NODES:
            self._run(f"bench-{node}", "/usr/sbin/Orthanc", f"{_FOLDER}/{node}/orthanc.json")
        _, dicom, http = _NODES["plain2"]
        machine.wait_for(self._answers, limit=60, what="the plain pipeline does not answer")
        script = [f"{_FOLDER}/extractor.py", str(http), str(dicom), str(_SCP_PORT), _OUTPUT]
        self._run("bench-extractor", "/usr/bin/python3", *script)

    def _run(self, unit: str, *command: str) -> None:
        vendor = "--setenv=PYTHONPATH=/usr/lib/ddwd/vendor"
        self.machine.run(["systemd-run", f"--unit={unit}", "--uid=orthanc", vendor, *command])

    def _answers(self) -> bool:
        urls = [f"http://127.0.0.1:{http}/system" for _, _, http in _NODES.values()]
        return all(self.machine.run(["curl", "-sf", url], check=False).returncode == 0 for url in urls)

    def is_complete(self, study: Study) -> bool:
        """See Side."""
        return _images(self.output / PATIENT / study.uid) == study.images

    def forget(self, study: Study) -> None:
        """See Side."""
        for _, _, http in _NODES.values():
            base = f"http://127.0.0.1:{http}"
            found = json.loads(
                self.machine.run(["curl", "-sf", f"{base}/tools/lookup", "-d", study.uid]).stdout
            )
            for one in found:
                self.machine.run(["curl", "-sf", "-X", "DELETE", base + one["Path"]])
        shutil.rmtree(self.output / PATIENT / study.uid, ignore_errors=True)


def _images(folder: Path) -> int:
    """Files of a study's folder, by their names alone: the waiting for them shall not be what is measured."""
    return sum(len(os.listdir(series)) for series in folder.glob("*"))  # noqa: PTH208


def _configuration(node: str) -> dict[str, object]:
    """All that must differ from Debian's defaults to have two of them, PostgreSQL, and a way from one to the next."""
    aet, dicom, http = _NODES[node]
    _, _, storage_http = _NODES["plain2"]
    files = f"{_FOLDER}/{node}/files"
    return {
        "Name": aet,
        "DicomAet": aet,
        "DicomPort": dicom,
        "HttpPort": http,
        "StorageDirectory": files,
        "IndexDirectory": files,
        "StableAge": STABLE_AGE,
        "Plugins": [f"/usr/share/orthanc/plugins/{name}" for name in _PLUGINS],
        "LuaScripts": [f"{_FOLDER}/forward.lua"] if node == "plain1" else [],
        "DicomModalities": {"PLAIN_SCP": ["PLAIN_SCP", "127.0.0.1", _SCP_PORT]},
        "DicomWeb": {"Servers": {"storage": [f"http://127.0.0.1:{storage_http}/dicom-web/"]}},
        "PostgreSQL": {
            "EnableIndex": True,
            "EnableStorage": False,
            "Host": "/var/run/postgresql",
            "Database": node,
            "Username": "orthanc",
            "IndexConnectionsCount": _CONNECTIONS,
        },
    }
