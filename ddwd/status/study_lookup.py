"""The two Orthancs for the command line, and the studies of a name. Used by the commands that take STUDY.

A study has up to three names: its StudyInstanceUID, its accession number, its Orthanc ID. Several studies may have
one name (the same StudyInstanceUID under two patients): a command then takes all of them. A command that only reads accepts a
PatientID too; one that acts takes it by `--patient` alone, since it may be another study's accession number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core.errors import NotFoundError, PeerDownError
from ddwd.core.model import PADDING, identifier_of
from ddwd.orthanc.client import Orthanc
from ddwd.provisioning import credentials
from ddwd.store.record_check import as_orthanc_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddwd.config.schema import Config, OrthancNode
    from ddwd.core.model import OrthancId
    from ddwd.orthanc.port import OrthancPort
    from ddwd.provisioning.credentials import Credentials
    from ddwd.store.record_check import RecordChecker


def both(config: Config) -> tuple[Orthanc, Orthanc]:
    """Return gateway and storage; no connection is made yet. Raises ConfigError if the credentials cannot be read."""
    login = credentials.own(config.credentials_file)
    return orthanc(config.gateway, login), orthanc(config.storage, login)


def orthanc(node: OrthancNode, login: Credentials) -> Orthanc:
    """Return the client of an Orthanc; no connection is made yet."""
    return Orthanc(node.name, node.url, *login.login(node.name))


def studies_named(
    text: str, nodes: Sequence[OrthancPort], records: RecordChecker, *, or_patient: bool = False
) -> list[OrthancId]:
    """Return the studies of this name on either Orthanc or, if on none, among the published ones; with `or_patient` PatientIDs are names too.

    The name of a folder in the output is accepted for the PatientID that it was made of. Raises NotFoundError, StateError, and
    PeerDownError if a peer that does not answer might have the study.
    """
    name, away = text.strip(PADDING), None
    found: dict[OrthancId, None] = {}
    for node in nodes:
        try:
            found |= dict.fromkeys(_on(node, name, or_patient=or_patient))
        except PeerDownError as error:
            away = error
    if not found and name:
        found |= dict.fromkeys(records.matching(name, damaged_too=False, or_patient=or_patient))
    if found:
        return list(found)
    patient_id = identifier_of(name) if or_patient else None
    if patient_id and patient_id != name:
        return studies_named(patient_id, nodes, records, or_patient=True)
    if away is not None:
        raise away
    names = "accession number, Orthanc ID or PatientID" if or_patient else "accession number or Orthanc ID"
    raise NotFoundError(f"no study on either Orthanc or on disk has this StudyInstanceUID, {names}")


def studies_of_patient(
    patient_id: str, nodes: Sequence[OrthancPort], records: RecordChecker
) -> list[OrthancId]:
    """Return the studies of this PatientID on either Orthanc and among the published ones.

    Raises NotFoundError, StateError and PeerDownError: a verb that acts on all of them must know all of them.
    """
    name = patient_id.strip(PADDING)
    found = [study for node in nodes for study in node.find_patient(name)] if name else []
    found += records.of_patient(name, damaged_too=False) if name else []
    if not found:
        msg = "no study on either Orthanc or on disk has this PatientID"
        raise NotFoundError(msg)
    return list(dict.fromkeys(found))


def studies_meant(
    study: str | None, patient_id: str | None, nodes: Sequence[OrthancPort], records: RecordChecker
) -> list[OrthancId]:
    """Return the studies that a command line names by STUDY or by --patient. Raises NotFoundError, StateError and PeerDownError."""
    if patient_id is not None:
        return studies_of_patient(patient_id, nodes, records)
    return studies_named(study or "", nodes, records)


def _on(node: OrthancPort, name: str, *, or_patient: bool) -> list[OrthancId]:
    if not name:
        return []
    if (study := as_orthanc_id(name)) is not None:
        return [study] if node.study(study) is not None else []
    found = [*node.find_study(name), *node.find_accession(name)]
    return [*found, *node.find_patient(name)] if or_patient else found
