"""The rules of retention over any state: what is chosen is proved somewhere else, in order, and old enough. Tried on random ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddwd.config.parsers import FOREVER, Share
from ddwd.config.retention import PLACES, Place, Retention
from ddwd.config.routing import Route
from ddwd.core.clock import stamp
from ddwd.core.model import OrthancId
from ddwd.retention.candidates import MAX_STUDIES, Survey
from ddwd.retention.rules import LAST_COPY, NOT_RECORDED, Copies, Proved, Terms, obstacle, removable, to_prove
from ddwd.store.custody import Custody, InstanceRecord, Record
from tests.depth import examples
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from pathlib import Path

IDS = [OrthancId(one) for one in "abcd"]
NOW = datetime(2026, 6, 1, tzinfo=UTC)
SOME_IDS = st.frozensets(st.sampled_from(IDS))
MD5 = st.sampled_from(["1", "1", "1", "2"])
NEARLY = st.dictionaries(st.sampled_from(IDS), MD5 | st.none(), max_size=2)
"""What is otherwise than it should be: another MD5, or one image less."""


def kept(one: OrthancId, md5: str, removed: str) -> InstanceRecord:
    return InstanceRecord(one, one, f"s/{one}.dcm", 1, "", md5, "identical", at_gateway=True, removed=removed)


@st.composite
def records(draw: st.DrawFn) -> Record:
    images = {
        one: kept(one, draw(MD5), draw(st.sampled_from(["", "", "", "then"])))
        for one in draw(st.sampled_from([IDS, IDS[:3], IDS[:1], []]))
    }
    aside = draw(st.sampled_from([{}, {}, {}, {IDS[0]: "cannot be moved"}]))
    passed = sorted(draw(SOME_IDS) - images.keys())
    return Record(
        OrthancId("s"), "1.2", "", "P/1.2", 1, stamp(NOW), images=images, set_aside=aside, passed=passed
    )


@st.composite
def copies(draw: st.DrawFn) -> Copies:
    """A state that is as it should be, but for a thing or two."""
    record = draw(records())
    sound = {one: image.md5 for one, image in record.images.items()} | dict.fromkeys(record.passed, "1")

    def listed(usual: dict[OrthancId, str]) -> dict[OrthancId, str]:
        changed = usual | draw(st.just({}) | NEARLY)
        return {one: md5 for one, md5 in changed.items() if md5 is not None}

    there = frozenset(record.images)
    return Copies(
        record,
        listed(draw(st.sampled_from([sound, {}]))),
        listed(draw(st.sampled_from([sound, sound, {}]))),
        there - draw(st.just(frozenset()) | SOME_IDS),
    )


@st.composite
def states(draw: st.DrawFn) -> tuple[Place, Copies, Proved]:
    """A place, a state, and all that has to be proved there, or nearly all."""
    place, state = draw(st.sampled_from(PLACES)), draw(copies())
    wanted = to_prove(place, state)
    lacks = st.just(frozenset[OrthancId]()) | SOME_IDS
    return place, state, Proved(wanted.output - draw(lacks), wanted.storage - draw(lacks))


MANY = examples(100, 1000)


@pytest.mark.deep
@MANY
@given(states(), st.booleans())
def test_nothing_is_ever_chosen_that_is_not_proved_elsewhere(
    state: tuple[Place, Copies, Proved], last_copy: bool
) -> None:
    place, found, proved = state
    chosen = removable(place, found, proved, last_copy=last_copy)
    if isinstance(chosen, str):
        assert chosen
        return
    assert chosen == found.at(place)
    assert not found.record.set_aside
    for one in chosen:
        assert one in found.record.images or one in found.record.passed
        on_storage = place != "storage" and one in proved.storage and one in found.storage
        on_disk = place != "output" and one in proved.output and one in found.output
        has_no_other = one not in (found.storage if place == "output" else found.output)
        assert on_storage or on_disk or (last_copy and place != "gateway" and has_no_other)
        assert on_storage or place != "gateway"
        assert one in proved.output or one not in found.output


@pytest.mark.deep
@MANY
@given(states(), st.booleans())
def test_what_is_chosen_has_one_content_everywhere(
    state: tuple[Place, Copies, Proved], last_copy: bool
) -> None:
    place, found, proved = state
    chosen = removable(place, found, proved, last_copy=last_copy)
    for one in chosen if not isinstance(chosen, str) else ():
        looked_at = [found.gateway, found.storage] if place == "gateway" else [found.storage]
        known = {listed[one] for listed in looked_at if one in listed}
        known |= {found.record.images[one].md5} if one in found.record.images else set()
        assert len(known) == 1


@pytest.mark.deep
@MANY
@given(states(), st.booleans())
def test_storage_is_left_only_once_the_gateway_has_nothing(
    state: tuple[Place, Copies, Proved], last_copy: bool
) -> None:
    place, found, proved = state
    chosen = removable(place, found, proved, last_copy=last_copy)
    assert isinstance(chosen, str) or place != "storage" or not found.gateway


@pytest.mark.deep
@MANY
@given(states(), st.booleans())
def test_a_file_that_is_missing_without_retention_keeps_everything(
    state: tuple[Place, Copies, Proved], last_copy: bool
) -> None:
    place, found, _ = state
    images = found.record.images
    missing = [one for one, image in images.items() if not image.removed and one not in found.output]
    assert not missing or obstacle(place, found, last_copy=last_copy)


def test_a_study_that_is_as_it_should_be_may_go_from_every_place() -> None:
    images = {one: kept(one, "1", "") for one in IDS}
    record = Record(OrthancId("s"), "1.2", "", "P/1.2", 1, stamp(NOW), images=images)
    listed, there = dict.fromkeys(IDS, "1"), frozenset(IDS)
    whole = Proved(there, there)
    assert removable("gateway", Copies(record, listed, listed, there), whole, last_copy=False) == there
    assert removable("storage", Copies(record, {}, listed, there), whole, last_copy=False) == there
    assert removable("output", Copies(record, {}, listed, there), whole, last_copy=False) == there
    assert removable("output", Copies(record, {}, {}, there), whole, last_copy=False) == LAST_COPY
    assert removable("output", Copies(record, {}, {}, there), whole, last_copy=True) == there


@pytest.mark.parametrize("place", ["gateway", "storage"])
def test_an_image_that_no_record_names_keeps_all(place: Place) -> None:
    record = Record(OrthancId("s"), "1.2", "", "P/1.2", 1, stamp(NOW), images={IDS[0]: kept(IDS[0], "1", "")})
    listed = dict.fromkeys(IDS[:2], "1")
    state = Copies(record, listed if place == "gateway" else {}, listed, frozenset(IDS[:1]))
    assert obstacle(place, state, last_copy=True) == NOT_RECORDED


# --- time -------------------------------------------------------------------------------------------------------------

DAYS = st.none() | st.sampled_from([0.0, 0.5, 1.0, 7.0, 400.0])
SHARES = st.sampled_from([None, Share("10%", percent=10)])
POLICIES = st.builds(
    Retention, DAYS, DAYS, DAYS, SHARES, SHARES, SHARES, st.sampled_from([0.0, 1.0, 3.0]), st.booleans()
)
ROUTES = st.builds(
    Route,
    st.just("trial"),
    keep_gateway=DAYS | st.just(FOREVER),
    keep_storage=DAYS | st.just(FOREVER),
    keep_output=DAYS | st.just(FOREVER),
)


@given(
    POLICIES,
    ROUTES,
    st.sampled_from(PLACES),
    st.booleans(),
    st.floats(0, 500),
    st.sampled_from(["", "trial"]),
)
def test_nothing_goes_before_its_time(
    policy: Retention, route: Route, place: Place, for_room: bool, age: float, taken: str
) -> None:
    terms = Terms(place, policy, {"trial": route}, NOW, for_room)
    own = {"gateway": route.keep_gateway, "storage": route.keep_storage, "output": route.keep_output}[place]
    own = own if taken else None
    general = {"gateway": policy.gateway_days, "storage": policy.storage_days, "output": policy.output_days}[
        place
    ]
    if terms.is_over(stamp(NOW - timedelta(days=age)), taken):
        assert own != FOREVER
        if for_room:
            assert policy.free(place) is not None
            assert age >= policy.least_days - 1e-6
        else:
            assert age >= next(days for days in (own, general) if days is not None) - 1e-6


@given(POLICIES, st.booleans())
def test_the_last_copy_goes_only_where_it_was_asked_for_and_for_its_age(
    policy: Retention, for_room: bool
) -> None:
    assert Terms("output", policy, {}, NOW, for_room).last_copy == (policy.remove_last_copy and not for_room)


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    return Portal(tmp_path)


def _published(custody: Custody, study: str, days: float) -> OrthancId:
    one = OrthancId(study)
    custody.write(Record(one, "1.2", "", f"P/{study}", 1, stamp(NOW - timedelta(days=days))))
    return one


def _survey(portal: Portal, days: float) -> Survey:
    terms = Terms("output", Retention(output_days=days), {}, NOW)
    survey = Survey(terms, (portal.gateway, portal.storage), portal.custody, portal.paths)
    while survey.go_on():
        pass
    return survey


def test_the_oldest_come_first_whatever_their_names(portal: Portal) -> None:
    ages = [3, 9, 1, 7, 5]
    by_age = {
        days: _published(portal.custody, f"{days:02}{name}", days)
        for name, days in zip("zyxwv", ages, strict=True)
    }
    survey = _survey(portal, 2)
    assert survey.found == [by_age[days] for days in (9, 7, 5, 3)]
    assert survey.is_whole


def test_a_pass_takes_a_bounded_number_and_those_are_the_oldest(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ddwd.retention.candidates.MAX_STUDIES", 3)
    assert MAX_STUDIES > 3
    studies = [_published(portal.custody, f"{name:03}", 1 + (name * 37) % 101) for name in range(100)]
    survey = _survey(portal, 0)
    assert not survey.is_whole
    assert survey.found == sorted(studies, key=lambda one: -(1 + (int(one) * 37) % 101))[:3]


def test_a_record_of_an_older_version_is_looked_at_first(portal: Portal) -> None:
    _published(portal.custody, "aa", 9)
    old = _published(portal.custody, "zz", 1)
    path = portal.custody.path(old)
    path.write_bytes(b"{" + path.read_bytes().partition(b'"images"')[2])
    assert _survey(portal, 2).found == [old, OrthancId("aa")]
