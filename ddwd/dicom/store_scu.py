"""`ddwd send`: files over C-STORE, each data set exactly as it stands in its file. Called by cli/send.

One presentation context for each pair of SOP class and transfer syntax found; further associations where 128 do not suffice.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import DeflatedExplicitVRLittleEndian
from pynetdicom import _config
from pynetdicom.dsutils import split_dataset
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS

from ddwd.core.errors import PeerDownError, PeerRefusedError
from ddwd.dicom import contexts
from ddwd.dicom.upper_layer import Peer, associate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from pynetdicom.association import Association
    from pynetdicom.presentation import PresentationContext

_SILENCE = 300.0
_BROKEN = "the receiver broke off the association over it"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A DICOM file as its file meta information describes it."""

    path: Path
    sop_class: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one file: the DIMSE status, or None where it was never sent, and why in words."""

    path: Path
    status: int | None
    reason: str

    @property
    def accepted(self) -> bool:
        """Whether the peer took it: 0x0000 only."""
        return self.status == 0


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file named, and every file below a folder named."""
    for path in paths:
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.is_file())
        else:
            yield path


def examine(path: Path) -> Outgoing | Answer:
    """Read the file meta information of one file, or say why it cannot be sent."""
    try:
        meta = dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
        return Outgoing(path, str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
    except InvalidDicomError:
        return Answer(path, None, "not a DICOM file")
    except OSError as error:
        return Answer(path, None, error.strerror or "cannot be read")
    except Exception as error:  # noqa: BLE001 - a damaged file may make the parser raise anything
        return Answer(
            path, None, f"its file meta information is incomplete or damaged ({type(error).__name__})"
        )


def send(peer: Peer, outgoing: Sequence[Outgoing], answered: Callable[[Answer], None]) -> None:
    """Send every file, calling `answered` for each as it is answered.

    Raises PeerDownError, PeerRefusedError; files not yet answered then have not been taken.
    """
    by_context = defaultdict(list)
    for one in outgoing:
        by_context[one.sop_class, one.transfer_syntax].append(one)
    _config.STORE_SEND_CHUNKED_DATASET = (
        True  # the data set from the file in pieces, neither decoded nor held whole
    )
    for proposal in contexts.for_store(by_context):
        batch = [
            one
            for context in proposal
            for one in by_context[str(context.abstract_syntax), str(context.transfer_syntax[0])]
        ]
        _send_batch(peer, proposal, batch, answered)


def _send_batch(
    peer: Peer,
    proposal: list[PresentationContext],
    batch: Sequence[Outgoing],
    answered: Callable[[Answer], None],
) -> None:
    """Send over one association, or over a new one after each file that made the receiver break it off."""
    rest = list(batch)
    while rest:
        association = associate(peer, proposal, silence=_SILENCE)
        _check(association, peer)
        try:
            while rest and association.is_established:
                one = rest.pop(0)
                answered(_send_one(association, one, (len(batch) - len(rest)) % 0xFFFF + 1))
        finally:
            if association.is_established:
                association.release()


def _send_one(association: Association, one: Outgoing, message_id: int) -> Answer:
    """Send one file."""
    try:
        with _even(one) as path:
            response = association.send_c_store(path, msg_id=message_id)
    except ValueError:
        return Answer(one.path, None, "the receiver does not take this SOP class with this transfer syntax")
    except (RuntimeError, ConnectionError):
        return Answer(one.path, None, _BROKEN)
    except Exception as error:  # noqa: BLE001 - a damaged file may make the parser raise anything
        return Answer(one.path, None, f"cannot be sent ({type(error).__name__})")
    if "Status" not in response:
        return Answer(one.path, None, _BROKEN)
    status = int(response.Status)
    return Answer(one.path, status, "" if status == 0 else describe(status))


@contextmanager
def _even(one: Outgoing) -> Iterator[Path]:
    """The file; a deflated data set of odd length in a copy with the trailing null that PS3.5 A.5 demands.

    Old writers left it out, and a receiver may never answer a fragment of odd length (PS3.8 annex E).
    """
    if one.transfer_syntax != DeflatedExplicitVRLittleEndian:
        yield one.path
        return
    _, offset = split_dataset(one.path)
    with NamedTemporaryFile(suffix=".dcm") as copy:
        content = one.path.read_bytes()
        copy.write(content + b"\0" * ((len(content) - offset) % 2))
        copy.flush()
        yield Path(copy.name)


def describe(status: int) -> str:
    """A C-STORE status in words (PS3.4 table B.2-1)."""
    category, words = STORAGE_SERVICE_CLASS_STATUS.get(status, ("Unknown status", ""))
    return f"0x{status:04X} {category}" + (f": {words}" if words else "")


def _check(association: Association, peer: Peer) -> None:
    if association.is_established:
        return
    where = f"{peer.called} at {peer.host}:{peer.port}"
    if association.is_rejected:
        raise PeerRefusedError(f"{where} rejected the association of {peer.calling}: check both AE titles")
    raise PeerDownError(f"{where} does not answer")
