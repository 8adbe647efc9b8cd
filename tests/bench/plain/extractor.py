"""The plain pipeline's last two parts, as tutorials have them: a poll of /changes, a C-MOVE, an SCP that decodes and saves.

Runs inside the machine on the package's own pynetdicom and pydicom: `extractor.py HTTP_PORT DICOM_PORT SCP_PORT OUTPUT`. No durability,
no comparison, no retry: what it loses stays lost. That is the point of the comparison.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from urllib.request import urlopen

from pydicom.dataset import Dataset
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove  # type: ignore[attr-defined]

POLL_SECONDS = 5.0


def saved(event: evt.Event, output: Path) -> int:
    """Handle a C-STORE: decode the data set, save it below its identifiers."""
    data_set = event.dataset
    data_set.file_meta = event.file_meta
    folder = output / data_set.PatientID / data_set.StudyInstanceUID / data_set.SeriesInstanceUID
    folder.mkdir(parents=True, exist_ok=True)
    data_set.save_as(folder / f"{data_set.SOPInstanceUID}.dcm", enforce_file_format=True)
    return 0x0000


def moved(dicom_port: int, study_uid: str) -> None:
    """Have a study sent to our SCP."""
    entity = AE("PLAIN_SCP")
    entity.add_requested_context(StudyRootQueryRetrieveInformationModelMove)
    association = entity.associate("127.0.0.1", dicom_port, ae_title="PLAIN2")
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_uid
    for _ in association.send_c_move(query, "PLAIN_SCP", StudyRootQueryRetrieveInformationModelMove):
        pass
    association.release()


def main(http_port: int, dicom_port: int, scp_port: int, output: Path) -> None:
    """Poll for ever."""
    base = f"http://127.0.0.1:{http_port}"
    entity = AE("PLAIN_SCP")
    entity.supported_contexts = AllStoragePresentationContexts
    entity.start_server(
        ("127.0.0.1", scp_port), block=False, evt_handlers=[(evt.EVT_C_STORE, saved, [output])]
    )
    since = 0
    while True:
        with urlopen(f"{base}/changes?since={since}&limit=1000") as answer:  # noqa: S310 - this machine's own
            page = json.load(answer)
        for change in page["Changes"]:
            if change["ChangeType"] == "StableStudy":
                with urlopen(f"{base}/studies/{change['ID']}") as answer:  # noqa: S310 - as above
                    moved(dicom_port, json.load(answer)["MainDicomTags"]["StudyInstanceUID"])
        since = page["Last"]
        if page["Done"]:
            time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    http, dicom, scp = map(int, sys.argv[1:4])
    main(http, dicom, scp, Path(sys.argv[4]))
