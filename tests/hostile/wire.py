"""DICOM's messages and data sets byte by byte (PS3.8 section 9.3, PS3.7 annex E, PS3.5 section 7), sound or not; and who sends them."""

from __future__ import annotations

import socket
import struct
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

CT = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION = "1.2.840.10008.1.1"
EXPLICIT, IMPLICIT, DEFLATED = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.1.99"
STORE, ECHO = 1, 3
"""Presentation context IDs."""
COMMAND, DATA, LAST = 1, 0, 2
ACCEPTED, REJECTED, PDATA, RELEASED, ABORT, CLOSED = 2, 3, 4, 6, 7, 0
UNDEFINED = 0xFFFFFFFF
_IMAGE_SECONDS = 90.0
"""The same for a sound image amid an attack."""
_STEP_SECONDS = 60.0
"""For what a busy machine merely does late: to take a connection, an association request, and what is sent."""
_FRAGMENT = 16000
_LONG = frozenset(["OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"])


# --- PDUs ---------------------------------------------------------------------------------------------------------------


def item(kind: int, content: bytes) -> bytes:
    """One item of an A-ASSOCIATE-RQ."""
    return struct.pack(">BxH", kind, len(content)) + content


def pdv(context_id: int, control: int, content: bytes) -> bytes:
    """One presentation data value."""
    return struct.pack(">LBB", len(content) + 2, context_id, control) + content


def pdu(*values: bytes, kind: int = 4) -> bytes:
    """One PDU, a P-DATA-TF unless told otherwise."""
    content = b"".join(values)
    return struct.pack(">BxL", kind, len(content)) + content


def context(context_id: int, sop_class: str, syntaxes: Sequence[str] = (EXPLICIT,)) -> bytes:
    """One proposed presentation context."""
    names = item(0x30, sop_class.encode()) + b"".join(item(0x40, one.encode()) for one in syntaxes)
    return item(0x20, struct.pack(">B3x", context_id) + names)


def association(
    called: str, contexts: Iterable[bytes] = (), *, calling: str = "HOSTILE", longest: int = 0
) -> bytes:
    """An A-ASSOCIATE-RQ for CT and for C-ECHO, or for what is given."""
    proposal = b"".join(contexts) or context(STORE, CT) + context(ECHO, VERIFICATION)
    user = item(0x50, item(0x51, struct.pack(">L", longest)) + item(0x52, b"1.2.3"))
    titles = called.encode().ljust(16) + calling.encode().ljust(16) + bytes(32)
    name = item(0x10, b"1.2.840.10008.3.1.1.1")
    return pdu(struct.pack(">HH", 1, 0) + titles + name + proposal + user, kind=1)


# --- command sets -------------------------------------------------------------------------------------------------------


def element(number: int, value: bytes, length: int | None = None) -> bytes:
    """One element of a command set."""
    return struct.pack("<HHL", 0, number, len(value) if length is None else length) + value


def short(number: int, value: int) -> bytes:
    """An unsigned short of a command set."""
    return element(number, struct.pack("<H", value))


def uid(number: int, value: str) -> bytes:
    """A UID of a command set."""
    raw = value.encode("latin-1")
    return element(number, raw + b"\0" * (len(raw) % 2))


def command(*elements: bytes, group_length: int | None = None) -> bytes:
    """A command set."""
    content = b"".join(elements)
    return element(0, struct.pack("<L", len(content) if group_length is None else group_length)) + content


def request(sop_uid: str, sop_class: str = CT, message_id: int = 1) -> tuple[bytes, ...]:
    """The elements of a C-STORE-RQ."""
    return (
        uid(0x0002, sop_class),
        short(0x0100, 0x0001),
        short(0x0110, message_id),
        short(0x0700, 2),
        short(0x0800, 0x0001),
        uid(0x1000, sop_uid),
    )


def store(sop_uid: str, encoded: bytes, sop_class: str = CT, context_id: int = STORE) -> bytes:
    """A whole C-STORE-RQ: its command set and its data set in P-DATA-TFs that anyone takes."""
    parts = [encoded[start : start + _FRAGMENT] for start in range(0, len(encoded), _FRAGMENT)] or [b""]
    last = len(parts) - 1
    fragments = (
        pdu(pdv(context_id, DATA | (LAST if index == last else 0), part)) for index, part in enumerate(parts)
    )
    return pdu(pdv(context_id, COMMAND | LAST, command(*request(sop_uid, sop_class)))) + b"".join(fragments)


# --- data sets ----------------------------------------------------------------------------------------------------------


def tagged(group: int, number: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """One element in explicit VR little endian."""
    value += (b"\0" if vr in {"UI", "OB", "UN"} else b" ") * (len(value) % 2)
    size = len(value) if length is None else length
    head = struct.pack("<HH", group, number) + vr.encode()
    return head + (struct.pack("<xxL", size) if vr in _LONG else struct.pack("<H", size)) + value


def implicit(tag: int, text: str) -> bytes:
    """One element in implicit VR little endian."""
    value = text.encode("latin-1") + b"\0" * (len(text) % 2)
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


@dataclass(frozen=True, slots=True)
class Image:
    """The identifiers of a made-up image, and how it is encoded: `between` stands before the StudyInstanceUID, `after` at the end."""

    study_uid: str
    sop_uid: str
    sop_class: str = CT
    patient_id: str = "HOSTILE"
    between: bytes = b""
    after: bytes = b""

    def encoded(self) -> bytes:
        """The data set in explicit VR little endian."""
        return b"".join(
            (
                tagged(8, 0x16, "UI", self.sop_class.encode("latin-1")),
                tagged(8, 0x18, "UI", self.sop_uid.encode("latin-1")),
                self.between,
                tagged(0x10, 0x20, "LO", self.patient_id.encode("latin-1")),
                tagged(0x20, 0x0D, "UI", self.study_uid.encode("latin-1")),
                tagged(0x20, 0x0E, "UI", f"{self.study_uid}.1".encode("latin-1")),
                tagged(0x20, 0x13, "IS", b"1"),
                self.after,
            )
        )


# --- the sender ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Target:
    """The SCP that is attacked, and the seconds after which it counts as silent.

    Without a patience every answer is waited for until it comes or the connection ends: how long that takes is the machine's affair.
    """

    host: str
    port: int
    called: str
    patience: float | None = 10.0

    def within(self, seconds: float) -> float | None:
        """The limit of a step that has `seconds`, where there is a patience at all."""
        return None if self.patience is None else seconds


class Sender:
    """A connection that sends whatever it is told; a context manager."""

    def __init__(self, target: Target, seconds: float = 0.0) -> None:
        self.target = target
        self._patience = target.within(seconds) if seconds else target.patience
        self._unhurried = target.within(seconds or _STEP_SECONDS)
        self.connection = socket.create_connection((target.host, target.port), self._unhurried)
        self.connection.settimeout(self._patience)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    def send(self, content: bytes) -> None:
        """Send bytes, however slowly they are taken: patience is for answers. Raises OSError where the peer has gone."""
        with self._without_haste():
            self.connection.sendall(content)

    def associate(self, *contexts: bytes, longest: int = 0) -> dict[int, str]:
        """Request an association; the accepted contexts with their transfer syntaxes. Raises ConnectionError where refused."""
        self.send(association(self.target.called, contexts, longest=longest))
        with self._without_haste():  # so far nothing is wrong with this sender: a busy machine answers late
            kind, body = self.receive()
        if kind != ACCEPTED:
            raise ConnectionRefusedError(f"the association was not accepted: PDU {kind}")
        return _accepted(body)

    def receive(self) -> tuple[int, bytes]:
        """Kind and body of the next PDU; kind 0 where the connection has ended."""
        with suppress(ConnectionError):
            header = self._exactly(6)
            if len(header) == 6:
                kind, length = struct.unpack(">BxL", header)
                return kind, self._exactly(length)
        return CLOSED, b""

    def status(self) -> int:
        """The status in the next response, however many PDUs it takes. Raises ConnectionError where none comes."""
        content, control = b"", COMMAND
        while not control & LAST:
            kind, body = self.receive()
            if kind != PDATA:
                raise ConnectionAbortedError("abort" if kind == ABORT else "closed")
            control = body[5]
            content += body[6:]
        at = content.index(struct.pack("<HHL", 0, 0x0900, 2)) + 8
        return int(struct.unpack_from("<H", content, at)[0])

    def answer(self) -> str:
        """What the peer made of it: a status, "abort", "closed", or "silence"."""
        try:
            return f"0x{self.status():04X}"
        except TimeoutError:
            return "silence"
        except ConnectionAbortedError as error:
            return str(error)

    def tell(self, content: bytes) -> str:
        """Send, and what the peer made of it."""
        with suppress(ConnectionError):
            self.send(content)
        return self.answer()

    @contextmanager
    def _without_haste(self) -> Iterator[None]:
        self.connection.settimeout(self._unhurried)
        try:
            yield
        finally:
            self.connection.settimeout(self._patience)

    def _exactly(self, length: int) -> bytes:
        content = b""
        while len(content) < length and (part := self.connection.recv(length - len(content))):
            content += part
        return content


def _accepted(body: bytes) -> dict[int, str]:
    """Presentation contexts of an A-ASSOCIATE-AC with result 0 (PS3.8 section 9.3.3)."""
    found, position = {}, 68
    while position + 4 <= len(body):
        kind, length = struct.unpack_from(">BxH", body, position)
        if kind == 0x21 and body[position + 6] == 0:
            found[body[position + 4]] = body[position + 12 : position + 4 + length].decode("latin-1")
        position += 4 + length
    return found


def store_image(target: Target, image: Image) -> str:
    """One C-STORE in an association of its own; what came of it."""
    try:
        with Sender(target, _IMAGE_SECONDS) as sender:
            sender.associate(context(STORE, image.sop_class))
            return sender.tell(store(image.sop_uid, image.encoded(), image.sop_class))
    except TimeoutError:
        return "silence"
    except OSError as error:
        return type(error).__name__


def echo(target: Target, seconds: float = 20.0) -> bool:
    """Whether a C-ECHO is answered with Success."""
    with suppress(OSError), Sender(target, seconds) as sender:
        sender.associate()
        asked = (uid(0x0002, VERIFICATION), short(0x0100, 0x0030), short(0x0110, 9), short(0x0800, 0x0101))
        return sender.tell(pdu(pdv(ECHO, COMMAND | LAST, command(*asked)))) == "0x0000"
    return False


def told(counter: Counter[str]) -> str:
    """The outcomes with their numbers, the most frequent first."""
    return ", ".join(f"{count} x {name}" for name, count in counter.most_common())
