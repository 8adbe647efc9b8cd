"""The report of storage commitment to a real listener: what it says, and what becomes of one that does not take it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from pydicom.config import disable_value_validation
from pynetdicom import AE, evt

from ddwd.core.errors import PeerDownError, PeerRefusedError
from ddwd.dicom import commitment_scu, contexts
from ddwd.dicom.upper_layer import Peer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

CT = "1.2.840.10008.5.1.4.1.1.2"
KEPT, OLD, LOST = (CT, "1.2.3"), (CT, "1.2.03.4"), (CT, "1.2.5")


class Modality:
    """A storage commitment SCU that listens for its reports, and answers `status`."""

    def __init__(self, *, takes_role: bool = True, context: str = contexts.COMMITMENT_MODEL) -> None:
        self.status = 0x0000
        self.heard: list[tuple[int | None, str, Dataset]] = []
        entity = AE("CT1")
        entity.require_called_aet = True
        role = True if takes_role else None
        entity.add_supported_context(context, scu_role=role, scp_role=role)
        self._server = entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self._hear)]
        )
        assert self._server is not None
        self.port: int = self._server.server_address[1]

    def _hear(self, event: evt.Event) -> tuple[int, None]:
        self.heard.append((event.event_type, event.assoc.requestor.ae_title, event.event_information))
        return self.status, None

    def peer(self, called: str = "CT1") -> Peer:
        return Peer("127.0.0.1", self.port, called, "ORTHANC1")

    def stop(self) -> None:
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def modality() -> Iterator[Modality]:
    running = Modality()
    yield running
    running.stop()


def _listed(information: Dataset, keyword: str) -> list[Any]:
    with disable_value_validation():  # one of them has a leading zero
        return [
            (str(item.ReferencedSOPClassUID), str(item.ReferencedSOPInstanceUID), item.get("FailureReason"))
            for item in information.get(keyword, [])
        ]


def test_all_committed_is_event_1(modality: Modality) -> None:
    commitment_scu.report(modality.peer(), "1.2.9", [KEPT, OLD], [])
    ((event, calling, information),) = modality.heard
    assert (event, calling, str(information.TransactionUID)) == (1, "ORTHANC1", "1.2.9")
    assert _listed(information, "ReferencedSOPSequence") == [(*KEPT, None), (*OLD, None)]
    assert "FailedSOPSequence" not in information


def test_a_failure_is_event_2_with_its_reason_beside_what_is_committed(modality: Modality) -> None:
    commitment_scu.report(modality.peer(), "1.2.9", [KEPT], [(LOST, 0x0112)])
    ((event, _, information),) = modality.heard
    assert event == 2
    assert _listed(information, "ReferencedSOPSequence") == [(*KEPT, None)]
    assert _listed(information, "FailedSOPSequence") == [(*LOST, 0x0112)]


def test_thousands_of_objects_go_in_one_report(modality: Modality) -> None:
    many = [(CT, f"1.2.826.0.1.3680043.8.498.{number}") for number in range(5000)]
    commitment_scu.report(modality.peer(), "1.2.9", many, [])
    assert len(modality.heard[0][2].ReferencedSOPSequence) == 5000


def test_one_that_does_not_listen_is_down() -> None:
    with pytest.raises(PeerDownError, match=r"CT1 at 127\.0\.0\.1:1 does not answer"):
        commitment_scu.report(Peer("127.0.0.1", 1, "CT1", "ORTHANC1"), "1.2.9", [KEPT], [])


def test_one_that_answers_a_failure_has_refused(modality: Modality) -> None:
    modality.status = 0x0110
    with pytest.raises(PeerRefusedError, match="answered the report with 0x0110"):
        commitment_scu.report(modality.peer(), "1.2.9", [KEPT], [])


def test_another_ae_title_is_refused(modality: Modality) -> None:
    with pytest.raises(PeerRefusedError, match="rejected the association of ORTHANC1: check both AE titles"):
        commitment_scu.report(modality.peer("CT2"), "1.2.9", [KEPT], [])


def test_one_that_leaves_the_role_unanswered_is_told_all_the_same() -> None:
    plain = Modality(takes_role=False)
    commitment_scu.report(plain.peer(), "1.2.9", [KEPT], [])
    plain.stop()
    assert len(plain.heard) == 1


def test_one_that_takes_no_reports_has_refused() -> None:
    unwilling = Modality(context=contexts.VERIFICATION)
    with pytest.raises(PeerRefusedError, match="takes no reports of storage commitment"):
        commitment_scu.report(unwilling.peer(), "1.2.9", [KEPT], [])
    unwilling.stop()
