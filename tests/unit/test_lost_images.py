"""An image that the portal received and that an Orthanc no longer has is named, with since when, by whose request, and what to do.

What retention removes, what is on its way and what is repaired is no loss.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.cli.reconcile import COMMAND as _RECONCILE
from ddwd.config.retention import Retention
from ddwd.core.audit import Event
from ddwd.daemon.extractor import StatusTotals, extractor_status
from ddwd.extractor.consistency import ConsistencyCheck
from ddwd.extractor.lost_images import FORMAT, lost_images
from ddwd.retention.scheduler import without
from ddwd.status import trace as view
from ddwd.status.events import AuditEvent
from ddwd.store.operator_requests import Request
from ddwd.store.record_check import RecordChecker
from ddwd.store.status_files import EXTRACTOR, LostStatus
from tests.unit.fakes import image
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.status.trace import Trace
    from tests.unit.fakes import FakeOrthanc, Image

_IMAGES = [image(1, number) for number in (1, 2, 3)]
_STUDY = _IMAGES[0].study_id
_ROUND = 340.0
"""Longer than a round of the sweep and the second look."""


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    """One published study of three images."""
    made = Portal(tmp_path)
    made.deliver(*_IMAGES)
    made.run(20)
    assert len(made.published()) == 3
    return made


def _delete(node: FakeOrthanc, *images: Image) -> None:
    """Delete images as somebody with a login does: nothing is told in /changes."""
    for one in images:
        node.forget(one.orthanc_id)


def _lost(portal: Portal) -> LostStatus | None:
    return extractor_status(portal.extractor, StatusTotals(), portal.clock).lost


def _told(portal: Portal) -> list[Event]:
    return [event for event, _ in portal.events if event in {Event.LOST, Event.LOST_FOUND}]


def _trace(portal: Portal, changes: Callable[[str], list[AuditEvent]] = lambda _study: []) -> Trace:
    path = portal.paths.heartbeat("extractor")
    path.parent.mkdir(parents=True, exist_ok=True)
    EXTRACTOR.write_volatile(path, extractor_status(portal.extractor, StatusTotals(), portal.clock))
    return view.trace(_STUDY, portal.config, (portal.gateway, portal.storage), (), lambda _uid: [], changes)


def _request(
    method: str, resource: str, granted: str = "yes", at: str = "2026-06-01T10:00:00.000Z"
) -> AuditEvent:
    fields = {"user": "admin", "address": "10.1.2.3", "method": method, "resource": resource}
    fields |= {"peer": "gateway", "granted": granted}
    return AuditEvent(at, "changed-by-rest", _STUDY, "", f"admin asked for {method}", fields)


# --- what counts ------------------------------------------------------------------------------------------------------


def test_a_study_that_is_where_it_was_is_not_lost(portal: Portal) -> None:
    portal.run(_ROUND)
    assert _lost(portal) is None
    assert _told(portal) == []


def test_images_deleted_on_the_gateway_are_found_within_a_round_and_told_once(portal: Portal) -> None:
    _delete(portal.gateway, *_IMAGES[:2])
    portal.run(_ROUND)
    found = _lost(portal)
    assert found is not None
    assert (found.studies, found.on_gateway, found.on_storage) == (1, 2, 0)
    assert found.example == _IMAGES[0].study_uid
    portal.run(_ROUND)
    assert _told(portal) == [Event.LOST]


def test_half_a_study_deleted_on_both_is_lost_on_both(portal: Portal) -> None:
    for node in (portal.gateway, portal.storage):
        _delete(node, _IMAGES[0])
    portal.run(_ROUND)
    found = _lost(portal)
    assert found is not None
    assert (found.on_gateway, found.on_storage) == (1, 1)


def test_a_study_that_is_gone_from_both_orthancs_is_in_neither_list_and_found_all_the_same(
    portal: Portal,
) -> None:
    portal.gateway.delete_study(_STUDY)
    portal.storage.delete_study(_STUDY)
    portal.run(_ROUND)
    found = _lost(portal)
    assert found is not None
    assert (found.on_gateway, found.on_storage) == (3, 3)


def test_what_the_gateway_still_has_is_sent_to_storage_again_and_is_not_lost(portal: Portal) -> None:
    _delete(portal.storage, _IMAGES[0])
    portal.run(_ROUND)
    assert _IMAGES[0].orthanc_id in portal.storage.images
    assert _told(portal) == []


@pytest.mark.parametrize("places", [("gateway",), ("storage",), ("gateway", "storage")])
def test_what_retention_removed_is_not_lost(portal: Portal, places: tuple[str, ...]) -> None:
    for place in places:
        record = portal.custody.read(_STUDY)
        assert record is not None
        portal.custody.write(without(record, place, set(record.images), "2026-01-02T00:00:00.000Z"))  # type: ignore[arg-type]
    nodes = {"gateway": portal.gateway, "storage": portal.storage}
    for place in reversed(places):
        nodes[place].delete_study(_STUDY)
    portal.run(_ROUND)
    # an image that storage alone had given up is sent again by the gateway, as before
    assert _lost(portal) is None
    assert _told(portal) == []
    assert _trace(portal).complete


def test_retention_itself_alarms_nobody(tmp_path: Path) -> None:
    portal = Portal(tmp_path, retention=Retention(gateway_days=1, storage_days=2))
    portal.deliver(*_IMAGES)
    portal.run(20)
    for _ in range(4):
        portal.clock.advance(24 * 3600)
        portal.run(4000)
    assert not portal.gateway.images
    assert _told(portal) == []
    assert _lost(portal) is None


def test_an_image_that_never_was_on_the_gateway_is_not_lost_there(portal: Portal) -> None:
    straight = image(2, 1)
    portal.storage.store(straight)
    portal.run(20)
    portal.run(_ROUND)
    assert len(portal.published()) == 4
    assert _told(portal) == []


def test_an_image_that_is_stored_anew_a_moment_later_is_not_lost(portal: Portal) -> None:
    _delete(portal.gateway, _IMAGES[0])
    portal.extractor.sources.compare(None)
    portal.run(3)
    portal.gateway.store(_IMAGES[0])
    portal.run(_ROUND)
    assert _told(portal) == []


def test_images_that_come_back_are_told_soon_and_are_lost_no_more(portal: Portal) -> None:
    _delete(portal.gateway, _IMAGES[0])
    portal.run(_ROUND)
    portal.gateway.store(_IMAGES[0])
    portal.run(30)
    assert _lost(portal) is None
    assert _told(portal) == [Event.LOST, Event.LOST_FOUND]


def test_since_when_outlives_a_restart_and_is_told_once(portal: Portal) -> None:
    _delete(portal.gateway, _IMAGES[0])
    portal.run(_ROUND)
    before = _lost(portal)
    portal.start()
    assert _lost(portal) == before
    portal.run(_ROUND)
    assert _lost(portal) == before
    assert _told(portal) == [Event.LOST]


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 99}', b'{"schema": 1, "studies": 3}'])
def test_a_list_that_cannot_be_read_is_made_anew(portal: Portal, content: bytes) -> None:
    _delete(portal.gateway, _IMAGES[0])
    portal.run(_ROUND)
    portal.paths.lost.write_bytes(content)
    portal.start()
    portal.run(_ROUND)
    known = FORMAT.read(portal.paths.lost)
    assert known is not None
    assert [(row.study, row.gateway) for row in known.studies] == [(_STUDY, 1)]


def test_images_that_a_route_left_on_the_orthancs_are_lost_when_neither_has_them(portal: Portal) -> None:
    record = portal.custody.read(_STUDY)
    assert record is not None
    passed = replace(record, images={}, passed=[one.orthanc_id for one in _IMAGES])
    here, gone = frozenset(passed.passed[:1]), frozenset(passed.passed[1:])
    assert lost_images(passed, here, frozenset()).storage == gone
    assert not lost_images(passed, here, gone)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_trace_says_what_is_missing_where_since_when_by_whom_and_what_to_do(portal: Portal) -> None:
    for node in (portal.gateway, portal.storage):
        _delete(node, *_IMAGES[:2])
    portal.run(_ROUND)
    told = _trace(portal, lambda _study: [_request("DELETE", f"/instances/{_IMAGES[0].orthanc_id}")])
    assert not told.complete
    assert (
        "images that were received are missing: 2 on ORTHANC1 and 2 on ORTHANC2, noticed 20" in told.verdict
    )
    assert f"admin from 10.1.2.3: DELETE /instances/{_IMAGES[0].orthanc_id} on the gateway" in told.verdict
    assert told.next_step.endswith(f"ddwd send {portal.paths.output}/*/{_IMAGES[0].study_uid}")
    assert _IMAGES[0].patient_id not in told.next_step
    assert told.missing == (
        "2 images are missing on the gateway, which had received them",
        "2 images are missing on storage, and on the gateway",
    )
    assert {"lost", "changed-by-rest"} <= {step.event for step in told.steps}


def test_the_trace_of_a_study_that_both_orthancs_forgot_is_not_complete(portal: Portal) -> None:
    portal.gateway.delete_study(_STUDY)
    portal.storage.delete_study(_STUDY)
    told = _trace(portal)
    assert not told.complete
    assert (
        "3 on ORTHANC1 and 3 on ORTHANC2; the journal has no request by REST that removed them"
        in told.verdict
    )


def test_images_that_are_left_in_no_place_are_said_to_be(portal: Portal) -> None:
    for node in (portal.gateway, portal.storage):
        _delete(node, _IMAGES[0])
    (path,) = portal.paths.output.rglob(f"{_IMAGES[0].sop_uid}.dcm")
    path.unlink()
    told = _trace(portal)
    assert told.verdict.startswith("1 image is left in no place; ")
    assert told.next_step == "send it again from the modality, or restore a backup"


@pytest.mark.parametrize(
    ("request_", "is_named"),
    [
        (_request("DELETE", f"/studies/{_STUDY}"), True),
        (_request("POST", f"/studies/{_STUDY}/modify"), True),
        (_request("POST", "/tools/bulk-delete", at="2099-01-01T00:00:00.000Z"), True),
        (_request("POST", "/tools/bulk-delete", at="2020-01-01T00:00:00.000Z"), False),
        (_request("DELETE", f"/studies/{_STUDY}", granted="no"), False),
        (_request("DELETE", f"/studies/{_STUDY}/metadata/2000"), False),
        (_request("PUT", f"/studies/{_STUDY}/metadata/2000"), False),
    ],
)
def test_only_requests_that_may_have_removed_images_are_blamed(
    portal: Portal, request_: AuditEvent, *, is_named: bool
) -> None:
    _delete(portal.gateway, _IMAGES[0])
    told = _trace(portal, lambda _study: [request_])
    assert ("asked for by REST" in told.verdict) is is_named


def test_reconcile_counts_what_is_lost_on_each_orthanc(portal: Portal) -> None:
    _delete(portal.gateway, *_IMAGES[:2])
    _delete(portal.storage, *_IMAGES[:1])
    checker = RecordChecker(portal.custody, portal.paths)
    check = ConsistencyCheck(portal.gateway, portal.storage, portal.custody, checker, portal.paths)
    (found,) = check.everything()
    assert (found.lost_on_gateway, found.lost_on_storage, found.agrees) == (2, 1, False)
    assert "somebody deleted on an Orthanc" in _RECONCILE.about


# --- what was removed on purpose --------------------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [_STUDY, ""])
def test_what_the_operator_accepts_is_a_problem_no_longer_until_more_is_missing(
    portal: Portal, subject: str
) -> None:
    _delete(portal.gateway, _IMAGES[0])
    portal.run(_ROUND)
    portal.requests.submit(Request("accept", subject))
    portal.run(2)
    assert _lost(portal) is None
    told = _trace(portal)
    assert told.complete
    assert told.missing[0].startswith("1 image is no longer on an Orthanc, accepted 20")
    checker = RecordChecker(portal.custody, portal.paths)
    check = ConsistencyCheck(portal.gateway, portal.storage, portal.custody, checker, portal.paths)
    assert [one.agrees for one in check.everything()] == [True]
    portal.start()
    portal.run(_ROUND)
    assert _lost(portal) is None
    _delete(portal.gateway, _IMAGES[1])
    portal.run(_ROUND)
    found = _lost(portal)
    assert found is not None
    assert found.on_gateway == 2
    assert not _trace(portal).complete
    assert _told(portal) == [Event.LOST, Event.LOST]


def test_accepting_one_study_says_nothing_of_another(portal: Portal) -> None:
    other = image(2, 1)
    portal.deliver(other)
    portal.run(20)
    _delete(portal.gateway, _IMAGES[0], other)
    portal.run(_ROUND)
    portal.requests.submit(Request("accept", _STUDY))
    portal.run(2)
    found = _lost(portal)
    assert found is not None
    assert (found.studies, found.example) == (1, other.study_uid)
