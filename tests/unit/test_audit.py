"""What may get into the journal, and that each event is explained there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from unittest.mock import Mock

import pytest

from ddwd.config.schema import SECRET_KEYS, Config, Scp
from ddwd.core.audit import FIELDS, Audit, Event, is_genuine, selection
from ddwd.monitoring.rejected_associations import RejectionReporter
from ddwd.store.settings_snapshot import changed_settings
from tests import readme
from tests.unit.fakes import FakeClock

CATALOG = Path(__file__).resolve().parents[2] / "systemd/ddwd.catalog"
PACKAGE = Path(__file__).resolve().parents[2] / "ddwd"


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


@pytest.fixture
def users(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The users of a machine with the portal, by name."""
    ids = {"root": 0, "nobody": 65534, "ddwd": 990, "ddwd-inbox": 991, "ddwd-acceptor": 992}
    monkeypatch.setattr("pwd.getpwnam", lambda name: Mock(pw_uid=ids[name]))
    return ids


def _written(uid: object, event: str = "published", **fields: str) -> dict[str, object]:
    genuine = {"SYSLOG_IDENTIFIER": "ddwd-audit", "_TRANSPORT": "journal", "_UID": uid, "DDWD_EVENT": event}
    return genuine | fields


def test_a_record_counts_only_if_journald_names_a_user_who_may_write_its_event(
    users: dict[str, int],
) -> None:
    assert is_genuine(_written(users["root"]))
    assert is_genuine(_written(str(users["ddwd"])))  # journalctl gives text, its library a number
    assert is_genuine(_written(users["ddwd-inbox"], "inbox-sent"))
    assert not is_genuine(_written(users["ddwd-inbox"]))
    assert not is_genuine(_written(users["ddwd-acceptor"], "inbox-sent"))
    assert not is_genuine(_written(users["nobody"]))
    assert not is_genuine(_written(users["ddwd"], "no-such-event") | {"_UID": "991"})


@pytest.mark.parametrize(
    "forged",
    [{"_TRANSPORT": "syslog"}, {"_TRANSPORT": "stdout"}, {"SYSLOG_IDENTIFIER": "ddwd"}, {"_UID": ""}],
)
def test_a_record_that_came_another_way_does_not_count(users: dict[str, int], forged: dict[str, str]) -> None:
    assert not is_genuine(_written(users["root"], **forged))


def test_the_selection_names_the_users_that_this_machine_has_and_nobody_else(users: dict[str, int]) -> None:
    chosen = {int(one.removeprefix("_UID=")) for one in selection() if one.startswith("_UID=")}
    assert chosen == {users[name] for name in users if name != "nobody"}
    assert {"SYSLOG_IDENTIFIER=ddwd-audit", "_TRANSPORT=journal"} < set(selection())


def test_no_reader_of_the_journal_selects_the_trail_by_its_name_alone() -> None:
    """A module that reads the journal either takes the selection, or the log of a unit, which journald names."""
    sources = {path: path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}
    sources.pop(
        PACKAGE / "core" / "journal_reader.py"
    )  # it opens the journal for those that call open_reader
    read = r"journal\.Reader\(|\bopen_reader\(|\"--no-pager\""
    readers = {path for path, text in sources.items() if re.search(read, text)}
    assert {path.stem for path in readers} >= {
        "audit_relay",
        "journal_events",
        "rejected_associations",
        "signer",
        "system_info",
    }
    for path in readers:
        assert re.search(r"\bselection\(\)|_SYSTEMD_UNIT=", sources[path]), path
        assert not re.search(r"\"-t\"|--identifier|SYSLOG_IDENTIFIER=", sources[path]), path


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
