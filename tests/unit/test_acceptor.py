"""Limits of associations, what is counted and audited of each sender, and who may send; without a socket."""

from __future__ import annotations

import pytest

from ddwd.acceptor import reasons
from ddwd.acceptor.limits import AssociationLimits, Limits
from ddwd.acceptor.relay import Exchange
from ddwd.acceptor.senders import Refusal, Senders
from ddwd.core.audit import Audit, Event
from ddwd.dicom import contexts
from ddwd.dicom.association_pdu import Answer, Proposal
from ddwd.dicom.command import StoreRequest
from ddwd.store.status_files import RefusalKind
from tests.hostile.wire import CT, EXPLICIT, Image
from tests.unit.fakes import FakeClock

NO_UID = Refusal(RefusalKind.IMAGE, "the data set has no StudyInstanceUID", 0xC000, CT, "1.2.3")


class Records:
    """Senders whose audit records are kept."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.events: list[tuple[Event, str, dict[str, str]]] = []
        audit = Audit(lambda event, text, fields: self.events.append((event, text, fields)))
        self.senders = Senders(audit, self.clock)


def test_an_address_has_its_share_and_all_together_have_theirs() -> None:
    limits = AssociationLimits(Limits(total=5, one_address=3))
    assert [limits.enter("10.0.0.1") for _ in range(3)] == [""] * 3
    assert "of this address" in limits.enter("10.0.0.1")
    assert [limits.enter("10.0.0.2") for _ in range(2)] == [""] * 2
    assert limits.enter("10.0.0.3") == "all 5 associations are in use"
    limits.leave("10.0.0.1")
    assert limits.enter("10.0.0.3") == ""
    assert limits.open == 5


def test_a_refusal_is_audited_with_who_what_and_why() -> None:
    records = Records()
    records.senders.refused("CT1", "10.0.0.5", NO_UID)
    ((event, text, fields),) = records.events
    assert event is Event.IMAGE_REFUSED
    assert text == "image of CT1 at 10.0.0.5 refused with status 0xC000: the data set has no StudyInstanceUID"
    assert (fields["DDWD_AET"], fields["DDWD_ADDRESS"], fields["DDWD_STATUS"], fields["DDWD_SOP_CLASS"]) == (
        "CT1", "10.0.0.5", "0xC000", CT,
    )  # fmt: skip


def test_a_flood_of_refusals_is_counted_and_the_number_told_later() -> None:
    records = Records()
    for _ in range(100):
        records.senders.refused("CT1", "10.0.0.5", NO_UID)
    records.senders.refused("MR1", "10.0.0.6", NO_UID)
    assert len(records.events) == 21
    records.clock.advance(61)
    records.senders.refused("CT1", "10.0.0.5", NO_UID)
    assert "80 more of this sender in the minutes before" in records.events[-1][1]
    senders = {sender.aet: sender for sender in records.senders.status()}
    assert senders["CT1"].refused == 101
    assert senders["CT1"].reasons[0].count == 101


def test_refusals_are_shown_for_an_hour_and_the_totals_stay() -> None:
    records = Records()
    records.senders.refused("CT1", "10.0.0.5", NO_UID)
    records.clock.advance(3599)
    assert records.senders.status()[0].reasons[0].reason == NO_UID.reason
    records.clock.advance(61)  # they are counted by the minute
    (sender,) = records.senders.status()
    assert sender.reasons == ()
    assert (sender.refused, sender.recent) == (1, 0)


def test_the_number_of_the_last_hour_is_true_whatever_the_reasons_are_and_however_many() -> None:
    records = Records()
    for minute in range(120):
        for number in range(50):
            refusal = Refusal(RefusalKind.IMAGE, f"not stored after {number} s", 0xA700)
            records.senders.refused("CT1", "10.0.0.5", refusal)
        records.clock.advance(60)
        assert records.senders.status()[0].recent == 50 * min(minute + 1, 60)
    (sender,) = records.senders.status()
    assert sender.refused == 6000
    assert len(sender.reasons) == 20


@pytest.mark.parametrize(
    "harmless",
    [
        Refusal(RefusalKind.CONNECTION, "it did not begin with an A-ASSOCIATE-RQ"),
        Refusal(RefusalKind.CONTEXT, "C-FIND is not offered here"),
        Refusal(RefusalKind.ABORT, "it closed the connection without a release"),
    ],
)
def test_what_keeps_no_image_away_is_counted_and_never_a_problem(harmless: Refusal) -> None:
    records = Records()
    records.senders.associated("CT1", "10.0.0.5")
    for _ in range(100):
        records.senders.refused("CT1", "10.0.0.5", harmless)
    (sender,) = records.senders.status()
    assert [(reason.count, reason.standing) for reason in sender.reasons] == [(100, False)]


def _standing(records: Records) -> bool:
    return any(reason.standing for sender in records.senders.status() for reason in sender.reasons)


@pytest.mark.parametrize(
    "refusal",
    [
        NO_UID,
        Refusal(RefusalKind.IMAGE, "no room", 0xA700),
        Refusal(RefusalKind.CONTEXTS, "CT Image Storage in HTJ2K only"),
        Refusal(RefusalKind.ASSOCIATION, "it is not in senders"),
        Refusal(RefusalKind.CERTIFICATE, "TLS: certificate has expired"),
        Refusal(RefusalKind.CUT, "it aborted in the middle of a message"),
    ],
)
def test_what_may_keep_an_image_away_is_a_problem_for_a_quarter_of_an_hour(refusal: Refusal) -> None:
    records = Records()
    records.senders.associated("CT1", "10.0.0.5")
    records.senders.stored("CT1", "10.0.0.5")
    records.clock.advance(1)
    records.senders.refused("CT1", "10.0.0.5", refusal)
    records.clock.advance(899)
    assert _standing(records)
    records.clock.advance(1)
    assert not _standing(records)


@pytest.mark.parametrize(
    ("refusal", "success", "is_over"),
    [
        (Refusal(RefusalKind.IMAGE, "no room", 0xA700), "stored", True),
        (Refusal(RefusalKind.IMAGE, "no room", 0xA700), "associated", False),
        (Refusal(RefusalKind.CUT, "it aborted in the middle of a message"), "stored", True),
        (Refusal(RefusalKind.ASSOCIATION, "it called ORTHANC, not ORTHANC1"), "associated", True),
        (NO_UID, "stored", False),  # the others are taken; this one never will be
        (Refusal(RefusalKind.CONTEXTS, "CT Image Storage in HTJ2K only"), "stored", False),
    ],
)
def test_a_problem_is_over_once_the_sender_has_had_the_success_it_was_refused(
    refusal: Refusal, success: str, is_over: bool
) -> None:
    records = Records()
    records.senders.refused("CT1", "10.0.0.5", refusal)
    records.clock.advance(1)
    getattr(records.senders, success)("MR1", "10.0.0.6")
    assert _standing(records)
    getattr(records.senders, success)("CT1", "10.0.0.5")
    assert _standing(records) is not is_over


def test_each_study_that_is_refused_has_an_audit_record_of_its_own_in_a_flood_too() -> None:
    records = Records()
    for number in range(200):
        for _ in range(30):
            refusal = Refusal(RefusalKind.IMAGE, NO_UID.reason, 0xC000, study_uid=f"1.2.{number}")
            records.senders.refused("CT1", "10.0.0.5", refusal)
        records.clock.advance(1)
    told = {fields["DDWD_STUDY_UID"] for _, _, fields in records.events}
    assert told == {f"1.2.{number}" for number in range(200)}
    assert len(records.events) <= 200 + 4 * 20


def test_made_up_studies_do_not_flood_the_audit() -> None:
    records = Records()
    for number in range(10_000):
        refusal = Refusal(RefusalKind.IMAGE, NO_UID.reason, 0xC000, study_uid=f"1.2.{number}")
        records.senders.refused("CT1", "10.0.0.5", refusal)
    assert len(records.events) == 100


def test_the_senders_that_are_kept_are_bounded_and_an_open_one_stays() -> None:
    records = Records()
    records.senders.associated("FIRST", "10.0.0.1")
    for number in range(1000):
        records.senders.refused(f"X{number}", "10.0.0.9", NO_UID)
    senders = records.senders.status()
    assert len(senders) == 500
    assert "FIRST" in {sender.aet for sender in senders}


@pytest.mark.parametrize(
    ("image", "status", "expected", "reason"),
    [
        (Image("", "1.2.3.1"), 0xA700, 0xC000, "the data set has no StudyInstanceUID"),
        (Image("1.2.3", ""), 0xA900, 0xA900, "the data set has no SOPInstanceUID"),
        (Image("1.2.3", "1.2.3.1"), 0xA900, 0xA900, "is not that of the data set"),
        (Image("1.2.3", "1.2.3.1"), 0xA700, 0xA700, "could not store it"),
        (Image("1.2.3", "1.2.3.1"), 0xC000, 0xC000, "cannot understand"),
        (Image("1." + "2" * 70, "1.2.3.1"), 0xA700, 0xC000, "more than 64 characters"),
        (Image("1.2.3", "1.2.3.1", patient_id="P" * 200), 0xA700, 0xC000, "PatientID is too long"),
        (Image("1.2.3", "1.2.3.1", patient_id="P" * 4000), 0xA700, 0xC000, "longer than any UID"),
    ],
)
def test_out_of_resources_stays_only_where_trying_again_can_help(
    image: Image, status: int, expected: int, reason: str
) -> None:
    exchange = Exchange(
        1, StoreRequest(1, CT, "1.2.3.1", has_data_set=True, is_whole=True), head=image.encoded()
    )
    refusal = reasons.of_image(Refusal(RefusalKind.IMAGE, "", status), exchange, EXPLICIT)
    assert refusal.status == expected
    assert reason in refusal.reason


@pytest.mark.parametrize(
    ("image", "study_uid"),
    [
        (Image("1.2.3", "1.2.3.1"), "1.2.3"),
        (Image("1.2.3", ""), "1.2.3"),
        (Image("", "1.2.3.1"), ""),
        (Image("1.2.3", "1.2.3.1", patient_id="P" * 4000), "1.2.3"),
        (Image("DOE^JOHN", "1.2.3.1"), ""),  # no UID: it may be anything
    ],
)
@pytest.mark.parametrize("said", ["", "ORTHANC1 has not stored it after 25 s"])
def test_a_refused_image_is_named_with_its_study_as_far_as_that_can_be_read(
    image: Image, study_uid: str, said: str
) -> None:
    request = StoreRequest(1, CT, "1.2.3.1", has_data_set=True, is_whole=True)
    exchange = Exchange(1, request, head=image.encoded())
    refusal = reasons.of_image(Refusal(RefusalKind.IMAGE, said, 0xA700), exchange, EXPLICIT)
    assert (refusal.sop_class, refusal.sop_uid, refusal.study_uid) == (CT, "1.2.3.1", study_uid)
    assert not said or (refusal.reason, refusal.status) == (said, 0xA700)


def test_the_contexts_of_an_association_are_one_refusal() -> None:
    proposals = {
        1: Proposal(CT, ("1.2.840.10008.1.2.4.201",)),
        3: Proposal("1.2.840.10008.5.1.4.1.2.2.1", (EXPLICIT,)),
        5: Proposal("1.2.840.10008.5.1.4.39.1", (EXPLICIT,)),
        7: Proposal(CT, (EXPLICIT,)),
    }
    answers = {1: Answer(4, "", 0), 3: Answer(3, "", 0), 5: Answer(3, "", 0), 7: Answer(0, EXPLICIT, 0)}
    refusal = reasons.of_contexts(proposals, answers)
    assert refusal is not None
    assert refusal.reason == (
        "C-FIND is not offered here; Color Palette Storage (1.2.840.10008.5.1.4.39.1) is not taken; "
        "CT Image Storage (1.2.840.10008.5.1.4.1.1.2) is not taken in "
        "High-Throughput JPEG 2000 Image Compression (Lossless Only) (1.2.840.10008.1.2.4.201)"
    )
    assert refusal.kind is RefusalKind.CONTEXT
    assert reasons.of_contexts({7: proposals[7]}, answers) is None


def test_a_sender_that_proposes_everything_gets_a_reason_that_can_be_read() -> None:
    syntaxes = tuple(f"1.2.3.{number}" for number in range(20))
    proposals = {1: Proposal("1.2.840.10008.5.1.4.1.1.2", syntaxes)}
    refusal = reasons.of_contexts(proposals, {1: Answer(4, "", 0)})
    assert refusal is not None
    assert refusal.reason.endswith("is not taken in 1.2.3.0, 1.2.3.1, 1.2.3.2, 1.2.3.3 and 16 more")


def test_an_association_without_any_context_for_its_images_is_another_kind_than_a_vendors_long_list() -> None:
    storage, find = Proposal(CT, ("1.2.840.10008.1.2.4.201",)), "1.2.840.10008.5.1.4.1.2.2.1"
    echo = Proposal("1.2.840.10008.1.1", (EXPLICIT,))
    answers = {1: Answer(4, "", 0), 3: Answer(3, "", 0), 5: Answer(0, EXPLICIT, 0)}
    none_left = reasons.of_contexts({1: storage, 5: echo}, answers)
    assert none_left is not None
    assert none_left.kind is RefusalKind.CONTEXTS
    no_images = reasons.of_contexts({3: Proposal(find, (EXPLICIT,)), 5: echo}, answers)
    assert no_images is not None
    assert no_images.kind is RefusalKind.CONTEXT


@pytest.mark.parametrize(
    ("sop_class", "expected"),
    [
        (CT, True),
        ("1.2.840.10008.5.1.4.1.1.6", True),  # Ultrasound Image Storage, retired
        ("1.3.46.670589.5.0.1", True),  # private
        ("1.2.840.10008.5.1.4.39.1", False),  # Color Palette Storage
        ("1.2.840.10008.5.1.4.1.1.200.1", False),  # CT Defined Procedure Protocol Storage
        ("1.2.840.10008.5.1.4.1.2.2.1", False),  # C-FIND
    ],
)
def test_the_classes_that_hold_images_are_those_of_the_standard_retired_ones_and_private_ones(
    sop_class: str, expected: bool
) -> None:
    assert contexts.is_storage(sop_class) is expected
