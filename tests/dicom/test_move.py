"""One C-MOVE against scripted peers: progress, cancel heeded and not, silence, a peer that goes; always in bounded time."""

from __future__ import annotations

import io
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.presentation import build_context

from ddwd.core.errors import PeerDownError, PeerRefusedError
from ddwd.dicom import contexts, move_scu
from ddwd.dicom.incoming import file_head
from ddwd.dicom.move_scu import MoveOutcome, Mover
from ddwd.dicom.upper_layer import Peer
from tests.dicom.test_store import CT, data_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.dicom.conftest import Portal

STUDY = "1.2.3"
NEVER = 3600.0


class Storage:
    """A C-MOVE SCP that does what the script of the moment says."""

    def __init__(self, port: int) -> None:
        self.script: Callable[[evt.Event], Iterator[Any]] = self.answering(0)
        self.identifiers: list[Dataset] = []
        self.over = threading.Event()
        self._destination = port
        entity = AE("STORAGE")
        entity.add_supported_context(contexts.MOVE_MODEL)
        self._server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_MOVE, self._move)]
        )
        assert self._server is not None

    @property
    def peer(self) -> Peer:
        """The peer as the mover reaches it."""
        assert self._server is not None
        return Peer("127.0.0.1", self._server.server_address[1], "STORAGE", "TEST")

    def _move(self, event: evt.Event) -> Iterator[Any]:
        self.identifiers.append(event.identifier)
        yield "127.0.0.1", self._destination, {"contexts": [build_context(CT, ExplicitVRLittleEndian)]}
        yield from self.script(event)

    def answering(self, images: int) -> Callable[[evt.Event], Iterator[Any]]:
        """Send so many images, then say Success."""

        def script(_event: evt.Event) -> Iterator[Any]:
            yield images
            for number in range(images):
                uid = f"1.2.3.{number + 1}"
                content = file_head(CT, uid, ExplicitVRLittleEndian) + data_set(uid)
                yield 0xFF00, dcmread(io.BytesIO(content))

        return script

    def silent(
        self, until: threading.Event | None = None, *, heeds_cancel: bool = False
    ) -> Callable[[evt.Event], Iterator[Any]]:
        """Say nothing until that, or until cancelled, then answer; else for as long as the test lasts."""

        def script(event: evt.Event) -> Iterator[Any]:
            yield 1
            while not (self.over.is_set() or (until is not None and until.is_set())):
                if heeds_cancel and event.is_cancelled:
                    yield 0xFE00, Dataset()
                    return
                time.sleep(0.02)
            yield 0x0000, None

        return script

    def gone(self, event: evt.Event) -> Iterator[Any]:
        """Abort in the middle."""
        yield 2
        event.assoc.abort()
        yield 0xFF00, None

    def stop(self) -> None:
        self.over.set()
        assert self._server is not None
        self._server.shutdown()


@pytest.fixture
def storage(portal: Portal) -> Iterator[Storage]:
    """A peer whose destination is the SCP under test."""
    running = Storage(portal.scp.port)
    yield running
    running.stop()


def move(storage: Storage, portal: Portal, timeout: float = NEVER, **options: Any) -> MoveOutcome:
    """A C-MOVE with a time-out that no test lives to see, unless it gives one: what ends the move is then what the test says."""
    with Mover(storage.peer, portal.config.scp.aet, timeout) as mover:
        return mover.move(STUDY, sop_uids=["1.2.3.1"], **options)


def test_images_come_and_each_is_told(storage: Storage, portal: Portal) -> None:
    storage.script = storage.answering(3)
    seen: list[MoveOutcome] = []
    outcome = move(storage, portal, on_progress=seen.append)
    assert outcome.ok
    assert outcome.completed == 3
    assert [one.completed for one in seen] == [1, 2, 3]
    assert len(portal.spooled()) == 3


def test_the_identifier_holds_the_level_and_its_keys_alone(storage: Storage, portal: Portal) -> None:
    move(storage, portal)
    (asked,) = storage.identifiers
    assert {element.keyword for element in asked} == {
        "QueryRetrieveLevel",
        "StudyInstanceUID",
        "SOPInstanceUID",
    }


def test_a_cancel_that_is_heeded_ends_it(storage: Storage, portal: Portal) -> None:
    storage.script = storage.silent(heeds_cancel=True)
    cancel = threading.Event()
    threading.Timer(0.3, cancel.set).start()
    outcome = move(storage, portal, cancel=cancel)
    assert outcome.status == 0xFE00
    assert not outcome.ok


def test_a_cancel_that_is_ignored_is_left_in_time(
    storage: Storage, portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move_scu, "_CANCEL_GRACE", 0.5)
    storage.script = storage.silent()
    cancel = threading.Event()
    cancel.set()
    start = time.monotonic()
    with pytest.raises(PeerDownError):
        move(storage, portal, cancel=cancel)
    assert time.monotonic() - start >= 0.5


def test_a_peer_that_goes_in_the_middle_is_down(storage: Storage, portal: Portal) -> None:
    storage.script = storage.gone
    with pytest.raises(PeerDownError):
        move(storage, portal)


def test_a_silent_peer_is_down_after_the_timeout(storage: Storage, portal: Portal) -> None:
    storage.script = storage.silent()
    with Mover(storage.peer, portal.config.scp.aet, NEVER) as mover:
        mover._associated()  # so that the time-out is that of the answer alone
        mover._timeout = 0.6
        start = time.monotonic()
        with pytest.raises(PeerDownError):
            mover.move(STUDY, sop_uids=["1.2.3.1"])
        assert time.monotonic() - start >= 0.6


def test_a_peer_that_vanished_breaks_the_association_in_seconds(storage: Storage, portal: Portal) -> None:
    """What packets that vanish do to it is seen in the fault rounds ("unreachable storage"); here: that the kernel was told."""
    with Mover(storage.peer, portal.config.scp.aet, 5) as mover:
        mover.move(STUDY, sop_uids=["1.2.3.1"])
        association: Any = mover._association
        transport = association.dul.socket.socket
        assert transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
        assert transport.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert transport.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10


def test_progress_at_the_destination_is_not_silence(storage: Storage, portal: Portal) -> None:
    enough = threading.Event()
    storage.script = storage.silent(enough)
    looks: list[float] = []

    def progressed() -> float:
        looks.append(time.monotonic())
        if len(looks) >= 5 and looks[-1] - looks[0] > 3 * 0.6:
            enough.set()
        return time.monotonic()

    with Mover(storage.peer, portal.config.scp.aet, NEVER) as mover:
        mover._associated()
        mover._timeout = 0.6
        assert mover.move(STUDY, sop_uids=["1.2.3.1"], progressed=progressed).status == 0
    assert enough.is_set()


def test_the_progress_of_others_does_not_keep_it_for_ever(
    storage: Storage, portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(move_scu, "_LONGEST", 0.5)
    storage.script = storage.silent()
    with Mover(storage.peer, portal.config.scp.aet, NEVER) as mover:
        mover._associated()
        mover._timeout = 0.5
        with pytest.raises(PeerDownError):
            mover.move(STUDY, sop_uids=["1.2.3.1"], progressed=time.monotonic)


def test_a_rejected_association_is_told_from_silence(portal: Portal) -> None:
    wrong = Peer("127.0.0.1", portal.scp.port, "OTHER", "TEST")
    with pytest.raises(PeerRefusedError), Mover(wrong, portal.config.scp.aet) as mover:
        mover.move(STUDY)
