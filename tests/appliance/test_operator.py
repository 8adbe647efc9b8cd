"""The operator's verbs in the booted machine, as a member of group ddwd and as root: asked for, done by the extractor, and told."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING, Any

import pytest

from tests.appliance.conftest import Portal
from tests.studies import Study, made_up_ct, published

if TYPE_CHECKING:
    from pathlib import Path
    from subprocess import CompletedProcess

OPERATOR, STRANGER = "radiographer", "stranger"
REQUESTS = "/var/lib/ddwd/state/requests"
NO_ENTRY = "0" * 32


@pytest.fixture(scope="module")
def users(portal: Portal) -> None:
    """One user in group ddwd, one outside."""
    portal.add_operator(OPERATOR)
    portal.machine.run(["useradd", "--create-home", STRANGER])


@pytest.fixture(scope="module")
def study(portal: Portal, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A delivered study."""
    made = made_up_ct(tmp_path_factory.mktemp("operator") / "ct", 5, seed=70, size=64)
    portal.deliver(made)
    return made


def _ddwd(portal: Portal, *words: str, user: str = OPERATOR) -> CompletedProcess[str]:
    return portal.machine.run(["ddwd", *words], user=user, check=False)


def _json(portal: Portal, *words: str) -> Any:
    return json.loads(_ddwd(portal, *words, "--json").stdout)


def _wait_recorded(portal: Portal, study: Study) -> None:
    """Files are visible a moment before their custody record is written."""
    portal.machine.wait_for(
        lambda: _ddwd(portal, "reconcile", "--dry-run", study.uid).returncode == 0,
        limit=90, every=1, what="gateway, storage and disk do not agree",
    )  # fmt: skip


def test_the_folder_of_requests_is_for_the_group_only(portal: Portal) -> None:
    found = portal.machine.path(REQUESTS).stat()
    assert stat.S_IMODE(found.st_mode) == 0o2770


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("user", [OPERATOR, "root"])
def test_a_file_deleted_from_the_output_is_told_and_comes_back_by_a_retry(
    portal: Portal, study: Study, user: str
) -> None:
    _wait_recorded(portal, study)
    (path,) = published(study.uid, portal.output)[study.instances[1].sop_uid]
    path.unlink()
    told = _ddwd(portal, "reconcile", "--dry-run", study.uid, user=user)
    assert (told.returncode, told.stderr) == (1, "")
    assert f"{study.uid}: recorded, gone from disk 1\n" in told.stdout
    assert _ddwd(portal, "verify", study.uid, user=user).returncode == 1
    asked = _ddwd(portal, "retry", study.uid, user=user)
    assert (asked.returncode, asked.stderr) == (0, "")
    portal.wait_complete(study)
    portal.assert_equal([study])
    _wait_recorded(portal, study)
    assert _ddwd(portal, "verify", study.uid, "--storage", user=user).returncode == 0
    assert portal.machine.run(f"ls -A {REQUESTS}").stdout == ""
    assert "the operator asks: retry" in portal.machine.run("journalctl -t ddwd-audit --no-pager").stdout


@pytest.mark.usefixtures("users")
def test_what_storage_lacks_is_told_and_sent_by_a_reconcile(
    portal: Portal, tmp_path: Path, study: Study
) -> None:
    _wait_recorded(portal, study)
    portal.machine.run(["systemctl", "stop", "ddwd-extractor"])
    try:
        late = made_up_ct(tmp_path / "late", 3, seed=71, size=16)
        portal.send(late)
        portal.machine.wait_for(
            lambda: any(row["study_uid"] == late.uid for row in _differences(portal)),
            limit=30, what="the new study is no difference",
        )  # fmt: skip
        assert _ddwd(portal, "reconcile").returncode == 0
        assert _ddwd(portal, "retry", late.uid).returncode == 0
    finally:
        portal.machine.run(["systemctl", "start", "ddwd-extractor"])
    portal.wait_complete(late)
    portal.assert_equal([study, late])
    _wait_recorded(portal, late)
    assert portal.machine.run(f"ls -A {REQUESTS}").stdout == ""


def _differences(portal: Portal) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = _json(portal, "reconcile", "--dry-run")["differences"]
    return found


@pytest.mark.usefixtures("users")
def test_an_orthanc_that_is_down_is_status_69(portal: Portal, study: Study) -> None:
    portal.machine.run(["systemctl", "stop", "ddwd-storage"])
    try:
        told = _ddwd(portal, "reconcile", "--dry-run")
        proof = _ddwd(portal, "verify", study.uid, "--storage")
        assert _ddwd(portal, "verify", study.uid).returncode == 0
    finally:
        portal.machine.run(["systemctl", "start", "ddwd-storage"])
        portal.wait_active()
    assert (told.returncode, proof.returncode) == (69, 69)
    assert len(told.stderr.splitlines()) == len(proof.stderr.splitlines()) == 1


@pytest.mark.usefixtures("users")
def test_an_unknown_entry_of_the_quarantine_is_one_line(portal: Portal) -> None:
    assert _ddwd(portal, "quarantine", "list").returncode == 0
    for action in ("show", "release"):
        said = _ddwd(portal, "quarantine", action, NO_ENTRY)
        assert (said.returncode, said.stdout) == (66, "")
        assert said.stderr == "ddwd: no entry of the quarantine has this ID; see: ddwd quarantine list\n"


@pytest.mark.usefixtures("users")
@pytest.mark.parametrize("words", [("quarantine", "list"), ("reconcile",), ("retry", "1.2.3")], ids=" ".join)
def test_a_stranger_is_told_in_one_line(portal: Portal, words: tuple[str, ...]) -> None:
    said = _ddwd(portal, *words, user=STRANGER)
    assert said.returncode in {65, 78}
    assert len(said.stderr.splitlines()) == 1
    assert "ddwd" in said.stderr


def test_rubbish_among_the_requests_stops_nothing(portal: Portal, tmp_path: Path) -> None:
    portal.machine.run(
        f"cd {REQUESTS} && mkfifo pipe.json && ln -s /etc/shadow link.json && mkdir folder.json && "
        "head -c 1000000 /dev/zero > big.json && printf '{' > torn.json && chmod 0 torn.json"
    )
    portal.machine.wait_for(
        lambda: portal.machine.run(f"ls {REQUESTS}").stdout.split()
        == ["big.bad", "folder.bad", "link.bad", "pipe.bad", "torn.bad"],
        limit=30, what="the rubbish was not put aside",
    )  # fmt: skip
    portal.machine.run(f"rm -r {REQUESTS}/*.bad")
    portal.deliver(made_up_ct(tmp_path / "after", 2, seed=72, size=16))
    assert portal.machine.is_active("ddwd-extractor")
