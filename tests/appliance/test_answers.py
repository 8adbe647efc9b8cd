"""Every verb with --json, in a machine: one object of the schema that the package has, and `well` is true if the exit status is 0."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import answers
from tests.appliance.conftest import Portal, installed
from tests.appliance.test_door import corrected
from tests.machine.machine import INBOX
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = """
routes:
  - name: everything
    webhook: http://127.0.0.1:9/finished
"""
NOT_ASKED = {"link"}
"""Makes what another machine needs: tests/appliance/test_roles.py asks it there."""
WORDS = (
    "ddwd status", "ddwd-top", "ddwd doctor", "ddwd doctor --send", "ddwd studies", "ddwd studies --stats", "ddwd trace STUDY",
    "ddwd verify --all --storage", "ddwd reconcile --dry-run", "ddwd reconcile", "ddwd reconcile --accept STUDY", "ddwd retry STUDY",
    "ddwd retry --gone", "ddwd pause", "ddwd resume", "ddwd quarantine list", "ddwd quarantine show ENTRY", "ddwd quarantine release ENTRY",
    "ddwd hooks list", "ddwd hooks retry", "ddwd hooks drop STUDY", "ddwd destinations list", "ddwd destinations retry", "ddwd routes list",
    "ddwd routes test FILE", "ddwd send FILE", "ddwd echo", "ddwd logs", "ddwd alert", "ddwd retention", "ddwd retention --dry-run",
    "ddwd retention --now", "ddwd credentials show", "ddwd config check", "ddwd config show", "ddwd tls init", "ddwd tls show",
    "ddwd tls issue CT1 --into /root", "ddwd prove STUDY --output /root", "ddwd support-bundle --output /root", "ddwd backup /root/backup",
    "ddwd restore --dry-run /root/backup", "ddwd try /tmp/trial",
)  # fmt: skip


@pytest.fixture(scope="module")
def own(deb: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Portal, dict[str, str]]]:
    """A machine with a published study whose hook fails, and a corrected image of it in quarantine."""
    with installed(deb) as portal:
        portal.configure(SETTINGS)
        portal.wait_active()
        folder = tmp_path_factory.mktemp("answers")
        study = made_up_ct(folder / "ct", 3, seed=7800, size=16)
        portal.deliver(study)
        portal.modality.dcmsend(corrected(study, folder / "other"))
        portal.machine.wait_for(
            lambda: "1 in quarantine" in portal.machine.run("ddwd quarantine list").stdout,
            limit=60,
            what="the corrected image is not in quarantine",
        )
        portal.machine.copy_in(study.paths[0], f"{INBOX}/one.dcm")
        entry = portal.machine.run("ddwd quarantine list").stdout.split()[0]
        yield portal, {"STUDY": study.uid, "ENTRY": entry, "FILE": f"{INBOX}/one.dcm"}


def _asked(portal: Portal, words: str, filled_in: dict[str, str]) -> str:
    """The name of the schema of the answer."""
    line = " ".join(filled_in.get(word, word) for word in words.split())
    command = f"{line} --json"
    if words.startswith("ddwd try"):
        command = f"runuser -u nobody -- timeout --signal=INT 60 {command}"
    done = portal.machine.run(command, check=False, timeout=200)
    assert done.stdout.endswith("}\n"), f"{words}: {done.stdout[-500:]}{done.stderr[-500:]}"
    body = answers.checked(done.stdout)
    if not words.startswith("ddwd try"):
        assert body["well"] == (done.returncode == 0), words
    return str(body["schema"]).removeprefix("ddwd.").partition("/")[0]


@pytest.mark.timeout(900, func_only=True)
def test_each_verb_answers_as_its_schema_says(own: tuple[Portal, dict[str, str]]) -> None:
    portal, filled_in = own
    assert {_asked(portal, words, filled_in) for words in WORDS} == answers.names() - NOT_ASKED
    assert (
        portal.machine.path("/usr/share/ddwd/answers.schema.json").read_bytes()
        == answers.SCHEMAS.read_bytes()
    )
