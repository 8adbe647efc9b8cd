"""Every request by REST that may change something leaves an event that says who, what, where and from which address."""

from __future__ import annotations

import pytest

from ddwd.core.audit import FIELDS, Audit, Event
from ddwd.orthanc.plugin.rest_audit import RestAudit, printable_path
from ddwd.orthanc.plugin.rest_rights import RestRequest
from tests.unit.fakes import FakeClock

ID = "0a1b2c3d-00000000-11111111-22222222-33333333"
STUDY = "aaaaaaaa-00000000-11111111-22222222-33333333"
OTHER = "bbbbbbbb-00000000-11111111-22222222-33333333"


class Site:
    """The audit of a gateway whose studies are known; `events` has what was recorded."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.events: list[dict[str, str]] = []
        audit = Audit(self._take)
        self.rest = RestAudit("gateway", audit, self._studies, self.clock.monotonic)

    def _take(self, event: Event, message: str, fields: dict[str, str]) -> None:
        assert event is Event.CHANGED_BY_REST
        self.events.append({key.removeprefix("DDWD_").lower(): value for key, value in fields.items()})
        self.events[-1]["message"] = message

    @staticmethod
    def _studies(level: str, _resource: str) -> list[str]:
        return [STUDY, OTHER] if level == "patients" else [STUDY]

    def ask(self, user: str, method: str, path: str) -> list[dict[str, str]]:
        before = len(self.events)
        self.rest.note(RestRequest(user, method, path, "10.1.2.3"))
        return self.events[before:]


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"/instances/{ID}"),
        ("DELETE", f"/series/{ID}"),
        ("DELETE", f"/studies/{ID}"),
        ("POST", f"/studies/{ID}/modify"),
        ("DELETE", "/changes"),
        ("PUT", "/modalities/evil"),
        ("DELETE", "/modalities/scp"),
        ("PUT", "/peers/evil"),
        ("PUT", "/dicom-web/servers/storage"),
        ("PUT", "/tools/log-level"),
        ("POST", "/tools/reset"),
        ("POST", "/tools/bulk-delete"),
        ("PUT", f"/instances/{ID}/metadata/1024"),
        ("DELETE", f"/instances/{ID}/attachments/dicom"),
        ("POST", "/instances"),
        ("POST", "/jobs/1/cancel"),
    ],
)
@pytest.mark.parametrize(("user", "granted"), [("admin", "yes"), ("viewer", "no")])
def test_a_change_is_recorded_with_who_what_and_from_where(
    site: Site, method: str, path: str, user: str, granted: str
) -> None:
    (event,) = site.ask(user, method, path)
    assert event["event"] == "changed-by-rest"
    assert (event["user"], event["method"], event["resource"]) == (user, method, path)
    assert (event["address"], event["peer"], event["granted"]) == ("10.1.2.3", "gateway", granted)
    assert ID not in path or event["study"] == STUDY
    assert event.keys() - {"message", "event"} <= FIELDS


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/studies"),
        ("POST", "/tools/find"),
        ("POST", "/tools/lookup"),
        ("POST", "/tools/count-resources"),
    ],
)
def test_who_only_looks_is_not_recorded(site: Site, method: str, path: str) -> None:
    assert [site.ask(user, method, path) for user in ("admin", "viewer", "ddwd")] == [[], [], []]


@pytest.mark.parametrize(
    ("user", "method", "path"),
    [
        ("ddwd", "POST", "/tools/bulk-content"),
        ("ddwd", "POST", "/dicom-web/servers/storage/stow"),
        ("ddwd", "POST", f"/instances/{ID}/attachments/dicom/verify-md5"),
        ("extractor", "POST", "/instances"),
        ("courier", "POST", "/modalities/x/store"),
        ("ddwd", "PUT", f"/studies/{ID}/metadata/DdwdRoute"),
        ("gateway", "POST", "/dicom-web/studies"),
    ],
)
def test_what_the_portal_does_with_every_study_is_not_recorded(
    site: Site, user: str, method: str, path: str
) -> None:
    assert site.ask(user, method, path) == []
    assert len(site.ask("admin", method, path)) == 1


@pytest.mark.parametrize(
    ("user", "method", "path"),
    [
        ("ddwd", "DELETE", "/changes"),
        ("ddwd", "PUT", "/tools/log-level"),
        ("courier", "GET", f"/instances/{ID}/file"),
        ("monitor", "GET", "/studies"),
        ("ddwd", "POST", f"/instances/{ID}/attachments/dicom/verify-md5/../../x"),
        ("gateway", "DELETE", f"/instances/{ID}"),
        ("gateway", "POST", "/instances"),
    ],
)
def test_what_a_unit_may_not_do_is_refused_and_recorded(
    site: Site, user: str, method: str, path: str
) -> None:
    assert [(event["user"], event["granted"]) for event in site.ask(user, method, path)] == [(user, "no")]


def test_removing_a_patient_is_an_event_of_each_study(site: Site) -> None:
    assert [event["study"] for event in site.ask("admin", "DELETE", f"/patients/{ID}")] == [STUDY, OTHER]


def test_a_single_removal_with_the_login_of_the_portal_is_recorded(site: Site) -> None:
    (event,) = site.ask("ddwd", "DELETE", f"/instances/{ID}")
    assert (event["user"], event["granted"], event["study"]) == ("ddwd", "yes", STUDY)


def test_of_many_removals_by_the_portal_some_are_told_singly_and_the_rest_counted(site: Site) -> None:
    for _ in range(100):
        site.ask("extractor", "DELETE", f"/instances/{ID}")
    assert len(site.events) == 20
    site.clock.advance(61)
    (counted,) = site.ask("ddwd", "GET", "/changes")
    assert (counted["instances"], counted["user"], counted["method"]) == ("80", "ddwd", "DELETE")
    assert len(site.ask("ddwd", "DELETE", f"/instances/{ID}")) == 1
    assert sum(int(event.get("instances", "1")) for event in site.events) == 101


def test_people_are_never_counted_together(site: Site) -> None:
    assert sum(len(site.ask("admin", "DELETE", f"/instances/{ID}")) for _ in range(100)) == 100


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (f"/instances/{ID}/metadata/x", f"/instances/{ID}/metadata/x"),
        ("/patients/DOE^JOHN", "/patients/?"),
        ("/dicom-web/studies/1.2.3/series/4.5", "/dicom-web/studies/1.2.3/series/4.5"),
        ("/dicom-web/studies/DOE", "/dicom-web/studies/?"),
        ("/changes?PatientID=DOE", "/changes"),
        ("/studies/", "/studies/"),
    ],
)
def test_a_path_cannot_carry_a_patient_into_the_journal(path: str, shown: str) -> None:
    assert printable_path(path) == shown


def test_control_characters_of_a_path_do_not_make_a_second_line(site: Site) -> None:
    (event,) = site.ask("admin", "PUT", "/modalities/a\nb\x1b[31m")
    assert event["resource"].isprintable()
    assert event["message"].isprintable()
