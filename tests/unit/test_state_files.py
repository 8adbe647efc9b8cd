"""The state files of ddwd 0.2.0, byte by byte: this version reads each, and writes the same bytes again.

`state_files/` was written from the made-up values below by the code that `ddwd/store/statefile.py` replaced. An upgrade from 0.2.0 needs
the reading, and the way back the writing.
"""

from __future__ import annotations

import json
import os
import pwd
from dataclasses import replace
from pathlib import Path

import pytest

from ddwd.config.schema import Config
from ddwd.core.audit import Audit
from ddwd.core.errors import DamagedStateError, InvalidValueError, NewerStateError, StateError
from ddwd.core.model import OrthancId
from ddwd.extractor.quarantine import Entry, Quarantine, QuarantinedObject
from ddwd.monitoring import alerts
from ddwd.retention import round_report
from ddwd.retention.round_report import Tally
from ddwd.store import custody, status_files
from ddwd.store.commitment_queue import CommitmentQueue, CommitmentRequest, Reference
from ddwd.store.custody import Custody, Record
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.hook_queue import HookQueue, Notice
from ddwd.store.ledger import Ledger
from ddwd.store.operator_requests import Request, Requests
from ddwd.store.settings_snapshot import changed_settings
from ddwd.store.statefile import StateFormat
from tests.unit.fakes import FakeClock

GOLDEN = Path(__file__).parent / "state_files"
AT = "2026-01-02T03:04:05.000Z"
STUDY = OrthancId("0a1b2c3d-11111111-22222222-33333333-44444444")
ONE = OrthancId("aaaaaaaa-11111111-22222222-33333333-44444444")
TWO = OrthancId("bbbbbbbb-11111111-22222222-33333333-44444444")
THREE = OrthancId("cccccccc-11111111-22222222-33333333-44444444")
STUDY_UID = "1.2.826.0.1.3680043.8.498.1"
CT = "1.2.840.10008.5.1.4.1.1.2"

RECORD = Record(
    study=STUDY,
    study_uid=STUDY_UID,
    accession="ACC \u00fc 1",
    folder=f"MADE-UP/{STUDY_UID}",
    revision=2,
    published_at="2026-01-02T03:04:05.678Z",
    images={
        ONE: custody.InstanceRecord(
            ONE, f"{STUDY_UID}.1.1", "1/1.dcm", 1234, "ab" * 32, "cd" * 16, "identical", at_gateway=True
        ),
        TWO: custody.InstanceRecord(
            TWO,
            f"{STUDY_UID}.1.2",
            "1/2.dcm",
            99,
            "ef" * 32,
            "01" * 16,
            "equal",
            at_gateway=False,
            removed=AT,
        ),
    },
    set_aside={THREE: "conflict"},
    history=[{"revision": 1, "at": AT, "added": 1}],
    route="ct",
    retired={"output": AT},
    passed=[THREE],
)
NOTICE = Notice(
    STUDY, STUDY_UID, "ct", f"/out/MADE-UP/{STUDY_UID}", 2, 1, AT, {"schema": 2, "study": STUDY, "images": []}
)


def golden(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def placed(path: Path, name: str) -> Path:
    """A state file as 0.2.0 left it, at its place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(golden(name))
    return path


# --- custody records --------------------------------------------------------------------------------------------------


def test_custody_record(tmp_path: Path) -> None:
    records = Custody(tmp_path)
    placed(records.path(STUDY), "custody.json")
    assert records.read(STUDY) == RECORD
    assert records.peek(STUDY) == custody.Peek("2026-01-02T03:04:05.678Z", f"MADE-UP/{STUDY_UID}", "ct", True)
    records.write(RECORD)
    assert records.path(STUDY).read_bytes() == golden("custody.json")
    assert json.loads(golden("custody.json")) == json.loads(json.dumps(custody.FORMAT.body(RECORD)))


def test_custody_record_of_schema_1(tmp_path: Path) -> None:
    """0.1 knew no rules and no retention."""
    records = Custody(tmp_path)
    placed(records.path(STUDY), "custody-1.json")
    images = {ONE: RECORD.images[ONE]}
    assert records.read(STUDY) == replace(RECORD, images=images, route="", retired={}, passed=[])


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (lambda text: text.replace(b'"size": 1234', b'"size": 1235'), StateError),
        (lambda text: text[: len(text) // 2], StateError),
        (lambda _text: b"[]", StateError),
        (lambda _text: b"", StateError),
    ],
)
def test_a_damaged_custody_record_is_not_believed(tmp_path: Path, damage, error) -> None:  # type: ignore[no-untyped-def]
    path = placed(Custody(tmp_path).path(STUDY), "custody.json")
    path.write_bytes(damage(golden("custody.json")))
    with pytest.raises(error, match=r"the custody record is damaged"):
        Custody(tmp_path).read(STUDY)


def test_a_newer_custody_record_is_refused_by_its_schema(tmp_path: Path) -> None:
    path = placed(Custody(tmp_path).path(STUDY), "custody-3.json")
    with pytest.raises(NewerStateError, match=r"schema 3, from a newer ddwd"):
        Custody(tmp_path).read(STUDY)
    assert path.read_bytes() == golden("custody-3.json")


# --- the queues -------------------------------------------------------------------------------------------------------


def test_delivery_log(tmp_path: Path) -> None:
    log = DeliveryLog(tmp_path)
    path = placed(log.path("pacs", STUDY), "delivery.json")
    assert log.of("pacs", STUDY) == {ONE, TWO}
    assert log.last("pacs", STUDY) == AT
    path.unlink()
    log.add("pacs", STUDY, [TWO, ONE], AT)
    assert path.read_bytes() == golden("delivery.json")


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"schema": 1}', b"\xff\xfe"])
def test_a_damaged_delivery_log_means_that_the_images_are_sent_again(tmp_path: Path, damage: bytes) -> None:
    log = DeliveryLog(tmp_path)
    placed(log.path("pacs", STUDY), "delivery.json").write_bytes(damage)
    assert log.of("pacs", STUDY) == frozenset()
    assert log.last("pacs", STUDY) == ""
    log.path("pacs", STUDY).write_bytes(golden("delivery.json").replace(ONE.encode(), THREE.encode()))
    assert log.of("pacs", STUDY) == frozenset()


def test_commitment_queue(tmp_path: Path) -> None:
    queue = CommitmentQueue(tmp_path)
    references = (Reference(CT, f"{STUDY_UID}.1.1"), Reference(CT, f"{STUDY_UID}.1.2"))
    request = CommitmentRequest("MODALITY", "1.2.3.4", FakeClock().utc(), references)
    queue.add(request)
    [path] = queue.waiting()
    assert path.read_bytes() == golden("commitment.json")
    assert path.stat().st_mode & 0o777 == 0o644
    assert queue.read(placed(tmp_path / "old.json", "commitment.json")) == request


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b"[" * 5000, b'{"schema": 2}'])
def test_a_damaged_commitment_request_is_an_invalid_value(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "old.json"
    path.write_bytes(damage)
    with pytest.raises(InvalidValueError):
        CommitmentQueue(tmp_path).read(path)


def test_hook_queue(tmp_path: Path) -> None:
    queue = HookQueue(tmp_path)
    path = placed(queue.waiting / NOTICE.name, "notice.json")
    assert queue.newest() == [NOTICE]
    path.unlink()
    assert queue.put(NOTICE)
    assert path.read_bytes() == golden("notice.json")
    queue.done(NOTICE)
    told = queue.told / STUDY[:2] / f"{STUDY}.json"
    assert told.read_bytes() == golden("told.json")
    assert queue.notified_revision(STUDY) == 2
    told.write_bytes(b"{}")
    assert queue.notified_revision(STUDY) == 0


def test_operator_request(tmp_path: Path) -> None:
    requests = Requests(tmp_path / "requests", FakeClock())
    request = Request("release", STUDY, "ab" * 16, "operator")
    path = requests.submit(request)
    assert path.read_bytes() == golden("request.json")
    assert path.stat().st_mode & 0o777 == 0o644
    path.unlink()
    placed(path, "request.json")
    [(_, taken)] = requests.take()
    assert (taken, taken.by) == (request, pwd.getpwuid(os.getuid()).pw_name)


# --- quarantine, retention, alerts, settings, ledger --------------------------------------------------------------------


def test_quarantine_note(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, FakeClock(), Audit())
    subject = QuarantinedObject("conflict", STUDY_UID, "other pixel data", STUDY, ONE, f"{STUDY_UID}.1.1", 3)
    name = quarantine.keep(b"made-up", subject)
    [entry] = quarantine.entries()
    note = tmp_path / STUDY_UID / f"{name}.json"
    assert note.read_bytes() == golden("quarantine.json")
    placed(note, "quarantine.json")
    assert quarantine.entries() == [entry]
    assert entry == Entry(name, AT, subject, 7, entry.sha256, note)


def test_retention_round_report(tmp_path: Path) -> None:
    path = tmp_path / "state" / "retention.json"
    places = round_report.tallies()
    places["output"] = Tally(
        2,
        30,
        4000,
        {"young": status_files.KeptStudies("young", 3, STUDY_UID), "a": status_files.KeptStudies("a", 5)},
    )
    account = status_files.RetentionRound(
        AT, "2026-01-02T03:05:05.000Z", "broken off", {place: one.report() for place, one in places.items()}
    )
    round_report.write(path, account)
    assert path.read_bytes() == golden("retention.json")
    last = round_report.read(path)
    assert last == account
    assert round_report.FORMAT.body(last) == json.loads(golden("retention.json"))


def test_alert_state(tmp_path: Path) -> None:
    path = tmp_path / "alerts.json"
    book = alerts.AlertState(
        0.0, {"waiting": alerts.ActiveCondition("2 studies wait", 10.0, 20.5, 1)}, ["over"], sent=[20.5]
    )
    alerts.FORMAT.write(path, book)
    assert path.read_bytes() == golden("alerts.json")
    placed(path, "alerts.json")
    assert alerts.FORMAT.read(path) == book
    assert alerts.load(path, 0.0) == replace(book, standing={}), "a problem of 0.2.0 has no code"


def test_settings_snapshot(tmp_path: Path) -> None:
    path = placed(tmp_path / "settings.json", "settings.json")
    config = replace(Config(), poll_interval=7.0)
    assert "poll_interval" in changed_settings(config, path)
    written = json.loads(path.read_bytes())
    assert path.read_bytes() == json.dumps(written, indent=1).encode() + b"\n"
    assert changed_settings(config, path) == []


def test_ledger_segment(tmp_path: Path) -> None:
    def opened(folder: Path) -> Ledger:
        return Ledger.open(folder, FakeClock(), segment_bytes=1 << 20, keep_days=1)

    ledger = opened(tmp_path / "new")
    ledger.append("opened", study=STUDY)
    ledger.append("cursor", node="gateway", seq=7)
    ledger.note("published", "a study", {"DDWD_STUDY": STUDY})
    ledger.append("paused")
    ledger.commit()
    assert (tmp_path / "new" / "00000001.jsonl").read_bytes() == golden("ledger.jsonl")
    placed(tmp_path / "old" / "00000001.jsonl", "ledger.jsonl")
    again = opened(tmp_path / "old")
    assert not again.damaged
    assert again.state == ledger.state


# --- the status files on /run ------------------------------------------------------------------------------------------


STATUS_FILES = [
    (status_files.EXTRACTOR, "status-extractor.json"),
    (status_files.EXTRACTOR, "status-extractor-retention.json"),
    (status_files.SCP, "status-scp.json"),
    (status_files.COURIER, "status-courier.json"),
    (status_files.HOOKS, "status-hooks.json"),
    (status_files.SELF_TEST, "self-test.json"),
]


@pytest.mark.parametrize(("form", "name"), STATUS_FILES)
def test_a_status_file_is_read_and_written_again_the_same(form: StateFormat[object], name: str) -> None:
    value = form.parse(golden(name), name)
    assert form.render(value).rstrip() == golden(name).rstrip()
    assert form.parse(form.render(value), name) == value


@pytest.mark.parametrize(("form", "name"), STATUS_FILES)
def test_a_status_file_of_a_version_with_fewer_or_more_keys_is_read(
    form: StateFormat[object], name: str
) -> None:
    whole = json.loads(golden(name))
    for key in whole:
        form.parse(json.dumps({one: value for one, value in whole.items() if one != key}).encode(), name)
    assert form.parse(json.dumps(whole | {"unheard_of": 1}).encode(), name) == form.parse(golden(name), name)
    form.parse(b"{}", name)


def test_the_extractor_status_is_what_it_was() -> None:
    status = status_files.EXTRACTOR.parse(golden("status-extractor-retention.json"), "")
    assert status.retention is not None
    assert status.retention.last is not None
    assert status.retention.last.places["output"].kept[0] == status_files.KeptStudies("a", 5)
    assert (status.swept, status.backlog.disk) == (
        status_files.SweepStatus(3, "2026-01-02T03:04:05.000Z", "2026-01-02T03:04:06.000Z"),
        1,
    )
    assert (status.disk[0].stops, status.disk[0].hours_left) == (("retrieve",), 12.5)
    [row] = status.in_flight
    assert (row.aet, row.on_gateway, row.on_disk) == ("CT1", 1, 0)
    assert status_files.EXTRACTOR.parse(golden("status-extractor.json"), "").retention is None


@pytest.mark.parametrize(
    "damage", [b"", b"[]", b"null", b'{"in_flight": 7}', b'{"in_flight": [7]}', b'{"counts": {"a": "1"}}']
)
def test_a_damaged_status_file_is_none(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "status.json"
    assert status_files.EXTRACTOR.read_or_none(path) is None
    path.write_bytes(damage)
    with pytest.raises(DamagedStateError):
        status_files.EXTRACTOR.read(path)
    assert status_files.EXTRACTOR.read_or_none(path) is None


def test_a_status_file_that_cannot_be_written_stops_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "full"
    folder.write_text("no folder can be made here")
    status_files.SCP.write_status(folder / "status.json", status_files.ScpStatus())
    assert "cannot write" in caplog.text
