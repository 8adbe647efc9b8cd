"""Orthanc's REST interface, as far as the portal needs it: changes, instance sets, digests, STOW jobs.

The port between the pipeline and both Orthancs: the stages see the `OrthancPort` protocol, unit tests put a fake behind
it and hold the fake against the real thing. Listing a study costs two requests whatever its size; SOPInstanceUIDs and MD5s
come from `tools/find`, many at once (on PostgreSQL 0.3 ms each for a whole study, 1 ms for a few instances of one).
"""

from __future__ import annotations

import io
import json
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Protocol, Self

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ReadTimeoutError
from urllib3.util.retry import Retry

from ddwd.config.routing import CALLING
from ddwd.core.errors import NotFoundError, PeerDownError, PeerRefusedError
from ddwd.core.model import OrthancId, Series, Study, is_uid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType

    from urllib3.connectionpool import ConnectionPool
    from urllib3.response import BaseHTTPResponse

_CONNECT_SECONDS = 3.0
_SILENCE_SECONDS = 20.0
"""Longest silence of a server that is asked for something small: with the connection below WatchdogSec."""
_FILE_SILENCE_SECONDS = 60.0
"""The same for a whole file, which Orthanc reads into memory before it sends a byte of it."""
_SLOW_SECONDS = 2.0
"""A request that failed after more than this let its caller wait: the server counts as hung."""
_PAUSE_SECONDS = 5.0
"""A hung server is left alone for this long, then asked something short by one of its callers."""
_PROBE_SECONDS = 3.0
_PROBE = "/changes?last"
"""The cheapest question that needs the database too."""
_PAST_ALL = 2**63 - 1
"""As `since`: Orthanc answers an empty page, whose `Last` is the database's own counter."""
_ECHO_SECONDS = 10
"""A C-ECHO has so long, whatever the modality may take for an image: shorter than our own patience."""
_CHUNK = 1024 * 1024
_UID_BLOCK = 200
"""Instances in one bulk-content request: about 0.2 s of Orthanc's time."""
_WHOLE_STUDY = 5000
"""Instances of the largest study that is asked for in one request: about 3 s of Orthanc's time."""
_WHOLE_SHARE = 3
"""A study is asked for whole from a third of its instances on: one of them alone costs three times as much."""
_DICOM = 1  # Orthanc's FileContentType of the stored object itself
_NOT_FOUND, _FIRST_ERROR = 404, 400
_NOT_WHOLE = frozenset({400, 13, 20, 2006})
"""Another MD5 (HTTP 400), and Orthanc's InexistentFile, CorruptedFile and RegularFileExpected."""
_PADDING = " \0"
_WILDCARDS = "*?\\"  # PS3.4 section C.2.2.2.4, and the backslash that lists values
_SOP_TAG = "0008,0018"
_ROUTE = "DdwdRoute"
"""Metadata of a study, declared in both Orthancs' configuration, that routes.lua writes too."""


@dataclass(frozen=True, slots=True)
class Change:
    """One row of `/changes`: `seq` rises with time, `kind` is Orthanc's ChangeType."""

    seq: int
    kind: str
    level: str
    orthanc_id: OrthancId


@dataclass(frozen=True, slots=True)
class ChangePage:
    """One page of `/changes`, oldest first; `done` when nothing follows, `last` the newest seq the page names."""

    changes: tuple[Change, ...]
    done: bool
    last: int


@dataclass(frozen=True, slots=True)
class Stored:
    """What Orthanc's index knows of one stored object: its SOPInstanceUID and the MD5 of its file."""

    sop_uid: str
    md5: str


@dataclass(frozen=True, slots=True)
class Held:
    """One stored object as it is found by its SOPInstanceUID; `series` is the Orthanc ID of the one it is in."""

    orthanc_id: OrthancId
    series: OrthancId
    sop_uid: str
    sop_class: str


@dataclass(frozen=True, slots=True)
class Job:
    """One job of Orthanc's engine; `state` is Pending, Running, Success, Failure, Paused or Retry."""

    job_id: str
    state: str
    kind: str
    error: str

    @property
    def in_flight(self) -> bool:
        """True while Orthanc may still be working at it."""
        return self.state in {"Pending", "Running", "Paused", "Retry"}


class OrthancPort(Protocol):
    """What the pipeline asks of an Orthanc; every method raises PeerDownError or PeerRefusedError."""

    name: str

    def changes(self, since: int, limit: int) -> ChangePage:
        """The rows of `/changes` with seq above `since`."""

    def last_seq(self) -> int:
        """The newest seq of `/changes` that was ever given, whether or not its row is still there; below a remembered cursor the
        database was reset or restored."""

    def study_ids(self) -> Iterator[OrthancId]:
        """Every study, in Orthanc's order."""

    def study_page(self, since: int, limit: int) -> list[OrthancId]:
        """`limit` of them, from the one at `since` (from 0) on; fewer at the end."""

    def study_of(self, level: str, orthanc_id: OrthancId) -> OrthancId | None:
        """The study above a series or instance, or None where it is gone."""

    def study(self, orthanc_id: OrthancId) -> Study | None:
        """The study with its instance sets, or None where it is not known."""

    def instances(self, studies: Sequence[OrthancId]) -> dict[OrthancId, frozenset[OrthancId]]:
        """The instances of each of these studies, in one request; those that are not known are left out."""

    def find_study(self, text: str) -> list[OrthancId]:
        """The studies that have this StudyInstanceUID; one for each patient it is known under."""

    def find_accession(self, text: str) -> list[OrthancId]:
        """The studies that have exactly this accession number; none for one of wildcards (`*`, `?`, a backslash) alone."""

    def find_patient(self, text: str) -> list[OrthancId]:
        """The studies that have exactly this PatientID; none for one of wildcards alone."""

    def sop_uids(self, instances: Iterable[OrthancId]) -> dict[OrthancId, str]:
        """SOPInstanceUID of each instance; those that are gone are left out."""

    def stored(
        self, study: Study, instances: Iterable[OrthancId], sop_uids: Mapping[OrthancId, str] | None = None
    ) -> dict[OrthancId, Stored]:
        """SOPInstanceUID and MD5 of instances of the study; those that are not there are left out.

        `sop_uids` are those that are known already, of the other Orthanc's copies.
        """

    def sender(self, instance: OrthancId) -> str:
        """Calling AE title of the association that brought the instance; nothing where it came otherwise or is gone."""

    def route(self, study: OrthancId) -> str | None:
        """The rule that took the study, as its metadata has it; None where that was not decided, or the study is gone."""

    def routes_of(self, studies: Sequence[OrthancId]) -> dict[OrthancId, str]:
        """The rule of each of these studies, in one request; those without one, or gone, are left out."""

    def set_route(self, study: OrthancId, name: str) -> None:
        """Keep the rule that took the study."""

    def first_image(self, study: OrthancId) -> dict[str, str]:
        """What rules are held against: tags of the image that came first, and its sender as `CallingAET`. NotFoundError where it is gone."""

    def md5(self, instance: OrthancId) -> str:
        """Orthanc's own MD5 of the stored file; NotFoundError where the instance is gone."""

    def head(self, instance: OrthancId, length: int) -> bytes:
        """The first `length` bytes of the stored file."""

    def file(self, instance: OrthancId) -> bytes:
        """The whole stored file, as stored."""

    def is_whole(self, instance: OrthancId) -> bool:
        """Tell whether the stored file is there, with the MD5 it came with; NotFoundError where the instance is not listed."""

    def forget(self, instance: OrthancId) -> None:
        """Delete the instance; one that is gone is fine."""

    def stow(self, server: str, resources: Iterable[OrthancId], priority: int = 0) -> str:
        """Submit an asynchronous STOW-RS job that sends the resources to a DICOMweb server; its job ID."""

    def jobs(self) -> dict[str, Job]:
        """The jobs Orthanc still remembers."""

    def job(self, job_id: str) -> Job | None:
        """One job, or None where Orthanc does not remember it (any more)."""


class _Again(Retry):
    """One silent try again for a keep-alive connection that the server closed; none for a server that was silent."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        """See Retry."""
        if isinstance(error, ReadTimeoutError):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


class _Breaker:
    """Remembers that a server hangs, so that only one caller now and then waits for it and all others fail at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed_until: float | None = None

    def must_probe(self, now: float) -> bool | None:
        """None: ask; True: ask the short question first; False: do not ask. A caller that is told True is the only one."""
        with self._lock:
            if self._closed_until is None:
                return None
            if now < self._closed_until:
                return False
            self._closed_until = now + _PAUSE_SECONDS + _PROBE_SECONDS
            return True

    def answered(self) -> None:
        """The server spoke, or refused the connection, which costs nobody time."""
        with self._lock:
            self._closed_until = None

    def hung(self, now: float) -> None:
        """The server let its caller wait in vain."""
        with self._lock:
            self._closed_until = now + _PAUSE_SECONDS


def _untold(_seconds: float) -> None:
    """Nobody wants to know how long a request may be silent."""


class Orthanc:
    """The real Orthanc behind `base_url`; safe to use from several threads (one session each).

    `waiting` is told how many seconds the caller may now have to wait for the server, and 0 once it has spoken.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        user: str,
        password: str,
        waiting: Callable[[float], None] = _untold,
    ) -> None:
        self.name = name
        self._base = base_url.rstrip("/")
        self._auth = (user, password)
        self._local = threading.local()
        self._waiting = waiting
        self._breaker = _Breaker()
        self._finds_digests = True

    def system(self) -> dict[str, Any]:
        """`/system`: version, AE title, database; proves that the server answers."""
        found: dict[str, Any] = self._json("GET", "/system")
        return found

    def statistics(self) -> dict[str, Any]:
        """`/statistics`: counts of studies and instances, disk size in bytes (strings of digits)."""
        found: dict[str, Any] = self._json("GET", "/statistics")
        return found

    def plugins(self) -> list[str]:
        """Names of the plugins that are loaded."""
        return [str(name) for name in self._json("GET", "/plugins")]

    def now(self) -> datetime:
        """Its clock, to the second."""
        said = self._bytes("/tools/now").decode("ascii")
        return datetime.strptime(said, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)

    def reaches(self, server: str) -> None:
        """Have it ask one of its DICOMweb servers for one study: QIDO-RS, which changes nothing."""
        self._request(
            "POST", f"/dicom-web/servers/{server}/qido", json={"Uri": "/studies", "Arguments": {"limit": "1"}}
        )

    def echoes(self, modality: str) -> None:
        """Have it C-ECHO one of its modalities."""
        self._request("POST", f"/modalities/{modality}/echo", json={"Timeout": _ECHO_SECONDS})

    def delete_study(self, study: OrthancId) -> None:
        """Delete a whole study; one that is gone is fine."""
        with suppress(NotFoundError):
            self._request("DELETE", f"/studies/{study}")

    def changes(self, since: int, limit: int) -> ChangePage:
        """See OrthancPort."""
        body = self._json("GET", f"/changes?since={since}&limit={limit}")
        rows = tuple(
            Change(int(row["Seq"]), row["ChangeType"], row["ResourceType"], OrthancId(row["ID"]))
            for row in body["Changes"]
        )
        return ChangePage(rows, bool(body["Done"]), int(body["Last"]))

    def last_seq(self) -> int:
        """See OrthancPort. `?last` would name the last row that is left: rows go with what they are about."""
        return int(self._json("GET", f"/changes?since={_PAST_ALL}&limit=1")["Last"])

    def study_ids(self) -> Iterator[OrthancId]:
        """See OrthancPort; read by pages, so a large archive never comes in one answer."""
        since, page = 0, 1000
        while True:
            found = self.study_page(since, page)
            yield from found
            if len(found) < page:
                return
            since += page

    def study_page(self, since: int, limit: int) -> list[OrthancId]:
        """See OrthancPort."""
        return list(map(OrthancId, self._json("GET", f"/studies?since={since}&limit={limit}")))

    def study_of(self, level: str, orthanc_id: OrthancId) -> OrthancId | None:
        """See OrthancPort."""
        try:
            if level == "Instance":
                parent = self._json("GET", f"/instances/{orthanc_id}")["ParentSeries"]
                return self.study_of("Series", OrthancId(parent))
            return OrthancId(self._json("GET", f"/series/{orthanc_id}")["ParentStudy"])
        except NotFoundError:
            return None

    def study(self, orthanc_id: OrthancId) -> Study | None:
        """See OrthancPort."""
        try:
            main = self._json("GET", f"/studies/{orthanc_id}")
            listed = self._json("GET", f"/studies/{orthanc_id}/series")
        except NotFoundError:
            return None
        tags = main["MainDicomTags"]
        return Study(
            orthanc_id=orthanc_id,
            study_uid=tags.get("StudyInstanceUID", ""),
            patient_id=main["PatientMainDicomTags"].get("PatientID", ""),
            accession=tags.get("AccessionNumber", ""),
            series=tuple(_series(row) for row in listed),
            tags=tags,
        )

    def instances(self, studies: Sequence[OrthancId]) -> dict[OrthancId, frozenset[OrthancId]]:
        """See OrthancPort. By series: asking for the instances themselves takes ten times as long for 600 images."""
        body = {"Resources": list(studies), "Level": "Series", "Short": True, "Metadata": False}
        found: dict[OrthancId, frozenset[OrthancId]] = {}
        for row in self._json("POST", "/tools/bulk-content", body):
            study = OrthancId(row["ParentStudy"])
            found[study] = found.get(study, frozenset()).union(map(OrthancId, row["Instances"]))
        return found

    def find_study(self, text: str) -> list[OrthancId]:
        """See OrthancPort. None for one with a wildcard, to which Orthanc answers 400: it is found by its record once it is published."""
        if not set(_WILDCARDS).isdisjoint(text):
            return []
        rows = self._parsed("/tools/lookup", self._request("POST", "/tools/lookup", data=text.encode()))
        return [OrthancId(row["ID"]) for row in rows if row["Type"] == "Study"]

    def find_accession(self, text: str) -> list[OrthancId]:
        """See OrthancPort."""
        return self._find("AccessionNumber", text)

    def find_patient(self, text: str) -> list[OrthancId]:
        """See OrthancPort."""
        return self._find("PatientID", text)

    def _find(self, keyword: str, text: str) -> list[OrthancId]:
        """What Orthanc finds is looked through for this very value: it takes some characters for others, and wildcards for themselves."""
        if not text.strip(_WILDCARDS):
            return []
        pattern = text.replace("\\", "?")  # between values of a list a backslash would be read as "or"
        query = {"Level": "Study", "Query": {keyword: pattern}, "CaseSensitive": True, "Expand": True}
        return [
            OrthancId(row["ID"])
            for row in self._json("POST", "/tools/find", query)
            if text == (row["MainDicomTags"] | row["PatientMainDicomTags"]).get(keyword, "").strip(_PADDING)
        ]

    def sop_uids(self, instances: Iterable[OrthancId]) -> dict[OrthancId, str]:
        """See OrthancPort."""
        wanted = list(instances)
        found: dict[OrthancId, str] = {}
        for start in range(0, len(wanted), _UID_BLOCK):
            body = {"Resources": wanted[start : start + _UID_BLOCK], "Short": True, "Metadata": False}
            for row in self._json("POST", "/tools/bulk-content", body):
                found[OrthancId(row["ID"])] = row["MainDicomTags"].get(_SOP_TAG, "")
        return found

    def stored(
        self, study: Study, instances: Iterable[OrthancId], sop_uids: Mapping[OrthancId, str] | None = None
    ) -> dict[OrthancId, Stored]:
        """See OrthancPort. What the search leaves out though it is listed (LimitFindInstances) is asked for one by one."""
        wanted = set(instances)
        if not wanted:
            return {}
        if len(study.ids) <= min(_WHOLE_STUDY, _WHOLE_SHARE * len(wanted)):
            found = self._search({}, {"ParentStudy": study.orthanc_id})
        else:
            found = self._search_uids(self.sop_uids(wanted) if sop_uids is None else sop_uids)
        answer = {one: stored for one, stored in found.items() if one in wanted}
        if len(answer) < len(wanted) and (listed := self.study(study.orthanc_id)) is not None:
            answer |= self._one_by_one((wanted & listed.ids) - answer.keys())
        return answer

    def find_images(self, sop_uids: Iterable[str]) -> list[Held]:
        """What is stored under these SOPInstanceUIDs: one for each patient, study and series that it is known in.

        Raises PeerDownError, PeerRefusedError.
        """
        wanted = sorted(filter(is_uid, set(sop_uids)))
        blocks = (wanted[start : start + _UID_BLOCK] for start in range(0, len(wanted), _UID_BLOCK))
        return [one for block in blocks for one in self._find_block(block)]

    def _find_block(self, sop_uids: Sequence[str]) -> list[Held]:
        """What a search leaves out is searched for again, until one finds nothing: LimitFindInstances may have cut its answer."""
        found: list[Held] = []
        missing = set(sop_uids)
        while missing and (more := self._find_images(sorted(missing))):
            found += more
            if missing.isdisjoint(one.sop_uid for one in more):
                break
            missing -= {one.sop_uid for one in more}
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
        """What a search finds; an Orthanc that cannot answer with digests (before 1.12.5) is asked only once."""
        if not self._finds_digests:
            return {}
        body = {"Level": "Instance", "Query": query, "ResponseContent": ["MainDicomTags", "Attachments"]}
        try:
            rows = self._json("POST", "/tools/find", body | within)
        except NotFoundError:  # it does not know the study
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
        for one, sop_uid in self.sop_uids(instances).items():
            with suppress(NotFoundError):
                found[one] = Stored(sop_uid, self.md5(one))
        return found

    def sender(self, instance: OrthancId) -> str:
        """See OrthancPort."""
        try:
            return self._bytes(f"/instances/{instance}/metadata/RemoteAET").decode("utf-8", "replace").strip()
        except NotFoundError:
            return ""

    def route(self, study: OrthancId) -> str | None:
        """See OrthancPort."""
        try:
            return self._bytes(f"/studies/{study}/metadata/{_ROUTE}").decode("utf-8", "replace")
        except NotFoundError:
            return None

    def routes_of(self, studies: Sequence[OrthancId]) -> dict[OrthancId, str]:
        """See OrthancPort."""
        body = {"Resources": list(studies), "Level": "Study", "Short": True, "Metadata": True}
        return {
            OrthancId(row["ID"]): row["Metadata"][_ROUTE]
            for row in self._json("POST", "/tools/bulk-content", body)
            if _ROUTE in row["Metadata"]
        }

    def set_route(self, study: OrthancId, name: str) -> None:
        """See OrthancPort."""
        self._request("PUT", f"/studies/{study}/metadata/{_ROUTE}", data=name.encode())

    def first_image(self, study: OrthancId) -> dict[str, str]:
        """See OrthancPort. Of those that came in one second, the one with the lowest place in its series."""
        body = {"Resources": [study], "Level": "Instance", "Metadata": True}
        rows = self._json("POST", "/tools/bulk-content", body)
        if not rows:
            raise NotFoundError(f"{self.name}: the study is gone")
        first = min(rows, key=_arrival)["ID"]
        tags = self._json("GET", f"/instances/{first}/simplified-tags")
        found = {key: value for key, value in tags.items() if isinstance(value, str)}
        return found | {CALLING: self.sender(OrthancId(first))}

    def md5(self, instance: OrthancId) -> str:
        """See OrthancPort."""
        return self._bytes(f"/instances/{instance}/attachments/dicom/md5").decode("ascii")

    def head(self, instance: OrthancId, length: int) -> bytes:
        """See OrthancPort; a server that answers the whole file (before 1.12) is cut here."""
        path = f"/instances/{instance}/attachments/dicom/data"
        try:
            return self._bytes(path, {"Range": f"bytes=0-{length - 1}"})[:length]
        except PeerRefusedError:  # 416: the whole file is shorter than that
            return self._bytes(path)[:length]

    def file(self, instance: OrthancId) -> bytes:
        """See OrthancPort."""
        return self._request("GET", f"/instances/{instance}/file", silence=_FILE_SILENCE_SECONDS)

    def is_whole(self, instance: OrthancId) -> bool:
        """See OrthancPort. Orthanc reads the file itself for this: what it has in memory may outlive its file."""
        path = f"/instances/{instance}/attachments/dicom/verify-md5"
        try:
            self._request("POST", path, silence=_FILE_SILENCE_SECONDS)
        except PeerRefusedError as error:
            if error.reason in _NOT_WHOLE:
                return False
            raise
        return True

    def forget(self, instance: OrthancId) -> None:
        """See OrthancPort."""
        with suppress(NotFoundError):
            self._request("DELETE", f"/instances/{instance}")

    def stow(self, server: str, resources: Iterable[OrthancId], priority: int = 0) -> str:
        """See OrthancPort. Always a new job: a resubmitted one reports success having sent nothing."""
        body = {"Resources": list(resources), "Synchronous": False, "Priority": priority}
        return str(self._json("POST", f"/dicom-web/servers/{server}/stow", body)["ID"])

    def store(self, modality: str, instances: Iterable[OrthancId], priority: int = 0) -> str:
        """Submit an asynchronous job that sends the instances by C-STORE, and fails at the first that is refused; its job ID."""
        body = {
            "Resources": list(instances),
            "Synchronous": False,
            "Permissive": False,
            "Priority": priority,
        }
        return str(self._json("POST", f"/modalities/{modality}/store", body)["ID"])

    def search(self, server: str, uri: str, arguments: Mapping[str, str]) -> list[dict[str, Any]]:
        """What one of its DICOMweb servers answers by QIDO-RS (PS3.18 section 10.6), as DICOM JSON (PS3.18 annex F)."""
        body = {
            "Uri": uri,
            "Arguments": dict(arguments),
            "HttpHeaders": {"Accept": "application/dicom+json"},
        }
        path = f"/dicom-web/servers/{server}/get"
        content = self._request("POST", path, json=body)
        found = self._parsed(path, content or b"[]")  # 204 without a body: nothing was found
        if not isinstance(found, list):
            raise PeerRefusedError(f"{self.name}: {server} answers a search with something else")
        return found

    def jobs(self) -> dict[str, Job]:
        """See OrthancPort."""
        return {row["ID"]: _job(row) for row in self._json("GET", "/jobs?expand")}

    def job(self, job_id: str) -> Job | None:
        """See OrthancPort."""
        try:
            return _job(self._json("GET", f"/jobs/{job_id}"))
        except NotFoundError:
            return None

    def _json(self, method: str, path: str, body: object = None) -> Any:
        return self._parsed(path, self._request(method, path, json=body))

    def _parsed(self, path: str, content: bytes) -> Any:
        try:
            return json.loads(content)
        except ValueError as error:
            raise PeerRefusedError(
                f"{self.name}: {path.partition('?')[0]}: the answer is not JSON"
            ) from error

    def _bytes(self, path: str, headers: dict[str, str] | None = None) -> bytes:
        return self._request("GET", path, headers=headers)

    def _request(self, method: str, path: str, *, silence: float = _SILENCE_SECONDS, **options: Any) -> bytes:
        """The body of the answer. A server that hangs is not waited for again and again: see _Breaker."""
        probe = self._breaker.must_probe(time.monotonic())
        if probe is False:
            raise PeerDownError(f"{self.name} does not answer on {self._base} (it hung a moment ago)")
        if probe:
            self._ask("GET", _PROBE, _PROBE_SECONDS)
        status, content = self._ask(method, path, silence, **options)
        if status == _NOT_FOUND:
            raise NotFoundError(f"{self.name}: not found: {path.partition('?')[0]}")
        if status >= _FIRST_ERROR:
            message = f"{self.name}: HTTP {status} for {path.partition('?')[0]}"
            raise PeerRefusedError(message, _orthanc_status(content) or status, f"HTTP {status}")
        return content

    def _ask(self, method: str, path: str, silence: float, **options: Any) -> tuple[int, bytes]:
        """HTTP status and body; each silence is declared to `waiting`."""
        start = time.monotonic()
        content = io.BytesIO()
        timeout = (_CONNECT_SECONDS, silence)
        self._waiting(_CONNECT_SECONDS + silence)
        try:
            with self._session().request(
                method, self._base + path, timeout=timeout, stream=True, **options
            ) as answer:
                for chunk in answer.iter_content(_CHUNK):
                    content.write(chunk)
                    start = time.monotonic()
                    self._waiting(silence)
        except requests.RequestException as error:
            now = time.monotonic()
            if now - start >= _SLOW_SECONDS:
                self._breaker.hung(now)
            else:
                self._breaker.answered()
            reason = type(error).__name__
            raise PeerDownError(f"{self.name} does not answer on {self._base} ({reason})") from error
        finally:
            self._waiting(0.0)
        self._breaker.answered()
        return answer.status_code, content.getvalue()

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            session.auth = self._auth
            session.trust_env = False  # a proxy of the environment must never see images
            retry = _Again(total=1, connect=0, read=1, status=0, allowed_methods=frozenset({"GET"}))
            session.mount(self._base, HTTPAdapter(max_retries=retry))
            self._local.session = session
        return session


def _orthanc_status(content: bytes) -> int:
    """Orthanc's error code in the body of a refusal; 0 where it has none."""
    try:
        return int(json.loads(content)["OrthancStatus"])
    except (ValueError, KeyError, TypeError):
        return 0


def _job(row: dict[str, Any]) -> Job:
    """What a plugin's job failed of stands in its content: for Orthanc it is all one error."""
    said = (row.get("Content") or {}).get("FunctionErrorDescription") or row.get("ErrorDetails")
    return Job(row["ID"], row["State"], row["Type"], str(said or row.get("ErrorDescription", "")))


def _arrival(row: dict[str, Any]) -> tuple[str, int, str]:
    """What images are put in the order of their coming by."""
    known = row.get("Metadata", {})
    return str(known.get("ReceptionDate", "")), int(known.get("IndexInSeries") or 0), str(row["ID"])


def _series(row: dict[str, Any]) -> Series:
    uid = row["MainDicomTags"].get("SeriesInstanceUID", "")
    instances = frozenset(map(OrthancId, row["Instances"]))
    return Series(OrthancId(row["ID"]), uid, instances, row["MainDicomTags"])
