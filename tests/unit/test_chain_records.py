"""The chain against custody records: whatever user ddwd does to a record, or to an image and its record together, is found and named."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.chain.entry import KNOWN, encode, entry_of
from ddwd.chain.log import ChainLog, ChainWriter
from ddwd.chain.records import Statements
from ddwd.core.audit import Event
from ddwd.core.model import SELF_TEST_PATIENT, OrthancId
from ddwd.store.custody import FORMAT, statement
from ddwd.store.operator_requests import Request
from ddwd.store.record_check import RecordChecker
from tests.depth import FULL
from tests.unit.fakes import image
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.chain.records import RecordComparison
    from ddwd.store.custody import InstanceRecord, Record
    from ddwd.store.record_check import CheckResult

STUDIES = [[image(study, number) for number in (1, 2, 3)] for study in (1, 2, 3)]
FIRST = STUDIES[0][0].study_id


class Chained:
    """A portal whose trail is entered in a chain, as ddwd-signer enters it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.portal = Portal(folder)
        self.folder = self.portal.paths.chain
        self._entered = 0
        self.writer = ChainWriter(self.folder)

    def enter(self, *more: tuple[Event, dict[str, str]]) -> None:
        """Enter what the portal has told since the last call."""
        told = [*self.portal.events[self._entered :], *more]
        self._entered = len(self.portal.events)
        self.writer.append([line for event, fields in told if (line := self._line(event, fields))])

    def _line(self, event: Event, fields: dict[str, str]) -> bytes:
        at = int(self.portal.clock.utc().timestamp() * 1_000_000)
        entry = entry_of(
            {**fields, "DDWD_EVENT": event.value, "__REALTIME_TIMESTAMP": str(at), "__CURSOR": "s=1;i=1"}
        )
        return encode(entry) if entry else b""

    def deliver(self, *images: object) -> None:
        self.portal.deliver(*images)  # type: ignore[arg-type]
        for one in images:
            self.portal.storage.settle(one.study_id)  # type: ignore[attr-defined]
        self.portal.run(20)
        self.enter()

    def files(self) -> CheckResult:
        """What the custody records alone say, which is all that version 0.2.0 looked at."""
        checker = RecordChecker(self.portal.custody, self.portal.paths)
        return checker.check(checker.studies())

    def statements(self, *about: str) -> Statements:
        """What the chain states of these studies."""
        found = Statements(about)
        for index, line in enumerate(ChainLog(self.folder).lines()):
            found.visit(index, line)
        return found

    def records(self) -> RecordComparison:
        statements = self.statements()
        checked = self.files()
        damaged = {one.study for one in checked.damaged}
        return statements.compare(checked.records, set(statements.stated()) - damaged)

    def named(self) -> dict[str, str]:
        """Which study is named, and as what."""
        return {one.study: one.kind for one in self.records().findings}

    def record(self) -> Record:
        found = self.portal.custody.read(FIRST)
        assert found is not None
        return found

    def forge(self, record: Record) -> None:
        """Write a record as user ddwd can: with a checksum that is right, and no event."""
        path = self.portal.custody.path(record.study)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(FORMAT.render(record))


@pytest.fixture
def chained(tmp_path: Path) -> Chained:
    made = Chained(tmp_path / "data")
    for study in STUDIES:
        made.deliver(*study)
    return made


def test_what_the_portal_wrote_is_as_entered(chained: Chained) -> None:
    chained.deliver(image(1, 4))
    assert (chained.named(), chained.records().older) == ({}, 0)


def test_pixels_digest_and_checksum_changed_together_are_found(chained: Chained) -> None:
    record = chained.record()
    instance = next(iter(record.images.values()))
    path = chained.portal.paths.output / record.folder / instance.file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    changed = {**record.images, instance.orthanc_id: replace(instance, sha256=digest)}
    chained.forge(replace(record, images=changed))
    assert chained.files().is_sound  # the records alone prove nothing against who may write them
    assert chained.named() == {FIRST: "rewritten"}


@pytest.mark.parametrize(
    "change",
    [
        lambda record: replace(record, accession="A99"),
        lambda record: replace(record, published_at="2020-01-01T00:00:00.000Z"),
        lambda record: replace(record, folder=record.folder.replace("PAT", "PAX")),
        lambda record: replace(record, history=[]),
        lambda record: replace(record, images={}),
        lambda record: replace(
            record, images={key: replace(one, removed="2026-01-01T00:00:00Z") for key, one in record.images.items()}
        ),
    ],
    ids=["accession", "time", "folder", "history", "no images", "images marked as removed"],
)  # fmt: skip
def test_any_change_of_a_record_is_found(chained: Chained, change: Callable[[Record], Record]) -> None:
    chained.forge(change(chained.record()))
    assert chained.named() == {FIRST: "rewritten"}


def test_a_record_that_is_deleted_with_its_images_is_named(chained: Chained) -> None:
    chained.portal.extractor.output.remove(chained.record())
    chained.portal.custody.path(FIRST).unlink()
    (finding,) = chained.records().findings
    assert (finding.kind, finding.study, finding.study_uid) == ("deleted", FIRST, STUDIES[0][0].study_uid)


def test_a_record_that_is_put_back_to_an_earlier_one_is_named(chained: Chained) -> None:
    before = chained.record()
    chained.deliver(image(1, 4))
    chained.forge(before)
    assert chained.named() == {FIRST: "rolled-back"}


def test_two_records_exchanged_are_both_named(chained: Chained) -> None:
    paths = [chained.portal.custody.path(study[0].study_id) for study in STUDIES[:2]]
    contents = [path.read_bytes() for path in paths]
    paths[0].write_bytes(contents[1])
    paths[1].write_bytes(contents[0])
    assert len(chained.files().damaged) == 2


def test_a_record_that_nobody_entered_is_named(chained: Chained) -> None:
    chained.portal.deliver(image(9))
    chained.portal.run(20)  # its event never got to the chain
    assert chained.named() == {image(9).study_id: "unentered"}


def test_a_record_older_than_the_chain_is_counted_and_no_finding(tmp_path: Path) -> None:
    made = Chained(tmp_path / "data")
    made.portal.deliver(image(9))
    made.portal.run(20)
    assert (made.named(), made.records().older) == ({}, 1)
    made.portal.events.clear()
    made.portal.clock.advance(3600)
    made.deliver(*STUDIES[0])
    assert (made.named(), made.records().older) == ({}, 1)
    made.portal.requests.submit(Request("retry", image(9).study_id))
    made.portal.run(20)
    made.enter()
    assert (made.named(), made.records().older) == ({}, 0)


def test_a_record_that_the_signer_found_is_compared_and_counted(tmp_path: Path) -> None:
    """As ddwd-signer enters it where the chain begins after the study was published."""
    made = Chained(tmp_path / "data")
    made.portal.deliver(*STUDIES[0])
    made.portal.run(20)
    record = made.record()
    digest = hashlib.sha256(made.portal.custody.stored(FIRST) or b"").hexdigest()
    known = {"event": KNOWN, "study": FIRST, "time": "2030-01-01T00:00:00.000Z", **statement(record, digest)}
    made.writer.append([encode(known)])
    assert (made.named(), made.records().older) == ({}, 1)
    made.forge(replace(record, accession="A99"))
    assert made.named() == {FIRST: "rewritten"}


def test_after_a_restore_earlier_records_and_missing_ones_are_right_and_forged_ones_are_not(
    chained: Chained,
) -> None:
    before = chained.record()
    chained.deliver(image(1, 4))
    chained.deliver(image(9))
    chained.forge(before)
    chained.portal.custody.path(image(9).study_id).unlink()
    assert chained.named() == {FIRST: "rolled-back", image(9).study_id: "deleted"}
    chained.enter((Event.REQUESTED, {"DDWD_PLACE": "restore", "_UID": "991"}))
    assert chained.named() == {
        FIRST: "rolled-back",
        image(9).study_id: "deleted",
    }  # user ddwd restores nothing
    chained.enter((Event.REQUESTED, {"DDWD_PLACE": "restore", "_UID": "0"}))
    assert chained.named() == {}
    chained.forge(replace(before, accession="A99"))
    assert chained.named() == {FIRST: "rewritten"}


def test_the_record_of_a_self_test_may_go(chained: Chained) -> None:
    mine = image(7, patient=SELF_TEST_PATIENT)
    chained.deliver(mine)
    for node in (chained.portal.gateway, chained.portal.storage):
        node.delete_study(mine.study_id)
    chained.portal.requests.submit(Request("forget", mine.study_id))
    chained.portal.run(20)
    chained.enter()
    assert (chained.portal.custody.has(mine.study_id), chained.named()) == (False, {})


def test_a_study_is_found_by_its_names_although_its_record_is_gone(chained: Chained) -> None:
    statements = chained.statements()
    assert statements.matching(STUDIES[0][0].study_uid) == [FIRST]
    assert statements.matching(FIRST) == [FIRST]
    assert statements.matching("1.9") == []
    only = chained.statements(STUDIES[0][0].study_uid)
    assert set(only.stated()) == {FIRST}
    assert only.begun == statements.begun


@pytest.mark.parametrize(
    "line", [b"", b"[]", b'"record_sha256"', b'{"record_sha256":', b'["record_sha256"]', b"[" * 9999]
)
def test_a_line_that_is_no_entry_states_nothing(line: bytes) -> None:
    statements = Statements()
    statements.visit(0, line)
    assert (set(statements.stated()), statements.begun) == (set(), "")


class Tamperer:
    """One random thing at a time that user ddwd can do to a record or to images, with every digest and checksum set right."""

    def __init__(self, chained: Chained, dice: random.Random, earlier: bytes) -> None:
        self._chained = chained
        self._dice = dice
        self._earlier = earlier
        self._custody = chained.portal.custody
        self.ways: list[Callable[[], None]] = [
            self._flip_a_bit, self._change_an_image_and_its_record, self._change_a_field, self._delete_a_record,
            self._put_back_an_earlier_record, self._exchange_two_records, self._delete_an_image, self._hide_an_image,
            self._add_an_image, self._forge_a_study,
        ]  # fmt: skip

    def files(self) -> list[Path]:
        """All records and images."""
        output = self._chained.portal.paths.output
        images = [path for path in sorted(output.rglob("*.dcm")) if ".ddwd" not in path.parts]
        return [*map(self._custody.path, self._custody.studies()), *images]

    def _record(self) -> Record:
        found = self._custody.read(self._dice.choice(sorted(self._custody.studies())))
        assert found is not None
        return found

    def _image(self, record: Record) -> tuple[Path, InstanceRecord]:
        one = self._dice.choice(sorted(record.images.values(), key=lambda image: image.file))
        return self._chained.portal.paths.output / record.folder / one.file, one

    def _flip_a_bit(self) -> None:
        path = self._dice.choice(self.files())
        path.write_bytes(self._flipped(path.read_bytes()))

    def _flipped(self, content: bytes) -> bytes:
        place = self._dice.randrange(len(content))
        return (
            content[:place] + bytes([content[place] ^ (1 << self._dice.randrange(8))]) + content[place + 1 :]
        )

    def _change_an_image_and_its_record(self) -> None:
        record = self._record()
        path, one = self._image(record)
        content = self._flipped(path.read_bytes())
        path.write_bytes(content)
        changed = replace(one, sha256=hashlib.sha256(content).hexdigest())
        self._chained.forge(replace(record, images={**record.images, one.orthanc_id: changed}))

    def _change_a_field(self) -> None:
        record = self._record()
        values: list[dict[str, Any]] = [
            {"accession": "A9"}, {"published_at": "2020-01-01T00:00:00.000Z"}, {"history": []}, {"route": "other"},
            {"revision": record.revision + 1}, {"set_aside": {"x": "gone"}}, {"study_uid": "1.2.9"},
        ]  # fmt: skip
        self._chained.forge(replace(record, **self._dice.choice(values)))

    def _delete_a_record(self) -> None:
        self._custody.path(self._record().study).unlink()

    def _put_back_an_earlier_record(self) -> None:
        self._custody.path(FIRST).write_bytes(self._earlier)

    def _exchange_two_records(self) -> None:
        one, other = self._dice.sample(sorted(self._custody.studies()), 2)
        paths = self._custody.path(one), self._custody.path(other)
        contents = [path.read_bytes() for path in paths]
        paths[0].write_bytes(contents[1])
        paths[1].write_bytes(contents[0])

    def _delete_an_image(self) -> None:
        self._image(self._record())[0].unlink()

    def _hide_an_image(self) -> None:
        """Delete an image, and have its record say that retention did, or that it never was."""
        record = self._record()
        path, one = self._image(record)
        path.unlink()
        images = {key: image for key, image in record.images.items() if key != one.orthanc_id}
        if self._dice.random() < 0.5:
            images[one.orthanc_id] = replace(one, removed="2026-01-01T00:00:00Z")
        self._chained.forge(replace(record, images=images))

    def _add_an_image(self) -> None:
        path, _ = self._image(self._record())
        path.with_name("1.2.99.dcm").write_bytes(path.read_bytes())

    def _forge_a_study(self) -> None:
        record = self._record()
        at = self._chained.portal.clock.utc().isoformat()
        self._chained.forge(replace(record, study=OrthancId("-".join(["0" * 8] * 5)), published_at=at))


@pytest.mark.deep
@pytest.mark.timeout(900)
def test_whatever_user_ddwd_does_to_records_and_images_is_found(chained: Chained) -> None:
    earlier = chained.portal.custody.path(FIRST).read_bytes()
    chained.deliver(image(1, 4))
    dice = random.Random(20)  # noqa: S311 - the same ones each time
    tamperer = Tamperer(chained, dice, earlier)
    whole = {path: path.read_bytes() for path in tamperer.files()}
    done = Counter[str]()
    for _ in range(5000 if FULL else 300):
        way = dice.choice(tamperer.ways)
        way()
        checked = chained.files()
        assert chained.named() or not checked.is_sound, way.__name__
        done[way.__name__] += 1
        for path in {*tamperer.files(), *whole}:
            if path not in whole:
                path.unlink()
            elif not path.exists() or path.read_bytes() != whole[path]:
                path.write_bytes(whole[path])
    assert len(done) == len(tamperer.ways)
    assert (chained.named(), chained.files().is_sound) == ({}, True)
