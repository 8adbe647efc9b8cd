"""No other user of the machine redirects or blocks what this process reads and writes, whatever is planted on the way."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ddwd.core import durable, safe_folder
from ddwd.core.errors import LinkedError

if TYPE_CHECKING:
    from collections.abc import Callable

OPEN_TO_OTHERS = 0o777
"""Stands for a folder of another user's: tests run as any user, who can give no folder away."""


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    """A folder whose names others can change."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(OPEN_TO_OTHERS)
    return folder


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder with a file that must stay as it is."""
    folder = tmp_path / "precious"
    folder.mkdir(mode=0o755)
    (folder / "file").write_text("precious", encoding="utf-8")
    (folder / "file").chmod(0o600)
    return folder


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Go as root does, whoever runs the tests: every folder is opened in the one above it."""
    monkeypatch.setattr(safe_folder, "_is_root", lambda: True)


def state(folder: Path) -> list[tuple[str, int, int, int, bytes]]:
    """Name, owner, group, mode and content of all that is in a folder."""
    found = []
    for path in [folder, *sorted(folder.rglob("*"))]:
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found.append((path.name, status.st_uid, status.st_gid, status.st_mode, content))
    return found


STEPS: dict[str, Callable[[Path], object]] = {
    "replace": lambda path: durable.replace_file(path, b"new", 0o644, exact_mode=True),
    "replace-volatile": lambda path: durable.replace_volatile(path, b"new"),
    "write": lambda path: durable.write_new(path, [b"new"]),
    "make-folders": lambda path: durable.make_dirs(path / "inner", 0o770, inherit=True),
    "unlink": durable.unlink,
    "fsync": lambda path: durable.fsync_dir(path.parent),
    "rename": lambda path: durable.rename(path, path.with_name("renamed")),
    "give": lambda path: safe_folder.give(path, os.geteuid(), os.getegid(), 0o666),
    "read": safe_folder.read,
}
"""Every step that takes a path, on `folder/file`."""


@pytest.mark.parametrize("step", STEPS)
def test_no_step_goes_through_a_link_in_a_folder_of_others(theirs: Path, precious: Path, step: str) -> None:
    (theirs / "way").symlink_to(precious)
    before = state(precious)
    with pytest.raises(LinkedError, match="find"):
        STEPS[step](theirs / "way" / "file")
    assert state(precious) == before


@pytest.mark.parametrize("step", STEPS)
def test_no_step_changes_what_a_link_in_place_of_the_file_points_to(
    theirs: Path, precious: Path, step: str
) -> None:
    (theirs / "file").symlink_to(precious / "file")
    before = state(precious)
    try:
        STEPS[step](theirs / "file")
    except (OSError, LinkedError) as error:
        assert step not in {"replace", "replace-volatile", "unlink"}, error
    assert state(precious) == before


@pytest.mark.parametrize("step", ["replace", "replace-volatile"])
def test_a_link_in_place_of_the_file_is_replaced_by_a_file(theirs: Path, precious: Path, step: str) -> None:
    (theirs / "file").symlink_to(precious / "file")
    STEPS[step](theirs / "file")
    assert not (theirs / "file").is_symlink()
    assert (theirs / "file").read_bytes() == b"new"


@pytest.mark.parametrize("replace", [durable.replace_file, durable.replace_volatile])
def test_a_link_in_place_of_the_unfinished_file_is_not_written_through(
    theirs: Path, precious: Path, replace: Callable[[Path, bytes], None]
) -> None:
    (theirs / f".file.{os.getpid()}.part").symlink_to(precious / "file")
    before = state(precious)
    replace(theirs / "file", b"new")
    assert state(precious) == before
    assert (theirs / "file").read_bytes() == b"new"


def test_the_unfinished_file_is_not_written_through_where_it_appears_at_the_last_moment(
    theirs: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = os.open

    def plant(path: Path | str, flags: int, *more: int, dir_fd: int | None = None) -> int:
        if flags & os.O_CREAT:
            (theirs / f".file.{os.getpid()}.part").symlink_to(precious / "file")
        return usual(path, flags, *more, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", plant)
    before = state(precious)
    with pytest.raises(FileExistsError):
        durable.replace_volatile(theirs / "file", b"new")
    assert state(precious) == before


@pytest.mark.parametrize("planted", ["pipe", "folder", "link to a pipe", "link to nowhere"])
def test_what_is_no_file_is_neither_read_nor_waited_for(theirs: Path, planted: str) -> None:
    path, pipe = theirs / "file", theirs / "elsewhere"
    os.mkfifo(pipe)
    puts: dict[str, Callable[[], None]] = {
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "link to a pipe": lambda: path.symlink_to(pipe),
        "link to nowhere": lambda: path.symlink_to("nowhere"),
    }
    puts[planted]()
    with pytest.raises((LinkedError, IsADirectoryError)):
        safe_folder.read(path)


def test_a_pipe_is_given_to_nobody(theirs: Path) -> None:
    os.mkfifo(theirs / "pipe")
    with pytest.raises(LinkedError):
        safe_folder.give(theirs / "pipe", os.geteuid(), os.getegid(), 0o666)


def test_a_link_that_no_other_user_could_have_put_is_followed(tmp_path: Path) -> None:
    volume, ours = tmp_path / "volume", tmp_path / "ours"
    volume.mkdir()
    ours.mkdir(mode=0o755)
    (ours / "absolute").symlink_to(volume)
    (ours / "relative").symlink_to("../volume")
    for number, name in enumerate(("absolute", "relative")):
        durable.replace_file(ours / name / f"{number}", b"new")
    assert sorted(path.name for path in volume.iterdir()) == ["0", "1"]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("one")
    with pytest.raises(OSError, match="one"):
        safe_folder.walk(tmp_path / "one" / "file")


def test_an_error_names_the_whole_path(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError) as caught:
        durable.write_new(tmp_path / "file", [b""])
    assert caught.value.filename == str(tmp_path / "file")


def test_a_new_folder_can_inherit_and_an_old_one_stays(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        durable.make_dirs(tmp_path / "new" / "inner", 0o770, inherit=True)
        tmp_path.chmod(0o700)
        durable.make_dirs(tmp_path, 0o770, inherit=True)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "inner").stat().st_mode) == 0o770
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_which_folder_on_the_way_is_open_to_others(theirs: Path, precious: Path) -> None:
    assert safe_folder.foreign(precious) is None
    (theirs / "mine").mkdir()
    assert safe_folder.foreign(theirs / "mine") == theirs / "mine"
    theirs.chmod(0o1777)  # as /tmp
    assert safe_folder.foreign(theirs / "mine") is None
    (precious / "link").symlink_to(theirs / "mine")
    theirs.chmod(0o777)
    assert safe_folder.foreign(precious / "link") == theirs / "mine"
    (theirs / "link").symlink_to(precious)
    assert safe_folder.foreign(theirs / "link" / "file") == theirs / "link"


def test_a_file_that_others_may_write_to_is_foreign(precious: Path) -> None:
    assert safe_folder.foreign(precious / "file") is None
    (precious / "file").chmod(0o664)
    assert safe_folder.foreign(precious / "file") == precious / "file"
    (precious / "file").chmod(0o644)
    assert safe_folder.foreign(precious / "file", ours={os.geteuid() + 1}) == Path("/")


# --- the kind, not the case -------------------------------------------------------------------------------------------

BY_PATH = frozenset(
    [
        "chmod",
        "chown",
        "hardlink_to",
        "link_to",
        "lchmod",
        "mkdir",
        "read_bytes",
        "read_text",
        "rmdir",
        "rmtree",
        "symlink_to",
        "touch",
        "unlink",
        "write_bytes",
        "write_text",
    ]
)
"""Methods of Path and functions of os and shutil that go by a path."""
ALLOWED = {
    "backup/archive.py": "the backup, below folders that only root can change",
    "backup/backup.py": "the backup, below folders that only root can change",
    "backup/copying.py": "by dir_fd; the backup, below folders that only root can change",
    "backup/files.py": "the lists of a backup, below folders that only root can change",
    "backup/restore.py": "by dir_fd; reads the backup",
    "backup/seal.py": "a key of root's, and the backup, below folders that only root can change",
    "cli/config.py": "settings and keys, in root's folders; /proc",
    "cli/support_bundle.py": "settings, in root's folders",
    "cli/tls.py": "by dir_fd",
    "config": "settings, in root's folders",
    "core/durable.py": "by dir_fd",
    "daemon": "no daemon runs as root",
    "dicom/store_scu.py": "files that the operator sends, or ddwd-inbox, in its own folder",
    "extractor/flow_control.py": "runs as ddwd, in its own folder",
    "extractor/router.py": "reads root's table",
    "extractor/spool.py": "reads what the extractor itself published",
    "hooks/dispatcher.py": "runs as ddwd-hooks, in its own folder",
    "inbox/processor.py": "runs as ddwd, in its own folder",
    "monitoring": "runs as ddwd, in its own folder",
    "orthanc/plugin": "runs as each Orthanc's user, in its own folder",
    "provisioning": "reads settings, passwords and certificates, in root's folders",
    "status/connections.py": "/proc; files of the package",
    "status/orthanc_checks.py": "reads what root rendered",
    "status/self_test.py": "reads what it made in a folder of its own",
    "status/system_info.py": "/proc",
    "store/ledger.py": "runs as ddwd, in its own folder",
    "store/postgres.py": "a password file, in root's folders",
    "store/pre_upgrade_copy.py": "runs as ddwd, in its own folder",
    "store/volume_names.py": "by dir_fd",
    "store/study_index.py": "`work` is the extractor's, in its own folder; readers use safe_folder",
    "store/statefile.py": "`write_status` is for daemons alone",
    "trial": "below folders that only the user of the trial can change",
    "chain": "the log's own service, in its own folder",
}
"""Where a call by path is right, and why; all else goes through safe_folder and durable."""


def _by_path(file: Path) -> set[str]:
    """Return the calls of a module that go by a path, but for those of durable."""
    functions = (
        node.func for node in ast.walk(ast.parse(file.read_bytes()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    )  # fmt: skip
    return {
        function.attr
        for function in functions
        if function.attr in BY_PATH
        and not (isinstance(function.value, ast.Name) and function.value.id == "durable")
    }


def test_nothing_goes_by_a_path_where_another_user_may_have_put_something() -> None:
    package = Path(durable.__file__).parents[1]
    modules = {file.relative_to(package).as_posix(): _by_path(file) for file in package.rglob("*.py")}
    by_path = {name for name, calls in modules.items() if calls}
    allowed = {name for name in by_path for place in ALLOWED if name == place or name.startswith(f"{place}/")}
    assert by_path == allowed
    assert [place for place in ALLOWED if not any(name.startswith(place) for name in by_path)] == []
