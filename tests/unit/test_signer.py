"""The signer's promises: each event of the trail is entered once, whatever happens, and a chain that was changed is never extended."""

from __future__ import annotations

import errno
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.chain import check
from ddwd.chain import signer as module
from ddwd.chain.entry import decode
from ddwd.chain.head import FORMAT, HeadFiles
from ddwd.chain.log import ChainLog
from ddwd.chain.signer import Chain, Signer
from ddwd.core.audit import Event
from ddwd.core.errors import StateError, StorageFullError
from ddwd.core.model import OrthancId
from ddwd.store.custody import Custody, InstanceRecord, Record, images_sha256
from tests.depth import spread
from tests.unit.chain import STUDY, Journal, key_of
from tests.unit.fakes import FakeClock, count_steps, one_error, orthanc_id, power_cut

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.chain.entry import Entry

MOST_STEPS = 8
"""Of each kind of fault, unless at full depth."""


def record(study: str = STUDY, revision: int = 1) -> Record:
    """A custody record of one image."""
    image = InstanceRecord(
        OrthancId("i"), "1.2.3", "1.dcm", 7, "ab" * 32, "cd" * 16, "identical", at_gateway=True
    )
    return Record(
        OrthancId(study),
        "1.2",
        "A1",
        "P/S",
        revision,
        "2026-01-05T12:00:00.000Z",
        images={image.orthanc_id: image},
    )


@dataclass
class Machine:
    """A machine with a signer, a journal and custody records; `boot` starts the signer's process anew."""

    home: Path
    journal: Journal = field(default_factory=Journal)
    clock: FakeClock = field(default_factory=FakeClock)
    signer: Signer = field(init=False)

    def __post_init__(self) -> None:
        self.custody = Custody(self.home / "custody")
        self.chain = self.home / "chain"
        self.boot()

    def boot(self) -> None:
        self.signer = Signer(
            Chain(self.chain, key_of(self.chain)),
            self.journal.open,
            self.custody,
            self.journal.audit,
            self.clock,
        )

    def run(self, steps: int = 4) -> None:
        for _ in range(steps):
            self.signer.step()

    def entries(self) -> list[Entry]:
        return [decode(line, "") for line in ChainLog(self.chain).lines()]

    def entered(self) -> list[str]:
        """The positions in the journal of what was entered."""
        return [one["cursor"] for one in self.entries() if "cursor" in one]

    def events(self) -> list[str]:
        return [one["event"] for one in self.entries()]

    def walk(self) -> check.Walk:
        return check.walk(self.chain)

    def happened(self) -> list[str]:
        """The positions of what is to be entered."""
        return [one["__CURSOR"] for one in self.journal.records if one["DDWD_EVENT"] != "received"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_first_entry_says_that_the_chain_begins_and_a_head_is_published_at_once(machine: Machine) -> None:
    machine.run()
    assert machine.events() == ["chain-begun", "chain-head"]
    assert machine.walk().problems == []
    (published,) = HeadFiles(machine.chain).read_published()
    assert published.size == 1
    (event,) = machine.journal.records
    assert json.loads(event["MESSAGE"].removeprefix("head of the chain: ")) == FORMAT.body(published)


def test_each_event_is_entered_once_in_its_order_and_covered_by_a_signed_head(machine: Machine) -> None:
    machine.run()
    for _ in range(5):
        machine.journal.happen(Event.RECEIVED, 3)
        machine.journal.happen(Event.PUBLISHED, 2, study="a")
        machine.run(1)
        assert machine.entered() == machine.happened()
        head = HeadFiles(machine.chain).read_newest()
        assert head is not None
        assert head.size == len(machine.entries())
    assert machine.walk().problems == []


def test_what_another_user_wrote_under_the_trail_s_name_is_not_entered(machine: Machine) -> None:
    machine.run()
    before = machine.events()
    machine.journal.happen(Event.PUBLISHED)
    machine.journal.records[-1] |= {"_UID": "65534"}
    machine.journal.happen(Event.PUBLISHED)
    machine.journal.records[-1] |= {"_TRANSPORT": "syslog"}
    machine.run()
    assert machine.events() == before


def busy_day(machine: Machine) -> None:
    """What a machine does: events, a restart among them, another day."""
    machine.run(2)
    machine.journal.happen(Event.PUBLISHED, 3, study="a")
    machine.run(2)
    machine.clock.advance(90_000)
    machine.journal.happen(Event.RETIRED, 2, study="a")
    machine.boot()
    machine.run(3)


def assert_whole(machine: Machine, step: int) -> None:
    assert machine.walk().problems == [], step
    assert machine.entered() == machine.happened(), step
    assert machine.events().count("chain-begun") == 1, step
    files = HeadFiles(machine.chain)
    newest = files.read_newest()
    assert newest is not None
    assert newest.size == len(machine.entries()), step
    announced = [one["message"] for one in machine.entries() if one["event"] == "chain-head"]
    rendered = [f"head of the chain: {FORMAT.render(one).decode().strip()}" for one in files.read_published()]
    assert set(announced) == set(rendered), step


@pytest.fixture
def _memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here loses a page cache, and there are thousands of fsyncs."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


@pytest.mark.deep
@pytest.mark.usefixtures("_memory_only")
def test_a_power_cut_at_any_durable_step_loses_no_event_and_enters_none_twice(tmp_path: Path) -> None:
    whole = Machine(tmp_path / "whole")
    total = count_steps(lambda: busy_day(whole))
    assert_whole(whole, total)
    for step in spread(range(total), MOST_STEPS):
        machine = Machine(tmp_path / str(step))
        assert power_cut(step, lambda machine=machine: busy_day(machine))  # type: ignore[misc]
        machine.boot()
        busy_day(machine)
        assert_whole(machine, step)


@pytest.mark.deep
@pytest.mark.usefixtures("_memory_only")
@pytest.mark.parametrize("error", [StorageFullError("no room"), OSError(errno.EIO, "i/o error")])
def test_an_error_at_any_durable_step_loses_no_event_and_enters_none_twice(
    tmp_path: Path, error: Exception
) -> None:
    total = count_steps(lambda: busy_day(Machine(tmp_path / "whole")))
    for step in spread(range(total), MOST_STEPS):
        machine = Machine(tmp_path / str(step))
        assert one_error(step, error, lambda machine=machine: busy_day(machine))  # type: ignore[misc]
        busy_day(machine)  # in the same process
        assert_whole(machine, step)


def test_on_a_full_disk_the_events_wait_in_the_journal(machine: Machine) -> None:
    machine.run()
    machine.journal.happen(Event.PUBLISHED, 3)
    for _ in range(3):
        assert one_error(0, StorageFullError("no room"), machine.run)
        assert machine.entered() == machine.happened()[:1]
    machine.run()
    assert machine.entered() == machine.happened()


def test_a_journal_that_cannot_be_read_or_was_rotated_costs_no_event_that_is_left(machine: Machine) -> None:
    machine.run()
    machine.journal.happen(Event.PUBLISHED, 2)
    machine.journal.problem = StateError("the journal cannot be read")
    with pytest.raises(StateError):
        machine.run()
    machine.journal.problem = None
    machine.run()
    machine.journal.happen(Event.RETIRED, 4)
    machine.journal.rotate(2)  # the one that the position names is gone too
    machine.boot()
    machine.run()
    assert machine.entered()[-2:] == machine.happened()
    assert len(set(machine.entered())) == len(machine.entered())


def test_a_head_is_published_each_day_and_each_so_many_entries(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PUBLISH_EVERY", 10)
    files = HeadFiles(machine.chain)
    machine.run()
    machine.journal.happen(Event.PUBLISHED, 7)
    machine.run()
    assert len(files.read_published()) == 1
    machine.journal.happen(Event.PUBLISHED, 5)
    machine.run()
    assert len(files.read_published()) == 2
    machine.clock.advance(86_400)
    machine.run()
    assert len(files.read_published()) == 2, "no entry is new: the head is the same"
    machine.journal.happen(Event.PUBLISHED)
    machine.run()
    assert len(files.read_published()) == 3
    assert machine.walk().problems == []


def test_more_events_than_a_turn_takes_are_entered_in_several(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.run()
    monkeypatch.setattr(module, "_AT_ONCE", 3)
    machine.journal.happen(Event.PUBLISHED, 8)
    machine.boot()
    assert [machine.signer.step() for _ in range(3)] == [True, True, False]
    assert machine.entered() == machine.happened()


# --- custody records that no entry is about ---------------------------------------------------------------------------


def test_records_that_are_older_than_the_chain_are_entered_as_they_are_found(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RECORDS_AT_ONCE", 2)
    studies = sorted(orthanc_id("P", str(n)) for n in range(5))
    digests = {study: machine.custody.write(record(study)) for study in studies}
    machine.run(6)
    known = [one for one in machine.entries() if one["event"] == "record-known"]
    assert {one["study"]: one["record_sha256"] for one in known} == digests
    assert len(known) == 5
    assert {one["images_sha256"] for one in known} == {images_sha256(record())}
    machine.boot()
    machine.run(6)
    assert machine.events().count("record-known") == 5


def test_a_record_whose_event_was_lost_with_the_journal_is_entered_and_one_that_was_changed_is_not(
    machine: Machine,
) -> None:
    lost, other = orthanc_id("P", "1"), orthanc_id("P", "2")
    machine.run()
    machine.journal.happen(Event.PUBLISHED, study=other, record_sha256=machine.custody.write(record(other)))
    machine.run()
    machine.custody.write(record(lost))
    machine.custody.write(record(other, revision=2))
    machine.boot()
    machine.run()
    assert [one["study"] for one in machine.entries() if one["event"] == "record-known"] == [lost]


def test_after_a_downgrade_all_records_are_entered_as_they_are_found(machine: Machine) -> None:
    studies = [orthanc_id("P", "1"), orthanc_id("P", "2")]
    machine.run()
    for study in studies:
        machine.journal.happen(
            Event.PUBLISHED, study=study, record_sha256=machine.custody.write(record(study))
        )
    machine.run()
    machine.journal.happen(Event.REQUESTED, place="downgrade")
    machine.custody.write(record(studies[0], revision=2))  # by the older version, which states nothing
    machine.boot()
    machine.run()
    known = [one["study"] for one in machine.entries() if one["event"] == "record-known"]
    assert sorted(known) == sorted(studies)
    machine.boot()
    machine.run()
    assert len([one for one in machine.entries() if one["event"] == "record-known"]) == len(studies)


def test_a_record_that_cannot_be_read_is_entered_by_its_bytes(machine: Machine) -> None:
    machine.custody.write(record())
    path = machine.custody.path(OrthancId(STUDY))
    path.write_bytes(path.read_bytes()[:50])
    machine.run()
    (known,) = [one for one in machine.entries() if one["event"] == "record-known"]
    assert "images_sha256" not in known
    assert len(known["record_sha256"]) == 64


def test_an_event_with_anything_for_a_study_stops_nothing(machine: Machine) -> None:
    machine.run()
    for study in ("", "ä", "zz-11", "x" * 900):
        machine.journal.happen(Event.PUBLISHED, study=study, record_sha256="no digest")
    machine.run()
    machine.boot()
    machine.run()
    assert machine.entered() == machine.happened()


# --- a chain that was changed -----------------------------------------------------------------------------------------


def tampered(machine: Machine, how: str) -> None:
    entries = machine.chain / "entries.jsonl"
    every = entries.read_bytes().splitlines(keepends=True)
    changes: dict[str, Any] = {
        "removed": lambda: entries.write_bytes(b"".join(every[:2] + every[3:])),
        "changed": lambda: entries.write_bytes(b"".join(every).replace(b'"a"', b'"b"', 1)),
        "exchanged": lambda: entries.write_bytes(b"".join([every[0], every[2], every[1], *every[3:]])),
        "shortened": lambda: entries.write_bytes(b"".join(every[:-1])),
        "emptied": lambda: entries.write_bytes(b""),
        "deleted": entries.unlink,
        "all deleted": lambda: [path.unlink() for path in (entries, machine.chain / "tree")],  # type: ignore[func-returns-value]
        "no key": key_of(machine.chain).unlink,
        "other key": lambda: (machine.chain / "public.pem").write_text("-----BEGIN PUBLIC KEY-----\n"),
        "head": lambda: (machine.chain / "head.json").write_text("{}"),
        "published": lambda: (machine.chain / "published.jsonl").write_text(""),
    }
    changes[how]()


TAMPERINGS = [
    *("removed", "changed", "exchanged", "shortened", "emptied", "deleted", "all deleted"),
    *("no key", "other key", "head", "published"),
]


@pytest.mark.parametrize("how", TAMPERINGS)
def test_a_chain_that_was_changed_is_not_extended_and_it_says_so(machine: Machine, how: str) -> None:
    machine.run()
    machine.journal.happen(Event.PUBLISHED, 6, study="a")
    machine.run()
    tampered(machine, how)
    files = {path: path.read_bytes() for path in machine.chain.iterdir()}
    machine.boot()
    machine.journal.happen(Event.PUBLISHED)
    machine.run()
    assert machine.signer.broken
    assert {path: path.read_bytes() for path in machine.chain.iterdir()} == files, "evidence"
    (event,) = [one for one in machine.journal.records if one["DDWD_EVENT"] == "chain-broken"]
    assert machine.signer.broken in event["MESSAGE"]
    assert how == "no key" or machine.walk().problems


def test_a_change_while_the_signer_runs_is_found_within_a_day(machine: Machine) -> None:
    machine.run()
    machine.journal.happen(Event.PUBLISHED, 6, study="a")
    machine.run()
    tampered(machine, "changed")
    machine.clock.advance(86_400)
    machine.run()
    assert machine.signer.broken == "entry 2 was changed"


def test_a_tree_that_is_lost_or_damaged_is_made_anew_from_the_entries(machine: Machine) -> None:
    machine.run()
    machine.journal.happen(Event.PUBLISHED, 20)
    machine.run()
    tree = machine.chain / "tree"
    whole = tree.read_bytes()
    for content in (b"", whole[:95], whole[:80] + bytes(40) + whole[120:]):
        tree.write_bytes(content)
        assert machine.walk().is_tree_alone
        machine.boot()
        machine.run()
        assert not machine.signer.broken
        assert tree.read_bytes() == whole
