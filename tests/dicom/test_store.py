"""What the C-STORE SCP promises: bytes as they came, 0x0000 only for a durable file, nothing left behind, bounded peers."""

from __future__ import annotations

import errno
import logging
import queue
import socket
import struct
import subprocess
import sys
import threading
from dataclasses import replace
from io import BytesIO
from ipaddress import IPv4Address
from logging.handlers import QueueHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom.data
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import encode, split_dataset
from pynetdicom.presentation import build_context

from ddwd.config.schema import Config, Scp
from ddwd.core import disk_space, durable
from ddwd.core.errors import LinkedError
from ddwd.dicom import store_scu
from ddwd.dicom.store_scp import StoreScp
from ddwd.dicom.upper_layer import MAX_PDU, Peer, associate
from tests.dicom.conftest import wait_until
from tests.hostile.wire import command, pdu, pdv, request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ddwd.core.disk_space import Space
    from tests.dicom.conftest import Portal

CT = "1.2.840.10008.5.1.4.1.1.2"
TEST_FILES = Path(pydicom.data.__file__).parent / "test_files"
EVERYWHERE = str(IPv4Address(0))


def data_set(sop_uid: str = "1.2.3.4", body: bytes = b"pixels") -> bytes:
    """An encoded explicit VR little endian data set."""
    one = Dataset()
    one.SOPClassUID, one.SOPInstanceUID = CT, sop_uid
    one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    encoded = encode(one, is_implicit_vr=False, is_little_endian=True)
    assert encoded is not None
    return encoded + struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, len(body)) + body


def store(
    portal: Portal | Peer,
    encoded: bytes,
    sop_uid: str = "1.2.3.4",
    sop_class: str = CT,
    syntax: str = ExplicitVRLittleEndian,
) -> int | None:
    """One C-STORE of given bytes; its status, or None where the association broke."""
    peer = portal if isinstance(portal, Peer) else portal.peer
    association = associate(peer, [build_context(sop_class, syntax)], connect=60, silence=60)
    assert association.is_established
    association._reactor_checkpoint.clear()  # its own thread must not take the response, as in send_c_store
    while not association._is_paused:
        threading.Event().wait(0.001)
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = sop_class, sop_uid
    request.DataSet = BytesIO(encoded)
    association.dimse.send_msg(request, 1)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    if association.is_established:
        association.release()
    return response.Status if response is not None else None


def body_of(path: Path) -> bytes:
    return path.read_bytes()[split_dataset(path)[1] :]


@pytest.fixture
def faults() -> Iterator[Any]:
    """Set `durable.step`; put back afterwards."""
    former = durable.step

    def put(hook: Any) -> None:
        durable.step = hook

    yield put
    durable.step = former


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_test_file_survives_byte_for_byte(portal: Portal) -> None:
    outgoing = [
        one
        for one in map(store_scu.examine, store_scu.files([TEST_FILES]))
        if isinstance(one, store_scu.Outgoing)
    ]
    answers: list[store_scu.Answer] = []
    store_scu.send(portal.peer, outgoing, answers.append)
    accepted = [one.path for one in answers if one.accepted]
    assert len(answers) == len(outgoing)
    assert len(accepted) > 130
    # a deflated data set of odd length is sent with its trailing null (PS3.5 section A.5)
    sent = {body + bytes(len(body) % 2) for body in map(body_of, accepted)}
    assert sent == {body_of(path) for path in portal.spooled()}
    assert len({one.transfer_syntax for one in outgoing if one.path in accepted}) >= 11
    assert portal.unfinished() == []


@pytest.mark.parametrize("sop_class", ["1.2.840.113619.4.30", "1.3.46.670589.11.0.0.12.1", "1.2.3.999"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, "1.2.840.113619.5.2", "1.2.3.998"])
def test_private_classes_and_transfer_syntaxes_are_taken(portal: Portal, sop_class: str, syntax: str) -> None:
    one = Dataset()
    one.SOPInstanceUID, one.StudyInstanceUID, one.SeriesInstanceUID = "1.2.3.4", "1.2.3", "1.2.3.1"
    encoded = encode(one, is_implicit_vr=False, is_little_endian=True) or b""
    assert store(portal, encoded, sop_class=sop_class, syntax=syntax) == 0
    assert [body_of(path) for path in portal.spooled()] == [encoded]


def test_identical_again_is_one_file_and_other_content_another(portal: Portal) -> None:
    assert [store(portal, data_set(body=body)) for body in (b"one!", b"one!", b"two!")] == [0, 0, 0]
    assert {body_of(path) for path in portal.spooled()} == {data_set(body=b"one!"), data_set(body=b"two!")}


def test_uids_that_disagree_are_refused(portal: Portal) -> None:
    assert store(portal, data_set("1.2.3.4"), "1.2.3.5") == 0xA900
    assert store(portal, data_set()[:30], "1.2.3.4") in {0xA900, 0xC000}
    assert store(portal, data_set(), sop_class="1.2.840.10008.5.1.4.1.1.4") == 0xA900
    assert (portal.spooled(), portal.unfinished()) == ([], [])


def test_three_hundred_levels_of_nesting(portal: Portal) -> None:
    opening = struct.pack("<HH2sHL", 0x0008, 0x1115, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    closing = struct.pack("<HHLHHL", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    plain = data_set()
    head = plain.index(struct.pack("<HH", 0x0020, 0x000D))
    encoded = plain[:head] + opening * 300 + closing * 300 + plain[head:]
    assert store(portal, encoded) == 0
    assert [body_of(path) for path in portal.spooled()] == [encoded]


def test_success_only_for_a_durable_file_whatever_step_fails(portal: Portal, faults: Any) -> None:
    assert store(portal, data_set("1.2.3.0"), "1.2.3.0") == 0
    for number, error in [(n, e) for n in range(1, 5) for e in (errno.EIO, errno.ENOSPC, errno.EROFS, None)]:
        before = portal.spooled()
        seen: list[str] = []

        def fail(
            name: str, _path: Path, number: int = number, error: int | None = error, seen: list[str] = seen
        ) -> None:
            seen.append(name)
            if len(seen) == number:
                raise OSError(error, "injected") if error else RuntimeError("injected")

        faults(fail)
        status = store(portal, data_set(body=b"%04d" % (number * 1000 + (error or 0))))
        assert status is not None
        assert status & 0xF000 in {0xA000, 0xC000}
        assert portal.unfinished() == []
        if seen[number - 1] != "fsync_dir":
            assert portal.spooled() == before


def test_a_full_disk_is_out_of_resources(portal: Portal, faults: Any) -> None:
    def full(_name: str, _path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    faults(full)
    assert store(portal, data_set()) == 0xA700
    assert (portal.spooled(), portal.unfinished()) == ([], [])


def test_below_the_reserve_is_out_of_resources_and_above_it_is_taken(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = disk_space.space_of

    def nearly_full(path: Path) -> Space:
        found = real(path)
        return replace(found, free=disk_space.reserve_of(found.total, portal.config.disk.reserve) - 1)

    monkeypatch.setattr(disk_space, "space_of", nearly_full)
    assert store(portal, data_set()) == 0xA700
    assert (portal.spooled(), portal.unfinished()) == ([], [])
    monkeypatch.undo()
    assert store(portal, data_set()) == 0x0000


SCP_ALONE = """
import sys
from pathlib import Path
from ddwd.config.schema import Config, Scp
from ddwd.dicom.store_scp import StoreScp
scp = StoreScp(Config(scp=Scp(port=0), output_dir=Path(sys.argv[1])))
scp.start()
print(scp.port, flush=True)
sys.stdin.readline()
scp.stop(5)
status = Path("/proc/self/status").read_text()  # ru_maxrss would be the parent's, where that was larger at the start
print(status.split("VmHWM:")[1].split()[0], scp.counts().received, flush=True)
"""


def test_a_big_object_is_not_held_in_memory(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCP_ALONE, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    ) as process:  # fmt: skip
        assert process.stdout is not None
        peer = Peer("127.0.0.1", int(process.stdout.readline()), "PYTHON_SCP", "TEST")
        assert store(peer, data_set(body=bytes(300 * 1024 * 1024))) == 0
        kilobytes, received = process.communicate("\n")[0].split()
    assert received == "1"
    assert int(kilobytes) < 150 * 1024


@pytest.mark.parametrize(("kind", "length"), [(4, MAX_PDU + 1), (1, 0xFFFFFFF0), (4, 0xFFFFFFFF)])
def test_an_oversized_pdu_is_refused_before_it_is_read(portal: Portal, kind: int, length: int) -> None:
    with socket.create_connection(("127.0.0.1", portal.scp.port)) as peer:
        peer.sendall(struct.pack(">BxL", kind, length))
        while peer.recv(4096):
            pass
    assert portal.scp.answers()


def test_what_follows_an_invalid_pdu_is_not_read_as_pdus(portal: Portal) -> None:
    """Each of them would be answered, by a thread that has nothing left to do for this peer."""
    with socket.create_connection(("127.0.0.1", portal.scp.port)) as peer:
        peer.sendall(struct.pack(">BxL", 4, MAX_PDU + 1) + bytes(6 * 1000))
        answers = b""
        while part := peer.recv(4096):
            answers += part
    assert (answers[0], len(answers)) == (7, 10)  # one A-ABORT


def test_idle_connections_do_not_keep_a_sender_out(portal: Portal) -> None:
    idle = [socket.create_connection(("127.0.0.1", portal.scp.port)) for _ in range(30)]
    idle[0].sendall(b"\x01")
    assert store(portal, data_set()) == 0
    for one in idle:
        one.close()


def test_associations_that_say_nothing_do_not_keep_a_sender_out(portal: Portal) -> None:
    """The oldest of them goes first, and never one whose message is under way."""
    busy = associate(portal.peer, [build_context(CT, ExplicitVRLittleEndian)])
    first, last = data_set(body=bytes(100))[:100], data_set(body=bytes(100))[100:]
    busy.dul.socket.send(pdu(pdv(1, 3, command(*request("1.2.3.4"))), pdv(1, 0, first)))  # type: ignore[union-attr]
    held = [associate(portal.peer, [build_context(CT, ExplicitVRLittleEndian)]) for _ in range(30)]
    assert store(portal, data_set("1.2.3.5"), "1.2.3.5") == 0
    busy.dul.socket.send(pdu(pdv(1, 2, last)))  # type: ignore[union-attr]
    wait_until(lambda: len(portal.spooled()) == 2)
    for one in (busy, *held):
        one.abort()


def test_an_abort_in_the_middle_leaves_nothing(portal: Portal) -> None:
    association = associate(portal.peer, [build_context(CT, ExplicitVRLittleEndian)])
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CT, "1.2.3.4"
    request.DataSet = BytesIO(data_set(body=bytes(4 * 1024 * 1024)))
    association.dimse.send_msg(request, 1)
    association.abort()
    portal.wait_ended()
    assert portal.scp.stop(5)
    assert portal.unfinished() == []


def test_senders_at_once(portal: Portal) -> None:
    statuses: list[int | None] = []

    def work(number: int) -> None:
        statuses.extend(store(portal, data_set(f"1.2.{number}.{n}"), f"1.2.{number}.{n}") for n in range(10))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert statuses == [0] * 40
    assert len(portal.spooled()) == 40


def test_leftovers_of_a_dead_run_are_swept(portal: Portal) -> None:
    portal.scp.stop(5)
    (portal.paths.incoming / "dead.part").write_bytes(b"half")
    again = StoreScp(Config(scp=portal.config.scp, output_dir=portal.paths.output))
    again.start()
    again.stop(5)
    assert portal.unfinished() == []


def test_the_study_folder_may_vanish(portal: Portal) -> None:
    assert store(portal, data_set()) == 0
    for path in portal.spooled():
        path.unlink()
        path.parent.rmdir()
    assert store(portal, data_set()) == 0
    assert len(portal.spooled()) == 1


def test_a_wrong_called_ae_title_is_rejected(portal: Portal) -> None:
    association = associate(replace(portal.peer, called="OTHER"), [build_context(CT)])
    assert association.is_rejected


def test_a_rejected_association_is_logged_without_believing_it(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: queue.Queue[logging.LogRecord] = (
        queue.Queue()
    )  # the peer hears of the rejection before the line is logged
    monkeypatch.setattr(logging.getLogger("ddwd.scp"), "handlers", [QueueHandler(said)])
    associate(replace(portal.peer, called="OTHER"), [build_context(CT)])
    line = said.get(timeout=30).getMessage()
    assert line == "rejected an association of 'TEST' at 127.0.0.1, which called 'OTHER'"


@pytest.mark.parametrize(
    ("host", "source", "admitted"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.8.9.1", True),
        ("127.0.0.1", "10.1.2.3", False),
        ("localhost", "127.0.0.1", True),
        ("localhost", "10.1.2.3", False),
        (EVERYWHERE, "127.0.0.1", True),
        (EVERYWHERE, "10.1.2.3", False),
        (EVERYWHERE, "::ffff:10.1.2.3", False),
        (EVERYWHERE, "::ffff:127.0.0.1", True),
    ],
)
def test_only_this_machine_may_speak_to_it_wherever_it_listens(
    tmp_path: Path, host: str, source: str, *, admitted: bool
) -> None:
    config = Config(scp=Scp(host=host, port=0), output_dir=tmp_path)
    told: list[tuple[str, str]] = []
    scp = StoreScp(config)
    scp.on_refused(lambda calling, called: told.append((calling, called)))
    scp.start()
    try:
        assert scp.answers()
        assert scp.admits(source) is admitted
    finally:
        scp.stop(5)
    assert scp.counts().strangers == (not admitted)
    assert told == ([] if admitted else [("?", f"PYTHON_SCP from {source}, which is not this machine")])


def test_a_stranger_is_cut_off_before_a_byte_is_read(portal: Portal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portal.scp, "_is_here", lambda _source: False)
    with socket.create_connection(("127.0.0.1", portal.scp.port)) as stranger:
        assert stranger.recv(1) == b""
    assert portal.scp.counts().associations == 0
    assert portal.scp.counts().strangers == 1


@pytest.mark.parametrize("place", ["incoming", "spool", "spool/1.2.3"])
def test_nothing_is_written_behind_a_planted_link(portal: Portal, tmp_path: Path, place: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    planted = portal.paths.private / place
    if planted.is_dir():
        planted.rename(planted.with_name("was"))
    planted.symlink_to(elsewhere)
    assert store(portal, data_set()) == 0xC001
    assert list(elsewhere.iterdir()) == []
    planted.unlink()
    if planted.with_name("was").is_dir():
        planted.with_name("was").rename(planted)
    assert store(portal, data_set()) == 0
    assert len(portal.spooled()) == 1


@pytest.mark.parametrize("place", [".ddwd", ".ddwd/spool"])
def test_the_receiver_does_not_start_on_a_planted_link(portal: Portal, tmp_path: Path, place: str) -> None:
    portal.scp.stop(5)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    planted = portal.paths.output / place
    planted.rename(planted.with_name("was"))
    planted.symlink_to(elsewhere)
    again = StoreScp(Config(scp=portal.config.scp, output_dir=portal.paths.output))
    with pytest.raises(LinkedError, match="find"):
        again.start()
    assert list(elsewhere.iterdir()) == []
