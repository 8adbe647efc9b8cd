"""Studies to send, and the comparison of what came out with what was sent.

Real ones are pydicom's own test files, as they are; the made-up CT is pydicom's work too, the same for the same seed.
Used by the demo and by tests/appliance, tests/integration and tests/faults. No patient of these exists.
"""

from __future__ import annotations

import random
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pydicom
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.errors import InvalidDicomError
from pydicom.fileset import FileSet
from pydicom.uid import (
    UID,
    CTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# Where several test files carry one SOPInstanceUID, these are sent: together they cover the transfer syntaxes.
PREFERRED = (
    "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_rle_2frame.dcm", "SC_rgb_small_odd_big_endian.dcm",
    "liver_1frame.dcm", "JPEG2000.dcm", "examples_jpeg2k.dcm", "reportsi.dcm",
)  # fmt: skip
# Broken on purpose: DCMTK does not send them.
NOT_WHOLE = (
    "truncated",
    "badVR",
    "mismatch",
    "embedded-sequence",
    "empty_number",
    "rtdose_rle",  # whole, but Orthanc 1.12.7 refuses it with 0xC000, so nobody owes it
    "explicit_VR-UN",  # the same
    "SC_rgb_jpeg.dcm",
    "SC_rgb_jpeg_dcmd",
)
NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
TRAILING_PADDING = 0xFFFCFFFC
ROOT_UID = "2.25.99"


@dataclass(frozen=True, slots=True)
class Instance:
    """One file to send, by its identifiers."""

    path: Path
    sop_uid: str
    sop_class: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class Study:
    """One study to send: all its instances."""

    uid: str
    patient_id: str
    instances: tuple[Instance, ...]

    @property
    def paths(self) -> list[Path]:
        """The files to send."""
        return [instance.path for instance in self.instances]


def read_studies(paths: Iterable[Path]) -> list[Study]:
    """Group files by StudyInstanceUID; what is no DICOM file or lacks an identifier is left out."""
    grouped: dict[str, dict[str, Instance]] = defaultdict(dict)
    patients: dict[str, str] = {}
    for path in paths:
        head = _head(path)
        if head is None:
            continue
        uid = str(head.StudyInstanceUID)
        patients.setdefault(uid, str(head.get("PatientID") or ""))
        syntax = str(head.file_meta.TransferSyntaxUID.name)
        instance = Instance(path, str(head.SOPInstanceUID), str(head.SOPClassUID.name), syntax)
        grouped[uid].setdefault(instance.sop_uid, instance)
    return [Study(uid, patients[uid], tuple(found.values())) for uid, found in grouped.items()]


def _head(path: Path) -> pydicom.FileDataset | None:
    try:
        head = pydicom.dcmread(path, stop_before_pixels=True)
    except InvalidDicomError:
        return None
    identifiers = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    named = all(word in head for word in identifiers) and "TransferSyntaxUID" in head.file_meta
    # a sender announces what File Meta says (PS3.10 7.1): where the data set says something else, none can be sent
    announced = [head.file_meta.get(f"MediaStorage{name}") for name in ("SOPInstanceUID", "SOPClassUID")]
    return head if named and announced == [head.SOPInstanceUID, head.SOPClassUID] else None


def real_studies(*, wider: bool = False) -> list[Study]:
    """Return pydicom's test files as studies: CT, MR, CR, US, SC, SR, RT, SEG, ECG in a dozen transfer syntaxes.

    `wider` adds those of pydicom-data, which are larger; where both have a SOPInstanceUID, pydicom's own is sent.
    """
    names = ["CT_small.dcm", *(["693_J2KR.dcm"] if wider else [])]
    folders = [Path(str(get_testdata_file(name, download=False))).parent for name in names]
    found = [path for folder in folders for path in sorted(folder.rglob("*"))]
    files = [path for path in found if path.is_file() and path.suffix in {"", ".dcm"}]
    whole = [path for path in files if not any(word in path.name for word in NOT_WHOLE)]
    whole.sort(key=lambda path: path.name not in PREFERRED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_studies(whole)


def made_up_ct(
    folder: Path,
    slices: int,
    *,
    seed: int = 1,
    patient_id: str = "MADEUP-CT",
    size: int = 512,
    series: int = 1,
) -> Study:
    """Write a CT of `slices` images, size x size x 16 bit (512 KiB at 512), uncompressed; same seed, same files.

    Slice n belongs to the n-th series, in turn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)  # noqa: S311 - noise for pixels
    paths = []
    for number in range(1, slices + 1):
        data_set = _ct_slice(seed, number, size, (number - 1) % series + 1)
        data_set.PatientID = patient_id
        data_set.PixelData = chance.randbytes(size * size * 2)
        paths.append(folder / f"{number:05}.dcm")
        data_set.save_as(paths[-1], enforce_file_format=True)
    return read_studies(paths)[0]


def renewed(folder: Path, study: Study, *, seed: int) -> Study:
    """Write a study again as another one: new study, series and instance UIDs by the seed, all else as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    series: dict[str, str] = {}
    paths = []
    for number, instance in enumerate(study.instances, 1):
        data_set = pydicom.dcmread(instance.path)
        own = series.setdefault(str(data_set.SeriesInstanceUID), f"{ROOT_UID}.{seed}.{len(series) + 1}")
        data_set.StudyInstanceUID, data_set.SeriesInstanceUID = UID(f"{ROOT_UID}.{seed}"), UID(own)
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = UID(f"{own}.{number}")
        paths.append(folder / f"{number:05}.dcm")
        data_set.save_as(paths[-1])
    return read_studies(paths)[0]


def write_unknown_vrs(path: Path) -> None:
    """Rewrite a made-up CT: all elements but SOP class and instance UID, numbers and pixels get VR UN (PS3.5 section 6.2.2)."""
    data_set = pydicom.dcmread(path)
    with path.open("r+b") as file:
        head = file.read(144)
        file.seek(144 + int.from_bytes(head[140:144], "little"))
        file.truncate()
        file.seek(0, 2)
        for tag in sorted(data_set.keys()):
            file.write(_element(data_set, tag))


def _element(data_set: Dataset, tag: pydicom.tag.BaseTag) -> bytes:
    """Return one element in explicit VR little endian (PS3.5 section 7.1.2)."""
    raw: object = data_set.get_item(tag)
    assert isinstance(raw, RawDataElement)
    value, known = raw.value or b"", raw.VR in {"US", "OW"} or tag in {0x00080016, 0x00080018}
    vr = ((known and raw.VR) or "UN").encode("ascii")
    is_long = vr in {b"UN", b"OW"}
    length = b"\0\0" + len(value).to_bytes(4, "little") if is_long else len(value).to_bytes(2, "little")
    return tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little") + vr + length + value


def _ct_slice(seed: int, number: int, size: int, series: int) -> Dataset:
    """Return the header of one slice: enough for the CT Image IOD (PS3.3 A.3) to be recognised."""
    data_set = Dataset()
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data_set.SOPClassUID = CTImageStorage
    data_set.StudyInstanceUID = f"{ROOT_UID}.{seed}"
    data_set.SeriesInstanceUID = f"{ROOT_UID}.{seed}.{series}"
    data_set.SOPInstanceUID = f"{ROOT_UID}.{seed}.{series}.{number}"
    data_set.FrameOfReferenceUID = f"{ROOT_UID}.{seed}.0"
    data_set.PatientName, data_set.PatientBirthDate, data_set.PatientSex = "Made^Up", "", ""
    data_set.StudyDate, data_set.StudyTime, data_set.StudyID = "20260101", "120000", "1"
    data_set.AccessionNumber, data_set.Modality = f"ACC{seed}", "CT"
    data_set.SeriesNumber, data_set.InstanceNumber = series, number
    data_set.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    data_set.ImagePositionPatient, data_set.ImageOrientationPatient = [0, 0, number], [1, 0, 0, 0, 1, 0]
    data_set.PixelSpacing, data_set.SliceThickness = [0.7, 0.7], 1
    data_set.RescaleSlope, data_set.RescaleIntercept = 1, -1024
    data_set.Rows = data_set.Columns = size
    data_set.BitsAllocated = data_set.BitsStored = 16
    data_set.HighBit, data_set.PixelRepresentation, data_set.SamplesPerPixel = 15, 0, 1
    data_set.PhotometricInterpretation = "MONOCHROME2"
    return data_set


# --- what came out ---------------------------------------------------------------------------------------------------


def published(study_uid: str, output_dir: Path) -> dict[str, list[Path]]:
    """Return the files of one study that are visible in OUTPUT_DIR, by SOPInstanceUID (more than one: doubled)."""
    found: dict[str, list[Path]] = defaultdict(list)
    for path in output_dir.glob(f"*/{study_uid}/*/*.dcm"):
        if not path.relative_to(output_dir).parts[0].startswith("."):
            found[path.stem].append(path)
    return found


def write_disc(paths: Iterable[Path], folder: Path) -> None:
    """Write the files into a new folder as they lie on a disc, with a DICOMDIR (PS3.10 section 8)."""
    disc = FileSet()
    for path in paths:
        disc.add(path)
    disc.write(folder)
    disc._stage["t"].cleanup()  # it would warn of it


def missing(study: Study, output_dir: Path) -> list[str]:
    """Return the SOPInstanceUIDs that were sent and are not in OUTPUT_DIR."""
    there = published(study.uid, output_dir)
    return [instance.sop_uid for instance in study.instances if instance.sop_uid not in there]


def is_complete(study: Study, output_dir: Path) -> bool:
    """Tell whether every instance of the study is visible in OUTPUT_DIR."""
    return not missing(study, output_dir)


def faults(study: Study, output_dir: Path) -> list[str]:
    """Return one line for each way in which OUTPUT_DIR differs from what was sent: missing, doubled, extra, changed."""
    there = published(study.uid, output_dir)
    sent = {instance.sop_uid: instance for instance in study.instances}
    lines = [f"{uid}: extra" for uid in there if uid not in sent]
    for uid, instance in sent.items():
        paths = there.get(uid, [])
        if len(paths) != 1:
            lines.append(f"{uid}: {'doubled' if paths else 'missing'}")
        else:
            lines += [f"{uid}: {line}" for line in differences(instance.path, paths[0])]
    return lines


def differences(sent: Path, got: Path) -> list[str]:
    """Compare two files, all elements and the pixel data; return where they differ.

    File Meta is each writer's own (PS3.10 7.1) but for the transfer syntax, and an uncompressed image stays one
    (dcmsend itself turns big endian and implicit VR into Explicit VR Little Endian). Group lengths are retired
    (PS3.5 7.2) and Data Set Trailing Padding (PS3.10 7.2) says nothing: both may come or go.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before, after = pydicom.dcmread(sent), pydicom.dcmread(got)
        syntaxes = [one.file_meta.TransferSyntaxUID for one in (before, after)]
        kept = syntaxes[0] == syntaxes[1] or all(syntax in NATIVE for syntax in syntaxes)
        changed = [] if kept else [f"transfer syntax {syntaxes[0].name} became {syntaxes[1].name}"]
        _same_byte_order(before, after)
        return [*changed, *_compare(before, after, "")]


def _same_byte_order(*data_sets: pydicom.FileDataset) -> None:
    """Turn the words of big-endian pixel data (OW, PS3.5 7.3), which pydicom leaves as they stand in the file."""
    for data_set in data_sets:
        if data_set.file_meta.TransferSyntaxUID == ExplicitVRBigEndian and data_set["PixelData"].VR == "OW":
            words = bytearray(data_set.PixelData)
            words[0::2], words[1::2] = words[1::2], words[0::2]
            data_set.PixelData = bytes(words)


def _compare(before: Dataset, after: Dataset, where: str) -> Iterator[str]:
    for tag in sorted({*before.keys(), *after.keys()}):
        if tag.element == 0 or tag == TRAILING_PADDING:
            continue
        if tag not in after or tag not in before:
            yield f"{where}{tag} {'lost' if tag in before else 'added'}"
        else:
            yield from _compare_element(before, after, tag, where)


def _compare_element(before: Dataset, after: Dataset, tag: pydicom.tag.BaseTag, where: str) -> Iterator[str]:
    raw = [_raw(data_set, tag) for data_set in (before, after)]
    if raw[0] is not None and raw[0] == raw[1]:
        return
    one, other = before[tag], after[tag]
    if one.VR == "SQ" and other.VR == "SQ":
        yield from _compare_items(one, other, f"{where}{tag}/")
    elif one.VR != other.VR or one.value != other.value:
        yield f"{where}{tag} {one.VR} differs"


def _compare_items(one: DataElement, other: DataElement, where: str) -> Iterator[str]:
    items: tuple[Sequence[Dataset], Sequence[Dataset]] = (one.value, other.value)
    if len(items[0]) != len(items[1]):
        yield f"{where} {len(items[0])} items became {len(items[1])}"
        return
    for number, (before, after) in enumerate(zip(*items, strict=True)):
        yield from _compare(before, after, f"{where}{number}/")


def _raw(data_set: Dataset, tag: pydicom.tag.BaseTag) -> bytes | None:
    """Return an element's bytes as they stand in the file, without the pad byte; None where pydicom decoded it."""
    element: object = data_set.get_item(tag)
    if isinstance(element, RawDataElement) and element.value is not None:
        return element.value.rstrip(b"\0 ")
    return None
