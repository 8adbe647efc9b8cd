"""Rules in the flow: each study goes where its rule says, and one that no rule takes is held and shown, never dropped."""

from __future__ import annotations

import io
import os
import pwd
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.cli.main import parser
from ddwd.config.routing import Route, TagCondition
from ddwd.core.audit import Event
from ddwd.extractor.decision import Stage
from ddwd.store.hook_queue import HookQueue
from ddwd.store.operator_requests import Request
from tests.unit.fakes import Image, image, one_error, power_cut
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ddwd.core.model import OrthancId
    from ddwd.store.custody import Record

PAT1 = (TagCondition("PatientID", ("PAT1",)),)
REST = Route("rest")


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


def _arrives(portal: Portal, route: str | None, count: int = 3, *, patient: str = "PAT1") -> list[Image]:
    """A study at the gateway, with what Lua made of it there, and without any forwarding."""
    images = [image(number=n, patient=patient) for n in range(1, count + 1)]
    portal.gateway.store(*images)
    if route is not None:
        portal.gateway.set_route(images[0].study_id, route)
    return images


def _record(portal: Portal, study: OrthancId) -> Record:
    record = portal.custody.read(study)
    assert record is not None
    return record


def test_without_rules_nobody_is_asked_for_one(portal: Portal) -> None:
    portal.deliver(image())
    portal.run(10)
    assert portal.gateway.routes == portal.storage.routes == {}
    assert _record(portal, image().study_id).route == ""


def test_a_study_follows_the_rule_that_lua_has_chosen(portal: Portal) -> None:
    portal.rule(
        Route("pat1", PAT1),
        Route("research", layout="research/{PatientID}_{StudyInstanceUID}/{SOPInstanceUID}"),
    )
    images = _arrives(portal, "research")
    portal.run(30)
    assert set(portal.published()) == {f"research/PAT1_{one.study_uid}/{one.sop_uid}.dcm" for one in images}
    assert _record(portal, images[0].study_id).route == "research"


def test_where_lua_has_not_chosen_the_extractor_does_by_the_first_image(portal: Portal) -> None:
    portal.rule(Route("pat1", PAT1), REST)
    images = _arrives(portal, None)
    portal.run(30)
    assert portal.gateway.routes == {images[0].study_id: "pat1"}
    assert portal.published() == names(*images)


def test_a_study_that_came_past_the_gateway_has_its_rule_on_storage(portal: Portal) -> None:
    portal.rule(Route("pat1", PAT1), REST)
    portal.storage.store(image())
    portal.run(30)
    assert portal.storage.routes == {image().study_id: "pat1"}
    assert portal.published() == names(image())


def test_what_is_not_to_be_forwarded_stays_and_is_never_sent(portal: Portal) -> None:
    portal.rule(Route("stay", forward=False, extract=False))
    images = _arrives(portal, "stay")
    portal.run(30)
    assert portal.gateway.stowed == []
    assert portal.storage.images == {}
    record = _record(portal, images[0].study_id)
    assert (record.images, set(record.passed)) == ({}, {one.orthanc_id for one in images})
    assert portal.open == {}
    opened = sum(report.opened for report in portal.run(700))
    assert opened == 0, "the sweep takes it for unfinished"


def test_late_images_of_what_is_not_forwarded_are_recorded(portal: Portal) -> None:
    portal.rule(Route("stay", forward=False, extract=False))
    images = _arrives(portal, "stay")
    portal.run(30)
    portal.gateway.store(image(number=9))
    portal.gateway.settle(images[0].study_id)
    portal.run(30)
    record = _record(portal, images[0].study_id)
    assert (record.revision, len(record.passed)) == (2, 4)


def test_what_is_not_to_be_extracted_is_forwarded_and_not_fetched(portal: Portal) -> None:
    portal.rule(Route("archive", extract=False))
    images = _arrives(portal, "archive")
    portal.run(30)
    assert set(portal.storage.images) == {one.orthanc_id for one in images}
    assert portal.mover.moved == []
    assert portal.published() == {}
    assert set(_record(portal, images[0].study_id).passed) == set(portal.storage.images)
    assert Event.PUBLISHED not in [event for event, _ in portal.events]


def test_what_storage_lost_of_it_is_sent_again(portal: Portal) -> None:
    portal.rule(Route("archive", extract=False))
    images = _arrives(portal, "archive")
    portal.run(30)
    portal.storage.forget(images[0].orthanc_id)
    portal.run(700)
    assert set(portal.storage.images) == {one.orthanc_id for one in images}


def test_a_study_that_no_rule_takes_is_held_and_shown(portal: Portal) -> None:
    portal.rule(Route("pat1", PAT1))
    images = _arrives(portal, None, patient="PAT2")
    portal.run(700)
    assert (portal.gateway.stowed, portal.published()) == ([], {})
    assert len(portal.gateway.images) == len(images)
    (study,) = portal.open.values()
    assert (study.stage, study.reason) == (Stage.HELD, "no route takes it: ddwd routes")
    assert [event for event, _ in portal.events].count(Event.HELD) == 1


def test_a_held_study_goes_on_once_a_rule_takes_it(portal: Portal) -> None:
    portal.rule(Route("pat1", PAT1))
    images = _arrives(portal, "-", patient="PAT2")
    portal.run(60)
    portal.rule(Route("pat1", PAT1), REST)
    portal.run(60)
    assert portal.published() == names(*images)
    assert portal.gateway.routes == {images[0].study_id: "rest"}


def test_a_rule_that_is_gone_has_its_studies_decided_anew(portal: Portal) -> None:
    portal.rule(REST)
    images = _arrives(portal, "gone")
    portal.run(60)
    assert portal.gateway.routes == {images[0].study_id: "rest"}
    assert portal.published() == names(*images)


def test_a_published_study_stays_where_it_is_when_the_rules_change(portal: Portal) -> None:
    portal.rule(REST)
    images = _arrives(portal, "rest")
    portal.run(60)
    portal.rule(replace(REST, layout="elsewhere/{StudyInstanceUID}/{SeriesInstanceUID}/{SOPInstanceUID}"))
    late = image(number=9)
    portal.gateway.store(late)
    portal.run(60)
    assert portal.published() == names(*images, late)


@pytest.mark.parametrize(
    "layout",
    [
        "{PatientID}_{StudyInstanceUID}/{SOPInstanceUID}",
        "a/{PatientID}/b/c/{StudyInstanceUID}/{SeriesInstanceUID}/x/{SeriesNumber}_{SOPInstanceUID}",
        "{PatientID}_{AccessionNumber}/{StudyDate}-{StudyInstanceUID}/{Modality}/{SOPInstanceUID}",
    ],
)
def test_any_layout_is_published_in_one_step_and_grows(portal: Portal, layout: str) -> None:
    portal.rule(replace(REST, layout=layout))
    images = _arrives(portal, "rest")
    portal.run(30)
    assert len(portal.published()) == 3
    portal.gateway.store(image(number=7), image(number=7, series=2))
    portal.run(30)
    record = _record(portal, images[0].study_id)
    files = {f"{record.folder}/{kept.file}" for kept in record.images.values()}
    assert set(portal.published()) == files
    assert len(files) == 5
    assert portal.leftovers() == []


def test_a_tag_that_is_absent_or_strange_leads_nowhere_else(portal: Portal) -> None:
    layout = "{StudyDescription}/{AccessionNumber}/{PatientID}_{StudyInstanceUID}/{SOPInstanceUID}"
    portal.rule(replace(REST, layout=layout))
    portal.gateway.tags = portal.storage.tags = {"StudyDescription": "../../x/..", "AccessionNumber": "."}
    _arrives(portal, "rest", 1)
    portal.run(30)
    (name,) = portal.published()
    assert name.startswith("%2E.%2F..%2Fx%2F.%2E/%2E/PAT1_1.2.3.1/")


def test_long_values_are_cut_and_stay_different(portal: Portal) -> None:
    portal.rule(
        replace(
            REST,
            layout="{StudyDescription}_{StudyDescription}_{PatientID}_{StudyInstanceUID}/{SOPInstanceUID}",
        )
    )
    portal.gateway.tags = portal.storage.tags = {"StudyDescription": "X" * 118}
    portal.gateway.store(image(study=1), image(study=2))
    portal.run(30)
    folders = {name.partition("/")[0] for name in portal.published()}
    assert len(folders) == 2
    assert max(map(len, folders)) < 255


def test_what_is_urgent_is_sent_and_fetched_first(portal: Portal) -> None:
    portal.rule(Route("low", PAT1, priority="low"), Route("high", priority="high"))
    portal.close_forwarding()
    for patient in ("PAT1", "PAT2"):
        portal.gateway.store(image(study=int(patient[-1]), patient=patient))
    portal.run(30)
    assert set(portal.gateway.priorities) == {-10, 10}
    portal.close_forwarding(is_closed=False)
    portal.run(30)
    assert portal.mover.moved[0] == [image(study=2, patient="PAT2").sop_uid]


@pytest.mark.parametrize("stop", [power_cut, lambda steps, work: one_error(steps, OSError("no"), work)])
def test_a_finished_study_is_marked_and_its_hook_told_wherever_the_power_is_cut(
    tmp_path: Path, stop: Callable[[int, Callable[[], object]], bool]
) -> None:
    for steps in range(200):
        (tmp_path / str(steps)).mkdir()
        portal = Portal(tmp_path / str(steps))
        portal.rule(replace(REST, webhook="https://ris.example/", marker="study.done"))
        images = _arrives(portal, "rest", 2)
        stopped = stop(steps, lambda portal=portal: portal.run(10))  # type: ignore[misc]
        portal.start()
        portal.run(60)
        assert portal.published() == names(*images)
        (notice,) = HookQueue(portal.paths.hooks).newest()
        assert (notice.route, notice.instances) == ("rest", 2)
        assert b'"instances": 2' in (portal.paths.output / notice.path / "study.done").read_bytes()
        if not stopped:
            return
    pytest.fail("it never ran to its end")


def test_the_extractor_drops_a_hook_for_an_operator_and_records_who_asked(portal: Portal) -> None:
    portal.rule(replace(REST, webhook="https://ris.example/"))
    study = _arrives(portal, "rest", 2)[0].study_id
    portal.run(30)
    hooks = HookQueue(portal.paths.hooks)
    assert [notice.study for notice in hooks.newest()] == [study]
    args = parser().parse_args(["hooks", "drop", study])
    assert args.run(args, portal.config, io.StringIO()) == 0
    portal.run(2)
    assert hooks.newest() == []
    (fields,) = [fields for event, fields in portal.events if event is Event.REQUESTED]
    user = pwd.getpwuid(os.getuid()).pw_name
    assert (fields["DDWD_STUDY"], fields["DDWD_REVISION"], fields["DDWD_BY"]) == (study, "1", user)


# --- what a reviewer found --------------------------------------------------------------------------------------------


def test_taking_a_rule_away_sends_nothing_that_was_to_stay(portal: Portal) -> None:
    portal.rule(Route("stay", PAT1, forward=False, extract=False), REST)
    images = _arrives(portal, "stay")
    portal.run(30)
    for rules in ((REST,), ()):
        portal.rule(*rules)
        portal.run(700)
        assert portal.storage.images == {}
    late = image(number=9)
    portal.gateway.store(late)
    portal.run(700)
    assert set(portal.storage.images) == {late.orthanc_id}
    assert set(_record(portal, late.study_id).passed) == {one.orthanc_id for one in images}
    assert portal.published() == names(late)


def test_at_the_operators_request_what_stayed_goes_by_the_rules_as_they_are_now(portal: Portal) -> None:
    portal.rule(Route("stay", PAT1, forward=False, extract=False), REST)
    images = _arrives(portal, "stay")
    portal.run(30)
    portal.rule(REST)
    portal.requests.submit(Request("retry", images[0].study_id))
    portal.run(60)
    assert portal.published() == names(*images)
    assert _record(portal, images[0].study_id).passed == []


def test_a_rule_with_a_new_name_has_no_study_opened_again_and_again(portal: Portal) -> None:
    portal.rule(Route("stay", PAT1, forward=False, extract=False), REST)
    _arrives(portal, "stay")
    portal.run(30)
    portal.rule(Route("keep", PAT1, forward=False, extract=False), REST)
    assert sum(report.opened for report in portal.run(3000)) == 0


def test_a_study_that_only_looks_like_a_self_test_is_not_forgotten(portal: Portal) -> None:
    portal.rule(replace(REST, layout="{AccessionNumber}/{PatientID}_{StudyInstanceUID}/{SOPInstanceUID}"))
    portal.gateway.tags = portal.storage.tags = {"AccessionNumber": "DDWD-SELFTEST"}
    images = _arrives(portal, "rest", 1)
    portal.run(30)
    portal.requests.submit(Request("forget", images[0].study_id))
    portal.run(10)
    assert len(portal.published()) == 1


def test_two_patients_with_one_study_uid_are_two_studies_in_any_layout(portal: Portal) -> None:
    portal.rule(
        replace(REST, layout="all/{PatientID}_{StudyInstanceUID}/{SOPInstanceUID}", marker="study.done")
    )
    for patient in ("PAT1", "PAT2"):
        portal.gateway.store(image(patient=patient))
    portal.run(60)
    assert {_record(portal, image(patient=one).study_id).folder for one in ("PAT1", "PAT2")} == {
        "all/PAT1_1.2.3.1",
        "all/PAT2_1.2.3.1",
    }
    assert portal.leftovers() == []
