"""The oracle can fail: it reports loss where the portal is crippled on purpose, and none where it is whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.faults.oracle import judge, sent
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from pathlib import Path

    from tests.appliance.conftest import Portal
    from tests.faults.oracle import Verdict
    from tests.studies import Study

TREE = "/usr/lib/ddwd/ddwd"
NOTES = "/var/lib/ddwd/received_dicom/.ddwd"
NOTE = f'''

def _noted(descriptor, real=os.fsync):
    real(descriptor)
    with open(f"{NOTES}/fsynced-{{os.getpid()}}", "a") as notes:
        notes.write(f"{{os.fstat(descriptor).st_ino}}\\n")


os.fsync = _noted
'''
WITHOUT = """

os.fsync = lambda descriptor: None
"""


def _judged(portal: Portal, *studies: Study) -> Verdict:
    files = [sent(path) for study in studies for path in study.paths]
    return judge(files, files, portal.output)


def _change(portal: Portal, module: str, old: str, new: str) -> None:
    """Change the installed code of this machine and start it anew."""
    path = portal.machine.path(f"{TREE}/{module}")
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
    portal.machine.run(["systemctl", "restart", "ddwd-scp", "ddwd-extractor"])
    portal.wait_active()


def test_without_the_reconciler_the_oracle_reports_loss(portal: Portal, tmp_path: Path) -> None:
    _change(
        portal, "extractor/decision.py", "behind if seen.unmoved >= grace else frozenset()", "frozenset()"
    )
    study = made_up_ct(tmp_path / "ct", 6, seed=41, size=32)
    portal.machine.run(["systemctl", "stop", "ddwd-storage"])
    portal.send(study)
    portal.machine.wait_for(
        lambda: "forward job" in portal.machine.journal("ddwd-gateway"), limit=60, what="no job failed"
    )
    portal.machine.run(["systemctl", "start", "ddwd-storage"])
    portal.wait_active()
    marker = made_up_ct(tmp_path / "next", 2, seed=42, size=32)
    portal.deliver(marker)  # the portal works, and has had time
    assert len(_judged(portal, study, marker).lost) == len(study.paths)
    _change(portal, "extractor/decision.py", "frozenset()\n    stage", "behind\n    stage")
    portal.wait_complete(study)
    assert _judged(portal, study, marker).holds


@pytest.mark.parametrize("honest", [True, False])
def test_a_lost_page_cache_takes_only_what_was_never_synced(
    portal: Portal, tmp_path: Path, honest: bool
) -> None:
    code = portal.machine.path(f"{TREE}/core/durable.py").read_text(encoding="utf-8")
    _change(portal, "core/durable.py", code, code + (NOTE if honest else WITHOUT))
    study = made_up_ct(tmp_path / "ct", 6, seed=43, size=32)
    portal.send(study)
    portal.wait_complete(study)
    portal.machine.kill()
    _lose_page_cache(portal)
    portal.machine.boot()
    portal.wait_active()
    verdict = _judged(portal, study)
    assert verdict.holds == honest
    assert len(verdict.changed) == (0 if honest else len(study.paths))


def _lose_page_cache(portal: Portal) -> None:
    """What a power cut does to a file that was never synced: its name may be there, its bytes are not."""
    notes = portal.machine.path(NOTES).glob("fsynced-*")
    synced = {int(line) for path in notes for line in path.read_text(encoding="ascii").split()}
    for path in portal.output.rglob("*.dcm"):
        if path.stat().st_ino not in synced:
            path.write_bytes(b"")
