"""A modality that asks ORTHANC1 whether its images are kept hears what is true, once it is true, over restarts too."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.appliance.conftest import SETTINGS
from tests.machine import asker
from tests.studies import is_complete, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.appliance.conftest import Portal
    from tests.studies import Study

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
LISTEN = 11199
UNKNOWN = "2.25.99.3399"
ENTRY = f"modalities: [CT1 at 10.99.0.2:{LISTEN}]"


class Asking:
    """A modality that has asked, or is about to, and listens."""

    def __init__(
        self,
        portal: Portal,
        transaction: str,
        *references: tuple[str, str],
        aet: str = "CT1",
        wait: float = 60,
    ) -> None:
        order = {
            "aet": aet,
            "listen": LISTEN,
            "transaction": transaction,
            "references": references,
            "wait": wait,
        }
        self._process = subprocess.Popen(
            [*portal.modality.netns_argv(), sys.executable, str(Path(asker.__file__))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order))
        self._process.stdin.close()

    def said(self, what: str) -> Any:
        """The next thing it says: `asked`, then `report`."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())[what]

    def is_waiting(self) -> bool:
        """Whether it has heard nothing yet."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End it, whether it has heard or not."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def _asking(portal: Portal, transaction: str, *references: tuple[str, str], **how: Any) -> Iterator[Asking]:
    one = Asking(portal, transaction, *references, **how)
    try:
        yield one
    finally:
        one.stop()


@contextmanager
def _set(portal: Portal, text: str) -> Iterator[None]:
    """Run the portal with these settings of `commitment`, and as it was afterwards."""
    before = portal.machine.path(SETTINGS).read_text(encoding="utf-8")
    try:
        portal.configure(f"commitment: {{{text}}}\n")
        portal.wait_active()
        portal.machine.wait_for(
            lambda: portal.machine.is_active("ddwd-commitment"),
            limit=30,
            what="ddwd-commitment is not active",
        )
        yield
    finally:
        portal.configure(before)
        portal.wait_active()


@pytest.fixture(scope="module")
def stored(portal: Portal) -> Iterator[Portal]:
    """The portal with CT1 in its list."""
    with _set(portal, ENTRY):
        yield portal


def _events(portal: Portal, event: str) -> str:
    return portal.machine.run(
        f"journalctl -t ddwd-audit DDWD_EVENT={event} -o cat --no-pager", check=False
    ).stdout


def _of(study: Study) -> list[tuple[str, str]]:
    return [(CT, one.sop_uid) for one in study.instances]


def _file_of(portal: Portal, sop_uid: str) -> Path:
    """The file of an image in the storage area of ORTHANC1."""
    query = {"Level": "Instance", "Query": {"SOPInstanceUID": sop_uid}}
    (instance,) = portal.machine.rest("gateway", "/tools/find", method="POST", body=query)
    uuid = portal.machine.rest("gateway", f"/instances/{instance}/attachments/dicom/info")["Uuid"]
    return portal.machine.path(f"/var/lib/ddwd/gateway/{uuid[:2]}/{uuid[2:4]}/{uuid}")


def _jobs(portal: Portal) -> list[Any]:
    """Those of Orthanc's own storage commitment."""
    jobs = portal.machine.rest("gateway", "/jobs?expand")
    return [job for job in jobs if job["Type"] == "StorageCommitmentScp"]


def test_without_a_list_the_unit_is_not_needed(portal: Portal) -> None:
    assert portal.machine.show("ddwd-commitment", "Result") == "exec-condition"


def test_what_was_sent_is_committed_and_all_else_is_failed_with_its_reason(
    stored: Portal, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path, 3, seed=3301, size=32)
    stored.deliver(study)
    first, second, third = study.instances
    file = _file_of(stored, third.sop_uid)
    aside = file.with_name("aside")
    file.rename(aside)
    references = [(CT, first.sop_uid), (MR, second.sop_uid), (CT, third.sop_uid), (CT, UNKNOWN)]
    with _asking(stored, "2.25.99.33011", *references) as modality:
        assert modality.said("asked") == 0x0000
        report = modality.said("report")
    aside.rename(file)
    assert report == {
        "event": 2,
        "from": "ORTHANC1",
        "transaction": "2.25.99.33011",
        "committed": [first.sop_uid],
        "failed": {second.sop_uid: 0x0119, third.sop_uid: 0x0110, UNKNOWN: 0x0112},
    }
    with _asking(stored, "2.25.99.33012", *_of(study)) as modality:
        assert modality.said("asked") == 0x0000
        report = modality.said("report")
    assert (report["event"], report["failed"]) == (1, {})
    assert set(report["committed"]) == {one.sop_uid for one in study.instances}
    assert "CT1 asks whether 4 objects are kept" in _events(stored, "commitment-asked")
    told = _events(stored, "commitment-answered")
    assert "reported to CT1: 1 objects are committed, 3 are not (0x0110, 0x0112, 0x0119)" in told
    assert "reported to CT1: 3 objects are committed, 0 are not" in told
    assert list(stored.machine.path("/var/lib/ddwd/commitment").iterdir()) == []


def test_no_job_of_orthanc_answers_waits_or_is_kept(stored: Portal) -> None:
    many = [(CT, f"{UNKNOWN}.{number}") for number in range(3000)]
    with _asking(stored, "2.25.99.33015", *many) as modality:
        assert modality.said("asked") == 0x0000
        assert len(modality.said("report")["failed"]) == 3000
    assert _jobs(stored) == []


def test_who_is_not_in_the_list_is_refused_and_told(stored: Portal) -> None:
    with _asking(stored, "2.25.99.33013", (CT, UNKNOWN), aet="STRANGER", wait=1) as modality:
        assert modality.said("asked") is None
        assert modality.said("report") is None
    stored.machine.wait_for(
        lambda: (
            "association of STRANGER at 10.99.0.2 refused: ORTHANC1 does not take its request"
            in _events(stored, "association-refused")
        ),
        limit=30,
        what="the audit does not tell of the stranger",
    )


def test_a_modality_that_is_away_is_told_when_it_listens(stored: Portal) -> None:
    with _asking(stored, "2.25.99.33014", (CT, UNKNOWN), wait=0) as away:
        assert away.said("asked") == 0x0000
        stored.machine.wait_for(
            lambda: "CT1 at 10.99.0.2:11199 does not answer" in stored.machine.journal("ddwd-commitment"),
            limit=30,
            what="it was not tried to tell it",
        )
    with _asking(stored, "2.25.99.33014") as modality:
        assert modality.said("report")["failed"] == {UNKNOWN: 0x0112}


def test_verified_waits_for_the_disk_and_for_no_restart(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 3, seed=3302, size=32)
    with _set(portal, f"{ENTRY}, after: verified"):
        portal.machine.run("ddwd pause")
        portal.machine.wait_for(
            lambda: _events(portal, "paused"), limit=30, what="the extractor is not paused"
        )
        portal.send(study)
        with _asking(portal, "2.25.99.33021", *_of(study), wait=100) as modality:
            assert modality.said("asked") == 0x0000
            portal.machine.run("systemctl kill -s KILL ddwd-gateway ddwd-commitment")
            portal.wait_active()
            time.sleep(6)  # a look of ddwd-commitment each POLL_INTERVAL
            assert modality.is_waiting()
            assert not is_complete(study, portal.output)
            portal.machine.run("ddwd resume")
            report = modality.said("report")
            assert is_complete(study, portal.output)
            record = portal.machine.run(f"grep -rl {study.uid} /var/lib/ddwd/state/custody").stdout
        assert record.count(".json") == 1
        assert (report["event"], report["failed"]) == (1, {})
        assert set(report["committed"]) == {one.sop_uid for one in study.instances}
        portal.assert_equal([study])
