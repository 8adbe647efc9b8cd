"""Plugin of both Orthancs: passes every object to the admission filter before it is stored, by C-STORE, STOW-RS or REST, and every
request of the web pages before it is served. Loaded by Orthanc's Python plugin; the decisions are in ddwd/orthanc/plugin/admission.py.

An exception that left the callback would admit the object, and it would be lost in the case this is for: so it is refused.
"""

import base64
import json
import pathlib
import sys
import time
import traceback

import orthanc

_CONFIGURATION = json.loads(orthanc.GetConfiguration())
_SETTINGS = _CONFIGURATION["Ddwd"]
_PORTS = {_CONFIGURATION["DicomPort"], _CONFIGURATION["HttpPort"]}
sys.path.insert(0, _SETTINGS["Package"])

from ddwd.core.audit import Audit, Event  # noqa: E402 - the path comes first
from ddwd.core.clock import SystemClock  # noqa: E402 - as above
from ddwd.orthanc.plugin import listeners, verdicts  # noqa: E402 - as above
from ddwd.orthanc.plugin.admission import (  # noqa: E402 - as above
    Admission,
    AdmissionFilter,
    NotDicomError,
    Settings,
    sop_uid,
)
from ddwd.orthanc.plugin.doorbell import Doorbell  # noqa: E402 - as above
from ddwd.orthanc.plugin.rest_audit import RestAudit  # noqa: E402 - as above
from ddwd.orthanc.plugin.rest_rights import RestRequest  # noqa: E402 - as above
from ddwd.store.commitment_queue import CommitmentIntake, CommitmentQueue  # noqa: E402 - as above

_ACTIONS = {
    Admission.KEEP: (orthanc.ReceivedInstanceAction.KEEP_AS_IS, None),
    Admission.ASIDE: (orthanc.ReceivedInstanceAction.DISCARD, None),
}
_REFUSED = (orthanc.ReceivedInstanceAction.MODIFY, b"")
"""Modified to nothing is an error to Orthanc: C-STORE answers 0xA700, REST 500, STOW-RS names the object as failed."""
_NOT_WHOLE = {
    orthanc.ErrorCode.BAD_REQUEST,  # another MD5
    orthanc.ErrorCode.INEXISTENT_FILE,
    orthanc.ErrorCode.CORRUPTED_FILE,
    orthanc.ErrorCode.REGULAR_FILE_EXPECTED,
}
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def _get(path):
    """Return the answer of this Orthanc; None if it knows no such resource."""
    try:
        return orthanc.RestApiGet(path)
    except orthanc.OrthancException as error:
        if error.args[0] == orthanc.ErrorCode.UNKNOWN_RESOURCE:
            return None
        raise


class _Index:
    """This Orthanc, asked without HTTP."""

    def instances_of(self, series):
        found = _get(f"/series/{series}")
        return [] if found is None else json.loads(found)["Instances"]

    def md5(self, instance):
        found = _get(f"/instances/{instance}/attachments/dicom/md5")
        return None if found is None else found.decode("ascii")

    def is_whole(self, instance):
        try:
            orthanc.RestApiPost(f"/instances/{instance}/attachments/dicom/verify-md5", b"")
        except orthanc.OrthancException as error:
            if error.args[0] in _NOT_WHOLE:
                return False
            raise
        return True

    def forget(self, instance):
        orthanc.RestApiDelete(f"/instances/{instance}")

    def identify(self, content):
        try:
            tags = json.loads(orthanc.CreateDicomInstance(content).GetInstanceSimplifiedJson())
        except orthanc.OrthancException as error:
            raise NotDicomError from error
        if not all(map(tags.get, _UIDS)):
            raise NotDicomError  # Orthanc accepts none without them
        return [tags.get("PatientID") or "", *map(tags.get, _UIDS)]

    def log(self, text):
        orthanc.LogWarning(f"ddwd: {text}")


_filter = AdmissionFilter(Settings.read(_SETTINGS), _Index(), time.monotonic)


def _received(content, _origin):
    try:
        admission = _filter.judge(content)
        if admission.is_refused and "Verdicts" in _SETTINGS:
            verdicts.report(_SETTINGS["Verdicts"], sop_uid(content), admission.value)
        return _ACTIONS.get(admission, _REFUSED)
    except Exception as error:  # noqa: BLE001 - whatever it is, the sender must keep its image
        where = traceback.extract_tb(error.__traceback__)[-1]
        orthanc.LogError(f"ddwd: refused: {type(error).__name__} in {where.name}, line {where.lineno}")
        return _REFUSED


_METHODS = {
    orthanc.HttpMethod.GET: "GET",
    orthanc.HttpMethod.POST: "POST",
    orthanc.HttpMethod.PUT: "PUT",
    orthanc.HttpMethod.DELETE: "DELETE",
}


_node = pathlib.Path(_SETTINGS["Conflicts"]).name
_audit = Audit()


def _studies_of(level, resource):
    """The studies that a patient, study, series or instance is of; none if this Orthanc does not know it."""
    if level == "studies":
        return [resource]
    found = _get(f"/{level}/{resource}" if level == "patients" else f"/{level}/{resource}/study")
    if found is None:
        return []
    return json.loads(found)["Studies"] if level == "patients" else [json.loads(found)["ID"]]


_rest_audit = RestAudit(_node, _audit, _studies_of, time.monotonic)


def _requested(uri, **request):
    """Orthanc has checked the password; an exception, or a request that is not understood, is refused."""
    login = request["headers"]["authorization"].removeprefix("Basic ")
    user, _, _ = base64.b64decode(login, validate=True).decode().partition(":")
    asked = RestRequest(user, _METHODS[request["method"]], uri, request["ip"])
    _rest_audit.note(asked)
    return asked.is_allowed


_doorbell = Doorbell(_SETTINGS["Doorbell"], lambda text: orthanc.LogError(f"ddwd: {text}"))
_HEARD = {orthanc.ChangeType.NEW_INSTANCE, orthanc.ChangeType.STABLE_STUDY}

_ended = set()
"""Jobs that `_asked` ended. Orthanc would remember each with all its objects, and save it anew whenever another job begins or ends."""


def _changed(change, level, resource):
    """Deletions are in no list that could be read later, so they are recorded as they happen."""
    if change in _HEARD:
        _doorbell.ring()
    # both servers listen before this change is reported; a plugin is loaded before either does
    if change == orthanc.ChangeType.ORTHANC_STARTED and listeners.prepare(_PORTS) != _PORTS:
        orthanc.LogWarning("ddwd: a listening port was not found: other machines may reach it")
    if change == orthanc.ChangeType.JOB_FAILURE and resource in _ended:
        _ended.discard(resource)
        orthanc.RestApiDelete(f"/jobs/{resource}")
    if change == orthanc.ChangeType.DELETED and level == orthanc.ResourceType.STUDY:
        _audit.record(Event.DELETED, f"a study was deleted on the {_node}", study=resource, peer=_node)


_intake = CommitmentIntake(
    CommitmentQueue(pathlib.Path(_SETTINGS["CommitmentQueue"])) if "CommitmentQueue" in _SETTINGS else None,
    _audit,
    SystemClock(),
)


def _asked(job, transaction, sop_classes, sop_uids, aet, _called):
    """Storage commitment: write the request down for ddwd-commitment, and end the job that would answer by the index alone."""
    try:
        _intake.take(aet, transaction, sop_classes, sop_uids)
    finally:
        _ended.add(job)
        orthanc.RestApiPost(f"/jobs/{job}/cancel", b"")


def _never(_sop_class, _sop_uid, _data):
    """What that job would ask next."""
    return orthanc.StorageCommitmentFailureReason.PROCESSING_FAILURE


orthanc.RegisterReceivedInstanceCallback(_received)
if hasattr(
    orthanc, "RegisterStorageCommitmentScpCallback"
):  # since 4.1: `ddwd try` also runs with Debian 12's 4.0
    orthanc.RegisterStorageCommitmentScpCallback(_asked, _never)
orthanc.RegisterIncomingHttpRequestFilter(_requested)
orthanc.RegisterOnChangeCallback(_changed)
