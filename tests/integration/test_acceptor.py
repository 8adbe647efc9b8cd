"""The acceptor before a real Orthanc: what tests/dicom/gateway.py says of one holds."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from pydicom._uid_dict import UID_dictionary

from ddwd.acceptor import reasons
from ddwd.config.loader import load
from ddwd.config.paths import PRIVATE, Paths
from ddwd.dicom import association_pdu as pdu
from ddwd.store.status_files import ACCEPTOR
from tests.hostile import wire
from tests.hostile.wire import Image, Sender, Target, context, store, tagged
from tests.integration.trial import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.integration.trial import Trial

STUDY = "2.25.4242"
MALFORMED = {
    "pixel data that is cut off": tagged(0x7FE0, 0x0010, "OW", bytes(32), length=64),
    "pixel data of odd length": tagged(0x7FE0, 0x0010, "OB", bytes(32), length=31)[:-1],
    "an item that ends beyond the data set": tagged(
        0x0040, 0x0275, "SQ", b"\xfe\xff\x00\xe0\x00\x01\x00\x00", length=264
    ),
}


@pytest.fixture
def target(quick: Trial) -> Target:
    """The acceptor's port."""
    return _target(quick)


def _target(trial: Trial) -> Target:
    return Target("127.0.0.1", int(trial.facts["gateway"]["dicom_port"]), "ORTHANC1", None)


def _image(number: int, after: bytes = b"") -> Image:
    return Image(STUDY, f"{STUDY}.1.{number}", after=after)


def _send(sender: Sender, image: Image) -> str:
    return sender.tell(store(image.sop_uid, image.encoded(), image.sop_class))


def _reasons(trial: Trial, calling: str) -> list[str]:
    """Why that sender was refused, as the status file has it."""
    config = load(trial.folder / "ddwd.yaml", {"DDWD_DEFAULTS": "/dev/null"})
    status = ACCEPTOR.read(Paths(config).heartbeat("acceptor"))
    senders = status.senders if status else ()
    return [reason.reason for sender in senders if sender.aet == calling for reason in sender.reasons]


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_image_is_refused_and_the_next_one_taken_on_the_same_association(
    quick: Trial, target: Target, kind: str
) -> None:
    number = list(MALFORMED).index(kind)
    with Sender(target) as sender:
        sender.associate()
        assert _send(sender, _image(100 + number, MALFORMED[kind])) == "0xC000"
        assert _send(sender, _image(number)) == "0x0000"
    wait_for(
        lambda: any("cannot parse" in one for one in _reasons(quick, "HOSTILE")), "the refusal is not shown"
    )


def test_an_implicit_body_under_an_explicit_context_is_refused_in_time(target: Target) -> None:
    uid = f"{STUDY}.1.40"
    implicit = b"".join(
        wire.implicit(tag, value)
        for tag, value in ((0x00080016, wire.CT), (0x00080018, uid), (0x0020000D, STUDY))
    )
    with Sender(target) as sender:
        sender.associate()
        assert sender.tell(store(uid, implicit)) == "0xC000"
        assert _send(sender, _image(41)) == "0x0000"


def test_many_idle_associations_cost_the_others_nothing(target: Target) -> None:
    with ExitStack() as stack:
        for _ in range(60):
            stack.enter_context(Sender(target)).associate()
        with Sender(target) as sender:
            sender.associate()
            assert [_send(sender, _image(10 + number)) for number in range(5)] == ["0x0000"] * 5


def test_an_idle_association_is_taken_up_again(target: Target, quick: Trial) -> None:
    with Sender(target) as sender:
        sender.associate()
        assert _send(sender, _image(20)) == "0x0000"
        wait_for(lambda: _idle(quick), "the association with ORTHANC1 is not released")
        assert _send(sender, _image(21)) == "0x0000"


def _idle(trial: Trial) -> bool:
    """Whether nobody is connected to ORTHANC1's own DICOM port."""
    port = load(trial.folder / "ddwd.yaml", {"DDWD_DEFAULTS": "/dev/null"}).gateway.orthanc_port
    with open("/proc/self/net/tcp", encoding="ascii") as table:  # noqa: PTH123 - as the kernel has it
        rows = [line.split() for line in table][1:]
    return not any(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


@pytest.mark.parametrize(
    ("image", "command_uid", "status", "reason"),
    [
        (Image(STUDY, f"{STUDY}.1.30", sop_class=""), f"{STUDY}.1.30", "0xA900", "no SOPClassUID"),
        (Image("", f"{STUDY}.1.31"), f"{STUDY}.1.31", "0xC000", "no StudyInstanceUID"),
        (Image(STUDY, f"{STUDY}.1.32"), f"{STUDY}.1.33", "0xA900", "is not that of the data set"),
        (Image(STUDY, "1." + "2" * 66), "1." + "2" * 66, "0xC000", "more than 64 characters"),
    ],
)
def test_each_refusal_has_a_status_that_is_true_and_a_reason(
    quick: Trial, target: Target, image: Image, command_uid: str, status: str, reason: str
) -> None:
    with Sender(target) as sender:
        sender.associate(context(wire.STORE, wire.CT))
        assert sender.tell(store(command_uid, image.encoded())) == status
    wait_for(lambda: any(reason in one for one in _reasons(quick, "HOSTILE")), f"{reason} is not shown")


MR = "1.2.840.10008.5.1.4.1.1.4"
CLASS, SOP, PATIENT, STUDY_UID, SERIES = 0x00080016, 0x00080018, 0x00100020, 0x0020000D, 0x0020000E
LONG, TOO_LONG = "1." + "2" * 70, "1." + "2" * 260


def _data_set(uid: str, vr: str, changes: Mapping[int, str | None]) -> bytes:
    """A data set with other identifiers, or without them; `vr` is that of SOP class and SOP instance UID."""
    found = {CLASS: wire.CT, SOP: uid, PATIENT: "HOSTILE", STUDY_UID: STUDY, SERIES: f"{STUDY}.1", **changes}
    vrs = {CLASS: vr, SOP: vr, PATIENT: "LO"}
    return b"".join(
        tagged(tag >> 16, tag & 0xFFFF, vrs.get(tag, "UI"), value.encode())
        for tag, value in found.items()
        if value is not None
    )


@pytest.mark.parametrize(
    ("calling", "vr", "changes", "status", "reason"),
    [
        ("NO CLASS", "UI", {CLASS: None}, "0xC000", "the data set has no SOPClassUID"),
        ("NO INSTANCE", "UI", {SOP: None}, "0xC000", "the data set has no SOPInstanceUID"),
        ("NO STUDY", "UI", {STUDY_UID: None}, "0xC000", "the data set has no StudyInstanceUID"),
        ("EMPTY STUDY", "UI", {STUDY_UID: ""}, "0xC000", "the data set has no StudyInstanceUID"),
        ("NO SERIES", "UI", {SERIES: None}, "0xC000", "the data set has no SeriesInstanceUID"),
        ("OTHER CLASS", "UI", {CLASS: MR}, "0xA900", "is not that of the data set"),
        ("EMPTY INSTANCE", "UI", {SOP: ""}, "0xA900", "the data set has no SOPInstanceUID"),
        ("LONG STUDY", "UI", {STUDY_UID: TOO_LONG}, "0xC000", "longer than any UID"),
        ("LONG SERIES", "UI", {SERIES: TOO_LONG}, "0xC000", "longer than any UID"),
        ("LONG PATIENT", "UI", {PATIENT: "P" * 257}, "0xC000", "longer than any UID"),
        ("UNKNOWN VR", "UN", {}, "0xC000", "cannot understand the data set"),
    ],
)
def test_each_fault_of_identifiers_has_its_status_and_its_reason(
    quick: Trial,
    target: Target,
    calling: str,
    vr: str,
    changes: Mapping[int, str | None],
    status: str,
    reason: str,
) -> None:
    uid = f"{STUDY}.1.50"
    with Sender(target) as sender:
        sender.send(wire.association("ORTHANC1", calling=calling))
        assert sender.receive()[0] == wire.ACCEPTED
        assert sender.tell(store(uid, _data_set(uid, vr, changes))) == status
        assert _send(sender, _image(51)) == "0x0000"
    wait_for(lambda: any(reason in one for one in _reasons(quick, calling)), f"{reason} is not shown")


@pytest.mark.parametrize(
    ("number", "changes"),
    [(61, {STUDY_UID: LONG}), (62, {SERIES: LONG}), (63, {PATIENT: "P" * 65}), (64, {PATIENT: "P" * 256})],
)
def test_identifiers_longer_than_the_standard_allows_are_taken_and_published(
    quick: Trial, target: Target, number: int, changes: Mapping[int, str | None]
) -> None:
    uid = f"2.25.{number}.1.1"
    with Sender(target) as sender:
        sender.associate()
        encoded = _data_set(uid, "UI", {STUDY_UID: f"2.25.{number}", SERIES: f"2.25.{number}.1", **changes})
        assert sender.tell(store(uid, encoded)) == "0x0000"
    wait_for(
        lambda: any(PRIVATE not in path.parts for path in quick.output.rglob(f"{uid}.dcm")),
        "it is not published",
    )


def test_what_orthanc_cannot_write_is_refused_so_that_it_is_sent_again(begin: Callable[..., Trial]) -> None:
    trial = begin()
    trial.wait_up()
    place = trial.folder / "data" / "gateway"
    away = place.rename(place.with_name("away"))
    place.touch()  # no file can be written below a file
    with Sender(_target(trial)) as sender:
        sender.associate()
        assert _send(sender, _image(1)) == "0xA700"
        place.unlink()
        away.rename(place)
        assert _send(sender, _image(1)) == "0x0000"


def test_a_query_is_rejected_as_a_context_and_an_echo_is_answered(quick: Trial, target: Target) -> None:
    find = "1.2.840.10008.5.1.4.1.2.2.1"
    with Sender(target) as sender:
        assert sender.associate(context(1, find), context(3, wire.VERIFICATION)) == {3: wire.EXPLICIT}
    wait_for(
        lambda: any("C-FIND is not offered" in one for one in _reasons(quick, "HOSTILE")), "it is not shown"
    )
    assert wire.echo(target)


def test_two_patients_that_orthanc_decodes_alike_have_two_folders(quick: Trial, target: Target) -> None:
    patients = {
        "2.25.77.1": b"NE-\xe917",
        "2.25.77.2": b"NE-\xf817",
        "2.25.77.3": b"NE-7",
        "2.25.77.4": b"NE-7\x00b",
    }
    with Sender(target) as sender:
        sender.associate()
        for study, patient in patients.items():
            encoded = (
                tagged(8, 0x05, "CS", b"ISO_IR 192")
                + tagged(8, 0x16, "UI", wire.CT.encode())
                + tagged(8, 0x18, "UI", f"{study}.1.1".encode())
                + tagged(0x10, 0x20, "LO", patient)
                + tagged(0x20, 0x0D, "UI", study.encode())
                + tagged(0x20, 0x0E, "UI", f"{study}.1".encode())
            )
            assert sender.tell(store(f"{study}.1.1", encoded)) == "0x0000"

    def folders() -> list[str]:
        found = (path for study in patients for path in quick.output.rglob(f"{study}.1.1.dcm"))
        return [path.parents[2].name for path in found if PRIVATE not in path.parts]

    wait_for(lambda: len(folders()) == len(patients), "a study is not published")
    assert len(set(folders())) == len(patients)
    assert folders()[2] == "NE-7"


SYNTAXES = tuple(
    f"1.2.840.10008.1.2{end}"
    for end in (
        *("", ".1", ".1.99", ".2", ".5", ".4.50", ".4.51", ".4.57", ".4.70", ".4.80", ".4.81"),
        *(f".4.{number}" for number in (*range(90, 96), *range(100, 109))),
    )
)
"""The transfer syntaxes that docs/senders.md counts."""
RETIRED = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (*range(52, 57), *range(58, 67)))
JPEG_XL, DEFLATED_FRAMES = (f"1.2.840.10008.1.2.4.11{number}" for number in range(3)), "1.2.840.10008.1.2.8.1"
OTHERS = {
    *(uid for uid, (_, kind, *_) in UID_dictionary.items() if kind == "Transfer Syntax"),
    *(*JPEG_XL, DEFLATED_FRAMES, "1.2.826.0.1.3680043.10.543.98"),
} - {*SYNTAXES, *RETIRED}
PRIVATE_CLASS, RETIRED_ULTRASOUND = "1.2.826.0.1.3680043.10.543.99", "1.2.840.10008.5.1.4.1.1.6"


def _results(target: Target, pairs: Sequence[tuple[str, str]], calling: str) -> set[int]:
    """Propose a context for each SOP class and transfer syntax; return the results (PS3.8 table 9-18)."""
    contexts = [
        context(2 * number + 1, sop_class, [syntax]) for number, (sop_class, syntax) in enumerate(pairs)
    ]
    with Sender(target) as sender:
        sender.send(wire.association("ORTHANC1", contexts, calling=calling))
        kind, body = sender.receive()
    assert kind == wire.ACCEPTED
    answers = pdu.read_answers(body)
    assert len(answers) == len(pairs)
    return {answer.result for answer in answers.values()}


@pytest.mark.parametrize("sop_class", [wire.CT, PRIVATE_CLASS, RETIRED_ULTRASOUND])
def test_every_storage_class_is_taken_in_each_transfer_syntax_that_orthanc_knows(
    target: Target, sop_class: str
) -> None:
    assert len(SYNTAXES) == 26
    assert _results(target, [(sop_class, syntax) for syntax in (*SYNTAXES, *RETIRED)], "SYNTAXES") == {0}


@pytest.mark.parametrize("sop_class", [wire.CT, PRIVATE_CLASS, RETIRED_ULTRASOUND])
def test_other_transfer_syntaxes_are_declined_and_named(quick: Trial, target: Target, sop_class: str) -> None:
    assert _results(target, [(sop_class, syntax) for syntax in OTHERS], "OTHERS") == {4}
    wait_for(
        lambda: any(sop_class in one and "is not taken" in one for one in _reasons(quick, "OTHERS")),
        "no reason",
    )


@pytest.mark.parametrize("sop_class", reasons.NOT_OFFERED)
def test_no_query_is_offered(quick: Trial, target: Target, sop_class: str) -> None:
    calling = sop_class[-16:]
    assert _results(target, [(sop_class, wire.IMPLICIT)], calling) == {3}
    said = f"{reasons.NOT_OFFERED[sop_class]} is not offered here"
    wait_for(lambda: said in _reasons(quick, calling), "no reason")


@pytest.mark.parametrize(
    "sop_class",
    [
        pytest.param("1.2.840.10008.5.1.4.39.1", id="color palettes"),
        pytest.param("1.2.840.10008.5.1.4.38.1", id="hanging protocols"),
        pytest.param("1.2.840.10008.5.1.4.1.1.200.1", id="protocols without a patient"),
        pytest.param("1.2.840.10008.3.1.2.3.3", id="performed procedure steps"),
    ],
)
def test_a_class_without_images_of_a_patient_is_rejected_and_named(
    quick: Trial, target: Target, sop_class: str
) -> None:
    assert _results(target, [(sop_class, wire.EXPLICIT)], "NOIMAGES") == {3}
    wait_for(
        lambda: any(f"{sop_class}) is not taken" in one for one in _reasons(quick, "NOIMAGES")), "no reason"
    )


def test_echo_and_storage_commitment_are_accepted(target: Target) -> None:
    commitment = "1.2.840.10008.1.20.1"
    assert _results(target, [(wire.VERIFICATION, wire.IMPLICIT), (commitment, wire.IMPLICIT)], "OTHER") == {0}


def test_a_class_that_orthanc_does_not_know_is_taken_for_a_storage_class(target: Target) -> None:
    assert _results(target, [("1.2.840.10008.5.1.4.99.1", wire.EXPLICIT)], "NEWER") == {0}
