"""What lies in spool and staging although no study in flight wants it: found at each sweep, taken up again or put in quarantine.

A kill can leave files of a study that was closed in the same moment, and anyone on this machine may send to our SCP. What was
acknowledged is never thrown away: where an Orthanc knows the study it is opened again, and its own end cleans up; the rest
goes to quarantine. A folder counts as left over when two sweeps in a row find it unwanted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.core import durable
from ddwd.core.model import OrthancId, identifier_of, safe_component
from ddwd.extractor.quarantine import Subject

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from ddwd.config.paths import Paths
    from ddwd.core.model import Study
    from ddwd.extractor.quarantine import Quarantine
    from ddwd.orthanc.client import OrthancPort


_UNKNOWN = "the SCP acknowledged it, and no Orthanc knows its study"
_DELETED = "its study was deleted on both Orthancs before it was published"


class OrphanSweeper:
    """Remembers from one sweep to the next what nobody wanted."""

    def __init__(self, paths: Paths, nodes: tuple[OrthancPort, OrthancPort], quarantine: Quarantine) -> None:
        self._paths = paths
        self._nodes = nodes
        self._quarantine = quarantine
        self._unwanted: frozenset[Path] = frozenset()

    def sweep(self, ids: Collection[OrthancId], study_uids: Collection[str]) -> list[OrthancId]:
        """Deal with what is left over, given the studies in flight; those that must be opened again.

        Raises PeerDownError, PeerRefusedError, StorageFullError and OSError; it is then simply done at the next sweep.
        """
        uids = {safe_component(uid) for uid in study_uids}
        spooled = {folder for folder in _folders(self._paths.spool) if folder.name not in uids}
        staged = {folder for folder in _folders(self._paths.staging) if folder.name not in ids}
        before, self._unwanted = self._unwanted, frozenset(spooled | staged)
        reopened: list[OrthancId] = []
        for folder in spooled & before:
            study_uid = identifier_of(folder.name) or folder.name
            found = [study for node in self._nodes for study in node.find_study(study_uid)]
            reopened += found
            if not found:
                self._put_away(folder, Subject("stray", study_uid, _UNKNOWN))
        for folder in staged & before:
            study = self._known(OrthancId(folder.name))
            if study is None:
                self._put_away(folder, Subject("vanished", folder.name, _DELETED, OrthancId(folder.name)))
            else:
                reopened.append(study.orthanc_id)
        return list(dict.fromkeys(reopened))

    def _known(self, study: OrthancId) -> Study | None:
        for node in self._nodes:
            if (found := node.study(study)) is not None:
                return found
        return None

    def vanished(self, study: Study, reason: str) -> int:
        """Put everything that came of a study in quarantine, for it is on no Orthanc any more; the number of files.

        Raises StorageFullError and OSError.
        """
        subject = Subject("vanished", study.study_uid, reason, study.orthanc_id)
        folders = (
            self._paths.staging / study.orthanc_id,
            self._paths.spool / safe_component(study.study_uid),
        )
        return sum(self._put_away(folder, subject) for folder in folders if folder.is_dir())

    def _put_away(self, folder: Path, subject: Subject) -> int:
        """Move all images below a folder to quarantine, and remove what is empty then; the number of files."""
        files = sorted(path for path in folder.rglob("*.dcm") if not path.is_symlink())
        for path in files:
            self._quarantine.put(path, subject)
        for inner in [*sorted(folder.rglob("*"), reverse=True), folder]:
            if inner.is_dir():
                durable.remove_folder(inner, self._paths.output)
        return len(files)


def _folders(parent: Path) -> Iterable[Path]:
    """The folders in one of ours. A link to one is none: the portal makes no links, and what a planted one leads to is not ours."""
    inner = parent.iterdir() if parent.is_dir() else ()
    return [path for path in inner if path.is_dir() and not path.is_symlink()]
