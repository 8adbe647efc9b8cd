"""`ddwd trace`: where a study is and why, from the portal's own files and two Orthancs, whatever of them is missing."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest

from ddwd.config.routing import Route
from ddwd.core.errors import NotFoundError, PeerRefusedError, StateError
from ddwd.core.model import OrthancId
from ddwd.core.problem import Problem, problem
from ddwd.core.problem_codes import Code
from ddwd.daemon.extractor import StatusTotals, extractor_status
from ddwd.extractor.decision import Blocker
from ddwd.extractor.quarantine import QuarantinedObject
from ddwd.retention.scheduler import without
from ddwd.status import journal_events as journal
from ddwd.status import trace as view
from ddwd.status import trace_text
from ddwd.status.events import AuditEvent
from ddwd.status.status_codes import MEANINGS, explain
from ddwd.store.custody import Custody
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.operator_requests import Request
from ddwd.store.status_files import EXTRACTOR
from tests.unit.fakes import image
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.status.journal_events import JournalEvents
    from ddwd.status.trace import Trace

_STUDY = image().study_id


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


def _none(_study_uid: str) -> list[AuditEvent]:
    return []


def _trace(
    portal: Portal,
    *,
    extractor: bool = True,
    study: OrthancId = _STUDY,
    refusals: JournalEvents = _none,
    problems: tuple[Problem, ...] = (),
) -> Trace:
    path = portal.paths.heartbeat("extractor")
    path.parent.mkdir(parents=True, exist_ok=True)
    if extractor:
        EXTRACTOR.write_volatile(path, extractor_status(portal.extractor, StatusTotals(), portal.clock))
    else:
        path.unlink(missing_ok=True)
    return view.trace(study, portal.config, (portal.gateway, portal.storage), problems, refusals)


def _images(count: int) -> list:  # type: ignore[type-arg]
    return [image(number=number, accession="A-77") for number in range(1, count + 1)]


def test_a_finished_study_is_told_hop_by_hop(portal: Portal) -> None:
    portal.deliver(*_images(3))
    portal.run(20)
    told = _trace(portal)
    assert told.complete
    assert told.namesakes == ()
    assert "complete on disk: 3 images, revision 1" in told.verdict
    assert told.next_step == "none"
    assert [(hop.title, hop.images) for hop in told.hops] == [("ORTHANC1", 3), ("ORTHANC2", 3), ("disk", 3)]
    assert all(hop.first and hop.last for hop in told.hops)
    assert (told.aet, told.accession, told.study_uid) == ("CT1", "A-77", image().study_uid)
    assert [step.event for step in told.steps][-2:] == ["verified", "published"]


def test_a_study_on_its_way_says_what_it_waits_for(portal: Portal) -> None:
    portal.gateway.store(*_images(3))
    portal.storage.down = True
    portal.run(20)
    portal.storage.down = False
    told = _trace(portal)
    assert not told.complete
    assert told.verdict.startswith("it is in progress, waiting: storage")
    assert told.missing == ("3 images are on the gateway and not on storage",)
    assert "the extractor retries it" in told.next_step


_STOPPED = problem(Code.UNIT_DOWN, "ddwd-scp is failed", "systemctl start ddwd-scp", "ddwd-scp")
_HOOKS = problem(Code.UNIT_DOWN, "ddwd-hooks is failed", "systemctl start ddwd-hooks", "ddwd-hooks")
_DATABASE = problem(Code.POSTGRESQL_DOWN, "PostgreSQL does not answer", "systemctl start postgresql")


@pytest.mark.parametrize(
    ("problems", "cause"),
    [((_STOPPED,), _STOPPED), ((_HOOKS,), None), ((_STOPPED, _DATABASE), _DATABASE), ((), None)],
)
def test_a_study_that_waits_names_the_cause_that_status_names_and_its_remedy(
    portal: Portal, problems: tuple[Problem, ...], cause: Problem | None
) -> None:
    portal.deliver(*_images(3))
    portal.mover.scp_up = False
    portal.run(20)
    told = _trace(portal, problems=problems)
    assert not told.complete
    if cause is None:
        assert "the extractor retries it" in told.next_step
        assert "is failed" not in told.verdict
    else:
        assert told.verdict.endswith(f"; {cause.cause}")
        assert told.next_step == cause.remedy


def test_a_complete_study_and_a_paused_one_are_no_consequence_of_what_is_broken(portal: Portal) -> None:
    portal.deliver(*_images(3))
    portal.run(20)
    assert _trace(portal, problems=(_STOPPED,)).next_step == "none"
    portal.requests.submit(Request("pause"))
    portal.deliver(image(number=9))
    portal.run(20)
    assert _trace(portal, problems=(_STOPPED,)).next_step == "ddwd resume"


def test_images_that_came_by_rest_are_counted(portal: Portal) -> None:
    images = _images(3)
    portal.gateway.unsendable = {images[0].orthanc_id, images[2].orthanc_id}
    portal.gateway.store(*images)
    portal.run(40)
    told = _trace(portal)
    assert told.complete
    assert [hop.by_rest for hop in told.hops] == [0, 2, 0]
    assert "    2 images by REST, since STOW-RS failed" in trace_text.lines(told, 80)
    assert "copied" in [step.event for step in told.steps]


def test_an_image_that_storage_refuses_is_told_with_its_words_and_what_comes_of_it(portal: Portal) -> None:
    images = _images(2)
    portal.gateway.unsendable = portal.storage.refused = {images[0].orthanc_id}
    portal.gateway.store(*images)
    portal.run(30)
    told = _trace(portal)
    assert not told.complete
    assert told.verdict.startswith(
        "it is in progress, forwarding: 1 images are not on storage yet; 1 refused (try 2 of 6"
    )
    assert "Bad file format" in told.verdict
    assert told.next_step.endswith("the extractor tries again, and then puts the images in quarantine")
    portal.run(600)
    assert "Bad file format" in _trace(portal).verdict
    assert _trace(portal).next_step.startswith("ddwd quarantine show")


def test_paused_says_how_to_go_on(portal: Portal) -> None:
    portal.requests.submit(Request("pause"))
    portal.deliver(*_images(2))
    portal.run(20)
    assert [study.blocker for study in portal.open.values()] == [Blocker.PAUSE]
    assert _trace(portal).next_step == "ddwd resume"


@pytest.mark.parametrize("node", ["gateway", "storage"])
def test_an_orthanc_that_is_away_is_named_and_the_rest_is_told(portal: Portal, node: str) -> None:
    portal.deliver(*_images(2))
    portal.run(20)
    getattr(portal, node).down = True
    told = _trace(portal)
    assert not told.complete
    assert told.verdict.startswith(f"it is not known whether the study is complete: {node}")
    assert [hop.images is None for hop in told.hops] == [node == "gateway", node == "storage", False]
    assert "published" in [step.event for step in told.steps]


def test_without_the_extractor_the_next_step_is_to_start_it(portal: Portal) -> None:
    portal.deliver(*_images(2))
    told = _trace(portal, extractor=False)
    assert told.verdict == "images are missing, and the extractor does not run"
    assert told.next_step == "systemctl start ddwd"


def test_files_gone_from_the_disk_are_counted_and_can_be_had_again(portal: Portal) -> None:
    portal.deliver(*_images(3))
    portal.run(20)
    next(portal.paths.output.rglob("1.2.3.1.1.2.dcm")).unlink()
    told = _trace(portal)
    assert told.missing == ("1 published file is missing on the disk or of another size",)
    assert told.next_step == f"ddwd retry {_STUDY}"
    assert told.hops[-1].images == 2


def test_an_image_in_quarantine_is_named_with_its_reason(portal: Portal) -> None:
    portal.deliver(*_images(2))
    portal.run(20)
    subject = QuarantinedObject("undeliverable", image().study_uid, "its file is damaged", _STUDY)
    entry = portal.quarantine.keep(b"x", subject)
    told = _trace(portal)
    assert told.verdict == "1 image of it waits in quarantine: its file is damaged"
    assert told.next_step == f"ddwd quarantine show {entry}"


def test_two_patients_under_one_study_uid_name_each_other_and_what_settles_it(portal: Portal) -> None:
    twin = image(patient="PAT2", accession="A-78")
    for images in (_images(2), [twin]):
        portal.deliver(*images)
        portal.run(20)
    (entry,) = portal.quarantine.entries()
    for study, other in ((_STUDY, twin.study_id), (twin.study_id, _STUDY)):
        told = _trace(portal, study=study)
        assert told.complete
        assert told.namesakes == (other,)
        assert "in use under another PatientID too, and nobody has decided" in told.verdict
        assert told.next_step == f"ddwd quarantine show {entry.id}"
        shown = trace_text.lines(told, 80)
        assert any(other in line for line in shown)
        assert "PAT" not in "\n".join(shown)
    portal.requests.submit(Request("release", item=entry.id))
    portal.run(5)
    for study, other in ((_STUDY, twin.study_id), (twin.study_id, _STUDY)):
        told = _trace(portal, study=study)
        assert (told.complete, told.namesakes, told.next_step) == (True, (other,), "none")
        assert "decided" not in told.verdict


def test_a_namesake_is_named_where_an_orthanc_does_not_answer(portal: Portal) -> None:
    twin = image(patient="PAT2")
    for images in (_images(1), [twin]):
        portal.deliver(*images)
        portal.run(20)
    portal.gateway.down = portal.storage.down = True
    assert _trace(portal).namesakes == (twin.study_id,)
    assert _trace(portal, study=twin.study_id).namesakes == (_STUDY,)


def test_a_published_study_that_retention_removed_from_both_orthancs_is_still_complete(
    portal: Portal,
) -> None:
    portal.deliver(*_images(2))
    portal.run(20)
    for place in ("gateway", "storage"):
        record = portal.custody.read(_STUDY)
        assert record is not None
        portal.custody.write(without(record, place, set(record.images), "2026-01-02T00:00:00.000Z"))
    portal.gateway.delete_study(_STUDY)
    portal.storage.delete_study(_STUDY)
    assert _trace(portal).complete


def test_a_study_that_nobody_knows_is_not_found(portal: Portal) -> None:
    with pytest.raises(NotFoundError):
        view.trace(OrthancId("-".join(["0" * 8] * 5)), portal.config, (portal.gateway, portal.storage), ())


def test_the_text_fits_and_names_no_patient(portal: Portal) -> None:
    portal.deliver(*_images(3))
    portal.run(20)
    told = _trace(portal)
    shown = trace_text.lines(told, 80)
    folders = [line for line in shown if line.startswith("folder ")]
    assert folders == [f"folder     {portal.config.output_dir}/*/{told.study_uid}"]
    long = [line for line in shown if len(line) > 80 and line not in folders]
    assert len(long) <= 1  # the line of the three names alone may be longer than the screen
    assert max(map(len, long), default=0) <= 110
    assert image().patient_id not in "\n".join(shown)
    bad = replace(told, verdict="it \x1b[2J waits")
    assert "\x1b" not in "\n".join(trace_text.lines(bad, 80))


def test_what_to_do_follows_from_the_typed_status_and_never_from_the_wording(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_asked: object) -> None:
        raise PeerRefusedError("storage: is paused, HTTP 404", 0, "HTTP 503")

    portal.deliver(*_images(2))
    monkeypatch.setattr(portal.mover, "move", refused)
    portal.run(20)
    told = _trace(portal)
    assert told.verdict == "it is in progress, waiting: storage: is paused, HTTP 404"
    assert told.next_step == f"{MEANINGS['HTTP 503']}; the extractor retries it"
    failed = next(step for step in told.steps if step.event == "retrieve-failed")
    assert failed.meaning == MEANINGS["HTTP 503"]


def test_every_status_has_a_meaning_that_is_one_line() -> None:
    for status, meaning in MEANINGS.items():
        assert re.fullmatch(r"0x[0-9A-F]{4}|HTTP \d{3}|[A-Z][a-zA-Z ]+", status)
        assert meaning
        assert "\n" not in meaning
    assert "no room" in explain("C-MOVE ended with 0xA700, 3 failed")
    assert explain("storage: HTTP 503 for /x") == MEANINGS["HTTP 503"]
    assert explain("all is well") == ""


def test_other_destinations_of_its_rule_are_told_with_what_they_have(portal: Portal) -> None:
    portal.deliver(*_images(3))
    portal.run(20)
    custody = Custody(portal.paths.custody)
    record = custody.read(_STUDY)
    assert record is not None
    record.route = "all"
    custody.write(record)
    portal.config = replace(portal.config, routes=(Route("all", also=("teaching", "pacs")),))
    DeliveryLog(portal.paths.deliveries).add(
        "teaching", _STUDY, list(record.images)[:2], "2026-01-02T03:04:05Z"
    )
    told = _trace(portal)
    assert [(hop.title, hop.images) for hop in told.hops[3:]] == [("teaching", 2), ("pacs", 0)]
    assert told.complete


def _refused(number: int, status: str = "0xC000") -> AuditEvent:
    message = f"image of CT1 at 10.0.0.5 refused with status {status}: the data set has no SeriesInstanceUID"
    fields = {"aet": "CT1", "address": "10.0.0.5", "status": status, "sop_uid": image(number=number).sop_uid}
    return AuditEvent("2027-01-02T03:04:05.000Z", "image-refused", "", image().study_uid, message, fields)


def test_a_study_of_which_an_image_was_refused_says_who_sent_it_why_and_whether_to_send_it_again(
    portal: Portal,
) -> None:
    portal.deliver(*_images(3))
    portal.run(20)
    told = _trace(portal, refusals=lambda uid: [_refused(4)] if uid == image().study_uid else [])
    assert told.complete  # what the Orthancs have is on disk
    assert "complete on disk: 3 images, revision 1" in told.verdict
    assert told.verdict.endswith(
        "1 image was refused by ORTHANC1, last at 2027-01-02 03:04:05 UTC: image of CT1 at 10.0.0.5 refused with "
        "status 0xC000: the data set has no SeriesInstanceUID"
    )
    assert told.next_step.startswith("sending it again cannot help")
    step = told.steps[-1]
    assert (step.event, step.ok) == ("image-refused", False)
    assert step.meaning.startswith("sending it again cannot help")


def test_an_image_that_was_refused_and_is_published_since_is_told_as_a_step_only(portal: Portal) -> None:
    portal.deliver(*_images(3))
    portal.run(20)
    told = _trace(portal, refusals=lambda _uid: [_refused(2, "0xA700")])
    assert told.next_step == "none"
    assert "refused" not in told.verdict
    assert told.steps[-1].meaning == "sending it again can help"


def test_a_study_of_which_every_image_was_refused_is_found_by_its_uid(portal: Portal) -> None:
    def find(_name: str) -> list[OrthancId]:
        raise NotFoundError("no study")

    (study,) = view.or_refused(image().study_uid, find, lambda _uid: [_refused(1), _refused(2)])
    told = view.trace(
        study, portal.config, (portal.gateway, portal.storage), (), lambda _uid: [_refused(1), _refused(2)]
    )
    assert (told.complete, told.stage, told.study_uid, told.aet) == (
        False,
        "refused",
        image().study_uid,
        "CT1",
    )
    assert told.verdict.startswith("no image of it is here; 2 images were refused by ORTHANC1, last at 2027")
    assert told.next_step.startswith("sending it again cannot help")
    assert "image-refused: image of CT1 at 10.0.0.5" in "\n".join(trace_text.lines(told, 200))
    with pytest.raises(NotFoundError, match=r"^no study$"):
        view.or_refused(image().study_uid, find, _none)


def test_who_may_not_read_the_journal_is_told_so_and_has_the_rest(portal: Portal) -> None:
    def unread(_uid: str) -> list[AuditEvent]:
        raise StateError("refused images are in the journal")

    def find(_name: str) -> list[OrthancId]:
        raise NotFoundError("no study")

    portal.deliver(*_images(2))
    portal.run(20)
    told = _trace(portal, refusals=unread)
    assert told.complete
    assert told.missing == ("refused images are in the journal",)
    with pytest.raises(NotFoundError, match="no study; refused images are in the journal"):
        view.or_refused("1.2.3", find, unread)


class _Journal:
    """systemd.journal, with the records that match what was asked for."""

    def __init__(self, *records: dict[str, object]) -> None:
        self.records = list(records)
        self.asked: dict[str, set[str]] = {}

    def Reader(self) -> _Journal:  # noqa: N802 - systemd's name
        return self

    def add_match(self, *matches: str, **match: str) -> None:
        for name, value in [*(one.split("=", 1) for one in matches), *match.items()]:
            self.asked.setdefault(name, set()).add(value)

    def seek_tail(self) -> None:
        self.records = [
            one
            for one in self.records
            if all(str(one.get(name)) in values for name, values in self.asked.items())
        ]

    def get_previous(self) -> dict[str, object]:
        return self.records.pop() if self.records else {}


def test_refused_images_are_read_from_the_records_of_the_acceptor_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def record(second: int, **changes: object) -> dict[str, object]:
        at = datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC)
        return {
            "SYSLOG_IDENTIFIER": "ddwd-audit",
            "_TRANSPORT": "journal",
            "_UID": 992,
            "DDWD_EVENT": "image-refused",
            "DDWD_STUDY_UID": "1.2.3",
            "DDWD_AET": "CT1",
            "MESSAGE": f"record {second}",
            "__REALTIME_TIMESTAMP": at,
            **changes,
        }

    records = (
        record(1),
        record(2, DDWD_STUDY_UID="1.2.4"),
        record(3),
        record(4, _UID=65534),
        record(5, _UID=991),
    )
    users = {"ddwd-acceptor": Mock(pw_uid=992), "ddwd-inbox": Mock(pw_uid=991)}
    monkeypatch.setattr("pwd.getpwnam", users.__getitem__)
    monkeypatch.setattr(journal, "journal", _Journal(*records))
    monkeypatch.setattr(journal, "is_readable", lambda: True)
    found = journal.refusals_of("1.2.3")
    assert [(one.at, one.message, one.fields["aet"]) for one in found] == [
        ("2026-01-02T03:04:01.000Z", "record 1", "CT1"),
        ("2026-01-02T03:04:03.000Z", "record 3", "CT1"),
    ]
    monkeypatch.setattr(journal, "is_readable", lambda: False)
    with pytest.raises(StateError, match="group systemd-journal"):
        journal.refusals_of("1.2.3")


def test_requests_by_rest_are_read_from_the_records_of_the_orthancs_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def record(second: int, **changes: object) -> dict[str, object]:
        return {
            "SYSLOG_IDENTIFIER": "ddwd-audit",
            "_TRANSPORT": "journal",
            "_UID": 993,
            "DDWD_EVENT": "changed-by-rest",
            "DDWD_STUDY": _STUDY,
            "DDWD_USER": "admin",
            "MESSAGE": f"record {second}",
            "__REALTIME_TIMESTAMP": datetime(2026, 1, 2, 3, 4, second, tzinfo=UTC),
            **changes,
        }

    records = (
        record(1, _UID=994),
        record(2, DDWD_STUDY="other"),
        record(3, DDWD_STUDY="", DDWD_RESOURCE="/tools/bulk-delete"),
        record(4, _UID=65534),
        record(5, DDWD_EVENT="deleted"),
        record(6),
        record(7, _UID=991),
    )
    users = {
        "ddwd-gateway": Mock(pw_uid=993),
        "ddwd-storage": Mock(pw_uid=994),
        "ddwd-inbox": Mock(pw_uid=991),
    }
    monkeypatch.setattr("pwd.getpwnam", users.__getitem__)

    class Fresh:
        def Reader(self) -> _Journal:  # noqa: N802 - systemd's name
            return _Journal(*records)

    monkeypatch.setattr(journal, "journal", Fresh())
    monkeypatch.setattr(journal, "is_readable", lambda: True)
    assert [one.message for one in journal.changes_of(_STUDY)] == ["record 1", "record 3", "record 6"]
