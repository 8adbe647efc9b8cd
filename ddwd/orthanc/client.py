"""The client of Orthanc's REST interface: all of the port except the queries of the index. Each method is documented at the port."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from ddwd.config.routing import CALLING
from ddwd.core.errors import ImageRefusedError, NotFoundError, PeerRefusedError
from ddwd.core.model import OrthancId
from ddwd.orthanc.index_queries import IndexQueries
from ddwd.orthanc.port import Change, ChangePage, Job
from ddwd.orthanc.transport import NOT_WHOLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ddwd.orthanc.port import FileContent
    from ddwd.orthanc.transport import Stream

_PAST_ALL = 2**63 - 1
"""As `since`: Orthanc answers an empty page, whose `Last` is the database's own counter."""
_ECHO_SECONDS = 10
"""Time-out of a C-ECHO, whatever the modality's own time-out is: shorter than ours for the request."""
_TAKEN = frozenset({"Success", "AlreadyStored"})
"""Orthanc's answers to an object that it has now; the others say that a filter or a quota keeps it out."""
_OF_THE_IMAGE = frozenset({"HTTP 400", "HTTP 415", "HTTP 422"})
"""Answers that are about the object; all other errors are about the server, the login or the network."""
_FORMER_USER = "ddwd"
"""Login of the extractor until 0.2.0."""
_ROUTE = "DdwdRoute"
"""Metadata of a study, declared in both Orthancs' configuration, that routes.lua writes too."""


class Orthanc(IndexQueries):
    """An Orthanc by REST; implements all slices of the port."""

    def system(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._json("GET", "/system"))

    def statistics(self) -> dict[str, Any]:
        return cast("dict[str, Any]", self._json("GET", "/statistics"))

    def plugins(self) -> list[str]:
        return [str(name) for name in self._json("GET", "/plugins")]

    def now(self) -> datetime:
        text = self._bytes("/tools/now").decode("ascii")
        return datetime.strptime(text, "%Y%m%dT%H%M%S").replace(tzinfo=UTC)

    def reaches(self, server: str) -> None:
        """QIDO-RS for one study."""
        body = {"Uri": "/studies", "Arguments": {"limit": "1"}}
        self._request("POST", f"/dicom-web/servers/{server}/qido", json=body)

    def echoes(self, modality: str) -> None:
        self._request("POST", f"/modalities/{modality}/echo", json={"Timeout": _ECHO_SECONDS})

    def delete_study(self, study: OrthancId) -> None:
        with suppress(NotFoundError):
            self._request("DELETE", f"/studies/{study}")

    def changes(self, since: int, limit: int) -> ChangePage:
        body = self._json("GET", f"/changes?since={since}&limit={limit}")
        rows = tuple(
            Change(int(row["Seq"]), row["ChangeType"], row["ResourceType"], OrthancId(row["ID"]))
            for row in body["Changes"]
        )
        return ChangePage(rows, bool(body["Done"]), int(body["Last"]))

    def last_seq(self) -> int:
        """`?last` would name the last row that is left: rows are deleted with the resource they are about."""
        return int(self._json("GET", f"/changes?since={_PAST_ALL}&limit=1")["Last"])

    def sender(self, instance: OrthancId) -> str:
        return (self._metadata(f"/instances/{instance}/metadata/RemoteAET") or "").strip()

    def route(self, study: OrthancId) -> str | None:
        return self._metadata(f"/studies/{study}/metadata/{_ROUTE}")

    def _metadata(self, path: str) -> str | None:
        try:
            return self._bytes(path).decode("utf-8", "replace")
        except NotFoundError:
            return None

    def routes_of(self, studies: Sequence[OrthancId]) -> dict[OrthancId, str]:
        body = {"Resources": list(studies), "Level": "Study", "Short": True, "Metadata": True}
        return {
            OrthancId(row["ID"]): row["Metadata"][_ROUTE]
            for row in self._json("POST", "/tools/bulk-content", body)
            if _ROUTE in row["Metadata"]
        }

    def set_route(self, study: OrthancId, name: str) -> None:
        self._request("PUT", f"/studies/{study}/metadata/{_ROUTE}", data=name.encode())

    def first_image(self, study: OrthancId) -> dict[str, str]:
        """Of images that came in the same second, the one with the lowest index in its series."""
        body = {"Resources": [study], "Level": "Instance", "Metadata": True}
        rows = self._json("POST", "/tools/bulk-content", body)
        if not rows:
            raise NotFoundError(f"{self.name}: the study is gone")
        first = min(rows, key=_arrival)["ID"]
        tags = self._json("GET", f"/instances/{first}/simplified-tags")
        found = {key: value for key, value in tags.items() if isinstance(value, str)}
        return found | {CALLING: self.sender(OrthancId(first))}

    def head(self, instance: OrthancId, length: int) -> bytes:
        """A server that answers the whole file (before 1.12) is cut here."""
        path = f"/instances/{instance}/attachments/dicom/data"
        try:
            return self._bytes(path, {"Range": f"bytes=0-{length - 1}"})[:length]
        except PeerRefusedError:  # 416: the whole file is shorter than that
            return self._bytes(path)[:length]

    def file(self, instance: OrthancId) -> bytes:
        return self._file_request("GET", f"/instances/{instance}/file")

    def stream(self, instance: OrthancId) -> Stream:
        return self._stream(f"/instances/{instance}/file")

    def receive(self, content: FileContent) -> OrthancId:
        try:
            answer = self._parsed("/instances", self._file_request("POST", "/instances", content))
        except PeerRefusedError as error:
            if error.status in _OF_THE_IMAGE:
                raise ImageRefusedError(str(error), error.reason, error.status) from error
            raise
        if answer["Status"] not in _TAKEN:
            raise ImageRefusedError(f"{self.name}: {answer['Status']}")
        return OrthancId(answer["ID"])

    def received(self, study: OrthancId) -> frozenset[OrthancId]:
        """Orthanc notes by which interface each instance came, and by REST from which of its users."""
        rows = self._json(
            "POST", "/tools/bulk-content", {"Resources": [study], "Level": "Instance", "Metadata": True}
        )
        return frozenset(
            OrthancId(row["ID"])
            for row in rows
            if row["Metadata"].get("Origin") == "RestApi"
            and row["Metadata"].get("HttpUsername") in {self.user, _FORMER_USER}
        )

    def is_whole(self, instance: OrthancId) -> bool:
        """Orthanc reads the file itself for this: its cache may outlive the file."""
        path = f"/instances/{instance}/attachments/dicom/verify-md5"
        try:
            self._file_request("POST", path)
        except PeerRefusedError as error:
            if error.reason in NOT_WHOLE:
                return False
            raise
        return True

    def forget(self, instance: OrthancId) -> None:
        with suppress(NotFoundError):
            self._request("DELETE", f"/instances/{instance}")

    def stow(self, server: str, resources: Iterable[OrthancId], priority: int = 0) -> str:
        """Always a new job: a resubmitted one reports success although it sends no image."""
        body = {"Resources": list(resources), "Synchronous": False, "Priority": priority}
        return str(self._json("POST", f"/dicom-web/servers/{server}/stow", body)["ID"])

    def store(self, modality: str, instances: Iterable[OrthancId], priority: int = 0) -> str:
        body = {"Resources": list(instances), "Synchronous": False, "Permissive": False, "Priority": priority}
        return str(self._json("POST", f"/modalities/{modality}/store", body)["ID"])

    def search(self, server: str, uri: str, arguments: Mapping[str, str]) -> list[dict[str, Any]]:
        """QIDO-RS (PS3.18 section 10.6), DICOM JSON (PS3.18 annex F)."""
        headers = {"Accept": "application/dicom+json"}
        body = {"Uri": uri, "Arguments": dict(arguments), "HttpHeaders": headers}
        path = f"/dicom-web/servers/{server}/get"
        content = self._request("POST", path, json=body)
        found = self._parsed(path, content or b"[]")  # 204 without a body: no match
        if not isinstance(found, list):
            raise PeerRefusedError(f"{self.name}: {server} answers a search with no list")
        return found

    def jobs(self) -> dict[str, Job]:
        return {row["ID"]: _job(row) for row in self._json("GET", "/jobs?expand")}

    def job(self, job_id: str) -> Job | None:
        try:
            return _job(self._json("GET", f"/jobs/{job_id}"))
        except NotFoundError:
            return None


def _job(row: dict[str, Any]) -> Job:
    # the error of a plugin's job is in its content: Orthanc gives all of them one code
    error = (row.get("Content") or {}).get("FunctionErrorDescription") or row.get("ErrorDetails")
    return Job(
        job_id=row["ID"],
        state=row["State"],
        kind=row["Type"],
        error=str(error or row.get("ErrorDescription", "")),
        progress=int(row.get("Progress", 0)),
        age=(_instant(row["Timestamp"]) - _instant(row["CreationTime"])).total_seconds(),
    )


def _instant(text: str) -> datetime:
    """Parse a point in time of a job, in UTC."""
    return datetime.strptime(text, "%Y%m%dT%H%M%S.%f").replace(tzinfo=UTC)


def _arrival(row: dict[str, Any]) -> tuple[str, int, str]:
    """Return the sort key that puts images in the order in which they arrived."""
    metadata = row.get("Metadata", {})
    return str(metadata.get("ReceptionDate", "")), int(metadata.get("IndexInSeries") or 0), str(row["ID"])
