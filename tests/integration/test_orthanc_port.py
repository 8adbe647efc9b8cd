"""The promises of OrthancPort that the pipeline is built on, held by the fake of the unit tests and by a real Orthanc alike."""

from __future__ import annotations

import hashlib
import itertools
import time
from contextlib import closing
from typing import TYPE_CHECKING, Protocol

import pytest
import requests

from ddwd.core.errors import ImageRefusedError, NotFoundError, PeerDownError, PeerRefusedError
from ddwd.core.model import OrthancId
from ddwd.extractor.study import ids_of
from ddwd.orthanc.client import Orthanc
from ddwd.orthanc.port import Change, OrthancPort, Stored
from tests.integration.trial import Trial, wait_for
from tests.unit.fakes import Content, FakeClock, FakeOrthanc, Image, image, orthanc_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

UNKNOWN = orthanc_id("no", "such", "thing")
_study = itertools.count(int(time.time()))


class Subject(Protocol):
    """An Orthanc under test and the ways to put it into a state."""

    port: OrthancPort

    def store(self, *images: Image) -> None:
        """Put instances into it, past the port."""

    def delete(self, study: OrthancId) -> None:
        """Delete a study, past the port."""

    def await_stable(self, study: OrthancId) -> None:
        """Let time pass until a StableStudy row tells that the study is stable."""


class Fake:
    """The fake of the unit tests."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fake = FakeOrthanc("storage", self.clock)
        self.port: OrthancPort = self.fake

    def store(self, *images: Image) -> None:
        """See Subject."""
        self.fake.store(*images)

    def delete(self, study: OrthancId) -> None:
        """See Subject."""
        self.fake.delete_study(study)

    def await_stable(self, study: OrthancId) -> None:
        """See Subject."""
        self.clock.advance(10)
        self.fake.settle(study)


class Real:
    """The storage of a running portal."""

    def __init__(self, portal: Trial) -> None:
        self.port: OrthancPort = portal.orthanc("storage")
        self._admin = requests.Session()
        self._admin.auth = portal.login("storage", "admin")
        self._url = portal.url("storage")

    def store(self, *images: Image) -> None:
        """See Subject."""
        for one in images:
            self._admin.post(f"{self._url}/instances", data=one.content, timeout=20).raise_for_status()

    def delete(self, study: OrthancId) -> None:
        """See Subject."""
        self._admin.delete(f"{self._url}/studies/{study}", timeout=20).raise_for_status()

    def await_stable(self, study: OrthancId) -> None:
        """See Subject."""

        def told() -> bool:
            return any(row.kind == "StableStudy" for row in rows_of(self.port, 0, 100, {study}))

        wait_for(told, "no StableStudy row")


@pytest.fixture(params=["fake", "real"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    """One after the other."""
    if request.param == "fake":
        yield Fake()
        return
    real = Real(request.getfixturevalue("portal"))
    yield real
    real._admin.close()


@pytest.fixture
def images() -> list[Image]:
    """Five images in two series of a study that no one has seen."""
    number = next(_study)
    return [image(number, one, series=1 + one % 2) for one in range(1, 6)]


def rows_of(port: OrthancPort, since: int, limit: int, mine: set[OrthancId]) -> list[Change]:
    """Read `/changes` page by page to its end, as watch does; the rows of some resources."""
    rows: list[Change] = []
    done = False
    while not done:
        page = port.changes(since, limit)
        assert len(page.changes) <= limit
        assert [row.seq for row in page.changes] == sorted({row.seq for row in page.changes})
        assert all(row.seq > since for row in page.changes)
        if page.changes:
            since = page.changes[-1].seq
        rows += page.changes
        done = page.done
    return [row for row in rows if row.orthanc_id in mine]


def ids(images: list[Image]) -> set[OrthancId]:
    """Every Orthanc ID of the images, their series and study."""
    return {one for image in images for one in (image.orthanc_id, image.series_id, image.study_id)}


@pytest.mark.parametrize("limit", [1, 2, 100])
def test_changes_name_each_new_resource_once_whatever_the_page(
    subject: Subject, images: list[Image], limit: int
) -> None:
    since = subject.port.last_seq()
    subject.store(*images)
    rows = [row for row in rows_of(subject.port, since, limit, ids(images)) if row.kind.startswith("New")]
    assert {(row.level, row.orthanc_id) for row in rows} == {
        *(("Instance", one.orthanc_id) for one in images),
        *(("Series", one.series_id) for one in images),
        ("Study", images[0].study_id),
    }
    assert len(rows) == 8
    assert all(row.kind == f"New{row.level}" for row in rows)


def test_past_the_end_a_page_is_empty_and_done_and_never_names_less_than_the_newest(
    subject: Subject, images: list[Image]
) -> None:
    subject.store(*images)
    subject.await_stable(images[0].study_id)
    newest = subject.port.last_seq()
    page = subject.port.changes(newest, 100)
    assert page.done
    assert page.changes == () or page.changes[0].seq > newest
    assert page.last >= newest


def test_the_newest_seq_is_that_of_the_last_row(subject: Subject, images: list[Image]) -> None:
    before = subject.port.last_seq()
    subject.store(*images)
    assert subject.port.last_seq() >= before + 8


def test_the_same_instance_again_makes_no_row(subject: Subject, images: list[Image]) -> None:
    subject.store(*images)
    since = subject.port.last_seq()
    subject.store(*images)
    rows = rows_of(subject.port, since, 100, ids(images))
    assert [row for row in rows if row.kind.startswith("New")] == []


def test_a_study_is_its_identifiers_and_its_sets(subject: Subject, images: list[Image]) -> None:
    subject.store(*images)
    found = subject.port.study(images[0].study_id)
    assert found is not None
    assert (found.orthanc_id, found.study_uid) == (images[0].study_id, images[0].study_uid)
    assert (found.patient_id, found.accession) == (images[0].patient_id, "")
    assert {(one.orthanc_id, one.series_uid, one.instances) for one in found.series} == {
        (one.series_id, one.series_uid, _instances(images, one.series_id)) for one in images
    }
    assert subject.port.instances([images[0].study_id, UNKNOWN]) == {
        images[0].study_id: {one.orthanc_id for one in images}
    }
    assert images[0].study_id in set(subject.port.study_ids())


def test_a_study_keeps_the_rule_that_took_it(subject: Subject, images: list[Image]) -> None:
    subject.store(*images)
    study = images[0].study_id
    assert (subject.port.route(study), subject.port.route(UNKNOWN)) == (None, None)
    for name in ("research", "-"):
        subject.port.set_route(study, name)
        assert subject.port.route(study) == name
        assert subject.port.routes_of([study, UNKNOWN]) == {study: name}


def test_rules_are_held_against_the_image_that_came_first(subject: Subject, images: list[Image]) -> None:
    for one in images:
        subject.store(one)
    found = subject.port.first_image(images[0].study_id)
    assert (found["PatientID"], found["StudyInstanceUID"]) == (images[0].patient_id, images[0].study_uid)
    assert "CallingAET" in found
    with pytest.raises(NotFoundError):
        subject.port.first_image(UNKNOWN)


def test_all_studies_come_page_by_page(subject: Subject, images: list[Image]) -> None:
    subject.store(*images, image(next(_study), 1))
    listed = list(subject.port.study_ids())
    assert images[0].study_id in listed
    assert [subject.port.study_page(since, 1) for since in range(2)] == [[one] for one in listed[:2]]
    assert subject.port.study_page(len(listed) - 1, 2) == listed[-1:]
    assert subject.port.study_page(len(listed), 2) == []


def _instances(images: list[Image], series: OrthancId) -> frozenset[OrthancId]:
    return frozenset(one.orthanc_id for one in images if one.series_id == series)


def test_a_study_that_is_stable_is_told_by_a_row(subject: Subject, images: list[Image]) -> None:
    since = subject.port.last_seq()
    study = images[0].study_id
    subject.store(*images)
    assert not any(row.kind == "StableStudy" for row in rows_of(subject.port, since, 100, {study}))
    subject.await_stable(study)
    assert any(row.kind == "StableStudy" for row in rows_of(subject.port, since, 100, {study}))


def test_the_study_above_a_series_or_an_instance(subject: Subject, images: list[Image]) -> None:
    subject.store(*images)
    assert subject.port.study_of("Instance", images[0].orthanc_id) == images[0].study_id
    assert subject.port.study_of("Series", images[0].series_id) == images[0].study_id
    assert subject.port.study_of("Instance", UNKNOWN) is None
    assert subject.port.study_of("Series", UNKNOWN) is None


def test_a_study_is_found_by_its_uid_under_each_of_its_patients(
    subject: Subject, images: list[Image]
) -> None:
    number = int(images[0].study_uid.rpartition(".")[2])
    other = image(number, patient="PAT2")
    subject.store(*images, other)
    assert set(subject.port.find_study(other.study_uid)) == {images[0].study_id, other.study_id}
    assert subject.port.find_study("1.2.3.0.0") == []


def test_a_study_is_found_by_its_whole_accession_number(subject: Subject) -> None:
    number = next(_study)
    accession = f"Acc-{number}"
    mine = image(number, accession=accession)
    subject.store(mine, image(next(_study), accession=f"{accession}7"))
    assert subject.port.find_accession(accession) == [mine.study_id]
    for text in (accession[:-1], accession.upper(), "Acc*", "Acc-?", "\\", "", mine.study_uid):
        assert subject.port.find_accession(text) == [], text


@pytest.mark.parametrize(
    "patient", ["Smith/7", "../../etc", "a*b?c", "%1234", "_1234", "1234", "-rf", "smith/7"]
)
def test_a_patient_is_found_by_the_whole_of_its_id_and_nothing_like_it(
    subject: Subject, patient: str
) -> None:
    mine, others = (
        image(next(_study), patient=patient),
        ["Smith/77", "etc", "aXbYc", "51234", "A*B?C", "*", "%"],
    )
    subject.store(mine, *(image(next(_study), patient=other) for other in others))
    found = subject.port.find_patient(patient)
    assert mine.study_id in found
    for study in found:
        known = subject.port.study(study)
        assert known is not None
        assert known.patient_id == patient
    assert subject.port.find_study(patient) == []
    for text in ("*", "?", "\\", "", " ", "***"):
        assert subject.port.find_patient(text) == [], text


def test_sop_uids_leave_out_what_is_unknown(subject: Subject, images: list[Image]) -> None:
    subject.store(*images)
    asked = [*(one.orthanc_id for one in images), UNKNOWN]
    assert subject.port.sop_uids(asked) == {one.orthanc_id: one.sop_uid for one in images}
    assert subject.port.sop_uids([UNKNOWN]) == {}
    assert subject.port.sop_uids([]) == {}


@pytest.mark.parametrize("count", [1, 5], ids=["one image of a study", "the whole study"])
def test_uids_and_digests_come_for_many_at_once_and_leave_out_what_is_unknown(
    subject: Subject, images: list[Image], count: int
) -> None:
    subject.store(*images)
    study = subject.port.study(images[0].study_id)
    assert study is not None
    asked = images[:count]
    expected = {
        one.orthanc_id: Stored(one.sop_uid, hashlib.md5(one.content, usedforsecurity=False).hexdigest())
        for one in asked
    }
    uids = {one.orthanc_id: one.sop_uid for one in asked}
    assert subject.port.stored(study, [*uids, UNKNOWN]) == expected
    assert subject.port.stored(study, uids, uids) == expected
    assert subject.port.stored(study, []) == {}
    subject.delete(study.orthanc_id)
    assert subject.port.stored(study, uids) == {}
    assert subject.port.stored(study, uids, uids) == {}


def test_the_stored_file_its_head_and_its_digest(subject: Subject, images: list[Image]) -> None:
    one = images[0]
    subject.store(one)
    assert subject.port.file(one.orthanc_id) == one.content
    assert subject.port.head(one.orthanc_id, 300) == one.content[:300]
    assert subject.port.head(one.orthanc_id, 10**6) == one.content
    assert subject.port.md5(one.orthanc_id) == hashlib.md5(one.content, usedforsecurity=False).hexdigest()


def test_a_file_is_read_in_pieces_and_its_size_is_known_before(subject: Subject, images: list[Image]) -> None:
    subject.store(images[0])
    with closing(subject.port.stream(images[0].orthanc_id)) as content:
        assert len(content) == len(images[0].content)
        assert content.read(100) + b"".join(content) == images[0].content
        assert content.read(100) == b""
    with pytest.raises(NotFoundError):
        subject.port.stream(UNKNOWN)


def test_a_file_that_is_received_is_stored_as_it_is_and_known_as_received(
    subject: Subject, images: list[Image]
) -> None:
    mine, other = images[:2]
    study = mine.study_id
    assert subject.port.received(study) == frozenset()
    subject.store(other)
    for _ in range(2):  # the second time it is there already
        assert subject.port.receive(Content(mine.content)) == mine.orthanc_id
    assert subject.port.receive(Content(other.content)) == other.orthanc_id
    assert subject.port.file(mine.orthanc_id) == mine.content
    assert subject.port.received(study) == {mine.orthanc_id}
    subject.delete(study)
    assert subject.port.received(study) == frozenset()


def test_a_file_that_is_refused_is_refused_with_the_words_of_orthanc(subject: Subject) -> None:
    with pytest.raises(ImageRefusedError) as refused:
        subject.port.receive(Content(b"no image" * 100))
    assert str(refused.value) == "storage: HTTP 400 for /instances: Bad file format"
    assert (refused.value.status, refused.value.reason) == ("HTTP 400", 15)


@pytest.mark.parametrize(
    "ask",
    [lambda port: port.file(UNKNOWN), lambda port: port.md5(UNKNOWN), lambda port: port.head(UNKNOWN, 9)],
)
def test_a_file_that_is_not_there_is_not_found(
    subject: Subject, ask: Callable[[OrthancPort], object]
) -> None:
    with pytest.raises(NotFoundError):
        ask(subject.port)


def test_a_stored_file_is_whole_and_a_forgotten_instance_is_gone(
    subject: Subject, images: list[Image]
) -> None:
    subject.store(*images)
    one = images[0]
    assert subject.port.is_whole(one.orthanc_id)
    subject.port.forget(one.orthanc_id)
    subject.port.forget(one.orthanc_id)
    with pytest.raises(NotFoundError):
        subject.port.is_whole(one.orthanc_id)
    assert one.orthanc_id not in ids_of(subject.port.study(one.study_id))
    subject.store(one)
    assert subject.port.is_whole(one.orthanc_id)


def test_an_unknown_study_is_none_and_a_deleted_one_is_gone_from_everything(
    subject: Subject, images: list[Image]
) -> None:
    assert subject.port.study(UNKNOWN) is None
    since = subject.port.last_seq()
    subject.store(*images)
    study = images[0].study_id
    subject.delete(study)
    assert subject.port.study(study) is None
    assert subject.port.instances([study]) == {}
    assert subject.port.sop_uids([images[0].orthanc_id]) == {}
    assert rows_of(subject.port, since, 100, ids(images)) == []
    assert subject.port.last_seq() > since
    assert study not in set(subject.port.study_ids())


def test_a_stow_job_is_listed_and_brings_the_instances_to_storage(portal: Trial) -> None:
    one = image(next(_study), 1)
    gateway, storage = portal.orthanc("gateway"), portal.orthanc("storage")
    admin = portal.login("gateway", "admin")
    requests.post(
        f"{portal.url('gateway')}/instances", one.content, auth=admin, timeout=20
    ).raise_for_status()
    job_id = gateway.stow("storage", [one.orthanc_id])
    assert gateway.jobs()[job_id].kind == "DicomWebStowClient"
    wait_for(lambda: not gateway.jobs()[job_id].in_flight, "the job did not end")
    ended = gateway.jobs()[job_id]
    assert (ended.state, ended.progress) == ("Success", 100)
    assert 0 < ended.age < 60
    assert gateway.job(job_id) == ended
    assert gateway.job("00000000-0000-0000-0000-000000000000") is None
    assert storage.sop_uids([one.orthanc_id]) == {one.orthanc_id: one.sop_uid}


def test_a_file_gets_from_one_orthanc_to_the_other_unchanged(portal: Trial) -> None:
    one = image(next(_study), 1, pixels=bytes(range(256)) * 200_000)
    gateway, storage = portal.orthanc("gateway"), portal.orthanc("storage")
    gateway.receive(Content(one.content))
    with closing(gateway.stream(one.orthanc_id)) as content:
        assert storage.receive(content) == one.orthanc_id
    assert storage.md5(one.orthanc_id) == gateway.md5(one.orthanc_id)
    assert storage.file(one.orthanc_id) == one.content


class _Ending(Content):
    """A file whose source ends after two pieces."""

    def read(self, size: int | None = -1, /) -> bytes:
        """See FileContent."""
        if self.tell() >= 32_768:
            raise PeerDownError("gateway does not answer")
        return super().read(size)


def test_a_file_whose_source_ends_in_the_middle_is_not_received(portal: Trial) -> None:
    one = image(next(_study), 1, pixels=bytes(range(256)) * 20_000)
    gateway, storage = portal.orthanc("gateway"), portal.orthanc("storage")
    gateway.receive(Content(one.content))
    with pytest.raises(PeerDownError, match="gateway does not answer"):
        storage.receive(_Ending(one.content))
    assert storage.sop_uids([one.orthanc_id]) == {}
    with closing(gateway.stream(one.orthanc_id)) as content:
        assert storage.receive(content) == one.orthanc_id


def test_what_does_not_answer_is_down_and_what_says_no_has_refused(portal: Trial) -> None:
    with pytest.raises(PeerRefusedError, match="HTTP 401"):
        Orthanc("storage", portal.url("storage"), "ddwd", "wrong").last_seq()
    with pytest.raises(PeerDownError, match="does not answer"):
        Orthanc("storage", "http://127.0.0.1:9", "ddwd", "x").last_seq()
