"""The web pages: no default password, a viewer that changes nothing, and passwords that can be changed while studies arrive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.appliance.conftest import SETTINGS, Portal, installed
from tests.machine.machine import HTTP_PORTS
from tests.machine.network import MACHINE_ADDRESS
from tests.problems import causes
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.studies import Study

NODES = ("gateway", "storage")
CREDENTIALS = "/etc/ddwd/credentials.json"


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A machine whose passwords change."""
    with installed(deb) as fresh:
        yield fresh


@pytest.fixture(scope="module")
def study(own: Portal, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Orthanc ID of a study that is there to be looked at."""
    made = made_up_ct(tmp_path_factory.mktemp("seen"), 2, seed=401, size=16)
    own.deliver(made)
    (found,) = own.machine.rest("storage", "/studies")
    return str(found)


def _asked(portal: Portal, node: str, user: str, method: str, path: str, *options: str) -> int:
    """The HTTP status of one request."""
    text = f'user = "{portal.machine.credentials(node, user)}"\n'
    url = f"http://127.0.0.1:{HTTP_PORTS[node]}{path}"
    words = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-K", "-", "-X", method, *options, url]
    return int(portal.machine.run(words, stdin=text).stdout)


def _wait_login(portal: Portal, node: str) -> None:
    portal.machine.wait_for(
        lambda: portal.machine.http_status(node, login=portal.machine.credentials(node)) == 200,
        limit=30,
        what=f"{node} does not take its password",
    )


@pytest.mark.parametrize("node", NODES)
def test_no_password_is_one_that_is_known(own: Portal, node: str) -> None:
    known = ("orthanc:orthanc", "admin:admin", "viewer:viewer", "admin:", "ddwd:ddwd")
    assert {own.machine.http_status(node, login=login) for login in known} == {401}
    # another machine is not even asked for one
    assert own.modality.http_status(HTTP_PORTS[node], user=own.machine.credentials(node)) == 0


@pytest.mark.parametrize("node", NODES)
def test_a_viewer_looks_searches_and_downloads(own: Portal, study: str, node: str) -> None:
    for path in (
        "/system",
        "/studies",
        f"/studies/{study}/archive",
        "/app/explorer.html",
        "/dicom-web/studies",
    ):
        assert _asked(own, node, "viewer", "GET", path) == 200
    query = json.dumps({"Level": "Study", "Query": {}})
    assert _asked(own, node, "viewer", "POST", "/tools/find", "-d", query) == 200


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/studies/STUDY"),
        ("POST", "/studies/STUDY/modify"),
        ("POST", "/studies/STUDY/anonymize"),
        ("POST", "/instances"),
        ("POST", "/dicom-web/studies"),
        ("POST", "/tools/reset"),
        ("POST", "/tools/shutdown"),
        ("POST", "/tools/execute-script"),
        ("PUT", "/modalities/evil"),
        ("PUT", "/tools/log-level"),
        ("GET", "/studies/STUDY?_method=DELETE"),
        ("OPTIONS", "/studies/STUDY?_method=DELETE"),
    ],
)
def test_a_viewer_changes_nothing(own: Portal, study: str, node: str, method: str, path: str) -> None:
    wanted = {404} if method == "OPTIONS" else {403}
    assert _asked(own, node, "viewer", method, path.replace("STUDY", study), "-d", "x") in wanted
    assert _asked(own, node, "viewer", "GET", f"/studies/{study}") == 200


def test_a_method_in_a_header_is_the_one_that_counts(own: Portal, study: str) -> None:
    header = ("-H", "X-HTTP-Method-Override: DELETE")
    assert _asked(own, "gateway", "viewer", "GET", f"/studies/{study}", *header) == 403
    assert _asked(own, "gateway", "viewer", "GET", f"/studies/{study}") == 200


def _changes(portal: Portal, *matches: str) -> list[dict[str, str]]:
    """The audit events of requests by REST, the oldest first."""
    words = " ".join(("DDWD_EVENT=changed-by-rest", *matches))
    lines = portal.machine.run(f"journalctl -t ddwd-audit -o json --no-pager {words}").stdout.splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize("user", ["admin", "viewer"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("DELETE", "/changes", ""),
        ("PUT", "/modalities/evil", '["EVIL", "10.9.9.9", 104]'),
        ("DELETE", "/modalities/evil", ""),
        ("PUT", "/peers/evil", '["http://10.9.9.9:8042"]'),
        ("DELETE", "/peers/evil", ""),
        ("PUT", "/tools/log-level", "default"),
        ("PUT", "/studies/STUDY/metadata/2000", "x"),
        ("DELETE", "/studies/STUDY/metadata/2000", ""),
        ("POST", "/tools/bulk-delete", '{"Resources": []}'),
        ("GET", "/changes?_method=DELETE", ""),
    ],
)
def test_a_change_leaves_an_event_that_says_who_what_and_from_where(
    own: Portal, study: str, node: str, user: str, method: str, path: str, body: str
) -> None:
    resource = path.replace("STUDY", study)
    asked, _, overridden = resource.partition("?_method=")
    matches = (f"DDWD_USER={user}", f"DDWD_PEER={node}", f"DDWD_METHOD={overridden or method}")
    before = len(_changes(own, *matches, f"DDWD_RESOURCE={asked}"))
    status = _asked(own, node, user, method, resource, *(["-d", body] if body else []))
    assert (status == 403) is (user == "viewer")
    *_, event = found = _changes(own, *matches, f"DDWD_RESOURCE={asked}")
    assert len(found) == before + 1
    assert (event["DDWD_ADDRESS"], event["DDWD_GRANTED"]) == (
        "127.0.0.1",
        "no" if user == "viewer" else "yes",
    )
    assert event["_SYSTEMD_UNIT"] == f"ddwd-{node}.service"
    assert event.get("DDWD_STUDY", "") == (study if "STUDY" in path else "")


def test_a_study_that_passes_leaves_no_such_event(own: Portal, tmp_path: Path) -> None:
    before = len(_changes(own))
    own.deliver(made_up_ct(tmp_path / "ct", 3, seed=403, size=16))
    own.machine.run("ddwd reconcile --dry-run; ddwd status; ddwd doctor", check=False)
    assert _changes(own)[before:] == []


UNIT_LOGINS = ("extractor", "monitor", "courier", "commitment", "gateway", "ddwd")


def _inside(portal: Portal, unit: str, path: str) -> str:
    """What a unit finds at a path; empty where there is no file, or none that it may see."""
    pid = portal.machine.show(f"ddwd-{unit}", "MainPID")
    return portal.machine.run(f"nsenter --target {pid} --mount cat {path}", check=False).stdout


@pytest.mark.parametrize("unit", ["extractor", "monitor"])
def test_a_unit_is_handed_its_own_login_and_sees_no_other(own: Portal, unit: str) -> None:
    handed = json.loads(_inside(own, unit, f"/run/credentials/ddwd-{unit}.service/rest.json"))
    for node in NODES:
        assert handed[node] == {unit: own.machine.credentials(node, unit).partition(":")[2]}
    assert _inside(own, unit, CREDENTIALS) == ""


@pytest.mark.parametrize("unit", ["scp", "acceptor", "gateway", "storage"])
def test_a_unit_that_asks_no_orthanc_has_no_login_and_sees_none(own: Portal, unit: str) -> None:
    assert _inside(own, unit, f"/run/credentials/ddwd-{unit}.service/rest.json") == ""
    assert _inside(own, unit, CREDENTIALS) == ""


def test_no_unit_asks_for_what_its_login_may_not_do(own: Portal, tmp_path: Path) -> None:
    own.deliver(made_up_ct(tmp_path / "ct", 2, seed=405, size=16))
    own.machine.run("ddwd doctor --send && systemctl start ddwd-doctor")
    own.machine.run("ddwd reconcile --dry-run", check=False)
    matches = [f"DDWD_USER={login}" for login in UNIT_LOGINS]
    assert _changes(own, "DDWD_GRANTED=no", *matches) == []


@pytest.mark.parametrize(
    ("user", "method", "path"),
    [
        ("extractor", "DELETE", "/studies/STUDY"),
        ("extractor", "PUT", "/modalities/evil"),
        ("monitor", "GET", "/studies"),
        ("courier", "GET", "/studies/STUDY/archive"),
        ("commitment", "POST", "/instances"),
        ("ddwd", "DELETE", "/changes"),
    ],
)
def test_a_login_of_a_unit_that_is_stolen_opens_nothing_else(
    own: Portal, study: str, user: str, method: str, path: str
) -> None:
    resource = path.replace("STUDY", study)
    assert _asked(own, "gateway", user, method, resource, "-d", "x") == 403
    assert _changes(own, f"DDWD_USER={user}", f"DDWD_RESOURCE={resource}", "DDWD_GRANTED=no")
    assert _asked(own, "gateway", "viewer", "GET", f"/studies/{study}") == 200


def test_rotated_in_the_midst_of_a_study_nothing_is_lost(own: Portal, tmp_path: Path) -> None:
    before = {node: own.machine.credentials(node) for node in NODES}
    mode = own.machine.run(f"stat -c '%a %U %G' {CREDENTIALS}").stdout
    ours = made_up_ct(tmp_path / "ct", 60, seed=402, size=64)
    sending = own.modality.start(own.modality.storescu_argv(*ours.paths))
    answer = json.loads(own.machine.run("ddwd credentials rotate --yes --json").stdout)
    assert answer["changed"]
    assert answer["in_use"]
    sending.process.wait(timeout=60)
    own.wait_active()
    for node in NODES:
        _wait_login(own, node)
        assert own.machine.http_status(node, login=before[node]) == 401
    assert own.machine.run(f"stat -c '%a %U %G' {CREDENTIALS}").stdout == mode
    own.deliver(ours)
    own.machine.run("ddwd doctor --send")


def _removed(portal: Portal, study: Study) -> str:
    """Orthanc ID of a study of which one image is deleted on the gateway, a series on storage too, by the login admin."""
    lookup = {"Level": "Study", "Query": {"StudyInstanceUID": study.uid}}
    (orthanc_id,) = portal.machine.rest("gateway", "/tools/find", method="POST", body=lookup)
    (series,) = portal.machine.rest("gateway", f"/studies/{orthanc_id}")["Series"]
    first, *_ = portal.machine.rest("gateway", f"/series/{series}")["Instances"]
    portal.machine.rest("gateway", f"/instances/{first}", method="DELETE")
    portal.machine.rest("storage", f"/series/{series}", method="DELETE")
    portal.machine.rest("gateway", f"/series/{series}", method="DELETE")
    return str(orthanc_id)


def _answer(portal: Portal, words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(portal.machine.run(f"{words} --json", check=False).stdout)
    return found


def test_who_deletes_images_is_named_by_every_view_until_they_are_back(own: Portal, tmp_path: Path) -> None:
    study = made_up_ct(tmp_path / "ct", 3, seed=404, size=16)
    own.deliver(study)
    own.machine.wait_for(
        lambda: _answer(own, f"ddwd trace {study.uid}")["well"], limit=30, what="it was never complete"
    )
    orthanc_id = _removed(own, study)
    (told,) = _answer(own, f"ddwd trace {study.uid}")["studies"]
    assert not told["complete"]
    assert "missing: 3 on ORTHANC1 and 3 on ORTHANC2" in told["verdict"]
    assert "admin from 127.0.0.1: DELETE /series/" in told["verdict"]
    asked = [step["text"] for step in told["steps"] if step["event"] == "changed-by-rest"]
    assert sum("DELETE /instances/" in text and "on the gateway" in text for text in asked) == 1
    assert sum("DELETE /series/" in text for text in asked) == 2
    assert {event["DDWD_STUDY"] for event in _changes(own, f"DDWD_STUDY={orthanc_id}")} == {orthanc_id}

    listed = own.machine.run("ddwd reconcile --dry-run", check=False)
    assert listed.returncode == 1
    assert f"{study.uid}: received, gone from the gateway 3; received, gone from storage 3" in listed.stdout
    own.machine.run("ddwd reconcile")

    def names_it() -> bool:
        return any(
            "missing images that were received" in line for line in causes(_answer(own, "ddwd status"))
        )

    own.machine.wait_for(names_it, limit=90, what="ddwd status does not name it")
    doctor = " ".join(own.machine.run("ddwd doctor", check=False).stdout.split())  # it wraps its lines
    assert "1 study is missing images that were received, 3 on ORTHANC1 and 3 on ORTHANC2" in doctor
    (told,) = _answer(own, f"ddwd trace {study.uid}")["studies"]
    assert ", noticed 20" in told["verdict"]

    _, _, command = told["next_step"].rpartition("then from the disk: ")
    assert command.startswith("ddwd send /")
    own.machine.run(command)
    own.machine.wait_for(
        lambda: _answer(own, f"ddwd trace {study.uid}")["well"], limit=60, what="it is not complete again"
    )
    own.machine.wait_for(lambda: not names_it(), limit=90, what="ddwd status names it still")
    own.machine.run(f"ddwd reconcile --dry-run {study.uid} && ddwd verify {study.uid}")


def test_who_may_look_at_the_passwords_and_who_may_change_them(own: Portal) -> None:
    own.add_operator("helper")
    own.machine.run("useradd nobody2")
    assert "admin" in own.machine.run("ddwd credentials", user="helper").stdout
    assert own.machine.run("ddwd credentials", user="nobody2", check=False).returncode == 78
    refused = own.machine.run("ddwd credentials rotate --yes", user="helper", check=False)
    assert (refused.returncode, "sudo" in refused.stderr) == (65, True)
    unasked = own.machine.run("ddwd credentials rotate", check=False)
    assert (unasked.returncode, "--yes" in unasked.stderr) == (64, True)


def test_no_password_is_in_the_journal_or_in_a_process_list(own: Portal) -> None:
    known = json.loads(own.machine.path(CREDENTIALS).read_text(encoding="utf-8"))
    passwords = {password for users in known.values() for password in users.values()}
    said = own.machine.run("journalctl --no-pager -o cat; ps axww").stdout
    assert [one for one in passwords if one in said] == []


def _https(portal: Portal, port: int, login: str = "", *options: str) -> int:
    """The HTTP status that a browser on the LAN gets; 0 where there is no HTTPS."""
    named = ["-u", login] if login else []
    url = f"https://{MACHINE_ADDRESS}:{port}/system"
    words = ["curl", "-s", "-k", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", *named, *options, url]
    return int(portal.modality.run(words, check=False).stdout or 0)


def _wait_page(portal: Portal, port: int, login: str) -> None:
    portal.machine.wait_for(lambda: _https(portal, port, login) == 200, limit=30, what=f"no page at {port}")


def test_pages_are_opened_by_https_and_login_and_in_no_other_way(own: Portal) -> None:
    path = own.machine.path(SETTINGS)
    before = path.read_text(encoding="utf-8")
    assert {_https(own, 8442), _https(own, 8443)} == {0}
    path.write_text("web:\n  open: true\n", encoding="utf-8")
    refused = own.machine.run("ddwd config check", check=False)
    assert (refused.returncode, "ddwd tls init" in refused.stderr) == (78, True)
    own.machine.run("ddwd tls init && ddwd config check && systemctl restart ddwd")
    own.wait_active()
    for node, port in (("gateway", 8442), ("storage", 8443)):
        viewer = own.machine.credentials(node, "viewer")
        _wait_page(own, port, viewer)
        assert _https(own, port) == 401
        assert _https(own, port, "orthanc:orthanc") == 401
        assert _https(own, port, viewer, "-X", "DELETE") == 403
        assert _https(own, port, viewer, "--tls-max", "1.1") == 0
        assert own.modality.http_status(port, user=viewer) in {0, 400}
        assert own.modality.http_status(HTTP_PORTS[node], user=viewer) == 0
    path.write_text(before, encoding="utf-8")
    own.machine.run("systemctl restart ddwd")
    own.wait_active()
    assert {_https(own, 8442), _https(own, 8443)} == {0}
