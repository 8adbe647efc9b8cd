"""The chain in the booted machine: what happens to a study is entered and signed within seconds, once, and nobody else can write there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.appliance.conftest import Portal, installed
from tests.studies import made_up_ct

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHAIN = "/var/lib/ddwd/chain"
IN_TREE = "import sys; sys.path[:0] = ['/usr/lib/ddwd', '/usr/lib/ddwd/vendor']\n"
WALK = "from pathlib import Path; from ddwd.chain.check import walk\nprint(walk(Path('/var/lib/ddwd/chain')).problems)"
TRAIL = """
import json
from datetime import timedelta
from ddwd.chain.entry import CHAINED
from ddwd.core.audit import is_genuine, selection
from ddwd.core.journal_reader import open_reader
found = list(open_reader(selection(), "", timedelta(days=1))())
print(json.dumps([one["__CURSOR"] for one in found if is_genuine(one) and one["DDWD_EVENT"] in CHAINED]))
"""
"""The positions of the events to enter that the journal has."""


@pytest.fixture(scope="module")
def own(deb: Path) -> Iterator[Portal]:
    """A machine whose signer may be ill-treated."""
    with installed(deb) as fresh:
        yield fresh


def _python(portal: Portal, code: str) -> str:
    return portal.machine.run(["python3", "-I", "-c", IN_TREE + code]).stdout.strip()


def _entries(portal: Portal) -> list[dict[str, Any]]:
    return [json.loads(line) for line in portal.machine.run(f"cat {CHAIN}/entries.jsonl").stdout.splitlines()]


def _status(portal: Portal) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(portal.machine.run("cat /run/ddwd/signer/status.json").stdout)
    return found


def _published(portal: Portal, uid: str) -> list[dict[str, Any]]:
    return [one for one in _entries(portal) if one["event"] == "published" and one.get("study_uid") == uid]


def _deliver(portal: Portal, folder: Path, seed: int) -> str:
    """Have a study published and wait for its entry, and for a signed head that covers it; return its UID."""
    study = made_up_ct(folder / str(seed), 3, seed=seed, size=32)
    portal.deliver(study)
    portal.machine.wait_for(
        lambda: _published(portal, study.uid), limit=60, what="the study is not entered", every=1
    )
    portal.machine.wait_for(
        lambda: _status(portal)["entries"] == len(_entries(portal)),
        limit=60,
        what="no head is signed",
        every=1,
    )
    return study.uid


def _assert_each_once(portal: Portal) -> None:
    entered = [one["cursor"] for one in _entries(portal) if "cursor" in one]
    assert len(set(entered)) == len(entered)
    in_journal = json.loads(_python(portal, TRAIL))
    assert [one for one in in_journal if one not in entered] == []
    assert _python(portal, WALK) == "[]"


def test_a_published_study_is_entered_and_signed_within_seconds(own: Portal, tmp_path: Path) -> None:
    uid = _deliver(own, tmp_path, 51)
    (entry,) = _published(own, uid)
    assert entry["unit"] == "ddwd-extractor.service"
    assert entry["instances"] == "3"
    assert len(entry["images_sha256"]) == len(entry["record_sha256"]) == 64
    assert _entries(own)[0]["event"] == "chain-begun"
    _assert_each_once(own)


def test_nobody_but_the_signer_can_write_the_chain_or_read_its_key(own: Portal) -> None:
    files = own.machine.run(
        f"find {CHAIN} -ignore_readdir_race -mindepth 1 -printf '%f %u %g %m\\n'"
    ).stdout.split("\n")
    key = own.machine.run(
        "stat -c '%U %G %a' /var/lib/ddwd/signer/key.pem /var/lib/ddwd/signer"
    ).stdout.splitlines()
    assert key == ["ddwd-signer ddwd-signer 400", "ddwd-signer ddwd-signer 700"]
    assert "entries.jsonl ddwd-signer ddwd 640" in files
    for user in ("ddwd", "ddwd-gateway", "nobody"):
        for attempt in (
            f"touch {CHAIN}/new",
            f"sh -c 'echo >>{CHAIN}/entries.jsonl'",
            f"mv {CHAIN}/tree {CHAIN}/t",
            "cat /var/lib/ddwd/signer/key.pem",
        ):
            assert own.machine.run(f"runuser -u {user} -- {attempt}", check=False).returncode, (user, attempt)
    assert own.machine.run(f"runuser -u ddwd -- cat {CHAIN}/entries.jsonl").stdout
    assert own.machine.run(f"runuser -u nobody -- cat {CHAIN}/entries.jsonl", check=False).returncode


def test_what_others_write_under_the_trail_s_name_is_not_entered(own: Portal, tmp_path: Path) -> None:
    for user in ("nobody", "ddwd-hooks", "ddwd-gateway"):
        forged = (
            "MESSAGE=forged\\nSYSLOG_IDENTIFIER=ddwd-audit\\nDDWD_EVENT=published\\nDDWD_STUDY_UID=1.2.3.4\\n"
        )
        own.machine.run(f"printf '{forged}' | runuser -u {user} -- logger --journald")
    _deliver(own, tmp_path, 52)
    assert _published(own, "1.2.3.4") == []


ILL = {
    "the signer is killed": "systemctl kill -s KILL ddwd-signer",
    "the journal is rotated": "journalctl --rotate",
    "the journal loses what is old": "journalctl --rotate && journalctl --vacuum-files=1",
    "journald is restarted": "systemctl restart systemd-journald",
    "the whole portal is restarted": "systemctl restart ddwd",
}


@pytest.mark.parametrize("what", ILL)
def test_whatever_happens_each_event_is_entered_once(own: Portal, tmp_path: Path, what: str) -> None:
    _deliver(own, tmp_path, seed := 60 + 2 * list(ILL).index(what))
    own.machine.run(ILL[what], timeout=120)
    own.wait_active()
    _deliver(own, tmp_path, seed + 1)
    _assert_each_once(own)


def test_on_a_full_disk_events_wait_and_the_status_says_so(own: Portal, tmp_path: Path) -> None:
    own.machine.run(
        f"systemctl stop ddwd-signer && cp -a {CHAIN} /root/chain && mount -t tmpfs -o size=1m,mode=2750 none {CHAIN} &&"
        f" chown ddwd-signer:ddwd {CHAIN} && cp -a /root/chain/. {CHAIN}/ &&"
        f" (dd if=/dev/zero of={CHAIN}/full bs=4k status=none || true) && systemctl start ddwd-signer"
    )
    study = made_up_ct(tmp_path / "full", 3, seed=80, size=32)
    own.deliver(study)
    own.machine.wait_for(
        lambda: "no room" in _status(own)["problem"], limit=60, what="no word of it", every=1
    )
    own.machine.run(f"rm {CHAIN}/full")
    own.machine.wait_for(lambda: _published(own, study.uid), limit=90, what="it does not go on", every=1)
    own.machine.run(
        f"systemctl stop ddwd-signer && rm -rf /root/chain && cp -a {CHAIN} /root/chain && umount {CHAIN} &&"
        f" cp -a /root/chain/. {CHAIN}/ && systemctl start ddwd-signer"
    )
    _deliver(own, tmp_path, 81)
    _assert_each_once(own)


def test_a_chain_that_root_has_changed_is_not_extended_and_said_to_be_broken(
    own: Portal, tmp_path: Path
) -> None:
    own.machine.run(
        f"systemctl stop ddwd-signer && cp -a {CHAIN}/entries.jsonl /root/ && sed -i 3d {CHAIN}/entries.jsonl"
    )
    own.machine.run("systemctl start ddwd-signer")
    own.machine.wait_for(lambda: _status(own)["is_broken"], limit=30, what="it is not found", every=1)
    assert "entry 2 " in _status(own)["problem"]
    assert "DDWD_EVENT=chain-broken" in own.machine.run("journalctl -t ddwd-audit -o export -n 20").stdout
    assert own.machine.is_active("ddwd-signer")
    count = len(_entries(own))
    study = made_up_ct(tmp_path / "broken", 3, seed=90, size=32)
    own.deliver(study)
    assert len(_entries(own)) == count
    own.machine.run(
        f"systemctl stop ddwd-signer && cp -a /root/entries.jsonl {CHAIN}/ && systemctl start ddwd-signer"
    )
    own.machine.wait_for(lambda: _published(own, study.uid), limit=60, what="it does not go on", every=1)
    _assert_each_once(own)
