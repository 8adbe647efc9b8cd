"""What may get into the journal, and that each event is explained there."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ddwd.config.schema import SECRET_KEYS, Config, Scp
from ddwd.core.audit import FIELDS, Audit, Event
from ddwd.monitoring.rejected_associations import RejectionReporter
from ddwd.store.settings_snapshot import changed_settings
from tests import readme
from tests.unit.fakes import FakeClock

CATALOG = Path(__file__).resolve().parents[2] / "systemd/ddwd.catalog"


class Told:
    """An audit whose records can be looked at, as the journal and as the ledger get them."""

    def __init__(self, *, patient_ids: bool = False) -> None:
        self.journal: list[tuple[Event, str, dict[str, str]]] = []
        self.ledger: list[dict[str, str]] = []
        self.audit = Audit(lambda *record: self.journal.append(record), patient_ids=patient_ids)
        self.audit.add_sink(lambda _event, _message, fields: self.ledger.append(fields))


def test_no_field_but_those_that_are_known_gets_in() -> None:
    told = Told()
    told.audit.record(Event.PUBLISHED, "done", study_uid="1.2", patient_name="DOE", instances=3)
    assert told.journal[0][2] == {
        "DDWD_EVENT": "published",
        "DDWD_STUDY_UID": "1.2",
        "DDWD_INSTANCES": "3",
    }
    assert not {field for field in FIELDS if "patient" in field or "name" in field}


@pytest.mark.parametrize("wanted", [False, True])
def test_a_patient_id_gets_into_the_journal_only_where_it_is_wanted_and_never_into_the_ledger(
    *, wanted: bool
) -> None:
    told = Told(patient_ids=wanted)
    told.audit.record(Event.PUBLISHED, "done", patient_id="DOE-4711")
    assert ("DDWD_PATIENT_ID" in told.journal[0][2]) is wanted
    assert "DOE" not in str(told.ledger)


def test_what_a_modality_sent_is_one_bounded_line() -> None:
    told = Told()
    told.audit.record(Event.RECEIVED, "x" * 5000, aet="CT\n1\x1b[2J")
    _, message, fields = told.journal[0]
    assert len(message) == 1000
    assert fields["DDWD_AET"] == "CT?1?[2J"


def _entries() -> dict[str, str]:
    parts = re.split(r"^-- ([0-9a-f]{32})$", CATALOG.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_each_event_has_an_id_of_its_own_and_is_explained_in_the_catalog() -> None:
    message_ids = {event.message_id for event in Event}
    assert sorted(_entries()) == sorted(message_ids)
    assert len(message_ids) == len(Event)


@pytest.mark.parametrize("event", Event)
def test_the_explanation_says_what_to_do_with_fields_that_exist(event: Event) -> None:
    entry = _entries()[event.message_id]
    assert re.match(r"\nSubject: [A-Z].+\nDefined-By: ddwd\n\n.+", entry)
    assert {name.lower() for name in re.findall(r"@DDWD_([A-Z_]+)@", entry)} <= FIELDS
    assert re.search(r"Nothing to do|ddwd |systemctl|journalctl|send|give it|may want|goes on", entry)
    assert f"`{event.value}`" in readme.text(readme.DOCS / "watch.md")


def test_refused_associations_are_told_and_a_flood_of_them_is_counted() -> None:
    told, clock = Told(), FakeClock()
    refusals = RejectionReporter(told.audit, clock)
    for _ in range(50):
        refusals.refused("CT1", "WRONG")
    assert len(told.journal) == 10
    assert told.journal[0][2]["DDWD_AET"] == "CT1"
    clock.advance(61)
    refusals.refused("CT1", "WRONG")
    assert "40 more" in told.journal[-1][1]


def test_changed_settings_are_named_once_and_no_password_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "settings.json"
    assert changed_settings(Config(), path) == []
    changed = Config(poll_interval=7.0, scp=Scp(port=11113))
    assert changed_settings(changed, path) == ["poll_interval", "scp.port"]
    assert changed_settings(changed, path) == []
    assert not SECRET_KEYS & set(json.loads(path.read_text()))
    path.write_text("{")
    assert changed_settings(Config(), path) == []
