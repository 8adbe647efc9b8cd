"""TLS on every hop of the booted machine: a sender with a certificate is served, none without, and nothing else is lost by it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import SETTINGS
from tests.machine.machine import INBOX
from tests.machine.network import MODALITY_ADDRESS
from tests.studies import Study, made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.appliance.conftest import Portal

FOLDER = "/etc/ddwd/tls"
TLS_PORT = 2762
EVERYWHERE = {"gateway": "both", "dicomweb": "true", "storage": "true", "scp": "true"}
PLAIN = {"gateway": "off", "dicomweb": "false", "storage": "false", "scp": "false"}


def _set(portal: Portal, **wanted: str) -> None:
    """Set keys of the section tls, check, restart, wait."""
    settings = portal.machine.path(SETTINGS).read_text(encoding="utf-8")
    before, section, after = settings.partition("\ntls:\n")
    for key, value in wanted.items():
        after = re.sub(rf"^  {key}: .*$", f"  {key}: {value}", after, count=1, flags=re.MULTILINE)
    portal.configure(before + section + after)
    portal.machine.wait_for(
        lambda: portal.machine.run("ddwd doctor --json", check=False).returncode == 0,
        limit=90,
        what="ddwd doctor still finds something broken",
    )


@pytest.fixture(scope="module")
def secure(portal: Portal, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    """The shared machine with TLS everywhere, the plain port beside; as it was, afterwards."""
    before = portal.machine.path(SETTINGS).read_text(encoding="utf-8")
    portal.machine.run("ddwd tls init && ddwd tls issue CT1")
    strangers = tmp_path_factory.mktemp("stranger")
    portal.machine.run(
        f"mkdir -p {INBOX}/stranger && cd {INBOX}/stranger && openssl req -x509 -newkey rsa:2048 -noenc -subj /CN=x -keyout x.key -out x.pem"
    )
    del strangers
    _set(portal, **EVERYWHERE)
    yield portal
    portal.machine.path(SETTINGS).write_text(before, encoding="utf-8")
    portal.machine.run(f"systemctl restart ddwd; rm -r {FOLDER}", timeout=300)
    portal.wait_active()


def _identity(portal: Portal, name: str) -> list[str]:
    """The options of DCMTK for that certificate, as the modality sees the machine's files."""
    place = {"CT1": f"{FOLDER}/issued", "extractor": FOLDER, "x": f"{INBOX}/stranger"}[name]
    key, certificate = (f"/mnt{portal.machine.path(f'{place}/{name}.{end}')}" for end in ("key", "pem"))
    return ["+tls", key, certificate, "+cf", f"/mnt{portal.machine.path(f'{FOLDER}/ca.pem')}"]


def _send(portal: Portal, study: Study, port: int, *options: str) -> int:
    command = portal.modality.storescu_argv(
        *(instance.path for instance in study.instances),
        port=port,
        options=["-xs", "-ta", "10", "-to", "10", *options],
    )
    return portal.modality.run(command, check=False).returncode


def _echoes(portal: Portal, port: int, aec: str, *options: str) -> bool:
    """Whether a C-ECHO from inside the machine is answered; echoscu's exit status is 0 also where its peer aborted."""
    words = ["echoscu", "-v", "-ta", "5", "-to", "5", *options, "-aet", "DDWD_EXTRACTOR", "-aec", aec]
    inside = [word.removeprefix(f"/mnt{portal.machine.root}") for word in words]
    said = portal.machine.run([*inside, "127.0.0.1", str(port)], check=False)
    return "Received Echo Response (Success)" in said.stdout + said.stderr


def test_a_study_goes_by_tls_over_every_hop(secure: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path, 30, seed=881, size=128)
    assert _send(secure, study, TLS_PORT, *_identity(secure, "CT1")) == 0
    secure.wait_complete(study)
    secure.assert_equal([study])
    assert secure.machine.is_active("ddwd-tls@storage")
    assert "Service [dicomweb] accepted connection" in secure.machine.journal("ddwd-tls@storage")
    senders = json.loads(secure.machine.run("cat /run/ddwd/acceptor/status.json").stdout)["senders"]
    assert MODALITY_ADDRESS in {sender["address"] for sender in senders}


def test_the_plain_port_still_serves_those_that_have_not_moved(secure: Portal, tmp_path: Path) -> None:
    secure.deliver(made_up_ct(tmp_path, 5, seed=882, size=128))


@pytest.mark.parametrize("who", ["a stranger", "nobody", "a plain sender"])
def test_a_sender_without_a_valid_certificate_sends_nothing_by_tls(
    secure: Portal, tmp_path: Path, who: str
) -> None:
    study = made_up_ct(tmp_path, 1, seed=883, size=64)
    known = {
        "a stranger": [*_identity(secure, "x")],
        "nobody": ["+tla", "-ic"],
        "a plain sender": [],
    }
    assert _send(secure, study, TLS_PORT, *known[who]) != 0
    found = secure.machine.rest(
        "gateway",
        "/tools/find",
        method="POST",
        body={"Level": "Study", "Query": {"StudyInstanceUID": study.uid}},
    )
    assert found == []
    secure.machine.wait_for(
        lambda: (
            f"at {MODALITY_ADDRESS} refused: TLS"
            in secure.machine.run("journalctl -t ddwd-audit DDWD_EVENT=association-refused -o cat").stdout
        ),
        limit=30,
        what="no refused connection is told in the audit",
    )


@pytest.mark.parametrize(("port", "aec"), [(4243, "ORTHANC2"), (11112, "PYTHON_SCP")])
def test_the_inner_hops_let_in_the_portals_own_certificates_alone(
    secure: Portal, port: int, aec: str
) -> None:
    assert _echoes(secure, port, aec, *_identity(secure, "extractor"))
    for other in ([], ["+tla", "-ic"], [*_identity(secure, "CT1")], [*_identity(secure, "x")]):
        assert not _echoes(secure, port, aec, *other), other


def test_dicomweb_asks_for_a_certificate_and_a_password(secure: Portal) -> None:
    url = "https://127.0.0.1:8444/dicom-web/studies"
    trusted = f"curl -s -o /dev/null -w '%{{http_code}}' --cacert {FOLDER}/ca.pem"
    shown = f"--cert {FOLDER}/gateway.pem --key {FOLDER}/gateway.key"
    login = secure.machine.credentials("storage", "gateway")
    assert secure.machine.run(f"{trusted} {shown} -u {login} {url}").stdout == "200"
    assert secure.machine.run(f"{trusted} {shown} {url}").stdout == "401"
    assert secure.machine.run(f"{trusted} -u {login} {url}", check=False).returncode != 0
    assert secure.modality.http_status(8444) == 0


def test_each_key_can_be_read_by_the_service_that_needs_it_and_by_root(secure: Portal) -> None:
    said = secure.machine.run(["stat", "-c", "%n %U %G %a", *(f"{FOLDER}/{name}.key" for name in (
        "ca", "senders-ca", "gateway", "storage", "scp", "extractor", "operator"
    ))]).stdout  # fmt: skip
    modes = {line.split()[0].rpartition("/")[2]: line.split()[1:] for line in said.splitlines()}
    assert modes.pop("operator.key") == ["root", "ddwd", "640"]
    assert set(map(tuple, modes.values())) == {("root", "root", "600")}
    for unit, user in (
        ("ddwd-acceptor", "ddwd-acceptor"),
        ("ddwd-gateway", "ddwd-gateway"),
        ("ddwd-scp", "ddwd"),
        ("ddwd-storage", "ddwd-storage"),
    ):
        credential = f"/run/credentials/{unit}.service/tls.key"
        assert secure.machine.run(["cat", credential], user=user, check=False).returncode == 0
        assert secure.machine.run(["cat", credential], user="nobody", check=False).returncode != 0


def test_the_certificates_are_shown_with_their_ends(secure: Portal) -> None:
    found = json.loads(secure.machine.run("ddwd tls show --json").stdout)["certificates"]
    used = {one["role"] for one in found if one["in_use"]}
    assert used == {"ca", "senders-ca", "gateway", "storage", "scp", "extractor", "operator"}
    assert "127.0.0.1" in next(one["names"] for one in found if one["role"] == "storage")
    assert re.search(
        r"gateway +until \d{4}-\d\d-\d\d \(82\d days\), in use", secure.machine.run("ddwd tls show").stdout
    )


def test_a_key_that_is_not_there_keeps_the_portal_from_starting_and_says_so(secure: Portal) -> None:
    secure.machine.run(f"mv {FOLDER}/scp.key {FOLDER}/away")
    said = secure.machine.run("ddwd config check", check=False)
    secure.machine.run(f"mv {FOLDER}/away {FOLDER}/scp.key")
    assert said.returncode == 78
    assert f"{FOLDER}/scp.key does not exist; sudo ddwd tls init makes what is missing" in said.stderr


def test_only_closes_the_plain_port_and_the_self_test_goes_by_tls_too(secure: Portal, tmp_path: Path) -> None:
    _set(secure, gateway="only")
    study = made_up_ct(tmp_path, 10, seed=884, size=128)
    assert _send(secure, study, 4242) != 0
    assert _send(secure, study, 4242, *_identity(secure, "x")) != 0
    assert _send(secure, study, 4242, *_identity(secure, "CT1")) == 0
    secure.wait_complete(study)
    secure.assert_equal([study])
    assert "self test passed" in secure.machine.run("ddwd doctor --send", timeout=200).stdout
    assert not secure.machine.is_active("ddwd-tls@gateway")
