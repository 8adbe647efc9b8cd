"""Queries of an Orthanc's index: studies, instances, UIDs and digests. Each method is documented at the port.

Listing a study costs two requests whatever its size; SOPInstanceUIDs and MD5s come from `tools/find`, many at once (on PostgreSQL
0.3 ms each for a whole study, 1 ms for a few instances of one).
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

from ddwd.core.errors import NotFoundError, PeerRefusedError
from ddwd.core.model import PADDING, OrthancId, Series, Study, is_uid
from ddwd.orthanc import patient_id
from ddwd.orthanc.port import Held, Stored
from ddwd.orthanc.transport import NOT_WHOLE, Transport

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any

_UID_BLOCK = 200
"""Instances in one bulk-content request: about 0.2 s of Orthanc's time."""
_WHOLE_STUDY = 5000
"""Instances of the largest study that is requested as a whole: about 3 s of Orthanc's time."""
_WHOLE_SHARE = 3
"""A study is requested as a whole if at least a third of its instances is needed: an instance by itself costs three times as much."""
_DICOM = 1  # Orthanc's FileContentType of the stored object itself
_WILDCARDS = "*?\\"  # PS3.4 section C.2.2.2.4, and the backslash that lists values
_SOP_TAG = "0008,0018"
_PATIENTS = 10_000
"""Studies whose PatientID is remembered."""
_TRIED = 5
"""Files that are read for it: one may be lost."""


class IndexQueries(Transport):
    """The slices StudyIndex, StudySearch and ImageIndex of the port."""

    _finds_digests = True
    """Whether the Orthanc answers a search with digests; before 1.12.5 it cannot."""

    def __init__(self, name: str, base_url: str, user: str, password: str) -> None:
        super().__init__(name, base_url, user, password)
        self._patient_ids: OrderedDict[OrthancId, str] = OrderedDict()

    def study_ids(self) -> Iterator[OrthancId]:
        """Read by pages, so that a large archive never comes in one answer."""
        since, page = 0, 1000
        while True:
            found = self.study_page(since, page)
            yield from found
            if len(found) < page:
                return
            since += page

    def study_page(self, since: int, limit: int) -> list[OrthancId]:
        return list(map(OrthancId, self._json("GET", f"/studies?since={since}&limit={limit}")))

    def study_of(self, level: str, orthanc_id: OrthancId) -> OrthancId | None:
        try:
            if level == "Instance":
                parent = self._json("GET", f"/instances/{orthanc_id}")["ParentSeries"]
                return self.study_of("Series", OrthancId(parent))
            return OrthancId(self._json("GET", f"/series/{orthanc_id}")["ParentStudy"])
        except NotFoundError:
            return None

    def _patient_id(self, study: OrthancId, series: Sequence[Mapping[str, Any]], decoded: str) -> str:
        """Return the PatientID as it stands in one file of the study; read once a study, since it is part of its Orthanc ID.

        It is the decoded one while the Orthanc cannot read any file of it: such a study cannot be retrieved either.
        """
        if (known := self._patient_ids.get(study)) is not None:
            return known
        for instance in sorted(one for row in series for one in row["Instances"])[:_TRIED]:
            try:
                found = self._faithful(instance, decoded)
            except NotFoundError:  # no such element, or the study is being deleted
                return decoded
            except PeerRefusedError as error:
                if error.reason not in NOT_WHOLE:
                    raise
                continue
            self._patient_ids[study] = found
            with suppress(KeyError):  # another thread was faster
                if len(self._patient_ids) > _PATIENTS:
                    self._patient_ids.popitem(last=False)
            return found
        return decoded

    def _faithful(self, instance: str, decoded: str) -> str:
        raw = self._file_request("GET", f"/instances/{instance}/content/0010-0020")
        charsets = b"" if raw.isascii() and b"\x1b" not in raw else self._charsets(instance)
        return patient_id.faithful(raw, charsets, decoded)

    def _charsets(self, instance: str) -> bytes:
        try:
            return self._file_request("GET", f"/instances/{instance}/content/0008-0005")
        except NotFoundError:
            return b""

    def study(self, orthanc_id: OrthancId) -> Study | None:
        try:
            main = self._json("GET", f"/studies/{orthanc_id}")
            listed = self._json("GET", f"/studies/{orthanc_id}/series")
        except NotFoundError:
            return None
        tags = main["MainDicomTags"]
        return Study(
            orthanc_id=orthanc_id,
            study_uid=tags.get("StudyInstanceUID", ""),
            patient_id=self._patient_id(
                orthanc_id, listed, main["PatientMainDicomTags"].get("PatientID", "")
            ),
            accession=tags.get("AccessionNumber", ""),
            series=tuple(_series(row) for row in listed),
            tags=tags,
        )

    def instances(self, studies: Sequence[OrthancId]) -> dict[OrthancId, frozenset[OrthancId]]:
        """By series: asking for the instances themselves takes ten times as long for 600 images."""
        body = {"Resources": list(studies), "Level": "Series", "Short": True, "Metadata": False}
        found: dict[OrthancId, frozenset[OrthancId]] = {}
        for row in self._json("POST", "/tools/bulk-content", body):
            study = OrthancId(row["ParentStudy"])
            found[study] = found.get(study, frozenset()).union(map(OrthancId, row["Instances"]))
        return found

    def find_study(self, text: str) -> list[OrthancId]:
        """None for one with a wildcard, to which Orthanc answers 400; once published, it is found by its record."""
        if not set(_WILDCARDS).isdisjoint(text):
            return []
        rows = self._parsed("/tools/lookup", self._request("POST", "/tools/lookup", data=text.encode()))
        return [OrthancId(row["ID"]) for row in rows if row["Type"] == "Study"]

    def find_accession(self, text: str) -> list[OrthancId]:
        return self._find("AccessionNumber", text)

    def find_patient(self, text: str) -> list[OrthancId]:
        return self._find("PatientID", text)

    def _find(self, keyword: str, text: str) -> list[OrthancId]:
        """Return the studies with exactly this value: Orthanc treats some characters as equal, and wildcards as such."""
        if not text.strip(_WILDCARDS):
            return []
        pattern = text.replace("\\", "?")  # between values of a list a backslash would be read as "or"
        query = {"Level": "Study", "Query": {keyword: pattern}, "CaseSensitive": True, "Expand": True}
        return [
            OrthancId(row["ID"])
            for row in self._json("POST", "/tools/find", query)
            if text == (row["MainDicomTags"] | row["PatientMainDicomTags"]).get(keyword, "").strip(PADDING)
        ]

    def sop_uids(self, instances: Iterable[OrthancId]) -> dict[OrthancId, str]:
        ids = list(instances)
        found: dict[OrthancId, str] = {}
        for start in range(0, len(ids), _UID_BLOCK):
            body = {"Resources": ids[start : start + _UID_BLOCK], "Short": True, "Metadata": False}
            for row in self._json("POST", "/tools/bulk-content", body):
                found[OrthancId(row["ID"])] = row["MainDicomTags"].get(_SOP_TAG, "")
        return found

    def stored(
        self, study: Study, instances: Iterable[OrthancId], sop_uids: Mapping[OrthancId, str] | None = None
    ) -> dict[OrthancId, Stored]:
        """Images that the search omits although they are listed (LimitFindInstances) are requested one by one."""
        requested = set(instances)
        if not requested:
            return {}
        if len(study.ids) <= min(_WHOLE_STUDY, _WHOLE_SHARE * len(requested)):
            found = self._search({}, {"ParentStudy": study.orthanc_id})
        else:
            found = self._search_uids(self.sop_uids(requested) if sop_uids is None else sop_uids)
        answer = {instance: stored for instance, stored in found.items() if instance in requested}
        if len(answer) < len(requested) and (listed := self.study(study.orthanc_id)) is not None:
            answer |= self._one_by_one((requested & listed.ids) - answer.keys())
        return answer

    def find_images(self, sop_uids: Iterable[str]) -> list[Held]:
        uids = sorted(filter(is_uid, set(sop_uids)))
        blocks = (uids[start : start + _UID_BLOCK] for start in range(0, len(uids), _UID_BLOCK))
        return [held for block in blocks for held in self._find_block(block)]

    def _find_block(self, sop_uids: Sequence[str]) -> list[Held]:
        """Search again for UIDs that a search omitted, until it finds none: LimitFindInstances may have cut its answer."""
        found: list[Held] = []
        missing = set(sop_uids)
        while missing and (more := self._find_images(sorted(missing))):
            found += more
            uids = {held.sop_uid for held in more}
            if missing.isdisjoint(uids):
                break
            missing -= uids
        return found

    def _find_images(self, sop_uids: Sequence[str]) -> list[Held]:
        body = {
            "Level": "Instance",
            "Query": {"SOPInstanceUID": "\\".join(sop_uids)},
            "ResponseContent": ["MainDicomTags", "Metadata", "Parent"],
        }
        return [
            Held(
                OrthancId(row["ID"]),
                OrthancId(row["ParentSeries"]),
                row["MainDicomTags"].get("SOPInstanceUID", ""),
                row["Metadata"].get("SopClassUid", ""),
            )
            for row in self._json("POST", "/tools/find", body)
        ]

    def _search_uids(self, sop_uids: Mapping[OrthancId, str]) -> dict[OrthancId, Stored]:
        uids = sorted(filter(is_uid, sop_uids.values()))
        found: dict[OrthancId, Stored] = {}
        for start in range(0, len(uids), _UID_BLOCK):
            found |= self._search({"SOPInstanceUID": "\\".join(uids[start : start + _UID_BLOCK])}, {})
        return found

    def _search(self, query: dict[str, str], within: dict[str, str]) -> dict[OrthancId, Stored]:
        """Search with digests; an Orthanc that cannot answer with digests (before 1.12.5) gets this request only once."""
        if not self._finds_digests:
            return {}
        body = {"Level": "Instance", "Query": query, "ResponseContent": ["MainDicomTags", "Attachments"]}
        try:
            rows = self._json("POST", "/tools/find", body | within)
        except NotFoundError:  # the study is not known
            return {}
        self._finds_digests = all(isinstance(row, dict) for row in rows)
        return {
            OrthancId(row["ID"]): Stored(
                row["MainDicomTags"].get("SOPInstanceUID", ""), file["UncompressedMD5"]
            )
            for row in rows
            if isinstance(row, dict)
            for file in row.get("Attachments", ())
            if file["ContentType"] == _DICOM
        }

    def _one_by_one(self, instances: Iterable[OrthancId]) -> dict[OrthancId, Stored]:
        found = {}
        for instance, sop_uid in self.sop_uids(instances).items():
            with suppress(NotFoundError):
                found[instance] = Stored(sop_uid, self.md5(instance))
        return found

    def md5(self, instance: OrthancId) -> str:
        return self._bytes(f"/instances/{instance}/attachments/dicom/md5").decode("ascii")


def _series(row: dict[str, Any]) -> Series:
    uid = row["MainDicomTags"].get("SeriesInstanceUID", "")
    instances = frozenset(map(OrthancId, row["Instances"]))
    return Series(OrthancId(row["ID"]), uid, instances, row["MainDicomTags"])
