"""Send a test study through all hops: timed, compared, and removed everywhere. For `ddwd doctor --send`.

Its PatientID is reserved. It is deleted on both Orthancs by REST, and from the disk by the extractor, the only writer
there. A study that did not arrive is left for the extractor to finish, and removed before the next test.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ddwd.core import durable
from ddwd.core.audit import Audit, Event
from ddwd.core.clock import sleep, stamp
from ddwd.core.errors import DdwdError, DeliveryError, LinkedError
from ddwd.core.model import SELF_TEST_AET, SELF_TEST_PATIENT
from ddwd.dicom import nodes
from ddwd.dicom.store_scu import Answer, Outgoing, examine, send
from ddwd.extractor.steps.verify import difference_of
from ddwd.store.backends import custody_of
from ddwd.store.operator_requests import Request, Requests
from ddwd.store.status_files import SELF_TEST, SelfTestResult

if TYPE_CHECKING:
    from ddwd.config.paths import Paths
    from ddwd.config.schema import Config
    from ddwd.core.clock import Clock
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import SelfTestStudies
    from ddwd.store.custody import Record

_SERIES, _IMAGES = 2, 3
_SIDE = 64
_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class SelfTest:
    """One test at a time; `limit` is how many seconds the study may take to the disk."""

    config: Config
    paths: Paths
    nodes: tuple[SelfTestStudies, SelfTestStudies]
    clock: Clock
    limit: float = 120.0

    def run(self, audit: Audit) -> SelfTestResult:
        """Send, follow, compare, remove; record the result in the audit and store it for the dashboard."""
        ok, seconds = False, dict[str, float]()
        try:
            self._sweep()
            text, seconds = self._tested()
            ok = True
        except DdwdError as error:
            text = str(error)
        except OSError as error:
            text = f"{type(error).__name__}: {error.strerror}"
        result = SelfTestResult(stamp(self.clock.utc()), ok, text, seconds)
        audit.record(Event.SELF_TEST, f"self test: {result.text}", status="ok" if result.ok else "failed")
        self._store(result)
        return result

    def _sweep(self) -> None:
        """Remove the studies of earlier tests that have arrived by now."""
        custody = custody_of(self.config)
        for study in {study for node in self.nodes for study in node.find_patient(SELF_TEST_PATIENT)}:
            if custody.has(study):
                self._remove(study)

    def _tested(self) -> tuple[str, dict[str, float]]:
        with tempfile.TemporaryDirectory(prefix="ddwd-self-test-") as folder:
            study_uid, sent = make(Path(folder))
            self._send(sent)
            began = self.clock.monotonic()
            study, seconds = self._follow(study_uid, began)
            record = self._record(study, began, len(sent))
            seconds["disk"] = round(self.clock.monotonic() - began, 2)
            difference = self._compare(record, sent)
        self._remove(study)
        if difference:
            raise DeliveryError(difference)
        text = f"{len(sent)} images from C-STORE to the disk in {seconds['disk']:.1f} s, each as it was sent"
        return text, seconds

    def _send(self, files: list[Path]) -> None:
        answers: list[Answer] = []
        outgoing = [file for file in map(examine, files) if isinstance(file, Outgoing)]
        send(nodes.gateway(self.config, SELF_TEST_AET), outgoing, answers.append)
        refused = [answer.reason for answer in answers if not answer.accepted]
        if refused or len(answers) != len(files):
            raise DeliveryError(f"the gateway refused an image: {refused[0] if refused else 'no answer'}")

    def _follow(self, study_uid: str, began: float) -> tuple[OrthancId, dict[str, float]]:
        """Wait until both Orthancs have the study; return its Orthanc ID, and the seconds until each had it."""
        seconds: dict[str, float] = {}
        studies: list[OrthancId] = []
        for name, node in zip(("gateway", "storage"), self.nodes, strict=True):
            while not (studies := node.find_study(study_uid)):
                self._wait(began, f"the study does not appear on the {name}")
            seconds[name] = round(self.clock.monotonic() - began, 2)
        return studies[0], seconds

    def _record(self, study: OrthancId, began: float, images: int) -> Record:
        custody = custody_of(self.config)
        while (record := custody.read(study)) is None or len(record.images) < images:
            self._wait(began, "the study is on storage and is not published")
        return record

    def _wait(self, began: float, what: str) -> None:
        if self.clock.monotonic() - began > self.limit:
            raise DeliveryError(f"{what} within {self.limit:.0f} s; see: ddwd trace, ddwd status")
        sleep(_POLL_SECONDS)

    def _compare(self, record: Record, sent: list[Path]) -> str:
        """Return what differs from what was sent; empty if there is no difference."""
        folder = self.paths.output / record.folder
        by_uid = {path.stem: path for path in sent}
        for image in record.images.values():
            original = by_uid.pop(image.sop_uid, None)
            if original is None or difference_of(folder / image.file, original.read_bytes()):
                return "an image on the disk is not the one that was sent"
        return "an image that was sent is not on the disk" if by_uid else ""

    def _remove(self, study: OrthancId) -> None:
        """Delete it on the gateway first, so that no image is forwarded again."""
        for node in self.nodes:
            node.delete_study(study)
        Requests(self.paths.requests).submit(Request("forget", study))

    def _store(self, result: SelfTestResult) -> None:
        path = self.paths.self_test
        try:
            durable.make_dirs(path.parent, 0o755)
            SELF_TEST.write_volatile(path, result)
        except (OSError, LinkedError):
            return  # a user without the right to write there sees the result on the screen


def make(folder: Path) -> tuple[str, list[Path]]:
    """Make some small CT images; return their StudyInstanceUID, and the files, each named by its SOPInstanceUID."""
    study_uid, files = str(generate_uid()), []
    for series in range(_SERIES):
        series_uid = str(generate_uid())
        numbers = range(series * _IMAGES, (series + 1) * _IMAGES)
        files += [_image(folder, study_uid, series_uid, number) for number in numbers]
    return study_uid, files


def _image(folder: Path, study_uid: str, series_uid: str, number: int) -> Path:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
    data.PatientID, data.PatientName = SELF_TEST_PATIENT, SELF_TEST_PATIENT
    data.StudyInstanceUID, data.SeriesInstanceUID = study_uid, series_uid
    data.Modality, data.InstanceNumber = "CT", number + 1
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows = data.Columns = _SIDE
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = bytes((number * 7 + n) % 256 if n % 2 == 0 else n % 16 for n in range(2 * _SIDE * _SIDE))
    path = folder / f"{data.SOPInstanceUID}.dcm"
    data.save_as(path, enforce_file_format=True)
    return path
