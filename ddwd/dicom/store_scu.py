"""Send files by C-STORE, each data set exactly as in its file. Used by `ddwd send`, the drop folder and the self test.

One presentation context for each pair of SOP class and transfer syntax found; further associations if there are more than 128.
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

from ddwd.dicom import contexts
from ddwd.dicom.upper_layer import Peer, associate, check_established

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
    """Result for one file: the DIMSE status, None if it was not sent; and the reason in words."""

    path: Path
    status: int | None
    reason: str

    @property
    def accepted(self) -> bool:
        """Whether the peer stored it: 0x0000 only."""
        return self.status == 0


def files(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield every file of `paths`, and every file below a folder of them."""
    for path in paths:
        if path.is_dir():
            yield from sorted(below for below in path.rglob("*") if below.is_file())
        else:
            yield path


def examine(path: Path) -> Outgoing | Answer:
    """Read the file meta information of one file, or return why it cannot be sent."""
    try:
        meta = dcmread(path, specific_tags=[], stop_before_pixels=True).file_meta
        return Outgoing(path, str(meta.MediaStorageSOPClassUID), str(meta.TransferSyntaxUID))
    except InvalidDicomError:
        return Answer(path, None, "not a DICOM file")
    except OSError as error:
        return Answer(path, None, error.strerror or "cannot be read")
    except Exception as error:  # noqa: BLE001 - a damaged file may make the parser raise anything
        reason = f"its file meta information is incomplete or damaged ({type(error).__name__})"
        return Answer(path, None, reason)


def send(peer: Peer, outgoing: Sequence[Outgoing], answered: Callable[[Answer], None]) -> None:
    """Send every file, calling `answered` for each as it is answered.

    Raises PeerDownError, PeerRefusedError; files without an answer were not stored then.
    """
    by_context = defaultdict(list)
    for file in outgoing:
        by_context[file.sop_class, file.transfer_syntax].append(file)
    # the data set is sent from the file in pieces, neither decoded nor held whole
    _config.STORE_SEND_CHUNKED_DATASET = True
    for proposal in contexts.for_store(by_context):
        pairs = ((str(context.abstract_syntax), str(context.transfer_syntax[0])) for context in proposal)
        batch = [file for pair in pairs for file in by_context[pair]]
        _send_batch(peer, proposal, batch, answered)


def _send_batch(
    peer: Peer,
    proposal: list[PresentationContext],
    batch: Sequence[Outgoing],
    answered: Callable[[Answer], None],
) -> None:
    """Send over one association, and over a new one after each file at which the receiver broke it off."""
    rest = list(batch)
    while rest:
        association = associate(peer, proposal, silence=_SILENCE)
        check_established(association, peer)
        try:
            _send_until_broken(association, rest, len(batch), answered)
        finally:
            if association.is_established:
                association.release()


def _send_until_broken(
    association: Association, rest: list[Outgoing], of: int, answered: Callable[[Answer], None]
) -> None:
    """Send the files and take each off the list, until none is left or the receiver broke off the association.

    For a moment it still counts as established then, and the answer to another file would be waited for in vain: it is aborted.
    """
    while rest and association.is_established:
        file = rest.pop(0)
        answer = _send_one(association, file, (of - len(rest)) % 0xFFFF + 1)
        answered(answer)
        if answer.reason == _BROKEN:
            association.abort()
            return


def _send_one(association: Association, file: Outgoing, message_id: int) -> Answer:
    try:
        with _even(file) as path:
            response = association.send_c_store(path, msg_id=message_id)
    except ValueError:
        return Answer(file.path, None, "the receiver does not take this SOP class with this transfer syntax")
    except (RuntimeError, ConnectionError):
        return Answer(file.path, None, _BROKEN)
    except Exception as error:  # noqa: BLE001 - a damaged file may make the parser raise anything
        return Answer(file.path, None, f"cannot be sent ({type(error).__name__})")
    if "Status" not in response:
        return Answer(file.path, None, _BROKEN)
    status = int(response.Status)
    return Answer(file.path, status, "" if status == 0 else describe(status))


@contextmanager
def _even(file: Outgoing) -> Iterator[Path]:
    """Return the file; if a deflated data set has an odd length, a copy with the trailing null that PS3.5 A.5 requires.

    Old writers omitted it, and a receiver may never answer a fragment of odd length (PS3.8 annex E).
    """
    if file.transfer_syntax != DeflatedExplicitVRLittleEndian:
        yield file.path
        return
    _, offset = split_dataset(file.path)
    with NamedTemporaryFile(suffix=".dcm") as copy:
        content = file.path.read_bytes()
        copy.write(content + b"\0" * ((len(content) - offset) % 2))
        copy.flush()
        yield Path(copy.name)


def describe(status: int) -> str:
    """Return a C-STORE status in words (PS3.4 table B.2-1)."""
    category, words = STORAGE_SERVICE_CLASS_STATUS.get(status, ("Unknown status", ""))
    return f"0x{status:04X} {category}" + (f": {words}" if words else "")
