"""The Storage service of one association: assemble the messages, store the object of each C-STORE, answer it.

A C-STORE is answered 0x0000 only once its object is durable in the spool. Every failure is a failure status, never a warning, because
Orthanc takes a warning for success.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

from pynetdicom.dimse import DIMSEServiceProvider
from pynetdicom.dimse_messages import DIMSEMessage
from pynetdicom.pdu_primitives import P_DATA

from ddwd.core import durable
from ddwd.core.errors import LinkedError, StorageFullError
from ddwd.dicom.command import StoreRequest, read_store, store_response
from ddwd.dicom.head import UnreadableError
from ddwd.dicom.incoming import Incoming, IncomingStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pynetdicom.association import Association

    from ddwd.core.clock import Clock
    from ddwd.dicom.head import Head
    from ddwd.dicom.upper_layer import UpperLayer

log = logging.getLogger("ddwd.scp")

# Statuses of the Storage Service Class (PS3.4 table B.2-1).
SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
INPUT_OUTPUT, UNEXPECTED = 0xC001, 0xC002

_COMMAND, _LAST = 0x01, 0x02  # bits of the message control header (PS3.8 section E.2)
_COMMAND_BYTES = 64 * 1024
"""Limit of one command set; the largest valid C-STORE-RQ has a few hundred bytes."""
_IDLE_WAIT = 0.2
"""Seconds between two checks of an association's own thread of its timers; messages wake it at once."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What the SCP did since its start; `progressed` is time.monotonic() of the last bytes that arrived.

    `strangers` are connections of other machines, closed before a byte was read.
    """

    associations: int = 0
    received: int = 0
    received_bytes: int = 0
    refused: int = 0
    last_received: datetime | None = None
    progressed: float = 0.0
    strangers: int = 0
    limit: int = 0


class _MismatchError(Exception):
    """Identifiers are missing, or differ from the command set (PS3.4 section B.2.3: 0xA900)."""


class ReceiveCounter:
    """Counters that several reactors share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = Counts(progressed=time.monotonic())

    def received(self, size: int) -> None:
        """Count bytes of a data set."""
        with self._lock:
            total = self._counts.received_bytes + size
            self._counts = replace(self._counts, received_bytes=total, progressed=time.monotonic())

    def answered(self, status: int) -> None:
        """Count a C-STORE by the status of its answer."""
        with self._lock:
            counts = self._counts
            if status == SUCCESS:
                now = self._clock.utc()
                self._counts = replace(counts, received=counts.received + 1, last_received=now)
            else:
                self._counts = replace(counts, refused=counts.refused + 1)

    def turned_away(self) -> None:
        """Count a connection of another machine, which was closed."""
        with self._lock:
            self._counts = replace(self._counts, strangers=self._counts.strangers + 1)

    def counts(self, associations: int, limit: int) -> Counts:
        """Return a consistent copy, with the open connections and how many there may be."""
        return replace(self._counts, associations=associations, limit=limit)


class _NoDataSet(BytesIO):
    """Discards the data set of a message that is no C-STORE: none of the services here needs one."""

    def write(self, content: Any) -> int:
        return len(content)


class StoreService(DIMSEServiceProvider):
    """Receives messages: a C-STORE is served here, in the reactor's thread; all else by pynetdicom, in the association's own.

    A message is its command set, then its data set if there is one, all in one presentation context (PS3.8 annex E).
    """

    dul: UpperLayer

    def __init__(self, assoc: Association, spool: IncomingStore, counter: ReceiveCounter) -> None:
        super().__init__(assoc)
        self._spool = spool
        self._counter = counter
        self._silence = assoc.network_timeout or 0
        self._command = bytearray()
        self._context_id = 0
        self._request: StoreRequest | None = None
        self._object: Incoming | None = None
        self.established = threading.Event()
        self.is_busy = False
        self.last_at = time.monotonic()

    def get_msg(self, block: bool = False) -> Any:
        """Return the next message for the association's thread, after a short wait where pynetdicom would poll."""
        try:
            return self.msg_queue.get(timeout=self.dimse_timeout if block else _IDLE_WAIT)
        except queue.Empty:
            return None, None

    def receive_primitive(self, primitive: Any) -> None:
        """Process the fragments that pynetdicom's state machine hands over."""
        self.receive(primitive.presentation_data_value_list)

    def receive(self, fragments: Sequence[tuple[int, Any]]) -> None:
        """Process the fragments of one P-DATA-TF: pairs of a context ID, and a message control header with its fragment."""
        self.last_at = time.monotonic()
        try:
            for context_id, fragment in fragments:
                self._take(context_id, fragment[0], fragment[1:])
        except Exception as error:  # noqa: BLE001 - a message that cannot be decoded aborts its association only
            log.warning("an invalid DIMSE message ends an association (%s)", type(error).__name__)
            self.drop()
            self.dul.event_queue.put("Evt19")

    def drop(self) -> None:
        """Remove an object that did not arrive completely."""
        unfinished, self._object = self._object, None
        if unfinished is not None:
            unfinished.discard()

    def _take(self, context_id: int, control: int, content: Any) -> None:
        if self.is_busy and context_id != self._context_id:
            raise ValueError("a message in more than one presentation context")
        self.is_busy, self._context_id = True, context_id
        has_command = self._request is not None or self.message is not None
        if bool(control & _COMMAND) is has_command:
            raise ValueError("a data set before its command set, or a command set within a message")
        if not has_command:
            self._command += content
            if len(self._command) > _COMMAND_BYTES:
                raise ValueError("a command set without an end")
            if control & _LAST:
                self._begin()
        elif self._object is not None:
            self._object.write(content)
            if control & _LAST:
                self._answer()
        elif control & _LAST:
            self._pass_on(control, b"")

    def _begin(self) -> None:
        """Process a complete command set."""
        command, self._command = bytes(self._command), bytearray()
        self._request = read_store(command)
        if self._request is None:
            self._pass_on(_COMMAND | _LAST, command)
            return
        context = self.assoc._accepted_cx.get(self._context_id)
        if context is None:
            raise ValueError("a C-STORE-RQ outside the accepted contexts")
        names = (self._request.sop_class, self._request.sop_instance, str(context.transfer_syntax[0]))
        self._object = Incoming(self._spool, names, self._counter.received)
        if not self._request.has_data_set:
            self._answer()

    def _pass_on(self, control: int, content: bytes) -> None:
        """Have pynetdicom decode a message that is no C-STORE-RQ, without the content of its data set."""
        if self.message is None:
            self.message = DIMSEMessage()
            self.message.data_set = _NoDataSet()
        primitive = P_DATA()
        primitive.presentation_data_value_list.append((self._context_id, bytes((control,)) + content))
        if self.message.decode_msg(primitive, self.assoc):
            message, self.message = self.message, None
            self.msg_queue.put((self._context_id, cast("Any", message.message_to_primitive())))
            self.is_busy = False

    def _answer(self) -> None:
        """Answer the C-STORE of a complete object."""
        if not self.established.wait(self._silence):
            raise ValueError("a C-STORE-RQ before the association was established")
        request, self._request = cast("StoreRequest", self._request), None
        status = self._keep(request)
        self._counter.answered(status)
        self.dul.transmit(store_response(request, status, self._context_id, self.maximum_pdu_size))
        self.is_busy = False

    def _keep(self, request: StoreRequest) -> int:
        """Make the object durable in the spool and return the status of the answer; every error becomes a failure status."""
        incoming, self._object = cast("Incoming", self._object), None
        try:
            with durable.translated():
                head = incoming.head()
                _check(head, request)
                incoming.keep(head)
        except _MismatchError as error:
            status, reason = MISMATCH, str(error)
        except UnreadableError as error:
            status, reason = CANNOT_UNDERSTAND, str(error)
        except StorageFullError as error:
            status, reason = OUT_OF_RESOURCES, str(error)
        except LinkedError as error:
            status, reason = INPUT_OUTPUT, str(error)
        except OSError as error:
            status, reason = INPUT_OUTPUT, error.strerror or type(error).__name__
        except Exception as error:  # noqa: BLE001 - a defect of ours must not lose an image
            status, reason = UNEXPECTED, type(error).__name__
        else:
            return SUCCESS
        finally:
            incoming.discard()
        log.error("refused a C-STORE with 0x%04X: %s; instance %s", status, reason, request.sop_instance)
        return status


def _check(head: Head, request: StoreRequest) -> None:
    """Refuse an object whose identifiers are missing or differ from the command set (PS3.4 section B.2.3: 0xA900)."""
    if not request.is_whole:
        raise _MismatchError("a mandatory element is missing in the command set")
    if not (head.study_uid and head.series_uid and head.sop_uid):
        raise _MismatchError("the study, series or SOP instance UID is missing in the data set")
    if head.sop_uid != request.sop_instance:
        raise _MismatchError("the SOP instance UIDs of command and data set differ")
    if head.sop_class and head.sop_class != request.sop_class:
        raise _MismatchError("the SOP class UIDs of command and data set differ")
