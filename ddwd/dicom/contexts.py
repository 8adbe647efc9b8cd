"""Presentation contexts: what our SCP accepts and what our SCUs propose; the one place that sets up pynetdicom.

As an acceptor we accept every storage class with the first transfer syntax of the peer's proposal, private and unknown ones
included: no data set is ever decoded, so none can be unsupported. Orthanc proposes the transfer syntax of the stored file in
a context of its own, and so need not transcode.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import _config
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import uid_to_service_class

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MOVE_MODEL = "1.2.840.10008.5.1.4.1.2.2.2"  # Study Root Query/Retrieve Information Model - MOVE
COMMITMENT_MODEL = "1.2.840.10008.1.20.1"  # Storage Commitment Push Model
VERIFICATION = "1.2.840.10008.1.1"
_STANDARD = "1.2.840.10008."
_STORAGE = "1.2.840.10008.5.1.4.1.1."
"""Beginning of the storage classes of the standard, and of few others, none of which is retired (PS3.6 table A-1)."""
LIMIT = 128
"""A requestor has the odd numbers from 1 to 255 as context IDs (PS3.8 section 9.3.2.2)."""

IMPLEMENTATION = "2.25.113504923184405297174105518412630163521", "DDWD"
"""Implementation class UID and version name of every file and association of ours.

They carry no version on purpose: the same data set must give the same file, byte for byte, after an upgrade.
"""


def configure() -> None:
    """Set pynetdicom's process-wide switches; may be called again.

    Storage classes are unrestricted for acceptors. Its own event log is off, because it has every PDU, and identifiers.
    """
    _config.UNRESTRICTED_STORAGE_SERVICE = True
    _config.LOG_HANDLER_LEVEL = "none"
    _config.LOG_REQUEST_IDENTIFIERS = False
    _config.LOG_RESPONSE_IDENTIFIERS = False
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)


def supported() -> list[PresentationContext]:
    """Return what the SCP accepts besides the unrestricted storage classes: Verification."""
    return [build_context(VERIFICATION, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])]


def for_echo() -> list[PresentationContext]:
    """Return the proposal of a C-ECHO SCU."""
    return [build_context(VERIFICATION)]


def for_move() -> list[PresentationContext]:
    """Return the proposal of a C-MOVE SCU: implicit VR only, in which a list of UIDs has no limit of 64 KiB."""
    return [build_context(MOVE_MODEL, ImplicitVRLittleEndian), *for_echo()]


def for_report() -> list[PresentationContext]:
    """Return the proposal of a storage commitment SCP that reports (PS3.4 section J.3.3); the role of SCP is negotiated besides."""
    return [build_context(COMMITMENT_MODEL, [ImplicitVRLittleEndian, ExplicitVRLittleEndian])]


def for_store(pairs: Iterable[tuple[str, str]]) -> Iterator[list[PresentationContext]]:
    """Yield proposals for (SOP class, transfer syntax) pairs: one context each, at most 128 to an association."""
    ordered = sorted(set(pairs))
    for start in range(0, len(ordered), LIMIT):
        yield [build_context(sop_class, syntax) for sop_class, syntax in ordered[start : start + LIMIT]]


def is_storage(abstract_syntax: str) -> bool:
    """Return whether it is the SOP class of images: a storage class of the standard, a retired one too, or a private class."""
    if not abstract_syntax.startswith(_STANDARD):
        return True
    if uid_to_service_class(abstract_syntax) is StorageServiceClass:
        return True
    uid = UID(abstract_syntax)
    return uid.startswith(_STORAGE) and not uid.is_private and uid.is_retired


def named(uid: str) -> str:
    """Return a UID with its name, if the standard has one."""
    name = UID(uid).name
    return uid if name == uid else f"{name} ({uid})"
