"""Every command of README.md and docs/, from `apt install` to the last `dropdb`, in its order, on a machine of its own.

A command in a ```console block is tested because it stands there (tests/readme.py tells the order); what is in capitals is filled in
below. Commands with `#` run as root, those with `$` as a member of group ddwd who is not root.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests import readme
from tests.appliance.conftest import SETTINGS, UNITS, Portal
from tests.machine import Machine
from tests.machine.machine import INBOX
from tests.machine.network import MACHINE_ADDRESS
from tests.studies import Study, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.readme import Command

OPERATOR = "colleague"
FOLDER = f"{INBOX}/to-send"
FILLED_IN: dict[str, Callable[[Portal, Study], str]] = {
    "HOST": lambda _own, _study: MACHINE_ADDRESS,
    "FOLDER": lambda _own, _study: FOLDER,
    "FILE": lambda _own, study: f"{FOLDER}/{study.paths[0].name}",
    "NAME": lambda _own, _study: OPERATOR,
    "STUDY": lambda _own, study: study.uid,
    "ID": lambda own, _study: str(_quarantined(own)[0]["id"]),
}
"""Word in capitals -> what stands in its place."""
LIST_DATABASES = "runuser -u postgres -- psql -A -t -c 'SELECT datname FROM pg_database'"
LIST_ROLES = "runuser -u postgres -- psql -A -t -c 'SELECT rolname FROM pg_roles'"
COMMANDS = readme.to_run()


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A fresh machine without the portal, with the package and a study beside it; apt answers its questions itself."""
    with Machine() as machine:
        machine.copy_in(deb, f"{INBOX}/{deb.name}")
        assume_yes = machine.path("/etc/apt/apt.conf.d/90assume-yes")
        assume_yes.write_text('APT::Get::Assume-Yes "true";\n', encoding="utf-8")
        machine.run(["useradd", "--create-home", OPERATOR])
        yield Portal(machine, deb)


@pytest.fixture(scope="module")
def study(own: Portal, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study that lies in the machine, to be sent by the commands of the pages."""
    folder = tmp_path_factory.mktemp("readme") / "ct"
    made = made_up_ct(folder, 4, seed=60, patient_id="4711", size=64)
    own.machine.copy_in(folder, FOLDER)
    return made


def _filled_in(text: str, own: Portal, study: Study) -> str:
    return re.sub(rf"\b({'|'.join(FILLED_IN)})\b", lambda found: FILLED_IN[found[0]](own, study), text)


def _quarantined(own: Portal) -> list[dict[str, object]]:
    listed = json.loads(own.machine.run("ddwd quarantine list --json").stdout)
    found: list[dict[str, object]] = listed["entries"]
    return found


@pytest.mark.parametrize(
    "command",
    COMMANDS,
    ids=[
        f"{number:03} {one.page.removeprefix('docs/')} {one.text}" for number, one in enumerate(COMMANDS, 1)
    ],
)
def test_each_command_does_what_its_page_says(own: Portal, study: Study, command: Command) -> None:
    if own.machine.is_active("ddwd"):
        _settle(own)
    for beginning, prepare in BEFORE.items():
        if command.text.startswith(beginning):
            prepare(own, study)
    line = f"cd {INBOX} && {_filled_in(command.text, own, study)}"
    said = own.machine.run(line, user="root" if command.as_root else OPERATOR, timeout=240).stdout
    for beginning, holds in AFTER.items():
        if command.text.startswith(beginning):
            holds(own, study, said)


# --- what must be so before a command --------------------------------------------------------------------------------


def _as_a_new_machine(own: Portal, _study: Study) -> None:
    """Nothing received, nothing in the databases, the passwords of another install: the portal runs all the same."""
    own.machine.run(["systemctl", "stop", "ddwd"])
    own.machine.run("find /var/lib/ddwd -mindepth 2 -delete && rm /etc/ddwd/credentials.json")
    for name in ("ddwd_gateway", "ddwd_storage"):
        own.machine.run(f"runuser -u postgres -- dropdb {name}")
    own.machine.run(["systemctl", "start", "ddwd"])
    _settle(own)


def _takes_tls(own: Portal, _study: Study) -> None:
    """A second port for DICOM by TLS, as docs/modalities.md has it before that command."""
    own.machine.run(f"sed -i 's/^  gateway: off$/  gateway: both/' {SETTINGS} && systemctl restart ddwd")
    _settle(own)
    own.machine.wait_for(
        lambda: ":2762" in own.machine.run(["ss", "-ltnH"]).stdout, limit=20, what="nobody takes TLS"
    )


def _has_a_record_of_now(own: Portal, study: Study) -> None:
    """Have one file of the study fetched again, which the audit records: restarts before this page fill the last records with others."""
    records = f"journalctl -q -t ddwd-audit DDWD_EVENT=late-image DDWD_STUDY_UID={study.uid} | wc -l"
    before = own.machine.run(records).stdout
    own.machine.run(
        f"find /var/lib/ddwd/received_dicom -name {study.instances[0].sop_uid}.dcm -delete && ddwd retry {study.uid}"
    )
    own.wait_complete(study)
    own.machine.wait_for(
        lambda: own.machine.run(records).stdout != before, limit=20, what="no record of the fetched file"
    )


def _has_another_patient(own: Portal, study: Study) -> None:
    """Send another study, and once more with a corrected PatientID."""
    for patient_id in ("4712", "4713"):
        folder = study.paths[0].parent.parent / patient_id
        own.send(made_up_ct(folder, 1, seed=61, patient_id=patient_id, size=64))
    own.machine.wait_for(lambda: _quarantined(own), limit=60, what="nobody is asked to decide")


BEFORE: dict[str, Callable[[Portal, Study], None]] = {
    "ddwd quarantine release ID": _has_another_patient,
    "ddwd restore --dry-run": _as_a_new_machine,
    "storescu +tls": _takes_tls,
    "journalctl -t ddwd-audit -o verbose": _has_a_record_of_now,
}
"""Beginning of a command -> what the machine is brought to first."""


# --- what must be so after a command ---------------------------------------------------------------------------------


def _settle(own: Portal) -> None:
    """Wait until all units are active and ORTHANC1 listens, which comes a little later."""
    own.wait_active()
    own.machine.wait_for(
        lambda: own.modality.echoscu(check=False), limit=60, what="ORTHANC1 does not answer C-ECHO"
    )


def _is_sent_from_the_drop_folder(own: Portal, _study: Study, _said: str) -> None:
    own.machine.wait_for(
        lambda: own.machine.run("ls /var/lib/ddwd/inbox/sent/*", check=False).stdout == "to-send\n",
        limit=60,
        what="what was put into the drop folder was not sent",
    )


def _runs(own: Portal, _study: Study, _said: str) -> None:
    _settle(own)


def _is_stopped(own: Portal, _study: Study, _said: str) -> None:
    assert [unit for unit in UNITS if own.machine.is_active(unit)] == []


def _is_delivered(own: Portal, study: Study, _said: str) -> None:
    own.wait_complete(study)
    own.assert_equal([study])


def _works(own: Portal, study: Study, _said: str) -> None:
    _settle(own)
    own.deliver(study)


def _came_back(own: Portal, study: Study, _said: str) -> None:
    _settle(own)
    own.assert_equal([study])


def _is_there(own: Portal, study: Study, _said: str) -> None:
    own.assert_equal([study])


def _names_each_image(_own: Portal, study: Study, said: str) -> None:
    assert sorted(line.split("/")[-1] for line in said.splitlines()) == sorted(
        f"{instance.sop_uid}.dcm" for instance in study.instances
    )


def _tells_of_its_publication(_own: Portal, _study: Study, said: str) -> None:
    assert "images published" in said


def _names_who_wrote(_own: Portal, _study: Study, said: str) -> None:
    assert re.search(r"^ +_UID=[0-9]+$", said, re.MULTILINE)


def _names_the_study(_own: Portal, study: Study, said: str) -> None:
    assert f"DDWD_STUDY_UID={study.uid}" in said


def _agrees(_own: Portal, _study: Study, said: str) -> None:
    assert "all agree" in said


def _is_empty(_own: Portal, _study: Study, said: str) -> None:
    assert said == "0 in quarantine\n"


def _is_decided(own: Portal, _study: Study, _said: str) -> None:
    own.machine.wait_for(lambda: not _quarantined(own), limit=60, what="the decision was not recorded")


def _is_asked(own: Portal, study: Study, said: str) -> None:
    assert "the extractor is asked" in said
    own.machine.wait_for(
        lambda: own.machine.run("ls /var/lib/ddwd/state/requests").stdout == "",
        limit=20,
        what="the extractor did not take the request",
    )
    own.assert_equal([study])
    # until then other commands say that the study is on its way, and end with status 1
    own.machine.wait_for(
        lambda: own.machine.run(["ddwd", "trace", study.uid], check=False).returncode == 0,
        limit=60,
        what="the study that was retried is not published again",
    )


def _no_image_is_left(own: Portal, _study: Study, _said: str) -> None:
    assert own.machine.run("find /var/lib/ddwd -type f").stdout == ""


def _data_is_kept(own: Portal, study: Study, said: str) -> None:
    _is_stopped(own, study, said)
    own.assert_equal([study])
    assert {"ddwd_gateway", "ddwd_storage"} <= set(own.machine.run(LIST_DATABASES).stdout.split())


def _nothing_is_left(own: Portal, _study: Study, _said: str) -> None:
    assert not own.machine.path("/var/lib/ddwd").exists()
    assert not own.machine.path("/etc/ddwd").exists()
    assert "ddwd" not in own.machine.run(LIST_DATABASES).stdout
    assert "ddwd" not in own.machine.run(LIST_ROLES).stdout


def _is_plain_again(own: Portal, study: Study, _said: str) -> None:
    own.machine.run(f"sed -i 's/^  gateway: both$/  gateway: off/' {SETTINGS} && systemctl restart ddwd")
    _works(own, study, "")


def _names_what_was_received(_own: Portal, study: Study, said: str) -> None:
    assert f"DDWD_STUDY_UID={study.uid}" in said


AFTER: dict[str, Callable[[Portal, Study, str], None]] = {
    "apt install": _runs,
    "dcmsend": _is_delivered,
    "storescu": _is_delivered,
    "storescu +tls": _is_plain_again,
    "TCP_NODELAY=1 dcmsend": _is_delivered,
    "journalctl -t ddwd-audit DDWD_EVENT=received": _names_what_was_received,
    "ddwd send": _is_delivered,
    "runuser -u ddwd-inbox -- cp -r": _is_sent_from_the_drop_folder,
    "ddwd config check && systemctl restart ddwd": _runs,
    "journalctl -t ddwd-audit DDWD_STUDY_UID=": _tells_of_its_publication,
    "journalctl -t ddwd-audit -o verbose --output-fields=MESSAGE,DDWD_EVENT,DDWD_STUDY_UID": _names_the_study,
    "journalctl -t ddwd-audit -o verbose --output-fields=MESSAGE,DDWD_EVENT,_UID": _names_who_wrote,
    "find /var/lib/ddwd/received_dicom": _names_each_image,
    "ddwd reconcile --dry-run": _agrees,
    "ddwd quarantine list": _is_empty,
    "ddwd quarantine release ID": _is_decided,
    "ddwd retry STUDY": _is_asked,
    "ddwd restore --key": _came_back,
    "ddwd retry --gone": _is_there,
    "systemctl stop ddwd": _is_stopped,
    "systemctl start ddwd": _works,
    "find /var/lib/ddwd -mindepth 2 -delete": _no_image_is_left,
    "apt remove": _data_is_kept,
    "apt purge": _data_is_kept,
    "runuser -u postgres -- dropuser --if-exists ddwd-storage": _nothing_is_left,
}
"""Beginning of a command -> what is asserted once it has run."""


def test_every_assertion_above_belongs_to_a_command() -> None:
    texts = [command.text for command in COMMANDS]
    assert [one for one in (*BEFORE, *AFTER) if not any(text.startswith(one) for text in texts)] == []


# --- troubleshooting: the fault is there, and the command shows it ---------------------------------------------------


@pytest.fixture
def taken_port(portal: Portal) -> Iterator[None]:
    """The shared machine's portal stopped, and another program on its DICOM port, for the time of one test."""
    portal.machine.run(["systemctl", "stop", "ddwd"])
    # in a slice of its own, where no port is reserved, it stands for one that was there before the portal
    before = ["systemd-run", "--quiet", "--collect", "--slice=before", "--unit=squatter"]
    portal.machine.run([*before, "python3", "-m", "http.server", "4242"])
    portal.machine.wait_for(
        lambda: "4242" in portal.machine.run(["ss", "-ltnH"]).stdout, limit=20, what="no program on 4242"
    )
    yield
    portal.machine.run(["systemctl", "stop", "squatter"])
    portal.machine.run(["systemctl", "reset-failed"])
    portal.machine.run(["systemctl", "start", "ddwd"])
    portal.wait_active()


@pytest.mark.usefixtures("taken_port")
def test_a_taken_port_is_shown_by_the_commands_of_the_readme(portal: Portal) -> None:
    assert portal.machine.run(["systemctl", "start", "ddwd"], check=False).returncode != 0
    status = portal.machine.run(["systemctl", "status", "--no-pager", "-l", "ddwd"], check=False)
    checked = portal.machine.run(["ddwd", "config", "check"], check=False)
    assert "port 4242 is taken" in status.stdout
    assert "port 4242 is taken by python3" in checked.stderr
    assert re.search(r":4242\b.*python3", portal.machine.run(["ss", "-ltnp"]).stdout)
