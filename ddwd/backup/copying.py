"""Copy the trees of a backup, and reuse the copies of the backup before.

A file is not read again if the backup before has it and its inode has not changed since that backup began: no program but root's can set
the time of that change (ctime). It becomes a second name of the earlier copy, which is root's own, and the earlier set is removed at
the end. A thirtieth of these copies is read at each backup and held against its checksum, so that each is read once in thirty.
Anything else is read and compared.
"""

from __future__ import annotations

import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ddwd.backup import archive, files, seal
from ddwd.backup.archive import Sum
from ddwd.core import durable, safe_folder
from ddwd.core.errors import NotFoundError

if TYPE_CHECKING:
    from ddwd.backup.archive import Manifest, Tree
    from ddwd.backup.files import Content, Lookup, Progress, TreeFile

CHECKS = 30
"""In so many backups each copy that is kept is read once."""
_MARGIN_NS = 2 * 10**9
"""The clock of a file system may be behind that of the machine."""


class Kept(NamedTuple):
    """A copy of the signed backup before: its path, the checksum that it must have, and whether its source has not changed since."""

    path: Path
    sha256: str
    is_unchanged: bool


@dataclass(frozen=True, slots=True)
class Signed:
    """The backup before, of which a signed list has every file."""

    folder: Path
    manifest: Manifest

    def lookup(self, tree: Tree) -> Lookup | None:
        """Return the checksums of the copies of a tree, None if it has not the tree."""
        path = self.folder / archive.LISTS / tree.name
        return files.Lookup(files.entries(path, tree.name)) if tree.name in self.manifest.lists else None

    def kept(self, tree: Tree, found: TreeFile, sha256: str) -> Kept:
        """Return the copy of a file that the list has."""
        began = int(datetime.fromisoformat(self.manifest.began).timestamp() * 10**9)
        is_old = found.status.st_ctime_ns < began - _MARGIN_NS
        is_unchanged = is_old and f"{tree.name}/{found.below}" not in self.manifest.changed
        return Kept(self.folder / tree.name / found.below, sha256, is_unchanged)


@dataclass(frozen=True, slots=True)
class Earlier:
    """The copies of earlier runs: of the signed backup before, and of sets whose copies prove nothing by themselves."""

    signed: Signed | None = None
    unproven: tuple[Path, ...] = ()

    @property
    def turn(self) -> int:
        """The number of this backup."""
        return self.signed.manifest.turn + 1 if self.signed else 0

    @property
    def sets(self) -> tuple[Path, ...]:
        """The folders of the copies, the signed one first."""
        return (*((self.signed.folder,) if self.signed else ()), *self.unproven)

    def is_due(self, sha256: str) -> bool:
        """Return whether a copy that is kept is read at this backup."""
        return int(sha256[:8], 16) % CHECKS == self.turn % CHECKS

    def likely(self, tree: Tree, found: TreeFile) -> list[Path]:
        """Return the copies of that size which are private to root."""
        size = found.status.st_size
        return [path for one in self.sets if _is_own(path := one / tree.name / found.below, size)]


def earlier_of(folder: Path, cut: tuple[Path, ...], key: Path) -> Earlier:
    """Return the copies in the folder of a backup: without the signature of this machine, or with lists that were changed, they prove nothing."""
    try:
        manifest, text = archive.read_manifest(folder)
    except NotFoundError:
        return Earlier(unproven=cut)
    before = folder / manifest.set
    is_proven = seal.is_signed(folder, manifest, text, seal.own(key)) and all(
        (content := files.digest_of(before / archive.LISTS / tree)) is not None and content.sha256 == sha256
        for tree, sha256 in manifest.lists.items()
    )
    return Earlier(Signed(before, manifest), cut) if is_proven else Earlier(unproven=(before, *cut))


def _is_own(path: Path, size: int) -> bool:
    """Return whether a file is a copy of that size which only this user can read and write: 0.2.0 has linked files of the Orthancs."""
    try:
        status = path.lstat()
    except OSError:
        return False
    is_private = status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o077
    return stat.S_ISREG(status.st_mode) and is_private and status.st_size == size


@dataclass
class Outcome:
    """What the copying found: bytes written, files of fixed trees that differ from their copies, and copies that were not as listed."""

    copied: int = 0
    changed: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


class TreeCopy:
    """The copying of one tree into a set."""

    def __init__(
        self, tree: Tree, earlier: Earlier, target: Path, outcome: Outcome, progress: Progress
    ) -> None:
        self._tree = tree
        self._earlier = earlier
        self._target = target
        self._outcome = outcome
        self._progress = progress
        self._list = target / archive.LISTS / tree.name

    def run(self) -> tuple[Sum, str]:
        """Copy all files and write their list; return their sum and the SHA-256 of the list."""
        signed, folder = self._earlier.signed, self._target / self._tree.name
        lookup = signed.lookup(self._tree) if signed else None
        folder.mkdir(mode=0o700)
        count = size = 0
        with files.ListWriter(self._list, self._tree.name) as writer:
            for found in files.files(self._tree.folder, self._tree.left_out):
                target = self._target / self._tree.name / found.below
                if target.parent != folder:
                    folder = target.parent
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                sha256 = lookup.sha256(found.below) if lookup else None
                kept = signed.kept(self._tree, found, sha256) if signed and sha256 else None
                content = self._file(found, kept, target)
                if content is not None:
                    writer.add(found.below, content.sha256)
                    count, size = count + 1, size + content.size
            return Sum(count, size), writer.sha256

    def discard(self) -> None:
        """Remove the copy of the tree, to make it again."""
        shutil.rmtree(self._target / self._tree.name)
        self._list.unlink()

    def _file(self, found: TreeFile, kept: Kept | None, target: Path) -> Content | None:
        """Link or copy one file; return size and SHA-256 of the copy, or None if the file was removed meanwhile."""
        size = found.status.st_size
        if kept and kept.is_unchanged and self._is_whole(found, kept) and _link(kept.path, target):
            self._progress.moved(size)
            return files.Content(size, kept.sha256)
        try:
            source = os.open(Path(found.below).name, safe_folder.FILE, dir_fd=found.folder)
        except FileNotFoundError:
            return None
        with os.fdopen(source, "rb") as file:
            if not stat.S_ISREG(os.fstat(source).st_mode):  # it was one a moment ago
                return None
            same = self._same(found, kept, file.fileno())
            if same is not None and _link(same[0], target):
                self._progress.moved(size)
                return same[1]
            return write(file.fileno(), target, self._outcome, self._progress)

    def _is_whole(self, found: TreeFile, kept: Kept) -> bool:
        """Return whether the copy of an unchanged file is as listed; its bytes are read when they are due."""
        is_whole = _is_own(kept.path, found.status.st_size)
        if is_whole and self._earlier.is_due(kept.sha256):
            content = files.digest_of(kept.path)
            is_whole = content is not None and content.sha256 == kept.sha256
        if not is_whole:
            self._note(self._outcome.damaged, found)
        return is_whole

    def _same(self, found: TreeFile, kept: Kept | None, source: int) -> tuple[Path, Content] | None:
        """Return an earlier copy with the same content; of a fixed tree the copy that the list has, whatever the file is now."""
        if self._tree.fixed and kept is not None:
            content = files.digest_of(kept.path)
            if files.digest(source).sha256 != kept.sha256:
                self._note(self._outcome.changed, found)
            if content is not None and content.sha256 == kept.sha256:
                return kept.path, content
            self._note(self._outcome.damaged, found)
            return None
        likely = self._earlier.likely(self._tree, found)
        content = files.digest(source) if likely else None
        return next(
            ((path, content) for path in likely if content and files.digest_of(path) == content), None
        )

    def _note(self, notes: list[str], found: TreeFile) -> None:
        name = f"{self._tree.name}/{found.below}"
        if name not in notes[-1:]:
            notes.append(name)


def write(source: int, target: Path, outcome: Outcome, progress: Progress) -> Content:
    """Copy an open file to a new one with the same times, which belongs to root alone."""
    with durable.translated(), files.opened(target, durable.NEW, 0o600) as descriptor:
        content = files.copy(source, descriptor, progress)
        status = os.fstat(source)
        os.utime(descriptor, ns=(status.st_atime_ns, status.st_mtime_ns))
    outcome.copied += content.size
    return content


def _link(copy: Path, target: Path) -> bool:
    """Give an earlier copy another name; return False if the file system has no links or no more of them."""
    with suppress(OSError):
        os.link(copy, target, follow_symlinks=False)
        return True
    return False
