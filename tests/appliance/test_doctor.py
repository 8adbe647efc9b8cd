"""`ddwd doctor` in a booted machine: sound on a sound one, each planted fault named; the self test leaves nothing behind."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.appliance.conftest import Portal, installed
from tests.problems import every

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OPERATOR = "examiner"


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A machine of its own: it is spoiled again and again."""
    with installed(deb) as fresh:
        fresh.add_operator(OPERATOR)
        yield fresh


def _examined(portal: Portal, user: str = "root") -> tuple[int, list[dict[str, Any]]]:
    done = portal.machine.run("ddwd doctor --json", user=user, check=False)
    return done.returncode, list(every(json.loads(done.stdout)))


def _broken(portal: Portal) -> str:
    """What is broken; the exit status says the same. A fault just planted is seen with the extractor's next turn."""
    status, findings = _examined(portal)
    bad = [one for one in findings if one["severity"] == "broken"]
    assert status == bool(bad)
    assert all(one["remedy"] for one in bad)
    return "\n".join(f"{one['part']}: {one['cause']}" for one in bad)


@pytest.mark.parametrize("user", ["root", OPERATOR])
def test_a_sound_machine_is_called_sound(own: Portal, user: str) -> None:
    status, findings = _examined(own, user)
    assert [one for one in findings if one["severity"] == "broken"] == []
    assert status == 0
    text = own.machine.run("ddwd doctor", user=user).stdout
    assert "broken" not in text.splitlines()[-1]
    assert max(map(len, text.splitlines())) <= 80


@contextmanager
def _spoiled(portal: Portal, spoil: str, heal: str) -> Iterator[None]:
    portal.machine.run(spoil)
    try:
        yield
    finally:
        portal.machine.run(heal)


FAULTS = {
    "storage stopped": (
        "systemctl stop ddwd-storage",
        "systemctl start ddwd-storage",
        "units: ddwd-storage is inactive",
    ),
    "receiver stopped": (
        "systemctl stop ddwd-scp",
        "systemctl start ddwd-scp",
        "C-ECHO: PYTHON_SCP does not answer",
    ),
    "extractor stopped": (
        "systemctl stop ddwd-extractor",
        "systemctl start ddwd-extractor",
        "units: ddwd-extractor is inactive",
    ),
    "database stopped": (
        "systemctl stop postgresql@*-main postgresql",
        "systemctl start postgresql; systemctl restart ddwd",
        "PostgreSQL: PostgreSQL does not answer on",
    ),
    "an Orthanc that would overwrite": (
        'sed -i.was \'s/"OverwriteInstances": false/"OverwriteInstances": true/\' /run/ddwd/orthanc/gateway/*.json',
        "cd /run/ddwd/orthanc/gateway && for f in *.was; do mv $f ${f%.was}; done",
        "configuration: gateway runs with a value of OverwriteInstances",
    ),
    "an addition that loses images": (
        "echo '{\"MaximumPatientCount\": 5}' > /etc/ddwd/orthanc/storage.d/bad.json",
        "rm /etc/ddwd/orthanc/storage.d/bad.json",
        "MaximumPatientCount",
    ),
    "the output open to all": (
        "chmod 755 /var/lib/ddwd/received_dicom",
        "chmod 750 /var/lib/ddwd/received_dicom",
        "permissions: /var/lib/ddwd/received_dicom is open to every user",
    ),
    "the passwords open to all": (
        "chmod 644 /etc/ddwd/credentials.json",
        "chmod 640 /etc/ddwd/credentials.json",
        "permissions: /etc/ddwd/credentials.json is open",
    ),
    "the quarantine another's": (
        "chown root /var/lib/ddwd/quarantine",
        "chown ddwd /var/lib/ddwd/quarantine",
        "permissions: /var/lib/ddwd/quarantine does not belong to ddwd",
    ),
    "a full disk": (
        (
            "mount -t tmpfs -o size=2m,uid=$(id -u ddwd),gid=$(id -g ddwd),mode=750 none /var/lib/ddwd/quarantine"
            " && head -c 1980k /dev/zero > /var/lib/ddwd/quarantine/fill; sleep 2"
        ),
        "umount /var/lib/ddwd/quarantine",
        "disk: /var/lib/ddwd/quarantine: only",
    ),
    "a failed self test": (
        'echo \'{"ok": false, "text": "nothing came", "at": "2026-01-02T03:04:05.000Z"}\' > /run/ddwd/doctor/last.json',
        "rm /run/ddwd/doctor/last.json",
        "self test: the last self test failed: nothing came",
    ),
    "an expired certificate": (
        (
            "openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=ddwd -keyout /etc/ddwd/k.pem -out /etc/ddwd/c.pem"
            " -not_before 20200101000000Z -not_after 20200201000000Z 2>/dev/null;"
            ' echo \'{"HttpsCACertificates": "/etc/ddwd/c.pem"}\' > /etc/ddwd/orthanc/gateway.d/tls.json'
        ),
        "rm /etc/ddwd/orthanc/gateway.d/tls.json /etc/ddwd/*.pem",
        "certificates: /etc/ddwd/c.pem has expired",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_planted_fault_is_named_with_what_to_do(own: Portal, fault: str) -> None:
    spoil, heal, words = FAULTS[fault]
    with _spoiled(own, spoil, heal):
        own.machine.wait_for(
            lambda: words in _broken(own), limit=30, every=1, what=f"the doctor does not name: {fault}"
        )
    own.wait_active()
    own.machine.wait_for(
        lambda: _examined(own)[0] == 0, limit=60, every=1, what="it does not become sound again"
    )


def _left(portal: Portal) -> str:
    """Everything of a self test that still lies somewhere."""
    script = (
        "cd /var/lib/ddwd; find received_dicom state/custody quarantine -type f; ls received_dicom;"
        ' P=$(python3 -c \'import json;print(json.load(open("/etc/ddwd/credentials.json"))["gateway"]["ddwd"])\');'
        ' curl -s -u "ddwd:$P" http://127.0.0.1:8042/studies;'
        ' P=$(python3 -c \'import json;print(json.load(open("/etc/ddwd/credentials.json"))["storage"]["ddwd"])\');'
        ' curl -s -u "ddwd:$P" http://127.0.0.1:8043/studies'
    )
    return portal.machine.run(script).stdout.replace("[]", "").strip()


@pytest.mark.parametrize("how", ["ddwd doctor --send", "systemctl start ddwd-doctor.service"])
def test_the_self_test_passes_and_leaves_nothing_behind(own: Portal, how: str) -> None:
    own.machine.run(how)
    last = json.loads(own.machine.run("cat /run/ddwd/doctor/last.json").stdout)
    assert last["ok"], last
    assert set(last["seconds"]) == {"gateway", "storage", "disk"}
    own.machine.wait_for(
        lambda: _left(own) == "", limit=60, every=1, what="something of the self test is left"
    )
    assert "self test: 6 images" in own.machine.run("journalctl -t ddwd-audit --no-pager").stdout
    assert "self test ok" in own.machine.run("ddwd-top --once").stdout


def test_a_self_test_that_fails_says_so_and_is_tidied_up_by_the_next(own: Portal) -> None:
    own.machine.run("ddwd pause")
    failed = own.machine.run("timeout 20 ddwd doctor --send", check=False)
    assert failed.returncode != 0
    own.machine.run("ddwd resume")
    own.machine.wait_for(
        lambda: "DDWD-SELFTEST" in _left(own), limit=60, every=1, what="the study never came"
    )
    assert "passed" in own.machine.run("ddwd doctor --send").stdout
    own.machine.wait_for(
        lambda: _left(own) == "", limit=60, every=1, what="something of the self test is left"
    )


def test_the_hourly_self_test_is_there_and_can_be_turned_off(own: Portal) -> None:
    assert "ddwd-doctor.timer" in own.machine.run("systemctl list-timers --no-pager").stdout
    own.machine.run("printf 'self_test:\\n  hourly: false\\n' > /etc/ddwd/ddwd.yaml")
    own.machine.run("systemctl start ddwd-doctor.service")
    assert "hourly self test is off" in own.machine.run("journalctl -u ddwd-doctor --no-pager").stdout
