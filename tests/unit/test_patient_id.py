"""Two PatientIDs that differ in the file have two folders, whatever Orthanc makes of their characters."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddwd.core.model import safe_component
from ddwd.orthanc.patient_id import faithful


@pytest.mark.parametrize(
    ("raw", "charsets", "decoded", "text"),
    [
        (b"4711 ", b"", "4711", "4711"),
        (b"", b"", "", ""),
        (b"M\xfc-7", b"ISO_IR 100", "M\xfc-7", "M\xfc-7"),
        (b"M\xc3\xbc-7 ", b"ISO_IR 192", "M\xfc-7", "M\xfc-7"),
        (b"A\x1b$B;3ED\x1b(BB", b"\\ISO 2022 IR 87", "A\u5c71\u7530B", "A\u5c71\u7530B"),
        (b"NE-\xe917", b"ISO_IR 192", "NE-7", "NE-\udce917"),
        (b"P\xe921", b"NONSENSE", "P21", "P\udce921"),
        (b"P21\0abc ", b"ISO_IR 192", "P21", "P21\0abc"),
        ("\u738b4712".encode("gbk"), b"ISO_IR 192", "4712", "\udccd\udcf54712"),
        (b"\xff ", b"ISO_IR 192", "", "\udcff"),
        (b"P\xc3\xa9 ", b"", "P\xc3\xa9", "P\xc3\xa9"),
    ],
)
def test_what_cannot_be_decoded_stays_byte_for_byte(
    raw: bytes, charsets: bytes, decoded: str, text: str
) -> None:
    assert faithful(raw, charsets, decoded) == text


@given(
    st.lists(st.binary(max_size=12), min_size=2, max_size=2),
    st.sampled_from([b"", b"ISO_IR 100", b"ISO_IR 192", b"NONSENSE"]),
)
def test_different_bytes_are_different_folders(values: list[bytes], charsets: bytes) -> None:
    """Orthanc's decoding is at its worst here: it gives one text to all."""
    first, second = (value.strip(b" \0") for value in values)
    folders = {safe_component(faithful(value, charsets, "")) for value in (first, second) if value}
    assert len(folders) == len({first, second} - {b""})
