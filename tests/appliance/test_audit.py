"""DICOM audit messages in the booted machine: a real rsyslog gets them by UDP and by TLS, and none is lost while it is away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from lxml import etree

from tests.appliance.conftest import Portal, installed
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

RECEIVED = "/var/log/audit-repository"
RSYSLOG = f"""
global(workDirectory="/var/lib/rsyslog-test" maxMessageSize="64k" defaultNetstreamDriver="ossl"
  defaultNetstreamDriverCAFile="/etc/repo/c.pem" defaultNetstreamDriverCertFile="/etc/repo/c.pem"
  defaultNetstreamDriverKeyFile="/etc/repo/k.pem")
module(load="imudp")
module(load="imtcp" streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="anon")
template(name="raw" type="string" string="%rawmsg%\\n")
ruleset(name="keep") {{ action(type="omfile" file="{RECEIVED}" template="raw") }}
input(type="imudp" address="127.0.0.1" port="5514" ruleset="keep")
input(type="imtcp" address="127.0.0.1" port="6514" ruleset="keep" supportOctetCountedFraming="on")
"""
START = "systemd-run --unit=repository rsyslogd -n -f /etc/repo/rsyslog.conf -i /run/repository.pid"


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A machine with a repository of its own."""
    with installed(deb) as fresh:
        machine = fresh.machine
        machine.run("mkdir -p /etc/repo /var/lib/rsyslog-test")
        machine.path("/etc/repo/rsyslog.conf").write_text(RSYSLOG, encoding="utf-8")
        machine.run(
            "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
            " -keyout /etc/repo/k.pem -out /etc/repo/c.pem 2>/dev/null; chmod 644 /etc/repo/*"
        )
        machine.run(START)
        yield fresh


def _messages(portal: Portal) -> list[etree._Element]:
    lines = portal.machine.run(f"cat {RECEIVED}", check=False).stdout.splitlines()
    return [etree.fromstring(line[line.index("<?xml") :].encode()) for line in lines if "<?xml" in line]


def _told(portal: Portal, uid: str) -> set[str]:
    """EventID of each message about a study."""
    return {
        message.find("EventIdentification/EventID").get("originalText")
        for message in _messages(portal)
        if any(
            one.get("ParticipantObjectID") == uid for one in message.iter("ParticipantObjectIdentification")
        )
    }


LIFE = {"Begin Transferring DICOM Instances", "DICOM Instances Transferred"}


@pytest.mark.parametrize(
    ("transport", "host", "port", "ca", "seed"),
    [("udp", "127.0.0.1", 5514, "", 97), ("tls", "localhost", 6514, "  ca: /etc/repo/c.pem\n", 98)],
)
def test_a_study_is_told_to_a_real_rsyslog(
    own: Portal, tmp_path: Path, transport: str, host: str, port: int, ca: str, seed: int
) -> None:
    settings = f"audit:\n  host: {host}\n  port: {port}\n  transport: {transport}\n{ca}"
    own.configure(settings)
    own.wait_active()
    study = made_up_ct(tmp_path / "ct", 3, seed=seed, size=32, patient_id="SECRET-4711")
    own.deliver(study)
    own.machine.wait_for(
        lambda: _told(own, study.uid) >= LIFE,
        limit=60,
        every=1,
        what="the repository is not told of the study",
    )
    assert "SECRET-4711" not in own.machine.run(f"cat {RECEIVED}").stdout


FORGED = """MESSAGE=forged
MESSAGE_ID=9a6f0f1c4f0b4c5c8d2e6b7a10d40007
SYSLOG_IDENTIFIER=ddwd-audit
PRIORITY=5
DDWD_EVENT={event}
DDWD_STUDY_UID={uid}
DDWD_ACCESSION=FORGED
_UID=0
_TRANSPORT=journal
_SYSTEMD_UNIT=ddwd-extractor.service
"""


def test_what_a_local_user_forges_is_in_no_view_in_no_bundle_and_not_at_the_repository(
    own: Portal, tmp_path: Path
) -> None:
    """`nobody` writes records of the trail by journald's own protocol, as the portal does, and by syslog."""
    study, after = (made_up_ct(tmp_path / str(seed), 3, seed=seed, size=32) for seed in (95, 96))
    own.deliver(study)
    for event in ("published", "retired", "image-refused"):
        own.machine.path("/root/forged").write_text(
            FORGED.format(event=event, uid=study.uid), encoding="utf-8"
        )
        own.machine.run("runuser -u nobody -- logger --journald </root/forged")
    own.machine.run("runuser -u nobody -- logger -t ddwd-audit forged by syslog")
    own.machine.run("journalctl --sync")
    assert own.machine.run("journalctl -t ddwd-audit -o cat").stdout.count("forged") == 4
    own.deliver(after)
    own.machine.wait_for(
        lambda: _told(own, after.uid) >= LIFE, limit=60, every=1, what="what follows is not told"
    )
    said = b"".join(etree.tostring(message) for message in _messages(own))
    assert b"ACC95" in said
    assert b"FORGED" not in said
    assert "forged" not in own.machine.run(f"ddwd trace {study.uid}").stdout
    own.machine.run("cd /root && ddwd support-bundle --output forged.tar.gz && tar -xzf forged.tar.gz")
    trail = own.machine.run("cat /root/ddwd-support-*/journal/audit.log").stdout
    assert study.uid in trail
    assert "forged" not in trail


def test_what_happens_while_the_repository_is_away_is_told_when_it_is_back(
    own: Portal, tmp_path: Path
) -> None:
    own.machine.run("systemctl stop repository")
    study = made_up_ct(tmp_path / "ct", 3, seed=99, size=32)
    own.deliver(study)
    own.machine.wait_for(
        lambda: own.machine.run("ls /var/lib/ddwd/monitor/audit").stdout.count(".xml") >= 4,
        limit=60,
        every=1,
        what="nothing is queued",
    )
    own.machine.run("systemctl restart ddwd-monitor")
    own.machine.run(START)
    own.machine.wait_for(
        lambda: _told(own, study.uid) >= LIFE, limit=120, every=1, what="what was queued did not come"
    )
    own.machine.wait_for(
        lambda: ".xml" not in own.machine.run("ls /var/lib/ddwd/monitor/audit").stdout,
        limit=60,
        every=1,
        what="the queue does not become empty",
    )
