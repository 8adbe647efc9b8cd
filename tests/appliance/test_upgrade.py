"""From the previous release to this one while a modality sends, back down onto a ledger that is too new for it, back as it says, and forward.

The tests below go through one life of one machine, in order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.appliance import previous_release
from tests.appliance.conftest import SETTINGS, Portal
from tests.machine import Machine
from tests.machine.machine import INBOX
from tests.machine.network import MACHINE_ADDRESS
from tests.studies import Study, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OLD = "0.1.0"
STATE = "/var/lib/ddwd/state"
BOOKWORM = 'ID=debian\nVERSION_ID="12"\nVERSION_CODENAME=bookworm\n'
SENDING = 'for one in "$@"; do until storescu -aec ORTHANC1 {} 4242 "$one"; do sleep 0.2; done; echo "acknowledged"; sleep 0.1; done'


@dataclass
class Life:
    """The machine, both packages, what was sent to it, and what apt said last."""

    portal: Portal
    old: Path
    delivered: list[Study] = field(default_factory=list)
    said: str = ""

    @property
    def machine(self) -> Machine:
        """The machine."""
        return self.portal.machine

    @property
    def version(self) -> str:
        """Of the new package."""
        return self.portal.deb.name.split("_")[1]

    def apt(self, deb: Path) -> str:
        """Install that package as an unattended upgrade does: nobody is there to answer a question."""
        self.machine.copy_in(deb, f"{INBOX}/{deb.name}")
        command = f"apt-get install -y --allow-downgrades ./{deb.name} 2>&1"
        self.said = self.machine.run(f"cd {INBOX} && {command}", timeout=300).stdout
        return self.said

    def state(self) -> dict[str, bytes]:
        """Every file of the state folder."""
        folder = self.machine.path(STATE)
        return {str(one.relative_to(folder)): one.read_bytes() for one in folder.rglob("*") if one.is_file()}

    def _is_proved(self, study: Study) -> bool:
        return self.machine.run(["ddwd", "verify", study.uid], check=False).returncode == 0

    def assert_all_is_there_once(self) -> None:
        """What was acknowledged is on disk as it was sent, and every place agrees."""
        for study in self.delivered:
            self.portal.wait_complete(study)
            self.machine.wait_for(
                partial(self._is_proved, study), limit=60, every=1, what=f"study {study.uid} is not proved"
            )
        self.portal.assert_equal(self.delivered)
        assert self.machine.run(["ddwd", "quarantine", "list"]).stdout == "0 in quarantine\n"
        images = sum(len(study.instances) for study in self.delivered)
        assert self.machine.rest("storage", "/statistics")["CountInstances"] == images


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the previous release."""
    return previous_release.build(OLD, tmp_path_factory.mktemp("previous"))


@pytest.fixture(scope="module")
def life(deb: Path, previous: Path) -> Iterator[Life]:
    """A fresh machine, with nothing installed yet."""
    with Machine() as machine:
        yield Life(Portal(machine, deb), previous)


def test_on_debian_12_the_package_refuses_with_the_reason_and_changes_nothing(life: Life) -> None:
    life.machine.copy_in(life.portal.deb, f"{INBOX}/{life.portal.deb.name}")
    life.machine.path(f"{INBOX}/bookworm").write_text(BOOKWORM, encoding="utf-8")
    inside = f"mount --bind {INBOX}/bookworm /etc/os-release && dpkg -i {INBOX}/{life.portal.deb.name} 2>&1"
    done = life.machine.run(["unshare", "--mount", "sh", "-c", inside], check=False)
    assert done.returncode == 1
    assert (
        "ddwd: not installed: it wants Debian 13. Debian 12's Orthanc 1.10.1 never calls OnHeartBeat"
        in done.stdout
    )
    assert not life.machine.path("/usr/lib/ddwd").exists()
    assert not life.machine.path("/etc/ddwd").exists()
    assert life.machine.run(["dpkg", "--audit"]).stdout == ""


def test_an_upgrade_while_a_modality_sends_loses_nothing(life: Life, tmp_path: Path) -> None:
    life.apt(life.old)
    life.portal.wait_active()
    assert life.machine.run(["ddwd", "--version"]).stdout == f"ddwd {OLD}\n"
    life.machine.run(f"sed -i 's/^  reserve: .*/  reserve: 123 MiB/' {SETTINGS} && systemctl restart ddwd")
    life.portal.wait_active()
    done, left, going = (
        made_up_ct(tmp_path / str(seed), count, seed=seed, patient_id=f"Upgrade/{seed}", size=64)
        for seed, count in ((6100, 8), (6101, 8), (6102, 250))
    )
    life.portal.deliver(done)
    custody = {name: text for name, text in life.state().items() if name.startswith("custody/")}
    sender = life.machine.modality.start(
        ["sh", "-c", SENDING.format(MACHINE_ADDRESS), "modality", *(f"/mnt{path}" for path in going.paths)]
    )
    life.portal.send(left)

    said = life.apt(life.portal.deb)

    assert re.search(r"^ddwd: [12] studies in flight", said, re.MULTILINE)
    assert "ddwd: self test passed: 6 images from C-STORE to the disk" in said
    assert f"ddwd: to go back to {OLD}, settings as they were in /etc/ddwd/before-{life.version}:" in said
    assert sender.process.wait(timeout=90) == 0
    told = sender.log.read_text(encoding="utf-8", errors="replace")
    assert told.count("acknowledged") == len(going.instances)
    assert re.search("^[EF]: ", told, re.MULTILINE), "the modality has not met the restart of ORTHANC1"
    life.delivered = [done, left, going]
    life.assert_all_is_there_once()
    life.machine.run(["ddwd", "doctor"])
    kept = life.machine.path(f"{STATE}/before-{life.version}")
    records = {
        f"custody/{one.relative_to(kept / 'custody')}": one.read_bytes()
        for one in (kept / "custody").rglob("*.json")
    }
    assert custody.items() <= records.items()
    assert b'"schema":1,' in max((kept / "ledger").glob("*.jsonl")).read_bytes()
    assert b'"schema":2,' in max(life.machine.path(f"{STATE}/ledger").glob("*.jsonl")).read_bytes()


def test_the_operators_settings_are_kept_hold_for_the_new_version_and_stand_aside_too(life: Life) -> None:
    for where in (SETTINGS, f"/etc/ddwd/before-{life.version}/ddwd.yaml"):
        text = life.machine.path(where).read_text(encoding="utf-8")
        assert "  reserve: 123 MiB\n" in text
        assert "retention:" not in text, "it is the file of the old version"
    assert "retention:" in life.machine.path(f"{SETTINGS}.ucf-dist").read_text(encoding="utf-8")
    life.machine.run(["ddwd", "config", "check"])
    assert "128974848" in life.machine.run(["ddwd", "config", "show"]).stdout
    assert life.machine.path(f"/etc/ddwd/before-{life.version}").stat().st_mode & 0o007 == 0


def test_a_downgrade_says_what_it_means_touches_nothing_and_modalities_can_still_send(
    life: Life, tmp_path: Path
) -> None:
    life.machine.run(["systemctl", "stop", "ddwd-extractor"])
    before = life.state()
    said = life.apt(life.old)
    assert f"ddwd: WARNING: ddwd {OLD} cannot read the ledger in {STATE}" in said
    moved = " ".join(f"/var/lib/ddwd/{name}" for name in ("inbox", "monitor", "courier", "commitment"))
    assert life.machine.run(f"find {moved} ! -user ddwd", check=False).stdout == ""
    life.machine.wait_for(
        lambda: "the ledger has schema 2, this version reads 1" in life.machine.journal("ddwd-extractor"),
        limit=60,
        what="the old extractor does not say that it refuses",
    )
    later = made_up_ct(tmp_path, 5, seed=6103, patient_id="Upgrade/6103", size=64)
    life.machine.wait_for(
        lambda: life.portal.modality.echoscu(check=False), limit=60, what="the gateway does not answer"
    )
    life.portal.send(later)
    life.delivered.append(later)
    life.machine.wait_for(
        lambda: life.machine.rest("storage", "/tools/lookup", method="POST", body=later.uid),
        limit=60,
        what="ORTHANC1 does not forward",
    )
    assert life.state() == before


def said_to_do(said: str) -> list[str]:
    """The commands in what apt printed."""
    lines = said.partition("go back")[2].splitlines()
    return [line.removeprefix("ddwd:   ") for line in lines if line.startswith("ddwd:   ")]


def test_the_way_back_that_the_downgrade_said_works_and_nothing_is_lost(life: Life) -> None:
    commands = said_to_do(life.said)
    assert commands == [
        "systemctl stop ddwd-extractor && mv /var/lib/ddwd/state /var/lib/ddwd/state-newer",
        "mv /var/lib/ddwd/state-newer/before-0.2.0 /var/lib/ddwd/state",
        "systemctl restart ddwd",
    ]
    for command in commands:
        life.machine.run(command)
    life.portal.wait_active()
    life.assert_all_is_there_once()
    life.machine.run(f"rm -r {STATE}-newer")


def test_forward_again_it_takes_all_of_it_along(life: Life, tmp_path: Path) -> None:
    assert "ddwd: self test passed" in life.apt(life.portal.deb)
    life.portal.wait_active()
    last = made_up_ct(tmp_path, 5, seed=6104, patient_id="Upgrade/6104", size=64)
    life.portal.deliver(last)
    life.delivered.append(last)
    life.assert_all_is_there_once()


def test_the_way_back_that_the_upgrade_said_works_too(life: Life) -> None:
    commands = said_to_do(life.said)
    assert commands == [
        "systemctl stop ddwd-extractor && mv /var/lib/ddwd/state /var/lib/ddwd/state-newer",
        "mv /var/lib/ddwd/state-newer/before-0.2.0 /var/lib/ddwd/state",
        "apt install --allow-downgrades ./ddwd_0.1.0_all.deb",
    ]
    for command in commands:
        life.machine.run(
            f"cd {INBOX} && {command.replace('install', 'install -y')} 2>&1",
            timeout=300,
        )
    life.portal.wait_active()
    life.assert_all_is_there_once()


def test_settings_that_do_not_hold_for_the_new_version_are_told_and_reception_goes_on(
    life: Life, tmp_path: Path
) -> None:
    life.machine.run(f"echo 'stabel_age: 3' >> {SETTINGS}")
    said = life.apt(life.portal.deb)
    assert "stabel_age" in said
    assert "ddwd: WARNING: these settings do not hold for the new version, and nothing was restarted" in said
    life.portal.send(made_up_ct(tmp_path, 3, seed=6105, patient_id="Upgrade/6105", size=64))
