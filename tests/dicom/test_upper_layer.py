"""A response is never taken by the wrong thread, however the scheduler plays."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from pynetdicom import AE, evt

from ddwd.dicom import contexts
from ddwd.dicom.upper_layer import Peer, associate

if TYPE_CHECKING:
    from collections.abc import Iterator

_GAP_SECONDS = 0.02


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Somebody who answers each C-ECHO at once."""
    entity = AE("ECHO")
    for context in contexts.for_echo():
        entity.add_supported_context(str(context.abstract_syntax))
    server = entity.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, lambda _event: 0)]
    )
    assert server is not None
    yield Peer("127.0.0.1", server.server_address[1], "ECHO", "US")
    server.shutdown()


def test_a_request_gets_its_response_although_the_associations_thread_was_about_to_look(peer: Peer) -> None:
    association = associate(peer, contexts.for_echo(), silence=3.0)
    checkpoint: Any = association._reactor_checkpoint
    passed = checkpoint.wait

    def preempted(timeout: float | None = None) -> bool:
        """The scheduler takes the thread off the processor just after it passed."""
        found: bool = passed(timeout)
        time.sleep(_GAP_SECONDS)
        return found

    took = association.dimse.get_msg

    def late(block: bool = False) -> Any:
        """The requestor comes to its response a moment after it is there."""
        if block:
            time.sleep(2 * _GAP_SECONDS)
        return took(block)

    checkpoint.wait = preempted
    association.dimse.get_msg = late  # type: ignore[method-assign]
    for _ in range(20):
        assert association.send_c_echo().get("Status") == 0
        time.sleep(_GAP_SECONDS / 2)
    association.release()
