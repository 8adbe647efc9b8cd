"""The web pages: no default password, a viewer that changes nothing, and passwords that can be changed while studies arrive."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.appliance.conftest import SETTINGS, Portal, installed
from tests.machine.machine import HTTP_PORTS
from tests.machine.network import MACHINE_ADDRESS
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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


def test_rotated_in_the_midst_of_a_study_nothing_is_lost(own: Portal, tmp_path: Path) -> None:
    before = {node: own.machine.credentials(node) for node in NODES}
    mode = own.machine.run(f"stat -c '%a %U %G' {CREDENTIALS}").stdout
    ours = made_up_ct(tmp_path / "ct", 60, seed=402, size=64)
    sending = own.modality.start(own.modality.storescu_argv(*ours.paths))
    answer = json.loads(own.machine.run("ddwd credentials rotate --yes --json").stdout)
    assert answer == {"changed": True, "in_use": True}
    sending.process.wait(timeout=60)
    own.wait_active()
    for node in NODES:
        _wait_login(own, node)
        assert own.machine.http_status(node, login=before[node]) == 401
    assert own.machine.run(f"stat -c '%a %U %G' {CREDENTIALS}").stdout == mode
    own.deliver(ours)
    own.machine.run("ddwd doctor --send")


def test_who_may_look_at_the_passwords_and_who_may_change_them(own: Portal) -> None:
    own.machine.run("useradd --groups ddwd helper; useradd nobody2")
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
