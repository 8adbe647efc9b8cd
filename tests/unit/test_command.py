"""Command sets and file meta information are byte for byte what pynetdicom and pydicom would write."""

from __future__ import annotations

import struct

import pytest
from pynetdicom.dimse_messages import C_STORE_RSP
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import create_file_meta, encode_file_meta

from ddwd.dicom import contexts
from ddwd.dicom.command import StoreRequest, read_store, store_response
from ddwd.dicom.incoming import PREAMBLE, file_head

CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.mark.parametrize("sop_uid", ["1.2.3.4", "1.2.3.45", "1." * 31 + "12"])
def test_the_response_is_what_pynetdicom_would_send(sop_uid: str) -> None:
    answer = C_STORE()
    answer.MessageIDBeingRespondedTo, answer.Status = 513, 0xA700
    answer.AffectedSOPClassUID, answer.AffectedSOPInstanceUID = CT, sop_uid
    message = C_STORE_RSP()
    message.primitive_to_message(answer)
    for longest in (0, 16384, 50):
        expected = b"".join(
            struct.pack(">BxLLB", 4, len(value) + 5, len(value) + 1, context_id) + value
            for primitive in message.encode_msg(1, longest)
            for context_id, value in primitive.presentation_data_value_list
        )
        ours = store_response(StoreRequest(513, CT, sop_uid, True, True), 0xA700, 1, longest)
        assert ours == expected


def test_a_message_of_another_service_is_none() -> None:
    def short(number: int, value: int) -> bytes:
        return struct.pack("<HHLH", 0, number, 2, value)

    assert read_store(short(0x0100, 0x0030) + short(0x0110, 9) + short(0x0800, 0x0101)) is None
    assert read_store(short(0x0100, 0x0001) + short(0x0110, 9) + short(0x0120, 1)) is None


@pytest.mark.parametrize("names", [(CT, "1.2.3.4", "1.2.840.10008.1.2.1"), ("1.2.3", "1.2.34", "1.2")])
def test_the_file_meta_information_is_what_pydicom_would_write(names: tuple[str, str, str]) -> None:
    uid_of_ours, name = contexts.IMPLEMENTATION
    meta = create_file_meta(
        sop_class_uid=names[0],  # type: ignore[arg-type]
        sop_instance_uid=names[1],  # type: ignore[arg-type]
        transfer_syntax=names[2],  # type: ignore[arg-type]
        implementation_uid=uid_of_ours,  # type: ignore[arg-type]
        implementation_version=name,
    )
    assert file_head(*names) == PREAMBLE + encode_file_meta(meta)
