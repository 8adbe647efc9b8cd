"""Meaning of status codes, and what to do: DICOM (PS3.7 annex C, PS3.4 tables B.2-1 and C.4-2), HTTP, and Orthanc's own errors.

Data only. A status without an entry is shown unchanged.
"""

from __future__ import annotations

MEANINGS = {
    "0x0000": "success",
    "0x0110": "the receiver failed in processing: its own log says why",
    "0x0111": "the receiver has an image with this UID already",
    "0x0112": "the receiver does not know the image: it was deleted in between",
    "0x0117": "the receiver finds the UID malformed: the sender has to correct it",
    "0x0122": "the receiver does not accept this kind of image (SOP class): allow it there",
    "0x0124": "the receiver does not allow this peer: add its AE title there",
    "0x0210": "the receiver received the same message twice: the sender is faulty",
    "0x0211": "the receiver does not know this operation: it is not a storage server",
    "0x0212": "the receiver reports an invalid argument: check both logs",
    "0x0213": "the receiver is short of resources: check its memory and disk",
    "0xA700": "the receiver has no room: make room on its disk, the sender keeps the image",
    "0xA701": "the matching images could not be counted: check the log of ORTHANC2",
    "0xA702": "some sub-operations could not be done: an image could not be read or sent, see the log of ORTHANC2",
    "0xA801": "ORTHANC2 does not know the AE title to send to: restart ddwd-provision, then ddwd-storage",
    "0xA900": "the data set does not match the announced SOP class: the sender has to correct it",
    "0xB000": "some images were not sent, or were changed in transfer: the portal retrieves them again",
    "0xB006": "the receiver discarded elements: the image does not count as sent",
    "0xB007": "the data set does not match its SOP class: the image does not count as sent",
    "0xC000": "the image cannot be understood: its file is damaged or not DICOM, see the log of that hop",
    "0xC001": "the disk failed while the image was written: check the disk and its journal",
    "0xC002": "the receiver failed unexpectedly: its log has the reason",
    "0xFE00": "the transfer was cancelled: the portal repeats it",
    "HTTP 400": "the request was refused as malformed, or a stored file is not whole: see the log of that Orthanc",
    "HTTP 401": "the login was refused: restart ddwd, which gives both sides the same password",
    "HTTP 403": "the request is forbidden: check for a filter among the additions to that Orthanc",
    "HTTP 404": "the requested item is missing: it was deleted, or the DICOMweb plugin is not loaded",
    "HTTP 409": "the images are there already, with other content",
    "HTTP 413": "the request is too large for the receiver: a proxy in between limits it",
    "HTTP 415": "the receiver does not accept this format: its DICOMweb plugin is not loaded",
    "HTTP 500": "that Orthanc failed: its log has the reason (often the database)",
    "HTTP 502": "a proxy in between does not reach the receiver",
    "HTTP 503": "the receiver is busy or starting",
    "HTTP 504": "a proxy in between waited too long for the receiver",
    "Error in the network protocol": "the connection to the receiver broke: it stopped or restarted",
    "Timeout while waiting for an answer": "the receiver did not answer in time",
    "Not enough memory": "that Orthanc is short of memory: check the machine",
    "The file storage is full": "that Orthanc has no room: make room on its disk",
    "Error with the database engine": "the database failed: check postgresql",
}
"""Status in events and in the status file -> what it means, and what to do."""


def explain(status: str) -> str:
    """Return the meaning of a status code, empty if it is not known.

    `status` may also be the error text of an Orthanc's job, which contains Orthanc's own description of the error.
    """
    return MEANINGS.get(status) or next((text for code, text in MEANINGS.items() if code in status), "")
