"""The two Orthancs as the verbs ask them, and which studies an operator means by a name. Used by the verbs that take STUDY.

A study has up to three names: its StudyInstanceUID, its accession number, its Orthanc ID. One name may be that of several studies
(the same StudyInstanceUID under two patients): all of them are meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.appliance import credentials
from ddwd.errors import NotFoundError, PeerDownError
from ddwd.orthanc_api import Orthanc
from ddwd.state.proof import as_orthanc_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ddwd.config import Config
    from ddwd.model import OrthancId
    from ddwd.orthanc_api import OrthancPort
    from ddwd.state.proof import Prover

_PADDING = " \0"


def both(config: Config) -> tuple[Orthanc, Orthanc]:
    """Gateway and storage; no connection is made yet. Raises ConfigError where the credentials cannot be read."""
    login = credentials.read(config.credentials_file)
    gateway, storage = (
        Orthanc(node.name, node.url, *login.login(node.name)) for node in (config.gateway, config.storage)
    )
    return gateway, storage


def studies_named(text: str, nodes: Sequence[OrthancPort], prover: Prover) -> list[OrthancId]:
    """The studies of this name on either Orthanc or, if on none, among the published ones.

    Raises NotFoundError, StateError, and PeerDownError where one that does not answer might have known it.
    """
    name, silent = text.strip(_PADDING), None
    found: dict[OrthancId, None] = {}
    for node in nodes:
        try:
            found |= dict.fromkeys(_on(node, name))
        except PeerDownError as error:
            silent = error
    if not found and name:
        found |= dict.fromkeys(prover.matching(name, damaged_too=False))
    if found:
        return list(found)
    if silent is not None:
        raise silent
    raise NotFoundError(
        "no study on either Orthanc or on disk has this StudyInstanceUID, accession number or Orthanc ID"
    )


def _on(node: OrthancPort, name: str) -> list[OrthancId]:
    if not name:
        return []
    if (study := as_orthanc_id(name)) is not None:
        return [study] if node.study(study) is not None else []
    return [*node.find_study(name), *node.find_accession(name)]
