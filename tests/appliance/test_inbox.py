"""The drop folder in the booted machine: what is put there by an operator is on disk as it was, and lies in `sent`."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.machine.machine import INBOX as HANDED_IN
from tests.studies import Study, made_up_ct, read_studies, write_disc

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.appliance.conftest import Portal

INBOX = "/var/lib/ddwd/inbox"
OPERATOR = "archivist"


@pytest.fixture(scope="module", autouse=True)
def operator(portal: Portal) -> None:
    """A user in group ddwd."""
    portal.add_operator(OPERATOR)


def _made(folder: Path, seed: int) -> Study:
    return made_up_ct(folder, 4, seed=seed, size=32)


def _put(portal: Portal, source: Path, *, command: str = "cp -r", then: str = "") -> None:
    """Copy a file or folder of the host into the drop folder, as the operator."""
    portal.machine.copy_in(source, f"{HANDED_IN}/{source.name}")
    portal.machine.run(f"umask 002; cd {HANDED_IN} && {command} {source.name} {INBOX}/{then}", user=OPERATOR)


def _is_there(portal: Portal, inside: str) -> bool:
    return bool(list(portal.machine.path(INBOX).glob(inside)))


def _wait(portal: Portal, inside: str) -> None:
    portal.machine.wait_for(
        lambda: _is_there(portal, inside), limit=90, what=f"there is no {inside} in the drop folder"
    )


def _arrives(portal: Portal, study: Study) -> None:
    portal.wait_complete(study, limit=90)
    portal.assert_equal([study])


def test_a_file_a_folder_a_zip_and_a_disc_come_to_the_disk_and_rubbish_is_rejected(
    portal: Portal, tmp_path: Path
) -> None:
    single, folder, packed, disc = (
        _made(tmp_path / name, 90 + number)
        for number, name in enumerate(("single", "folder", "packed", "disc"))
    )
    for path in single.paths:
        shutil.copy(path, tmp_path / f"of-{path.name}")
        _put(portal, tmp_path / f"of-{path.name}")
    (tmp_path / "folder" / "readme.txt").write_text("a viewer", encoding="utf-8")
    _put(portal, tmp_path / "folder", then="; chmod -R g+rwX " + f"{INBOX}/folder")
    shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "packed")
    _put(portal, tmp_path / "packed.zip")
    write_disc(disc.paths, tmp_path / "cd")
    (written,) = read_studies(path for path in sorted((tmp_path / "cd").rglob("*")) if path.is_file() and path.name != "DICOMDIR")  # fmt: skip
    _put(portal, tmp_path / "cd", then="; chmod -R g+rwX " + f"{INBOX}/cd")
    (tmp_path / "letter.pdf").write_bytes(b"%PDF-1.4")
    _put(portal, tmp_path / "letter.pdf")
    for study in (single, folder, packed, written):
        _arrives(portal, study)
    for name in (*(f"of-{path.name}" for path in single.paths), "folder", "folder.txt", "packed.zip", "cd"):
        _wait(portal, f"sent/????-??-??/{name}")
    _wait(portal, "rejected/letter.pdf")
    note = portal.machine.path(f"{INBOX}/rejected/letter.pdf.txt").read_text(encoding="utf-8")
    assert note.endswith(": not a DICOM file\n")
    assert portal.machine.run(f"ls {INBOX}").stdout.split() == ["rejected", "sent", "waiting"]
    assert portal.machine.run(f"rm {INBOX}/rejected/letter.pdf*", user=OPERATOR).returncode == 0
    trail = portal.machine.run("journalctl -t ddwd-audit --no-pager -o export").stdout
    assert f"DDWD_STUDY_UID={folder.uid}" in trail.split("DDWD_EVENT=inbox-sent")[1] + trail
    assert "DDWD_EVENT=inbox-rejected" in trail
    assert "letter" not in trail
    assert "letter" not in portal.machine.journal("ddwd-inbox")


def test_what_is_still_written_waits_and_a_folder_that_may_not_be_moved_is_told_of(
    portal: Portal, tmp_path: Path
) -> None:
    slow, closed = _made(tmp_path / "slow", 95), _made(tmp_path / "closed", 96)
    portal.machine.copy_in(slow.paths[0], f"{HANDED_IN}/slow.dcm")
    script = f"head -c 600 {HANDED_IN}/slow.dcm; sleep 25; tail -c +601 {HANDED_IN}/slow.dcm"
    portal.machine.run(f"systemd-run --quiet --unit=writer sh -c '({script}) > {INBOX}/slow.dcm'")
    portal.machine.copy_in(tmp_path / "closed", f"{HANDED_IN}/closed")
    portal.machine.run(f"umask 022; cp -r {HANDED_IN}/closed {INBOX}/")
    _wait(portal, "waiting/closed.txt")
    assert _is_there(portal, "slow.dcm")
    assert portal.machine.show("writer", "ActiveState") == "active"
    note = portal.machine.path(f"{INBOX}/waiting/closed.txt").read_text(encoding="utf-8")
    assert "chmod -R g+rwX" in note
    portal.machine.run(f"chmod -R g+rwX {INBOX}/closed")
    _wait(portal, "sent/*/closed")
    _arrives(portal, closed)
    _wait(portal, "sent/*/slow.dcm")
    (one,) = read_studies(slow.paths[:1])
    _arrives(portal, one)


@contextlib.contextmanager
def _stopped(portal: Portal, unit: str) -> Iterator[None]:
    portal.machine.run(["systemctl", "stop", unit])
    try:
        yield
    finally:
        portal.machine.run(["systemctl", "start", unit])
        portal.wait_active()


def test_while_the_gateway_is_away_and_after_a_kill_nothing_is_lost(portal: Portal, tmp_path: Path) -> None:
    study = _made(tmp_path / "later", 97)
    with _stopped(portal, "ddwd-gateway"):
        _put(portal, tmp_path / "later", then=f"; chmod -R g+rwX {INBOX}/later")
        _wait(portal, "waiting/later.txt")
        assert "takes no associations now" in portal.machine.path(f"{INBOX}/waiting/later.txt").read_text(
            "utf-8"
        )
        portal.machine.run(["systemctl", "kill", "--signal=KILL", "ddwd-inbox"])
    _wait(portal, "sent/*/later")
    _arrives(portal, study)
    assert not _is_there(portal, "waiting/later.txt")
