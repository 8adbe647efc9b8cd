"""No password and nothing of a patient is where somebody else could read it: looked for after deliveries that went well and badly."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

import pydicom
import pytest

from tests.machine.machine import INBOX
from tests.studies import Study, made_up_ct, read_studies

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.appliance.conftest import Portal

LOOK = '''
"""Names the places among those asked for (words of argv) in which one of the texts is that stdin gives as {name: text}."""
import json, os, pathlib, subprocess, sys

texts = {name: text.encode() for name, text in json.load(sys.stdin).items()}

def told(where, content):
    for name, text in texts.items():
        if text in content:
            print(f"{where}: {name}")

def read(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""

for kind, word in (argument.split("=", 1) for argument in sys.argv[1:]):
    if kind == "command":
        done = subprocess.run(word, shell=True, capture_output=True)
        told(word, done.stdout + done.stderr)
    elif kind == "processes":
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            if int(folder.name) != os.getpid():
                told(f"{folder.name} {read(folder / 'comm').decode().strip()} {word}", read(folder / word))
    else:
        for folder, _, files in os.walk(word):
            for path in (os.path.join(folder, name) for name in files):
                if os.path.isfile(path) and not os.path.islink(path):
                    told(path, read(path))
'''
ANYONE = (
    "files=/etc",
    "files=/run",
    "files=/var/lib/ddwd",
    "files=/var/log",
    "files=/tmp",
    "files=/var/tmp",
    "files=/dev/shm",
)
"""Read as a user in no group: what that one cannot open is not found."""
JOURNAL = "command=journalctl --all --output=export"
BUT_ACCESSION = f"{JOURNAL} | grep --text --invert-match '^DDWD_ACCESSION='"
"""The audit trail names a study by its accession number, in that field; nothing else does, and that field is nowhere else."""
PROCESSES = ("processes=cmdline", "processes=environ")
SHOWN = tuple(
    f"command={line}"
    for line in (
        "ddwd config check", "ddwd config show", "ddwd config show --json", "ddwd status", "ddwd status --json", "ddwd doctor",
        "ddwd doctor --json", "systemctl status --no-pager -l 'ddwd*'", "systemctl show 'ddwd*'", "systemctl cat 'ddwd*'",
    )
)  # fmt: skip
LOGS = ("files=/var/log/postgresql", "files=/var/log/orthanc")
STATUS_FILES = (
    "files=/run/ddwd/scp",
    "files=/run/ddwd/extractor",
    "files=/run/ddwd/monitor",
    "files=/run/ddwd/doctor",
)
SETTINGS = """
database:
  host: 127.0.0.1
  password: {database}
alerts:
  after: 0
  webhook: http://127.0.0.1:9/hook/{webhook}
mail:
  server: 127.0.0.1
  port: 9
  tls: none
  user: alerts
  password: {mail}
"""
PATIENT = {
    "PatientName": "QZNAMETOKEN^MADEUP",
    "PatientID": "QZPIDTOKEN",
    "AccessionNumber": "QZACCTOKEN",
    "PatientAddress": "QZSTREETTOKEN 1",
    "ReferringPhysicianName": "QZREFTOKEN^MADEUP",
}


def _look(portal: Portal, texts: Mapping[str, str], *places: str, user: str = "root") -> list[str]:
    script = portal.machine.path(f"{INBOX}/look.py")
    script.write_text(LOOK, encoding="utf-8")
    command = ["python3", f"{INBOX}/look.py", *places]
    return portal.machine.run(command, stdin=json.dumps(dict(texts)), user=user).stdout.splitlines()


# --- the looking itself -----------------------------------------------------------------------------------------------


def test_what_is_planted_is_found_in_every_kind_of_place(portal: Portal) -> None:
    text = f"planted-{secrets.token_hex(8)}"
    portal.machine.run(
        f"echo {text} | logger; echo {text} > /var/lib/ddwd/planted; echo {text} > /var/lib/ddwd/closed"
    )
    portal.machine.run("chmod 644 /var/lib/ddwd/planted; chmod 600 /var/lib/ddwd/closed")
    portal.machine.run(f"systemd-run --unit=planted --setenv=PLANTED={text} sleep 600")
    portal.machine.run(["systemd-run", "--unit=planted-too", "sh", "-c", f"sleep 600; : {text}"])
    portal.machine.run("journalctl --sync")
    found = _look(portal, {"it": text}, JOURNAL, *PROCESSES, "command=systemctl show planted")
    found += _look(portal, {"it": text}, *ANYONE, user="daemon")
    portal.machine.run("systemctl stop planted planted-too; rm /var/lib/ddwd/planted /var/lib/ddwd/closed")
    places = {" ".join(line.split()[1:]) if line[0].isdigit() else line for line in found}
    assert places == {
        f"{JOURNAL.partition('=')[2]}: it",
        "sleep environ: it",
        "sh cmdline: it",
        "systemctl show planted: it",
        "/var/lib/ddwd/planted: it",
        "/run/systemd/transient/planted.service: it",
        "/run/systemd/transient/planted-too.service: it",
    }


# --- passwords --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def passwords(portal: Portal) -> Iterator[dict[str, str]]:
    """Every password there can be, set and in use: PostgreSQL by TCP, mail and webhook to where nobody answers."""
    known = {name: f"{name}-{secrets.token_hex(12)}" for name in ("database", "webhook", "mail")}
    path = portal.machine.path("/etc/ddwd/ddwd.yaml")
    before = path.read_text(encoding="utf-8")
    sections = [f"\n{name}:\n" for name in ("database", "alerts", "mail")]
    assert all(section in before for section in sections)
    kept = "\n".join(
        block for block in _sections(before) if not block.startswith(("database:", "alerts:", "mail:"))
    )
    for role in ("ddwd-gateway", "ddwd-storage"):
        statement = f"ALTER ROLE \"{role}\" PASSWORD '{known['database']}'"
        portal.machine.run(["psql", "-q", "-d", "postgres"], user="postgres", stdin=statement)
    path.write_text(kept + SETTINGS.format(**known), encoding="utf-8")
    portal.machine.run(["ddwd", "tls", "init"])
    portal.machine.run(["systemctl", "restart", "ddwd"])
    portal.wait_active()
    credentials = json.loads(portal.machine.path("/etc/ddwd/credentials.json").read_text(encoding="utf-8"))
    known |= {f"{node} {user}": word for node, users in credentials.items() for user, word in users.items()}
    yield known | {"a private key": "PRIVATE KEY-----"}
    path.write_text(before, encoding="utf-8")
    portal.machine.run(["systemctl", "restart", "ddwd"])
    portal.wait_active()


def _sections(text: str) -> list[str]:
    """The blocks of ddwd.yaml, comments taken off."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    blocks: list[list[str]] = []
    for line in lines:
        if not line.startswith(" "):
            blocks.append([])
        blocks[-1].append(line)
    return ["\n".join(block) for block in blocks]


@pytest.fixture(scope="module")
def studies(
    portal: Portal, passwords: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> list[Study]:
    """Of a made-up patient whose words are known: delivered, delivered late, in conflict, and refused."""
    assert passwords
    folder = tmp_path_factory.mktemp("studies")
    good, late, again, refused = (_of_patient(folder / name, seed) for name, seed in _SEEDS.items())
    portal.deliver(good)
    portal.machine.run(["systemctl", "stop", "ddwd-storage"])
    portal.send(late)
    portal.machine.wait_for(
        lambda: any(job["State"] == "Failure" for job in portal.machine.rest("gateway", "/jobs?expand")),
        limit=60, what="no forwarding failed while the storage was stopped",
    )  # fmt: skip
    portal.machine.run(["systemctl", "start", "ddwd-storage"])
    portal.wait_complete(late, limit=120)
    for path in again.paths:
        image = pydicom.dcmread(path)
        image.PixelData = bytes(len(image.PixelData))
        image.save_as(path)
    portal.modality.dcmsend(*again.paths, check=False)
    portal.modality.run(portal.modality.dcmsend_argv(*refused.paths, aec="SOMEONE"), check=False)
    for path in refused.paths:
        path.write_bytes(path.read_bytes()[:-100])
    portal.modality.dcmsend(*refused.paths, check=False)
    portal.machine.run("journalctl --sync")
    return [good, late]


_SEEDS = {"good": 61, "late": 62, "again": 61, "refused": 63}


def _of_patient(folder: Path, seed: int) -> Study:
    for path in made_up_ct(folder, 3, seed=seed, size=32).paths:
        image = pydicom.dcmread(path)
        for keyword, value in PATIENT.items():
            setattr(image, keyword, value)
        image.save_as(path)
    (study,) = read_studies(sorted(folder.iterdir()))
    return study


@pytest.mark.usefixtures("studies")
def test_no_password_is_in_the_journal_or_in_any_process(portal: Portal, passwords: dict[str, str]) -> None:
    assert _look(portal, passwords, JOURNAL, *PROCESSES) == []


@pytest.mark.usefixtures("studies")
def test_no_password_is_shown_by_a_command(portal: Portal, passwords: dict[str, str]) -> None:
    assert _look(portal, passwords, *SHOWN) == []
    assert "(hidden)" in portal.machine.run("ddwd config show").stdout


@pytest.mark.usefixtures("studies")
@pytest.mark.parametrize("user", ["daemon", "postgres"])
def test_no_password_can_be_read_by_any_other_user(
    portal: Portal, passwords: dict[str, str], user: str
) -> None:
    assert _look(portal, passwords, *ANYONE, user=user) == []


@pytest.mark.usefixtures("studies")
@pytest.mark.parametrize(("user", "own"), [("ddwd-gateway", "gateway"), ("ddwd-storage", "storage")])
def test_an_orthanc_can_read_its_own_rendered_configuration_and_no_other_password(
    portal: Portal, passwords: dict[str, str], user: str, own: str
) -> None:
    found = _look(portal, passwords, *ANYONE, user=user)
    assert {line.partition(":")[0] for line in found} == {f"/run/ddwd/orthanc/{own}/00-ddwd.json"}


@pytest.mark.usefixtures("studies")
def test_the_rendered_configuration_is_for_root_and_that_orthanc_alone(portal: Portal) -> None:
    listing = portal.machine.run(
        "stat -c '%a %U:%G %n' /run/ddwd/orthanc/*/00-ddwd.json /etc/ddwd/ddwd.yaml /etc/default/ddwd"
    )
    assert listing.stdout.splitlines() == [
        "640 root:ddwd-gateway /run/ddwd/orthanc/gateway/00-ddwd.json",
        "640 root:ddwd-storage /run/ddwd/orthanc/storage/00-ddwd.json",
        "640 root:ddwd /etc/ddwd/ddwd.yaml",
        "640 root:ddwd /etc/default/ddwd",
    ]


# --- patients ---------------------------------------------------------------------------------------------------------


def _words(values: Mapping[str, str]) -> dict[str, str]:
    """The word of each value that no file has by chance."""
    return {keyword: value.split("^")[0].split()[0] for keyword, value in values.items()}


@pytest.mark.usefixtures("studies")
def test_nothing_of_a_patient_is_in_a_log_or_a_process(portal: Portal) -> None:
    assert _look(portal, _words(PATIENT), BUT_ACCESSION, *PROCESSES, *LOGS) == []


@pytest.mark.usefixtures("studies")
def test_nothing_of_a_patient_is_shown_without_being_asked_for(portal: Portal) -> None:
    assert _look(portal, _words(PATIENT), *SHOWN) == []


@pytest.mark.usefixtures("studies")
def test_nothing_of_a_patient_can_be_read_by_any_other_user(portal: Portal) -> None:
    assert _look(portal, _words(PATIENT), *ANYONE, *STATUS_FILES, user="daemon") == []


def test_the_patient_is_found_where_the_studies_are(portal: Portal, studies: list[Study]) -> None:
    found = _look(portal, _words(PATIENT), "files=/var/lib/ddwd/received_dicom")
    assert len(found) == sum(len(study.instances) for study in studies) * len(PATIENT)
