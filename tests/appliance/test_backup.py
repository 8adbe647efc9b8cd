"""A machine is destroyed while a study is being sent; another one takes its place from the backup, and nothing that was in it is lost."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

import pytest

from tests.appliance.conftest import UNITS, Portal, installed
from tests.machine import Machine
from tests.studies import Study, made_up_ct, published

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.machine.modality import Sending

BACKUP = "/mnt/backup"
GOING = 400
TRAP = """
CREATE SCHEMA trap;
CREATE FUNCTION trap.spring(what text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('is_superuser') = 'on' THEN
    EXECUTE format('COPY (SELECT session_user) TO %L', '/var/lib/postgresql/sprung-' || what);
  END IF;
  RETURN true;
END $$;
CREATE FUNCTION trap.pg_database_size(name) RETURNS bigint LANGUAGE sql AS
  $$ SELECT 1::bigint WHERE trap.spring('size') $$;
ALTER DATABASE ddwd_gateway SET search_path = trap, pg_catalog, public;
CREATE TABLE public.bait (what text CHECK (trap.spring(what)));
INSERT INTO public.bait VALUES ('check');
"""
"""What an ORTHANC1 that was taken over may leave in its own database for the superuser: each function that he runs writes a file."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    """Studies that are delivered before the backup is taken."""
    folder = tmp_path_factory.mktemp("done")
    return [made_up_ct(folder / str(n), 8, seed=900 + n, patient_id=f"Backup/{n}", size=64) for n in (1, 2)]


@pytest.fixture(scope="module")
def going(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study that is being sent when the backup is taken, and when the machine dies."""
    return made_up_ct(tmp_path_factory.mktemp("going"), GOING, seed=910, size=256)


@pytest.fixture(scope="module")
def rescued(deb: Path, done: list[Study], going: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left of the first machine: its backup, and beside it its passwords."""
    folder = tmp_path_factory.mktemp("rescued")
    with installed(deb) as portal:
        machine = portal.machine
        portal.deliver(*done)
        with machine.path("/etc/default/ddwd").open("a", encoding="utf-8") as file:
            file.write("\nSTABLE_AGE=2\n")
        sending = machine.modality.start(machine.modality.storescu_argv(*going.paths))
        machine.wait_for(
            lambda: len(sending.acknowledged()) >= 10, limit=60, every=0.02, what="nothing is acknowledged"
        )
        said = _backup_meanwhile(machine, sending)
        assert said["files"]["custody"] == len(done)
        assert said["files"]["gateway"] > sum(len(study.instances) for study in done)
        assert machine.path(BACKUP).stat().st_mode & 0o077 == 0
        machine.kill()
        machine.copy_out(BACKUP, folder / "backup")
        machine.copy_out("/etc/ddwd/credentials.json", folder / "credentials.json")
    return folder


def _backup_meanwhile(machine: Machine, sending: Sending) -> dict[str, Any]:
    """Take a backup while images come. A sender that is faster is stopped with the last hundred, and goes on when it is taken."""
    with ThreadPoolExecutor(1) as pool:
        backup = pool.submit(machine.run, ["ddwd", "backup", "--json", BACKUP])
        while not backup.done() and len(sending.acknowledged()) < GOING - 100:
            wait([backup], timeout=0.02)
        sending.process.send_signal(signal.SIGSTOP)
        said: dict[str, Any] = json.loads(backup.result().stdout)
    assert sending.process.poll() is None, "the study was sent before the backup was taken"
    sending.process.send_signal(signal.SIGCONT)
    return said


@pytest.fixture(scope="module")
def new(deb: Path, rescued: Path) -> Iterator[Portal]:
    """A fresh machine with the portal installed, onto which the backup was restored."""
    with installed(deb) as portal:
        machine = portal.machine
        machine.copy_in(rescued / "backup", BACKUP)
        machine.run(["chown", "-R", "root:root", BACKUP])
        refused = machine.run(["ddwd", "restore", "--dry-run", BACKUP], check=False)
        assert refused.returncode == 65
        assert (
            f"is not of this machine: if that is what ddwd backup printed there, add --key {BACKUP}/"
            in refused.stderr
        )
        key = ["--key", f"{BACKUP}/public.pem"]
        looked = machine.run(["ddwd", "restore", "--dry-run", *key, BACKUP]).stdout
        assert "it can be restored here" in looked
        said = machine.run(["ddwd", "restore", *key, BACKUP], timeout=240).stdout
        assert "restored as of" in said
        portal.wait_active()
        yield portal


def test_all_that_was_delivered_is_on_disk_again_equal_to_what_was_sent(
    new: Portal, done: list[Study]
) -> None:
    new.assert_equal(done)
    new.machine.run(["ddwd", "verify", "--all"])


def test_settings_and_passwords_are_those_of_the_machine_that_is_gone(new: Portal, rescued: Path) -> None:
    passwords = new.machine.path("/etc/ddwd/credentials.json").read_text(encoding="utf-8")
    assert passwords == (rescued / "credentials.json").read_text(encoding="utf-8")
    assert "STABLE_AGE=2" in new.machine.path("/etc/default/ddwd").read_text(encoding="utf-8")
    assert new.machine.is_active(*UNITS)


def test_the_study_that_was_under_way_arrives_once_when_it_is_sent_again(new: Portal, going: Study) -> None:
    new.machine.wait_for(
        lambda: published(going.uid, new.output), limit=60, what="nothing of it came out of the backup"
    )
    new.deliver(going, limit=120)


def test_a_new_study_passes_and_all_places_agree(new: Portal, tmp_path: Path) -> None:
    new.deliver(made_up_ct(tmp_path / "next", 5, seed=920, size=64))
    new.machine.wait_for(
        lambda: "all agree" in new.machine.run(["ddwd", "reconcile", "--dry-run"], check=False).stdout,
        limit=60,
        every=2,
        what="the places do not agree",
    )
    new.machine.run(["ddwd", "verify", "--all"])
    new.machine.run(["ddwd", "doctor"])
    assert new.machine.run(["ddwd", "quarantine", "list"]).stdout == "0 in quarantine\n"


def test_a_machine_with_studies_is_not_overwritten_unless_told_to(new: Portal, done: list[Study]) -> None:
    key = ["--key", f"{BACKUP}/public.pem"]
    refused = new.machine.run(["ddwd", "restore", *key, BACKUP], check=False)
    assert refused.returncode == 1
    assert "this machine holds" in refused.stderr
    assert "files of ORTHANC2: " in refused.stderr
    assert "--replace" in refused.stderr
    assert new.machine.is_active(*UNITS)
    new.assert_equal(done)


def test_what_the_disk_of_the_output_has_lost_comes_back_at_one_word(new: Portal, done: list[Study]) -> None:
    for study in done:
        new.machine.run(f"rm -r /var/lib/ddwd/received_dicom/*/{study.uid}")
    new.machine.run(["ddwd", "retry", "--gone"])
    new.assert_equal(done)
    new.machine.run(["ddwd", "verify", "--all"])


def test_over_a_machine_at_work_what_came_later_is_sent_again_and_there_once(
    new: Portal, done: list[Study], going: Study, tmp_path: Path
) -> None:
    first = json.loads(new.machine.run(["ddwd", "backup", "--json", "--with-output", "/mnt/second"]).stdout)
    again = json.loads(new.machine.run(["ddwd", "backup", "--json", "--with-output", "/mnt/second"]).stdout)
    assert again["files"]["output"] == first["files"]["output"] > len(going.instances)
    assert again["copied"] < first["copied"] / 10
    later = made_up_ct(tmp_path / "later", 5, seed=930, size=64)
    new.deliver(later)
    new.machine.run(["ddwd", "restore", "--replace", "/mnt/second"], timeout=240)
    new.wait_active()
    assert new.machine.rest("gateway", "/tools/lookup", method="POST", body=later.uid) == []
    new.assert_equal([*done, going, later])
    new.deliver(later)
    new.machine.wait_for(
        lambda: new.machine.run(["ddwd", "verify", later.uid], check=False).returncode == 0,
        limit=60,
        every=1,
        what="the study that was sent again is not proved",
    )
    new.machine.run(["ddwd", "verify", "--all"])
    assert new.machine.run(["ddwd", "quarantine", "list"]).stdout == "0 in quarantine\n"


CHANGE = """
import os, sys
status = os.stat(sys.argv[1])
with open(sys.argv[1], "r+b") as file:
    file.seek(100)
    ten = file.read(10)
    file.seek(100)
    file.write(bytes(byte ^ 1 for byte in ten))
os.utime(sys.argv[1], ns=(status.st_atime_ns, status.st_mtime_ns))
"""
"""Changes ten bytes, and hides it as well as a program without root's rights can; twice brings them back."""


def test_ten_bytes_changed_in_a_storage_area_or_in_the_backup_are_named_and_neither_touches_the_other(
    new: Portal,
) -> None:
    machine = new.machine
    machine.run(["ddwd", "backup", "/mnt/proof"])
    odd = "find /mnt/proof -type f ( ! -user root -o -perm /077 -o -links +1 )"
    assert machine.run(odd.replace("(", "\\(").replace(")", "\\)")).stdout == ""
    image = machine.run("find /var/lib/ddwd/storage -type f -size +1k | sort | head -1").stdout.strip()
    name = image.removeprefix("/var/lib/ddwd/")
    machine.run(["python3", "-c", CHANGE, image], user="ddwd-storage")
    for _ in range(2):
        said = machine.run(["ddwd", "backup", "/mnt/proof"], check=False)
        assert said.returncode == 1
        assert f"CHANGED since the backup before, whose copy is kept: {name}; " in said.stdout
    machine.run(["ddwd", "restore", "--dry-run", "/mnt/proof"], check=False)
    machine.run(["python3", "-c", CHANGE, image], user="ddwd-storage")
    machine.run(["ddwd", "backup", "/mnt/proof"])
    copy = machine.run(f"echo /mnt/proof/2*/{name}").stdout.strip()
    machine.run(["cmp", image, copy])
    machine.run(["python3", "-c", CHANGE, copy])
    dry = machine.run(["ddwd", "restore", "--dry-run", "/mnt/proof"], check=False)
    assert (dry.returncode, dry.stdout) == (65, f"DAMAGED: {name} is changed\nit cannot be restored\n")
    refused = machine.run(["ddwd", "restore", "--replace", "/mnt/proof"], check=False)
    assert refused.returncode == 65
    assert machine.is_active(*UNITS)


def _as_gateway(machine: Machine, statements: str) -> None:
    path = machine.path("/srv/statements.sql")
    path.write_text(statements, encoding="utf-8")
    machine.run(
        "cd / && runuser -u ddwd-gateway -- psql -X -q -v ON_ERROR_STOP=1 -d ddwd_gateway -f /srv/statements.sql"
    )


def test_no_function_that_orthanc1_left_in_its_database_ever_runs_as_superuser(
    new: Portal, done: list[Study]
) -> None:
    machine = new.machine
    _as_gateway(machine, TRAP)
    said = machine.run(["ddwd", "backup", "/mnt/trapped"]).stdout
    for entry in (
        "SCHEMA - trap",
        "FUNCTION trap spring(text)",
        "TABLE public bait",
        "TABLE DATA public bait",
    ):
        assert f"not made by Orthanc, a restore leaves it out: ddwd_gateway: {entry}\n" in said
    restored = machine.run(["ddwd", "restore", "--replace", "/mnt/trapped"], timeout=240)
    assert "a restore leaves it out: ddwd_gateway: TABLE public bait\n" in restored.stderr
    machine.run(["systemctl", "restart", "ddwd"])
    new.wait_active()
    machine.run(["ddwd", "doctor"])
    assert not list(machine.path("/var/lib/postgresql").glob("sprung-*"))
    left = machine.run(
        ["runuser", "-u", "ddwd-gateway", "--", "psql", "-X", "-At", "-d", "ddwd_gateway", "-c", "\\d"]
    )
    assert "bait" not in left.stdout
    new.assert_equal(done)


def test_a_table_of_orthancs_with_a_trap_in_it_is_refused_and_the_portal_runs_on(new: Portal) -> None:
    trap = TRAP.replace("INSERT INTO public.bait VALUES ('check');", "")
    add = "ALTER TABLE public.resources ADD CONSTRAINT trap CHECK (trap.spring(publicid));"
    _as_gateway(new.machine, trap + add)
    refused = new.machine.run(["ddwd", "backup", "/mnt/other"], check=False)
    assert refused.returncode == 65
    assert "table public.resources is not as Orthanc makes it" in refused.stderr
    _as_gateway(new.machine, "DROP SCHEMA trap CASCADE; ALTER DATABASE ddwd_gateway RESET search_path;")
    new.machine.run(["ddwd", "backup", "/mnt/other"])
    assert not list(new.machine.path("/var/lib/postgresql").glob("sprung-*"))
    assert new.machine.is_active(*UNITS)
