"""Third stage: have ORTHANC2 send what the disk lacks to our SCP by C-MOVE, and take over what came. Runs in worker threads.

The truth is what lies in the spool and proves equal to ORTHANC2's copy; the status of a C-MOVE is only a hint (an Orthanc can
report success with nothing sent). A block that did not come whole is asked for again in halves, so one bad image never keeps
the others back. Everything here may be interrupted anywhere and done again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ddwd import durable
from ddwd.errors import DdwdError, NotFoundError, PeerDownError
from ddwd.model import OrthancId, Wanted, safe_component
from ddwd.state.custody import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from ddwd.model import Study
    from ddwd.orthanc_api import OrthancPort
    from ddwd.paths import Paths
    from ddwd.pipeline.publish import Publisher
    from ddwd.pipeline.verify import Verdict, Verifier

_DIGEST_DIGITS = 16
"""Hexadecimal digits of the SHA-256 in a spool file's name (dicom/store_scp.py)."""


class MoverPort(Protocol):
    """One C-MOVE at image level, from ORTHANC2 to our SCP."""

    def move(self, study: Study, wanted: Sequence[Wanted], alive: Callable[[], None]) -> str:
        """Ask for the instances and wait for the end; what the peer said when it was not success, else nothing.

        Calls `alive` at each sign of progress. Raises PeerDownError where the peer cannot be spoken to.
        """

    def scp_answers(self) -> bool:
        """Tell whether our SCP answers a C-ECHO: an image is blamed only while the way is open."""


@dataclass
class Fetched:
    """What one round brought: images verified and staged, and why the others did not come."""

    kept: list[Kept] = field(default_factory=list)
    failed: dict[OrthancId, str] = field(default_factory=dict)


class Retriever:
    """Fetches, verifies and stages instances of one study at a time; safe to use from several threads."""

    def __init__(
        self, paths: Paths, storage: OrthancPort, mover: MoverPort, verifier: Verifier, publisher: Publisher
    ) -> None:
        self._paths = paths
        self._storage = storage
        self._mover = mover
        self._verifier = verifier
        self._publisher = publisher

    def fetch(self, study: Study, missing: Iterable[OrthancId], alive: Callable[[], None]) -> Fetched:
        """Bring the instances from ORTHANC2 to staging; first looks at what is already on this disk.

        Raises PeerDownError, StorageFullError and OSError; what was staged before stays staged.
        """
        found = Fetched()
        wanted = self._name(study, missing)
        lacking = self._take_over(study, wanted, found, alive)
        if lacking:
            self._ask(study, lacking, found, alive)
        return found

    def _name(self, study: Study, missing: Iterable[OrthancId]) -> list[Wanted]:
        """Look up the UIDs that a C-MOVE needs; instances that are gone from storage are left out."""
        uids = self._storage.sop_uids(missing)
        return sorted(
            (Wanted(one, study.series_of[one], uid) for one, uid in uids.items()),
            key=lambda wanted: (wanted.series_uid, wanted.sop_uid),
        )

    def _ask(self, study: Study, block: list[Wanted], found: Fetched, alive: Callable[[], None]) -> None:
        refusal = self._mover.move(study, block, alive)
        lacking = self._take_over(study, block, found, alive)
        if not lacking:
            return
        if len(lacking) == len(block) and not self._mover.scp_answers():
            raise PeerDownError("the SCP does not answer, so ORTHANC2 cannot deliver")
        if len(block) == 1:
            reason = refusal or "ORTHANC2 reported success, and no sound file came"
            found.failed.setdefault(lacking[0].orthanc_id, reason)
            return
        half = (len(lacking) + 1) // 2
        for part in (lacking[:half], lacking[half:]):
            if part:
                self._ask(study, part, found, alive)

    def _take_over(
        self,
        study: Study,
        wanted: Sequence[Wanted],
        found: Fetched,
        alive: Callable[[], None],
    ) -> list[Wanted]:
        """Verify and stage what is on this disk; the instances that are still lacking."""
        spooled = self._spooled(study)
        lacking = []
        for one in wanted:
            alive()
            if not self._take_over_one(study, one, spooled, found):
                lacking.append(one)
        return lacking

    def _take_over_one(
        self,
        study: Study,
        one: Wanted,
        spooled: dict[str, list[Path]],
        found: Fetched,
    ) -> bool:
        for path in (
            self._publisher.staged(study.orthanc_id, one.file),
            self._publisher.final(study, one.file),
        ):
            if path.exists() and (verdict := self._compare(path, one, found)):
                found.kept.append(_kept(one, verdict))
                return True
        for path in spooled[safe_component(one.sop_uid)]:
            if verdict := self._compare(path, one, found):
                self._publisher.stage(path, study.orthanc_id, one)
                found.kept.append(_kept(one, verdict))
                return True
        return False

    def _compare(self, path: Path, one: Wanted, found: Fetched) -> Verdict | None:
        """The verdict where the file is what storage holds; otherwise None, and the reason is noted."""
        try:
            verdict = self._verifier.compare(path, one.orthanc_id)
        except NotFoundError:
            found.failed[one.orthanc_id] = "storage no longer holds it"
            return None
        if verdict.is_sound:
            found.failed.pop(one.orthanc_id, None)
            return verdict
        found.failed[one.orthanc_id] = f"what came is not what storage holds: {verdict.reason}"
        return None

    def _spooled(self, study: Study) -> dict[str, list[Path]]:
        """What the SCP acknowledged for this StudyInstanceUID, by encoded SOPInstanceUID."""
        found: dict[str, list[Path]] = defaultdict(list)
        folder = self._paths.spool / safe_component(study.study_uid)
        if folder.is_dir():
            for path in folder.iterdir():
                found[path.name[: -len(".dcm") - _DIGEST_DIGITS - 1]].append(path)
        return found

    def clear_spool(self, study: Study, kept: dict[OrthancId, Kept]) -> list[Path]:
        """Drop spool files that repeat a kept image byte for byte; what is left of the study's spool."""
        folder = self._paths.spool / safe_component(study.study_uid)
        if not folder.is_dir():
            return []
        digests = {one.sha256[:_DIGEST_DIGITS] for one in kept.values()}
        left = []
        for path in folder.iterdir():
            if path.name.rsplit(".", 2)[-2] in digests:
                durable.unlink(path)
            else:
                left.append(path)
        if not left:
            self._remove(folder)
        return left

    @staticmethod
    def _remove(folder: Path) -> None:
        try:
            folder.rmdir()
        except OSError:  # the SCP has just put another object in: it is found on the next round
            return


def _kept(one: Wanted, verdict: Verdict) -> Kept:
    return Kept(
        orthanc_id=one.orthanc_id,
        sop_uid=one.sop_uid,
        file=one.file,
        size=verdict.size,
        sha256=verdict.sha256,
        md5=verdict.md5,
        verdict=verdict.kind,
    )


def reason_of(error: BaseException) -> str:
    """One line for people; our own errors carry one, an operating system's error names no path here."""
    return str(error) if isinstance(error, DdwdError) else type(error).__name__
