"""How the SCP stops: no new association, the object at hand gets its verdict, all others end at once, in bounded time."""

from __future__ import annotations

import socket
import threading
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.presentation import build_context

from ddwd.core import watchdog
from ddwd.dicom.upper_layer import associate
from tests.dicom.conftest import wait_until
from tests.dicom.test_store import CT, data_set

if TYPE_CHECKING:
    from pynetdicom.association import Association

    from tests.dicom.conftest import Portal

SIZE = 2_000_000
NEVER = 3600.0
"""A grace that no test lives to see the end of."""


def fragments_of(association: Association) -> list[Any]:
    """The P-DATA primitives of one C-STORE of a large object."""
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID, request.AffectedSOPInstanceUID = CT, "1.2.3.4"
    request.DataSet = BytesIO(data_set(body=bytes(SIZE)))
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    message.context_id = 1
    return list(message.encode_msg(1, 16384))


def begin(portal: Portal) -> tuple[Association, list[Any]]:
    """Send half of an object; the rest of it."""
    association = associate(portal.peer, [build_context(CT, ExplicitVRLittleEndian)], connect=60, silence=60)
    assert association.is_established
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        time.sleep(0.001)
    fragments = fragments_of(association)
    half = len(fragments) // 2
    for one in fragments[:half]:
        association.dul.send_pdu(one)
    portal.wait_begun()
    return association, fragments[half:]


def stopping(portal: Portal, grace: float) -> tuple[threading.Thread, list[bool], list[float]]:
    """Begin to stop the SCP in a thread."""
    said: list[bool] = []
    signs: list[float] = []
    watchdog.install(lambda _wait: signs.append(time.monotonic()))
    thread = threading.Thread(target=lambda: said.append(portal.scp.stop(grace)))
    thread.start()
    return thread, said, signs


def test_the_object_at_hand_gets_its_verdict_and_then_the_association_ends(portal: Portal) -> None:
    association, rest = begin(portal)
    thread, said, signs = stopping(portal, NEVER)
    wait_until(lambda: len(signs) >= 5)
    assert thread.is_alive()
    for one in rest:
        association.dul.send_pdu(one)
    _, response = association.dimse.get_msg(block=True)
    association._reactor_checkpoint.set()
    thread.join()
    assert isinstance(response, C_STORE)
    assert response.Status == 0
    assert said == [True]
    assert len(portal.spooled()) == 1
    assert portal.unfinished() == []


def test_an_idle_association_is_not_waited_for(portal: Portal) -> None:
    association = associate(portal.peer, [build_context(CT, ExplicitVRLittleEndian)])
    assert association.is_established
    assert portal.scp.stop(NEVER)


def test_half_an_object_that_never_ends_is_cut_off_in_time_and_leaves_nothing(portal: Portal) -> None:
    begin(portal)
    assert not portal.scp.stop(1.0)
    portal.wait_ended()
    assert portal.unfinished() == []
    assert portal.spooled() == []


def test_nobody_gets_in_once_it_stops(portal: Portal) -> None:
    port = portal.scp.port
    _, _rest = begin(portal)
    thread, _, signs = stopping(portal, 1.0)
    wait_until(lambda: signs)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port)).close()
    thread.join()
