"""The acceptor before a real Orthanc: what tests/dicom/gateway.py says of one holds."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ddwd.config.loader import load
from ddwd.config.paths import PRIVATE, Paths
from ddwd.store.status_files import ACCEPTOR
from tests.hostile import wire
from tests.hostile.wire import Image, Sender, Target, context, store, tagged
from tests.integration.trial import wait_for

if TYPE_CHECKING:
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
    return Target("127.0.0.1", int(quick.facts["gateway"]["dicom_port"]), "ORTHANC1", None)


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
