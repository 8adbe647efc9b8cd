"""The PatientID as it stands in the file: Orthanc's decoding loses bytes that do not fit the character set, so two patients may get one. Pure."""

from __future__ import annotations

import warnings

from pydicom.charset import convert_encodings, decode_bytes

from ddwd.core.model import PADDING


def faithful(raw: bytes, charsets: bytes, decoded: str) -> str:
    """Return a text that differs for different PatientIDs: the decoded one, unless decoding loses something.

    `raw` are the bytes of (0010,0020), `charsets` those of (0008,0005) (PS3.3 section C.12.1.1.2), `decoded` is Orthanc's text. Bytes that
    cannot be decoded are U+DC80 to U+DCFF (Python's surrogateescape), which no decoded text has.
    """
    value = raw.strip(PADDING.encode())
    if value == decoded.strip(PADDING).encode("utf-8", "surrogatepass"):
        return decoded
    text = _decoded(value, charsets)
    return value.decode("ascii", "surrogateescape") if text is None else text


def _decoded(value: bytes, charsets: bytes) -> str | None:
    """Return the text; None if a term is not defined, or bytes have no character in it."""
    terms = [term.strip(PADDING) for term in charsets.decode("ascii", "replace").split("\\")]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", UserWarning)  # pydicom replaces what it does not know, and warns
            text = decode_bytes(value, convert_encodings(terms), set())
    except (ValueError, LookupError, UserWarning):
        return None
    return None if "\ufffd" in text else text
