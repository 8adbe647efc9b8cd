"""From 0.2.0 to this version with work at hand: studies in flight, an object in quarantine, a hook that waits, a shared ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.appliance import previous_release
from tests.appliance.conftest import SETTINGS, Portal
from tests.appliance.pair import with_setting
from tests.appliance.test_door import corrected
from tests.machine import Machine
from tests.machine.machine import INBOX
from tests.machine.network import MACHINE_ADDRESS
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD = "0.2.0"
DROP_FOLDER = "/var/lib/ddwd/inbox"
HOOK = "/opt/ris/finished"
CALLED = "/srv/called"
LEDGER = "ddwd_ledger"
PASSWORD = "made-up for the test"  # noqa: S105
SECRET = "/etc/ddwd/ledger.password"  # noqa: S105 - where it is
RULES = f"""
routes:
  - name: all
    run: {HOOK}
"""
SCRIPT = f"""#!/bin/sh
[ -e {CALLED}/broken ] && {{ echo "out of order"; exit 7; }}
touch "{CALLED}/$DDWD_STUDY_UID.$DDWD_REVISION"
"""
SENDING = 'for one in "$@"; do until storescu -aec ORTHANC1 {} 4242 "$one"; do sleep 0.2; done; echo "acknowledged"; sleep 0.1; done'


@pytest.fixture
def old(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """A machine with 0.2.0, a rule with a hook, and the ledger in PostgreSQL."""
    package = previous_release.build(OLD, tmp_path_factory.mktemp("previous"))
    with Machine() as machine:
        portal = Portal(machine, deb)
        _install(machine, package)
        portal.wait_active()
        assert machine.run(["ddwd", "--version"]).stdout == f"ddwd {OLD}\n"
        _make_ledger(machine)
        _make_hook(machine)
        text = machine.path(SETTINGS).read_text(encoding="utf-8").replace("\nroutes: []\n", RULES)
        for key, value in (
            ("ledger.shared", f"postgresql://{LEDGER}@127.0.0.1:5432/{LEDGER}"),
            ("ledger.password_file", SECRET),
        ):
            text = with_setting(text, key, value)
        portal.configure(text)
        portal.wait_active()
        yield portal


def _install(machine: Machine, package: Path) -> None:
    machine.copy_in(package, f"{INBOX}/{package.name}")
    machine.run(f"cd {INBOX} && apt-get install -y --reinstall ./{package.name} 2>&1", timeout=300)


def _make_ledger(machine: Machine) -> None:
    for statement in (
        f"CREATE ROLE {LEDGER} LOGIN PASSWORD '{PASSWORD}'",
        f"CREATE DATABASE {LEDGER} OWNER {LEDGER} ENCODING 'UTF8' TEMPLATE template0",
    ):
        machine.run(["runuser", "-u", "postgres", "--", "psql", "-qc", statement])
    machine.run(["install", "-o", "root", "-g", "ddwd", "-m", "0640", "/dev/null", SECRET])
    machine.path(SECRET).write_text(f"{PASSWORD}\n", encoding="utf-8")


def _make_hook(machine: Machine) -> None:
    machine.run(f"install -d {HOOK.rsplit('/', 1)[0]} && install -d -o ddwd-hooks -m 0755 {CALLED}")
    machine.path(HOOK).write_text(SCRIPT, encoding="utf-8")
    machine.path(HOOK).chmod(0o755)
    drop_in = machine.path("/etc/systemd/system/ddwd-hooks.service.d/called.conf")
    drop_in.parent.mkdir(parents=True)
    drop_in.write_text(f"[Service]\nReadWritePaths={CALLED}\n", encoding="utf-8")
    machine.run(f"touch {CALLED}/broken && systemctl daemon-reload")


def _published(machine: Machine) -> list[str]:
    """StudyInstanceUIDs of the events `published` in the shared ledger."""
    statement = "select study_uid from ledger where kind = 'event' and body::json ->> 'event' = 'published'"
    argv = ["runuser", "-u", "postgres", "--", "psql", "-XAtq", "-d", LEDGER, "-c", statement]
    return machine.run(argv).stdout.split()


def test_all_that_is_at_hand_is_taken_along(old: Portal, tmp_path: Path) -> None:
    machine = old.machine
    waits, in_flight, going, dropped = (
        made_up_ct(tmp_path / str(seed), count, seed=seed, patient_id=f"Upgrade/{seed}", size=64)
        for seed, count in ((6200, 5), (6201, 40), (6202, 120), (6203, 6))
    )
    old.deliver(waits)
    machine.wait_for(
        lambda: "ended with exit status 7" in machine.run("ddwd hooks list", check=False).stdout,
        limit=60,
        what="no hook waits",
    )
    old.modality.dcmsend(corrected(waits, tmp_path / "other"))
    machine.wait_for(
        lambda: machine.run("ddwd quarantine list").stdout.endswith("1 in quarantine\n"),
        limit=60,
        what="the corrected image is not in quarantine",
    )
    quarantined = json.loads(machine.run("ddwd quarantine list --json").stdout)
    machine.run("systemctl stop ddwd-inbox")
    machine.copy_in(tmp_path / "6203", f"{INBOX}/dropped")
    machine.run(f"chmod -R a+rX {INBOX}; runuser -u ddwd -- cp -r {INBOX}/dropped {DROP_FOLDER}/")
    machine.run(
        f"runuser -u ddwd -- sh -c 'umask 077; mkdir {DROP_FOLDER}/.work; touch {DROP_FOLDER}/.work/0001'"
    )
    machine.run("systemctl stop ddwd-scp")  # so that no study can be finished before the upgrade
    old.send(in_flight)
    sender = old.modality.start(
        ["sh", "-c", SENDING.format(MACHINE_ADDRESS), "modality", *(f"/mnt{path}" for path in going.paths)]
    )
    machine.wait_for(
        lambda: len(json.loads(machine.run("ddwd status --json", check=False).stdout)["in_flight"]) == 2,
        limit=60,
        what="no two studies are in flight",
    )

    _install(machine, old.deb)

    old.wait_active()
    assert sender.process.wait(timeout=90) == 0
    said = sender.log.read_text(encoding="utf-8", errors="replace")
    assert said.count("acknowledged") == len(going.instances)
    assert json.loads(machine.run("ddwd quarantine list --json").stdout)["entries"] == quarantined
    assert waits.uid in machine.run("ddwd hooks list", check=False).stdout
    machine.run(f"rm {CALLED}/broken; ddwd hooks retry")
    for study in (waits, in_flight, going, dropped):
        old.wait_complete(study)
    old.assert_equal([waits, in_flight, going, dropped])
    machine.wait_for(
        lambda: all(machine.path(f"{CALLED}/{one.uid}.1").exists() for one in (waits, in_flight, going)),
        limit=60,
        what="not every hook was called",
    )
    assert {waits.uid, in_flight.uid, going.uid} <= set(_published(machine))
    assert _published(machine).count(waits.uid) == 1
    machine.run("ddwd verify --all")
    moved = " ".join(f"/var/lib/ddwd/{name}" for name in ("inbox", "monitor", "courier", "commitment"))
    assert machine.run(f"find {moved} -user ddwd").stdout == ""
    assert machine.run(f"stat -c %U {moved}").stdout.split() == [
        *("ddwd-inbox", "ddwd-monitor", "ddwd-courier", "ddwd-commitment")
    ]
    assert machine.path(f"{DROP_FOLDER}/sent").is_dir()
    assert list(machine.path(f"{DROP_FOLDER}/sent").glob("*/dropped"))
    assert machine.run("ddwd quarantine list").stdout.endswith("1 in quarantine\n")
