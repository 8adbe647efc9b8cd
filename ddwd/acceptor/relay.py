"""Pass the messages of one modality on to ORTHANC1 and the answers back, and answer where ORTHANC1 does not.

Success (0x0000) is only ever ORTHANC1's own answer. An object that ORTHANC1 cannot parse it drops without an answer, and waits. So after a
second it is asked for the release of its association: if it answers this before the C-STORE, the object was dropped. The modality
gets a failure status, and its association goes on, with a new one to ORTHANC1.
"""

from __future__ import annotations

import select
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ddwd.acceptor.gateway_link import GatewayDownError, GatewayLostError, GatewayRejectedError
from ddwd.acceptor.senders import Refusal
from ddwd.dicom import association_pdu as pdu
from ddwd.dicom.command import UID_CHARACTERS, has_data_set, read_store, response_status, store_response
from ddwd.dicom.pdu_stream import CommandEnd, Control, Data, DataSetEnd, PduScanner
from ddwd.store.status_files import RefusalKind

if TYPE_CHECKING:
    from collections.abc import Callable

    from ddwd.acceptor.association import Association
    from ddwd.acceptor.channel import Channel
    from ddwd.acceptor.gateway_link import GatewayLink
    from ddwd.acceptor.turns import Turn, Turns
    from ddwd.dicom.command import StoreRequest

SUCCESS, OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xC000
"""Statuses of the Storage Service Class (PS3.4 table B.2-1)."""
_BYTES_A_SECOND = 10_000_000
"""ORTHANC1 gets a second more for each so many bytes of an image."""
_LONGEST_UID = 1024
_NOT_TAKEN = (
    "ORTHANC1 does not take its request: who may ask for storage commitment is in commitment.modalities"
)
_DROPPED = "ORTHANC1 cannot parse the data set: its encoding breaks PS3.5 (lengths, delimiters or value representations)"


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds that a relay waits.

    `answer` for the turn of an image, and then for ORTHANC1 to store it; `turn` is how long an image may keep all others from being
    stored; `probe` without an answer before it is asked for the release; `idle` after the last message
    before its association is released, which holds a thread there; `silence` of a modality in the middle of a message, and
    `rest` of one between two messages.
    """

    answer: float = 25.0
    turn: float = 1.0
    probe: float = 1.0
    idle: float = 0.2
    silence: float = 120.0
    rest: float = 3600.0


class _EndedError(Exception):
    """The association ends before its release; the message says why."""


class _NotTakenError(_EndedError):
    """ORTHANC1 takes no such request of that sender."""


@dataclass(slots=True)
class Exchange:
    """A request that has no answer yet; `request` is None if it is no C-STORE. `sent_at` is when it was passed on whole."""

    context_id: int
    request: StoreRequest | None
    sent_at: float | None = None
    size: int = 0
    head: bytes = b""


class Relay:
    """One association after its acceptance. Run by one thread."""

    def __init__(
        self,
        modality: Channel,
        gateway: GatewayLink,
        longest: int,
        association: Association,
        timing: Timing,
        turns: Turns,
    ) -> None:
        """`longest` is the modality's maximum length of a PDU."""
        self._modality = modality
        self._gateway = gateway
        self._longest = longest
        self._association = association
        self._timing = timing
        self._turns = turns
        self._turn: Turn | None = None
        self._scanner = PduScanner()
        self._exchange: Exchange | None = None
        self._refusal: Refusal | None = None
        self._response = bytearray()
        self._moved = time.monotonic()
        self._stopping = False
        self._poller = select.poll()
        self._polled: tuple[int | None, ...] = ()

    @property
    def is_busy(self) -> bool:
        """Return whether a message is under way."""
        return self._exchange is not None or self._scanner.is_inside

    def run(self, stopping: int) -> None:
        """Pass messages on until the association ends. `stopping` becomes readable once it must end: after the message under way."""
        try:
            while self._step(stopping):
                pass
        except (_EndedError, ValueError, OSError) as error:
            kind = RefusalKind.CUT if self.is_busy else RefusalKind.ABORT
            if isinstance(error, _NotTakenError):
                kind = RefusalKind.ASSOCIATION
            self._association.refused(Refusal(kind, getattr(error, "strerror", None) or str(error)))
            self._try_to_send(pdu.abort())
        finally:
            self._end_turn()
            self._gateway.close()
            self._modality.close()

    def _step(self, stopping: int) -> bool:
        """Wait for bytes and deal with them; return whether the association goes on."""
        ready = self._wait(stopping)
        if stopping in ready:
            self._stopping = True
        if self._stopping and not self.is_busy:
            self._try_to_send(pdu.abort())
            return False
        if not ready:
            self._on_time()
        if self._gateway.descriptor in ready:
            self._from_gateway()
        return self._modality.descriptor not in ready or self._from_modality()

    def _wait(self, stopping: int) -> set[int]:
        """Return the descriptors that are ready; none once something is due."""
        if self._modality.has_pending:
            return {self._modality.descriptor}
        wanted = self._modality.descriptor, self._gateway.descriptor, None if self._stopping else stopping
        if wanted != self._polled:
            self._poller, self._polled = select.poll(), wanted
            for descriptor in wanted:
                if descriptor is not None:
                    self._poller.register(descriptor, select.POLLIN)
        return {
            descriptor
            for descriptor, _ in self._poller.poll(max(self._due() - time.monotonic(), 0) * 1000 + 1)
        }

    def _due(self) -> float:
        """Return when something must be done if no byte comes (time.monotonic)."""
        exchange = self._exchange
        if exchange is not None and exchange.sent_at is not None:
            return (
                exchange.sent_at + self._timing.probe
                if self._gateway.is_open
                else self._answer_due(exchange.sent_at)
            )
        if self.is_busy:
            return self._moved + self._timing.silence
        return self._moved + (self._timing.idle if self._gateway.is_open else self._timing.rest)

    def _answer_due(self, sent_at: float) -> float:
        size = self._exchange.size if self._exchange else 0
        return sent_at + self._timing.answer + size / _BYTES_A_SECOND

    def _on_time(self) -> None:
        """Do what is due. Raises _EndedError."""
        if time.monotonic() < self._due():
            return
        exchange = self._exchange
        if self._gateway.is_open and not self.is_busy:
            self._gateway.release_or_close()
            self._modality.rest()
        elif self._gateway.is_open and exchange is not None and exchange.sent_at is not None:
            self._guarded(self._gateway.release)
        elif exchange is not None and exchange.sent_at is not None:
            seconds = time.monotonic() - exchange.sent_at
            self._fail(
                Refusal(
                    RefusalKind.IMAGE, f"ORTHANC1 has not stored it after {seconds:.0f} s", OUT_OF_RESOURCES
                )
            )
        elif self.is_busy:
            raise _EndedError(f"it sent nothing for {self._timing.silence:.0f} s in the middle of a message")
        else:
            raise _EndedError(f"it sent nothing for {self._timing.rest:.0f} s")

    def _from_modality(self) -> bool:
        """Pass on what came; return whether the association goes on. Raises _EndedError, ValueError, OSError."""
        received = self._modality.receive()
        if received is None:
            return True
        if not received:
            raise _EndedError(
                "it closed the connection "
                + ("in the middle of a message" if self.is_busy else "without a release")
            )
        self._moved = time.monotonic()
        for piece in self._scanner.feed(received):
            if isinstance(piece, Data):
                if piece.ends_data_set:
                    self._take_turn()
                self._pass_on(piece.content)
            elif isinstance(piece, CommandEnd):
                self._begin(piece)
            elif isinstance(piece, DataSetEnd):
                self._complete(piece)
            elif not self._control(piece):
                return False
        if self.is_busy:
            self._modality.acknowledge_at_once()
        return True

    def _pass_on(self, content: memoryview) -> None:
        if self._exchange is not None and self._exchange.sent_at is not None:
            raise _EndedError("it sent a message before the answer to the one before")
        if self._refusal is None:
            self._guarded(lambda: self._gateway.send(content))

    def _take_turn(self) -> None:
        """Wait until ORTHANC1 may get the last bytes of an image, with which it begins to store it."""
        exchange = self._exchange
        is_store = exchange is not None and exchange.request is not None and exchange.sent_at is None
        if not is_store or self._refusal is not None:
            return
        self._turn = self._turns.take(self._timing.answer)
        if self._turn is None:
            reason = f"ORTHANC1 was busy with images that came before it for {self._timing.answer:.0f} s"
            self._fail(Refusal(RefusalKind.IMAGE, reason, OUT_OF_RESOURCES))

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turns.end(self._turn)
            self._turn = None

    def _guarded(self, action: Callable[[], object]) -> None:
        """Do something with ORTHANC1; a failure becomes the answer to the message under way."""
        try:
            action()
        except GatewayRejectedError as error:
            self._fail(Refusal(RefusalKind.IMAGE, str(error), OUT_OF_RESOURCES))
        except GatewayLostError as error:
            self._lost(error)
        except GatewayDownError as error:
            self._fail(Refusal(RefusalKind.IMAGE, f"ORTHANC1 is down ({error})", OUT_OF_RESOURCES))

    def _begin(self, piece: CommandEnd) -> None:
        if self._exchange is not None:
            raise _EndedError("it sent a second command set within a message")
        request = read_store(piece.command, longest_uid=_LONGEST_UID)
        self._exchange = Exchange(piece.context_id, request)
        if request is not None and max(len(request.sop_class), len(request.sop_instance)) > UID_CHARACTERS:
            self._fail(
                Refusal(
                    RefusalKind.IMAGE,
                    f"the command has a UID of more than {UID_CHARACTERS} characters",
                    CANNOT_UNDERSTAND,
                )
            )
        if not has_data_set(piece.command):
            self._sent(self._exchange)

    def _complete(self, piece: DataSetEnd) -> None:
        if self._exchange is None or self._exchange.sent_at is not None:
            raise _EndedError("it sent a data set without a command set")
        self._exchange.size, self._exchange.head = piece.size, piece.head
        self._sent(self._exchange)

    def _sent(self, exchange: Exchange) -> None:
        """Note that the message has come whole, and refuse it if ORTHANC1 cannot answer it."""
        exchange.sent_at = time.monotonic()
        if self._refusal is not None:
            self._refuse(self._refusal)

    def _control(self, piece: Control) -> bool:
        """Deal with a PDU that is no P-DATA-TF; return whether the association goes on. Raises _EndedError."""
        if piece.kind == pdu.RELEASE_REQUEST and not self.is_busy:
            self._modality.send(pdu.release_response())
            return False
        if piece.kind == pdu.ABORT:
            raise _EndedError("it aborted" + (" in the middle of a message" if self.is_busy else ""))
        raise _EndedError(f"it sent a PDU of type {piece.kind} where none may be")

    def _from_gateway(self) -> None:
        """Take what ORTHANC1 answers."""
        try:
            for piece in self._gateway.receive() or ():
                if isinstance(piece, Data):
                    self._response += piece.content
                elif isinstance(piece, CommandEnd):
                    self._answer(piece.command)
                elif isinstance(piece, Control):
                    self._gateway_ended(piece.kind)
                    return
        except GatewayLostError as error:
            if self.is_busy:
                self._lost(error)
            else:
                self._gateway.close()

    def _lost(self, error: GatewayLostError) -> None:
        if self._exchange is not None and self._exchange.request is not None:
            self._association.cut(self._exchange.request.sop_instance)
        self._fail(Refusal(RefusalKind.IMAGE, f"ORTHANC1 ended the connection ({error})", OUT_OF_RESOURCES))

    def _gateway_ended(self, kind: int) -> None:
        """Deal with a release or an A-ABORT of ORTHANC1."""
        if not self.is_busy:
            self._gateway.close()
        elif self._exchange is not None and self._exchange.request is None:
            raise _NotTakenError(_NOT_TAKEN)
        elif kind in {pdu.RELEASE_RESPONSE, pdu.ABORT}:
            self._fail(Refusal(RefusalKind.IMAGE, _DROPPED, CANNOT_UNDERSTAND))
        else:
            raise _EndedError(f"ORTHANC1 sent a PDU of type {kind}")

    def _answer(self, command: bytes) -> None:
        """Pass an answer of ORTHANC1 on. The modality gets another failure status where that one is wrong."""
        response, self._response = bytes(self._response), bytearray()
        exchange, status = self._exchange, response_status(command)
        if exchange is None or status is None:
            raise _EndedError("ORTHANC1 sent an answer that nobody waits for")
        if exchange.request is None:
            self._finish(response)
        elif status == SUCCESS:
            self._finish(response)
            self._association.stored(exchange.request.sop_instance)
        else:
            self._refuse(Refusal(RefusalKind.IMAGE, "", status))

    def _fail(self, refusal: Refusal) -> None:
        """ORTHANC1 will not answer the message under way: refuse it once it has come whole."""
        self._gateway.close()
        self._response.clear()
        self._refusal = refusal
        if self._exchange is not None and self._exchange.sent_at is not None:
            self._refuse(refusal)

    def _refuse(self, refusal: Refusal) -> None:
        """Answer a C-STORE with a failure status. Raises _EndedError for any other request."""
        exchange = self._exchange
        if exchange is None or exchange.request is None:
            raise _EndedError(refusal.reason)
        refusal = self._association.explained(refusal, exchange)
        status = OUT_OF_RESOURCES if refusal.status is None else refusal.status
        self._finish(store_response(exchange.request, status, exchange.context_id, self._longest))
        self._association.refused(refusal)

    def _finish(self, response: bytes) -> None:
        self._end_turn()
        self._exchange = self._refusal = None
        self._moved = time.monotonic()
        self._modality.send(response)

    def _try_to_send(self, content: bytes) -> None:
        try:
            self._modality.send(content)
        except OSError:
            return
