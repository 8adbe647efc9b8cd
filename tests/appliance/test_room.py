"""Little room: each hop waits for the one after it, no image on a full disk gets Success, and all of it ends by itself."""

from __future__ import annotations

import json
import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.appliance.conftest import OUTPUT_DIR, Portal, installed
from tests.problems import causes
from tests.studies import made_up_ct, published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024 * 1024
GATEWAY, STORAGE = "/var/lib/ddwd/gateway", "/var/lib/ddwd/storage"
SIZE = 200 * MIB
"""A twentieth of it is the reserve: 10 MiB."""
LITTLE = 12 * MIB
"""More than the reserve, and less than what retrieving (twice) and forwarding (one and a half) want."""
RESERVED = 6 * MIB
"""Less than the reserve, and enough for what is sent here: refused all the same."""
PAUSE_SECONDS = 8  # the extractor looks each second, Lua's heart beat is one, the grace is two
FLAG = "/run/ddwd/extractor/forwarding-paused"


@pytest.fixture(scope="module")
def portal(deb: Path) -> Iterator[Portal]:
    """A portal whose three areas are small volumes of their own."""
    with installed(deb, volumes=dict.fromkeys((OUTPUT_DIR, STORAGE, GATEWAY), str(SIZE))) as small:
        yield small


@contextmanager
def filled(portal: Portal, folder: str, left: int = 0) -> Iterator[None]:
    """Leave `left` bytes on the volume, for a while."""
    area = portal.machine.path(folder)
    filler = area / ".filler"
    found = os.statvfs(area)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - left)
    try:
        yield
    finally:
        filler.unlink(missing_ok=True)


def level(portal: Portal, folder: str) -> str:
    """What the extractor thinks of that volume."""
    facts = json.loads(portal.machine.run(["cat", "/run/ddwd/extractor/status.json"]).stdout)
    return next((str(row["level"]) for row in facts["disk"] if row["path"] == folder), "")


def wait_level(portal: Portal, folder: str, *wanted: str) -> None:
    portal.machine.wait_for(
        lambda: level(portal, folder) in wanted, limit=30, what=f"{folder} is not {' or '.join(wanted)}"
    )


def count(portal: Portal, node: str) -> int:
    """Instances that this Orthanc holds."""
    login = portal.machine.credentials(node)
    return int(portal.machine.rest(node, "/statistics", login=login)["CountInstances"])


def status(portal: Portal) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(portal.machine.run(["ddwd", "status", "--json"], check=False).stdout)
    return found


def audit(portal: Portal) -> str:
    return portal.machine.run(["journalctl", "--no-pager", "-t", "ddwd-audit"]).stdout


def test_an_output_short_of_room_stops_retrieving_alone(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 20, seed=70, size=64)
    before = count(portal, "storage")
    with filled(portal, OUTPUT_DIR, LITTLE):
        wait_level(portal, OUTPUT_DIR, "no-forward", "no-retrieve")
        portal.send(study)
        portal.machine.wait_for(
            lambda: count(portal, "storage") == before + 20, limit=30, what="storage has not all of it"
        )
        time.sleep(PAUSE_SECONDS)
        assert published(study.uid, portal.output) == {}
        told = status(portal)
        assert not told["well"]
        assert [row["reason"] for row in told["in_flight"]] == [
            f"the volume of {OUTPUT_DIR} is short of room"
        ]
    portal.wait_complete(study)
    portal.assert_equal([study])
    assert status(portal)["well"]
    lines = audit(portal)
    assert f"the volume of {OUTPUT_DIR} is short of room" in lines
    assert f"the volume of {OUTPUT_DIR} has room again" in lines


def test_an_output_that_is_read_only_is_named_as_the_cause_and_heals(portal: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 5, seed=77, size=64)
    portal.machine.run(f"mount -o remount,ro {OUTPUT_DIR}")
    try:
        portal.machine.wait_for(
            lambda: any("its volume is read-only" in line for line in causes(status(portal))),
            limit=10, what="ddwd status does not name the volume",
        )  # fmt: skip
        portal.send(study)
        time.sleep(PAUSE_SECONDS)
        assert [row["reason"] for row in status(portal)["in_flight"]] == [
            f"the volume of {OUTPUT_DIR} is read-only"
        ]
        doctor = portal.machine.run(["ddwd", "doctor"], check=False)
        assert (doctor.returncode, "its volume is read-only" in " ".join(doctor.stdout.split())) == (1, True)
        traced = portal.machine.run(["ddwd", "trace", study.uid], check=False).stdout
        assert "is read-only" in traced
        assert "damaged" not in traced
    finally:
        portal.machine.run(f"mount -o remount,rw {OUTPUT_DIR}")
    portal.wait_complete(study)
    portal.assert_equal([study])
    portal.machine.wait_for(
        lambda: status(portal)["well"], limit=10, what="ddwd status names something still"
    )


def test_a_storage_short_of_room_gets_nothing_and_the_gateway_keeps_it_all(
    portal: Portal, tmp_path: Path
) -> None:
    study = made_up_ct(tmp_path / "ct", 60, seed=71, size=64)
    before = count(portal, "storage"), count(portal, "gateway")
    with filled(portal, STORAGE, LITTLE):
        wait_level(portal, STORAGE, "no-forward")
        portal.machine.run(["setpriv", "--reuid=ddwd-gateway", "--clear-groups", "cat", FLAG])
        portal.send(study)
        time.sleep(PAUSE_SECONDS)
        assert (count(portal, "storage"), count(portal, "gateway")) == (before[0], before[1] + 60)
    portal.wait_complete(study)
    portal.assert_equal([study])
    assert portal.machine.run(["test", "-e", FLAG], check=False).returncode == 1


def test_an_output_without_a_byte_refuses_what_the_receiver_gets_and_loses_nothing(
    portal: Portal, tmp_path: Path
) -> None:
    study, stray = (
        made_up_ct(tmp_path / name, 10, seed=seed, size=64) for name, seed in (("a", 72), ("b", 73))
    )
    portal.machine.copy_in(stray.paths[0], "/srv/stray.dcm")
    with filled(portal, OUTPUT_DIR):
        wait_level(portal, OUTPUT_DIR, "refuse")
        portal.send(study)
        call = ["storescu", "-v", "-aec", "PYTHON_SCP", "127.0.0.1", "11112", "/srv/stray.dcm"]
        said = portal.machine.run(call, check=False)
        assert "OutOfResources" in said.stdout + said.stderr, said.stdout + said.stderr
        time.sleep(PAUSE_SECONDS)
        assert published(study.uid, portal.output) == {}
    portal.wait_complete(study)
    portal.assert_equal([study])


@pytest.mark.parametrize("left", [0, RESERVED])
def test_a_gateway_without_room_gives_no_success_and_takes_all_once_there_is_room(
    portal: Portal, tmp_path: Path, left: int
) -> None:
    study = made_up_ct(tmp_path / "ct", 10, seed=74 + left % 7, size=64)
    with filled(portal, GATEWAY, left):
        sending = portal.modality.start(portal.modality.storescu_argv(*study.paths))
        sending.process.wait(60)
        said = sending.log.read_text(encoding="utf-8", errors="replace")
        assert sending.acknowledged() == []
        assert "OutOfResources" in said, said
    portal.deliver(study)
