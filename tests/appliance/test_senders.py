"""Only those in `senders` may send; who is refused hears so by DICOM, nothing of theirs is stored, and the audit tells of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import SETTINGS, Portal, installed
from tests.machine.network import MACHINE_ADDRESS, MODALITY_ADDRESS
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

REJECTED = "Calling AE Title Not Recognized"


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A machine whose list of senders is changed again and again."""
    with installed(deb) as fresh:
        yield fresh


def _set(portal: Portal, *senders: str) -> None:
    """Run the portal with this list."""
    if portal.configure(f"senders: {json.dumps(senders)}\n"):
        portal.machine.wait_for(
            lambda: _doctor(portal, "C-ECHO"), limit=60, what="the DICOM ports do not answer"
        )


def _doctor(portal: Portal, part: str) -> bool:
    """Whether that part is well, as the doctor says."""
    return part in json.loads(portal.machine.run("ddwd doctor --json", check=False).stdout)["fine"]


def _send(portal: Portal, folder: Path, aet: str, aec: str = "ORTHANC1", port: int = 4242) -> str:
    """What storescu says."""
    words = portal.modality.storescu_argv(folder, aec=aec, port=port, options=["-aet", aet])
    return portal.modality.run(words, check=False).stdout


def _told(portal: Portal, *words: str) -> bool:
    """Whether the audit has a refusal with all these words."""
    said = portal.machine.run(
        "journalctl -t ddwd-audit DDWD_EVENT=association-refused -o cat --no-pager", check=False
    )
    return any(all(word in line for word in words) for line in said.stdout.splitlines())


def _wait_told(portal: Portal, *words: str) -> None:
    portal.machine.wait_for(lambda: _told(portal, *words), limit=30, what=f"the audit does not tell {words}")


def _is_stored(portal: Portal, uid: str) -> bool:
    query = {"Level": "Study", "Query": {"StudyInstanceUID": uid}}
    return bool(portal.machine.rest("gateway", "/tools/find", method="POST", body=query))


def test_a_known_image_with_other_content_of_a_stranger_is_not_acknowledged(
    own: Portal, tmp_path: Path
) -> None:
    _set(own, "CT1 from 10.99.0.2")
    study = made_up_ct(tmp_path / "ct", 2, seed=320, size=16)
    assert _send(own, tmp_path / "ct", "CT1").count("(Success)") == 2
    own.wait_complete(study)
    assert "(Success)" not in _send(own, tmp_path / "ct", "STRANGER")


@pytest.mark.parametrize(
    ("senders", "stranger", "answer", "seed"),
    [
        (("CT1 from 10.99.0.2",), "CT2", REJECTED, 301),
        (("CT1 from 10.99.0.2", "CT3 from 10.99.0.3"), "CT3", REJECTED, 302),
        (("CT1 from 10.99.0.0/24", "CT3 from 10.98.0.0/16"), "CT2", REJECTED, 303),
        (("CT1 from 10.99.0.0/24", "CT3 from 10.98.0.0/16"), "CT3", REJECTED, 304),
        (("CT? from 10.99.0.0/24", "* from 10.98.0.0/16"), "MR1", REJECTED, 305),
        (("* from 10.98.0.0/16", "C*1"), "CT10", REJECTED, 306),
    ],
)
def test_the_pair_of_title_and_address_decides(
    own: Portal, tmp_path: Path, senders: tuple[str, ...], stranger: str, answer: str, seed: int
) -> None:
    _set(own, *senders)
    theirs = made_up_ct(tmp_path / "theirs", 2, seed=seed + 100, size=16)
    said = _send(own, tmp_path / "theirs", stranger)
    assert answer in said
    assert "(Success)" not in said
    ours = made_up_ct(tmp_path / "ours", 3, seed=seed, size=16)
    assert _send(own, tmp_path / "ours", "CT1").count("Received Store Response (Success)") == 3
    own.wait_complete(ours)
    own.assert_equal([ours])
    assert not _is_stored(own, theirs.uid)
    _wait_told(own, stranger, MODALITY_ADDRESS)


def test_the_portals_own_study_and_ddwd_send_are_let_in(own: Portal, tmp_path: Path) -> None:
    _set(own, "CT1 from 10.98.0.7")
    own.machine.run("ddwd doctor --send")
    study = made_up_ct(tmp_path / "ct", 2, seed=321, size=16)
    own.machine.copy_in(tmp_path / "ct", "/root/to-send")
    own.machine.run("ddwd send /root/to-send")
    own.wait_complete(study)
    assert _doctor(own, "senders")


@pytest.mark.parametrize("senders", [(), ("CT1 from 10.99.0.0/24",)])
def test_storage_answers_the_extractor_of_this_machine_alone(
    own: Portal, tmp_path: Path, senders: tuple[str, ...]
) -> None:
    _set(own, *senders)
    made_up_ct(tmp_path / "ct", 1, seed=322, size=16)
    for aet in ("CT1", "PYTHON_SCP", "DDWD_EXTRACTOR", "ORTHANC1"):
        assert "Connection refused" in _send(own, tmp_path / "ct", aet, "ORTHANC2", 4243)
    find = ["findscu", "-aet", "DDWD_EXTRACTOR", "-aec", "ORTHANC2", "-S", "-k", "0008,0052=STUDY", MACHINE_ADDRESS, "4243"]  # fmt: skip
    assert own.modality.run(find, check=False).returncode != 0
    for aet in ("CT1", "ORTHANC1"):
        refused = own.machine.run(f"echoscu -aet {aet} -aec ORTHANC2 127.0.0.1 4243", check=False)
        assert REJECTED in refused.stdout + refused.stderr
        _wait_told(own, aet, "127.0.0.1")
    inside = own.machine.run(
        "findscu -aet DDWD_EXTRACTOR -aec ORTHANC2 -S -k 0008,0052=STUDY -k 0010,0010 127.0.0.1 4243",
        check=False,
    )
    assert "Peer aborted Association" in inside.stdout + inside.stderr
    echoed = own.machine.run("echoscu -aet PYTHON_SCP -aec ORTHANC2 127.0.0.1 4243", check=False)
    assert "Peer aborted Association" in echoed.stdout + echoed.stderr


@pytest.mark.parametrize(
    ("port", "aet", "calling"),
    [
        (4242, "ORTHANC1", "DDWD_SELFTEST"),
        (4243, "ORTHANC2", "DDWD_EXTRACTOR"),
        (11112, "PYTHON_SCP", "ORTHANC2"),
    ],
)
def test_who_calls_another_name_is_refused_and_told(own: Portal, port: int, aet: str, calling: str) -> None:
    own.machine.run("systemctl restart ddwd-monitor ddwd-scp")  # ten a minute are told: begin a new minute
    own.machine.run(f"echoscu -aet {calling} -aec {aet} 127.0.0.1 {port}")
    wrong = f"NOT_{port}"
    done = own.machine.run(f"echoscu -aet {calling} -aec {wrong} 127.0.0.1 {port}", check=False)
    assert "Called AE Title Not Recognized" in done.stdout + done.stderr
    _wait_told(own, wrong)


def test_a_receiver_that_listens_everywhere_still_speaks_to_this_machine_alone(own: Portal) -> None:
    own.machine.run("mkdir -p /run/systemd/system/ddwd-scp.service.d")
    own.machine.run(
        "printf '[Service]\\nIPAddressDeny=\\nIPAddressAllow=any\\n' > /run/systemd/system/ddwd-scp.service.d/open.conf"
    )
    path = own.machine.path(SETTINGS)
    path.write_text("scp:\n  host: 0.0.0.0\nnetwork:\n  firewall: false\n", encoding="utf-8")
    own.machine.run("systemctl daemon-reload; systemctl restart ddwd")
    own.wait_active()
    assert not own.modality.echoscu("PYTHON_SCP", 11112, check=False)
    _wait_told(own, "PYTHON_SCP", MODALITY_ADDRESS, "not this machine")
    own.machine.wait_for(lambda: _doctor(own, "hops"), limit=60, what="the hops are not well")
    own.machine.run("ddwd doctor --send")
    beat = json.loads(own.machine.run("cat /run/ddwd/scp/status.json", check=False).stdout or "{}")
    assert beat["strangers"] >= 1
    own.machine.run("rm -r /run/systemd/system/ddwd-scp.service.d/open.conf; systemctl daemon-reload")
