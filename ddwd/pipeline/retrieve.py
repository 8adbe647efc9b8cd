"""Third stage: have ORTHANC2 send what the disk lacks to our SCP by C-MOVE, and take over what came. Runs in worker threads.

The truth is what lies in the spool and proves equal to ORTHANC2's copy; the status of a C-MOVE is only a hint (an Orthanc can
report success with nothing sent). A block that did not come whole is asked for again in halves, so one bad image never keeps
the others back; before one is blamed, an image that is known to be sound is moved the same way, to prove the way open.
Everything here may be interrupted anywhere and done again.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ddwd import durable
from ddwd.errors import DdwdError, NotFoundError, PeerDownError, PeerRefusedError
from ddwd.model import OrthancId, Wanted, safe_component
from ddwd.pipeline.quarantine import Subject
from ddwd.pipeline.verify import difference_of
from ddwd.state.custody import Kept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ddwd.model import Study
    from ddwd.orthanc_api import OrthancPort
    from ddwd.paths import Paths
    from ddwd.pipeline.mend import Mender
    from ddwd.pipeline.publish import Publisher
    from ddwd.pipeline.quarantine import Quarantine
    from ddwd.pipeline.verify import Verdict, Verifier

_DIGEST_DIGITS = 16
"""Hexadecimal digits of the SHA-256 in a spool file's name (dicom/store_scp.py)."""


class MoverPort(Protocol):
    """One C-MOVE at image level, from ORTHANC2 to our SCP."""

    def move(self, study: Study, sop_uids: Sequence[str], alive: Callable[[], None]) -> str:
        """Ask for the instances and wait for the end; what the peer said when it was not success, else nothing.

        Calls `alive` at each sign of progress. Raises PeerDownError where the peer cannot be spoken to.
        """

    def scp_answers(self) -> bool:
        """Tell whether our SCP answers a C-ECHO: an image is blamed only while the way is open."""


@dataclass
class Fetched:
    """What one round brought: images verified and staged, and why the others did not come.

    `blamed` are those of the failed that did not come although the way was open.
    """

    kept: list[Kept] = field(default_factory=list)
    failed: dict[OrthancId, str] = field(default_factory=dict)
    blamed: set[OrthancId] = field(default_factory=set)


@dataclass
class _Round:
    """One call of `fetch`: what it is about, and what it has brought so far."""

    study: Study
    control: str
    alive: Callable[[], None]
    found: Fetched = field(default_factory=Fetched)
    is_open: bool | None = None


class Retriever:
    """Fetches, verifies and stages instances of one study at a time; safe to use from several threads."""

    def __init__(
        self,
        paths: Paths,
        storage: OrthancPort,
        mover: MoverPort,
        verifier: Verifier,
        publisher: Publisher,
        quarantine: Quarantine,
        mender: Mender,
    ) -> None:
        self._paths = paths
        self._storage = storage
        self._mover = mover
        self._verifier = verifier
        self._publisher = publisher
        self._quarantine = quarantine
        self._mender = mender

    def fetch(
        self, study: Study, missing: Iterable[OrthancId], alive: Callable[[], None], control: str = ""
    ) -> Fetched:
        """Bring the instances from ORTHANC2 to staging; first looks at what is already on this disk.

        `control` is the SOPInstanceUID of an image of the study that came before, if there is one.
        Raises PeerDownError, StorageFullError and OSError; what was staged before stays staged.
        """
        this = _Round(study, control, alive)
        lacking = self._take_over(this, self._name(study, missing))
        if lacking:
            self._ask(this, lacking)
        return this.found

    def _name(self, study: Study, missing: Iterable[OrthancId]) -> list[Wanted]:
        """Look up the UIDs that a C-MOVE needs; instances that are gone from storage are left out."""
        uids = self._storage.sop_uids(missing)
        return sorted(
            (Wanted(one, study.series_of[one], uid) for one, uid in uids.items()),
            key=lambda wanted: (wanted.series_uid, wanted.sop_uid),
        )

    def _ask(self, this: _Round, block: list[Wanted]) -> None:
        refusal = self._mover.move(this.study, [one.sop_uid for one in block], this.alive)
        lacking = self._take_over(this, block)
        if not lacking:
            return
        if len(lacking) == len(block) and not self._mover.scp_answers():
            raise PeerDownError("the SCP does not answer, so ORTHANC2 cannot deliver")
        if len(block) == 1:
            self._note_failure(this, lacking[0], refusal)
            return
        half = (len(lacking) + 1) // 2
        for part in (lacking[:half], lacking[half:]):
            if part:
                self._ask(this, part)

    def _note_failure(self, this: _Round, one: Wanted, refusal: str) -> None:
        if self._mender.mend(this.study.study_uid, one.orthanc_id):
            this.found.failed[one.orthanc_id] = "storage had lost its file; the gateway sends it again"
            return
        reason = refusal or "ORTHANC2 reported success, and no sound file came"
        this.found.failed.setdefault(one.orthanc_id, reason)
        if this.is_open is None:
            this.is_open = self._is_open(this)
        if this.is_open:
            this.found.blamed.add(one.orthanc_id)

    def _is_open(self, this: _Round) -> bool:
        """Move an image that is known to be sound; whether it came."""
        if not this.control:
            return False
        before = self._arrivals(this)
        self._mover.move(this.study, [this.control], this.alive)
        return bool(self._arrivals(this) - before)

    def _arrivals(self, this: _Round) -> set[int]:
        """Inodes of the control's spool files: the same content coming again is a new file under the old name."""
        return {path.stat().st_ino for path in self._spooled(this.study)[safe_component(this.control)]}

    def _take_over(self, this: _Round, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Verify and stage what is on this disk; the instances that are still lacking."""
        spooled = self._spooled(this.study)
        lacking = []
        for one in wanted:
            this.alive()
            if not self._take_over_one(this, one, spooled):
                lacking.append(one)
        return lacking

    def _take_over_one(self, this: _Round, one: Wanted, spooled: dict[str, list[Path]]) -> bool:
        study, found = this.study, this.found
        for path in (
            self._publisher.staged(study.orthanc_id, one.file),
            self._publisher.final(study, one.file),
        ):
            if path.exists() and (kept := self._compare(this, path, one)):
                found.kept.append(kept)
                return True
        for path in spooled[safe_component(one.sop_uid)]:
            if kept := self._compare(this, path, one):
                self._publisher.stage(path, study.orthanc_id, one)
                found.kept.append(kept)
                return True
        return False

    def _compare(self, this: _Round, path: Path, one: Wanted) -> Kept | None:
        """What was proved where the file is what storage holds; otherwise None, and the reason is noted."""
        failed = this.found.failed
        try:
            verdict = self._verifier.compare(path, one.orthanc_id, this.alive)
        except NotFoundError:
            failed[one.orthanc_id] = "storage no longer holds it"
            return None
        if not verdict.is_sound:
            failed[one.orthanc_id] = f"what came is not what storage holds: {verdict.reason}"
            return None
        at_gateway = self._keep_other(this.study, path, one, verdict)
        failed.pop(one.orthanc_id, None)
        return _kept(one, verdict, at_gateway=at_gateway)

    def _keep_other(self, study: Study, path: Path, one: Wanted, verdict: Verdict) -> bool:
        """Where the gateway holds other content than storage, it was acknowledged too: it is kept in quarantine.

        Whether the gateway holds the instance at all.
        """
        at_gateway, other = self._verifier.at_gateway(path, one.orthanc_id, verdict.md5)
        if other is not None:
            reason = "the gateway holds other content under this UID than storage, which was first there"
            self._quarantine.keep(
                other,
                Subject("conflict", study.study_uid, reason, study.orthanc_id, one.orthanc_id, one.sop_uid),
            )
        return at_gateway

    def _spooled(self, study: Study) -> dict[str, list[Path]]:
        """What the SCP acknowledged for this StudyInstanceUID, by encoded SOPInstanceUID."""
        found: dict[str, list[Path]] = defaultdict(list)
        folder = self._paths.spool / safe_component(study.study_uid)
        if folder.is_dir():
            for path in folder.iterdir():
                found[_uid_of(path)].append(path)
        return found

    def clear_spool(self, study: Study, kept: dict[OrthancId, Kept], *, others: bool) -> None:
        """Empty the study's spool once it is published: repeats of a kept image are dropped, strangers kept in quarantine.

        `others` is True while another study in flight has the same StudyInstanceUID: what is not ours may be its own.
        """
        folder = self._paths.spool / safe_component(study.study_uid)
        if not folder.is_dir():
            return
        digests = {one.sha256[:_DIGEST_DIGITS] for one in kept.values()}
        files = {safe_component(one.sop_uid): one for one in kept.values()}
        for path in folder.iterdir():
            if path.name.rsplit(".", 2)[-2] in digests:
                durable.unlink(path)
            elif not others:
                self._put_away(study, path, files.get(_uid_of(path)))
        durable.remove_folder(folder)

    def _published(self, study: Study, spooled: Path) -> Iterator[Path]:
        """Files of this SOPInstanceUID under this StudyInstanceUID, by whatever patient: a C-MOVE brings those of all.

        Raises PeerDownError and PeerRefusedError.
        """
        for one in self._storage.find_study(study.study_uid):
            if (namesake := self._storage.study(one)) is None:
                continue
            for series in namesake.series:
                file = Wanted(one, series.series_uid, "").file
                path = self._publisher.final(namesake, file).with_name(f"{_uid_of(spooled)}.dcm")
                if path.exists():
                    yield path

    def _put_away(self, study: Study, path: Path, ours: Kept | None) -> None:
        """A file of the spool that no image was made of: what is published already, encoded otherwise or not, or other content."""
        try:
            if any(not difference_of(path, there.read_bytes()) for there in self._published(study, path)):
                durable.unlink(path)
                return
        except (PeerDownError, PeerRefusedError):
            return  # found again by the sweep for leftovers
        reason = "the SCP acknowledged it, and it is not what ORTHANC2 holds of this study"
        self._quarantine.put(
            path,
            Subject("stray", study.study_uid, reason, study.orthanc_id, sop_uid=ours.sop_uid if ours else ""),
        )


def _uid_of(spooled: Path) -> str:
    """The encoded SOPInstanceUID in a spool file's name."""
    return spooled.name[: -len(".dcm") - _DIGEST_DIGITS - 1]


def _kept(one: Wanted, verdict: Verdict, *, at_gateway: bool) -> Kept:
    return Kept(
        orthanc_id=one.orthanc_id,
        sop_uid=one.sop_uid,
        file=one.file,
        size=verdict.size,
        sha256=verdict.sha256,
        md5=verdict.md5,
        verdict=verdict.kind,
        at_gateway=at_gateway,
    )


def reason_of(error: BaseException) -> str:
    """One line for people; our own errors carry one, an operating system's error names no path here."""
    return str(error) if isinstance(error, DdwdError) else type(error).__name__
