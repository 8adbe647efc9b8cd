"""A backup proves itself: its files are root's own, each has a checksum that is signed, and what is changed here or there is named."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ddwd.backup import archive, copying, files, restore, seal
from ddwd.backup.backup import back_up
from ddwd.core.errors import DdwdError, InvalidValueError, StateError
from tests.depth import spread
from tests.unit.test_backup import SCHEMAS, Portal, Quiet, portal

__all__ = ["portal"]

IMAGE = "gateway/01/23/0123-uuid"
LATER = 10**10
"""Seconds: every file of the test is older than a backup of then, as nearly every file is in earnest."""


def image(portal: Portal) -> Path:
    return portal.paths.storage_area("gateway") / "01/23/0123-uuid"


def change_ten_bytes(path: Path) -> None:
    """As somebody does who hides it: size and mtime stay."""
    status, content = path.stat(), bytearray(path.read_bytes())
    for at in range(min(10, len(content))):
        content[at] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def copies(portal: Portal, made: archive.Manifest) -> dict[str, Path]:
    folder = portal.backups / made.set
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(autouse=True)
def no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many backups in a row, and no page cache is lost here."""
    monkeypatch.setattr("os.sync", lambda: None)


# --- the copies -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("advance", [0, LATER])
def test_no_copy_is_a_name_of_a_file_of_the_portal_and_all_belong_to_root_alone(
    portal: Portal, advance: int
) -> None:
    portal.clock.advance(advance)
    portal.back_up(output=True)
    made = portal.back_up(output=True).manifest
    own = {path.stat().st_ino for path in portal.root.rglob("*") if path.is_file()}
    for path in copies(portal, made).values():
        status = path.stat()
        assert status.st_ino not in own
        assert (status.st_uid, status.st_mode & 0o777, status.st_nlink) == (os.geteuid(), 0o600, 1)


def test_where_the_file_system_can_the_copy_shares_the_blocks_and_is_no_link(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shares(target: int, request: int, source: int) -> None:
        assert request == 0x40049409
        os.write(target, os.pread(source, 10**6, 0))

    monkeypatch.setattr("fcntl.ioctl", shares)
    made = portal.back_up().manifest
    copy = copies(portal, made)[IMAGE]
    assert copy.read_bytes() == image(portal).read_bytes()
    assert copy.stat().st_ino != image(portal).stat().st_ino
    assert restore.problems(portal.open(), Quiet()) == []


def test_a_copy_stays_as_it_was_when_an_orthanc_writes_into_its_file(portal: Portal) -> None:
    made = portal.back_up().manifest
    change_ten_bytes(image(portal))
    assert copies(portal, made)[IMAGE].read_text(encoding="utf-8") == "an image of gateway"
    portal.open()


def test_of_unchanged_files_a_further_run_reads_the_thirtieth_part_of_the_copies_and_no_image(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.clock.advance(LATER)
    for number in range(90):
        portal.write(portal.paths.storage_area("storage") / f"{number % 7}/{number}", f"image {number}")
    portal.back_up()
    read: list[str] = []
    digest = files.digest

    def counted(file: int, *others: object) -> object:
        read.append(str(Path(f"/proc/self/fd/{file}").readlink()))
        return digest(file, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(files, "digest", counted)
    for _ in range(copying.CHECKS):
        portal.back_up()
    area, folder = str(portal.paths.storage_area("storage")), str(portal.backups)
    assert not [path for path in read if path.startswith(area)]
    assert len([path for path in read if path.startswith(folder) and "/storage/" in path]) == 91


def test_names_of_any_kind_come_back_and_sha256sum_reads_the_lists(portal: Portal) -> None:
    names = ["a b", "new\nline", "back\\slash", "return\r", "-n", "\udcff\udcfe", "z/a", "z.b", "z/a b/c"]
    for name in names:
        portal.write(portal.paths.quarantine / name, name.encode("utf-8", "replace").decode())
    before = portal.files()
    portal.back_up(output=True)
    made = portal.back_up(output=True).manifest
    lists = [path for path in (portal.backups / made.set / archive.LISTS).iterdir() if path.stat().st_size]
    argv = ["sha256sum", "--check", "--strict", "--quiet", *map(str, lists)]
    subprocess.run(argv, check=True, cwd=portal.backups / made.set)
    portal.destroy()
    portal.restore()
    assert portal.files() == before


def test_openssl_alone_checks_the_signature(portal: Portal) -> None:
    made = portal.back_up()
    argv = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", seal.PUBLIC_KEY, "-rawin", "-in"]
    argv += [archive.MANIFEST, "-sigfile", f"{made.manifest.set}/{seal.SIGNATURE}"]
    subprocess.run(argv, check=True, cwd=portal.backups)
    assert portal.key.stat().st_mode & 0o777 == 0o400
    assert portal.key.parent.stat().st_mode & 0o777 == 0o700
    assert portal.key.read_bytes() not in [
        path.read_bytes() for path in portal.backups.rglob("*") if path.is_file()
    ]


# --- what is changed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("advance", [0, LATER])
def test_ten_bytes_changed_in_the_backup_are_named_by_a_restore(portal: Portal, advance: int) -> None:
    portal.clock.advance(advance)
    made = portal.back_up().manifest
    for name in (IMAGE, "custody/ab/ab.json", "databases/gateway.dump"):
        change_ten_bytes(copies(portal, made)[name])
    (portal.backups / made.set / "storage/01/23/0123-uuid").unlink()
    (portal.backups / made.set / "ledger/planted").write_text("x", encoding="utf-8")
    backup = open_it(portal)
    assert sorted(restore.problems(backup, Quiet())) == [
        "custody/ab/ab.json is changed",
        "databases/gateway.dump is changed",
        f"{IMAGE} is changed",
        "ledger/planted is not in the manifest",
        "storage/01/23/0123-uuid is missing",
    ]
    with pytest.raises(StateError, match="and 4 more, which --dry-run names; nothing was restored"):
        restore.assert_whole(backup, Quiet())


def test_ten_bytes_changed_in_the_backup_are_named_within_thirty_runs_and_copied_again(
    portal: Portal,
) -> None:
    portal.clock.advance(LATER)
    made = portal.back_up().manifest
    change_ten_bytes(copies(portal, made)[IMAGE])
    found = [portal.back_up() for _ in range(copying.CHECKS)]
    assert [one.damaged for one in found if one.damaged] == [(IMAGE,)]
    assert restore.problems(portal.open(), Quiet()) == []


def test_a_copy_that_is_gone_or_shorter_is_named_by_the_next_run(portal: Portal) -> None:
    portal.clock.advance(LATER)
    made = portal.back_up().manifest
    copies(portal, made)[IMAGE].unlink()
    os.truncate(copies(portal, made)["custody/ab/ab.json"], 3)
    assert portal.back_up().damaged == ("custody/ab/ab.json", IMAGE)
    assert restore.problems(portal.open(), Quiet()) == []


def test_ten_bytes_changed_in_a_storage_area_are_named_by_each_run_and_the_copy_from_before_is_kept(
    portal: Portal,
) -> None:
    portal.back_up()
    change_ten_bytes(image(portal))
    first = portal.back_up()
    portal.clock.advance(LATER)  # from here on its time of change is an old one
    second, third = portal.back_up(), portal.back_up()
    assert [one.changed for one in (first, second, third)] == [(IMAGE,)] * 3
    assert copies(portal, third.manifest)[IMAGE].read_text(encoding="utf-8") == "an image of gateway"
    change_ten_bytes(image(portal))
    assert portal.back_up().changed == ()


def test_records_may_change_without_a_word(portal: Portal) -> None:
    portal.back_up(output=True)
    change_ten_bytes(portal.paths.custody / "ab" / "ab.json")
    made = portal.back_up(output=True)
    assert (made.changed, made.damaged) == ((), ())
    assert restore.problems(portal.open(), Quiet()) == []


Tampering = Callable[[Path, random.Random], None]


def _flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _overwrite(path: Path, chance: random.Random) -> None:
    content, at = bytearray(path.read_bytes()), chance.randrange(path.stat().st_size)
    content[at : at + 10] = bytes(byte ^ 0xFF for byte in content[at : at + 10])
    path.write_bytes(content)


def _shorten(path: Path, chance: random.Random) -> None:
    os.truncate(path, chance.randrange(path.stat().st_size))


def _lengthen(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.randint(1, 9)))


def _remove(path: Path, _chance: random.Random) -> None:
    path.unlink()


def _rename(path: Path, chance: random.Random) -> None:
    path.rename(path.with_name(f"{chance.choice(('', '.'))}{path.name}.part"))


def _add(path: Path, chance: random.Random) -> None:
    shutil.copyfile(path, path.with_name(f"{chance.choice(('', '.'))}new{chance.choice(('', '.part'))}"))


TAMPERINGS: list[Tampering] = [_flip, _overwrite, _shorten, _lengthen, _remove, _rename, _add]


@pytest.mark.deep
def test_whatever_is_changed_in_a_backup_is_found(portal: Portal) -> None:
    made = portal.back_up(output=True).manifest
    assert is_found(portal) is False
    for seed in spread(range(2000), 50):
        chance = random.Random(seed)  # noqa: S311 - not for secrets
        inside = sorted(
            path for path in (portal.backups / made.set).rglob("*") if path.is_file() and path.stat().st_size
        )
        path = chance.choice([*inside, portal.backups / archive.MANIFEST])
        tamper = chance.choice(TAMPERINGS)
        if path.name == archive.MANIFEST and tamper is _add:
            continue  # nobody reads what lies beside the manifest
        before = {one: one.read_bytes() for one in path.parent.iterdir() if one.is_file()}
        tamper(path, chance)
        assert is_found(portal), (seed, tamper.__name__, path)
        for one in [one for one in path.parent.iterdir() if one.is_file()]:
            one.unlink()
        for one, content in before.items():
            one.write_bytes(content)
    assert is_found(portal) is False


def test_a_copy_or_a_folder_that_became_a_link_is_found(portal: Portal, tmp_path: Path) -> None:
    made = portal.back_up().manifest
    for number, name in enumerate((IMAGE, "gateway/01", "gateway", "sums/gateway")):
        path, elsewhere = portal.backups / made.set / name, tmp_path / f"elsewhere-{number}"
        path.rename(elsewhere)
        path.symlink_to(elsewhere)
        assert is_found(portal), name
        path.unlink()
        elsewhere.rename(path)
    assert not is_found(portal)


def open_it(portal: Portal, trust: seal.Trust | None = None) -> restore.CompleteBackup:
    return restore.open_backup(portal.backups, "0.1.0", SCHEMAS, trust or seal.own(portal.key))


def is_found(portal: Portal) -> bool:
    try:
        return bool(restore.problems(open_it(portal), Quiet()))
    except DdwdError:
        return True


# --- who has signed ---------------------------------------------------------------------------------------------------


def test_another_machine_takes_a_backup_by_its_public_key_alone(portal: Portal, tmp_path: Path) -> None:
    made = portal.back_up()
    public = portal.backups / seal.PUBLIC_KEY
    with pytest.raises(StateError) as refused:
        open_it(portal, seal.Trust(()))
    assert str(refused.value) == (
        f"{portal.backups}: it is signed by the key {made.key}, which is not of this machine: "
        f"if that is what ddwd backup printed there, add --key {public}"
    )
    assert open_it(portal, seal.in_key_of(public)).manifest == made.manifest
    (tmp_path / "notes").write_text("no key", encoding="utf-8")
    with pytest.raises(InvalidValueError, match="is no public key"):
        seal.in_key_of(tmp_path / "notes")


def test_a_manifest_that_was_changed_is_taken_only_when_told_to(portal: Portal) -> None:
    portal.back_up()
    path = portal.backups / archive.MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"pacs"', b'"evil"'))
    public = portal.backups / seal.PUBLIC_KEY
    for trust in (seal.own(portal.key), seal.Trust(()), seal.in_key_of(public)):
        with pytest.raises(StateError, match="its signature does not hold, so it was changed"):
            open_it(portal, trust)
    assert open_it(portal, seal.Trust((), unsigned=True)).manifest.host == "evil"


def test_who_can_write_the_backup_cannot_have_a_further_run_sign_his_changes(portal: Portal) -> None:
    portal.clock.advance(LATER)
    made = portal.back_up().manifest
    change_ten_bytes(copies(portal, made)[IMAGE])
    sums = portal.backups / made.set / archive.LISTS / "gateway"
    digest = subprocess.check_output(["sha256sum", copies(portal, made)[IMAGE]], text=True).split()[0]
    sums.write_text(f"{digest}  {IMAGE}\n", encoding="ascii")
    again = portal.back_up().manifest
    assert copies(portal, again)[IMAGE].read_text(encoding="utf-8") == "an image of gateway"
    assert restore.problems(portal.open(), Quiet()) == []


# --- backups of 0.2.0, and interrupted ones ---------------------------------------------------------------------------


def as_of_0_2_0(portal: Portal) -> Path:
    """Make a backup as 0.2.0 left it on the volume of the images: no lists, no signature, and names of the Orthancs' files."""
    made = portal.back_up().manifest
    folder = portal.backups / made.set
    shutil.rmtree(folder / archive.LISTS)
    (folder / seal.SIGNATURE).unlink()
    (portal.backups / seal.PUBLIC_KEY).unlink()
    for node in archive.NODES:
        copy = folder / node / "01/23/0123-uuid"
        copy.unlink()
        os.link(portal.paths.storage_area(node) / "01/23/0123-uuid", copy)
    path = portal.backups / archive.MANIFEST
    body = json.loads(path.read_bytes())
    for added in ("lists", "changed", "turn"):
        del body[added]
    path.write_text(json.dumps(body | {"schema": 1}), encoding="ascii")
    return folder


def test_a_backup_of_0_2_0_is_restored_when_told_to(portal: Portal) -> None:
    before = portal.files()
    as_of_0_2_0(portal)
    with pytest.raises(
        StateError, match="has not signed it, and has recorded number and size of the files only"
    ):
        open_it(portal)
    shutil.rmtree(portal.paths.quarantine)
    backup = open_it(portal, seal.Trust((), unsigned=True))
    assert restore.problems(backup, Quiet()) == []
    restore.restore(backup, portal.machine, Quiet())
    assert portal.files() == before


@pytest.mark.parametrize("advance", [0, LATER])
def test_over_a_backup_of_0_2_0_all_files_of_the_orthancs_are_copied(portal: Portal, advance: int) -> None:
    portal.clock.advance(advance)
    as_of_0_2_0(portal)
    assert image(portal).stat().st_nlink == 2
    made = portal.back_up()
    assert image(portal).stat().st_nlink == 1
    assert copies(portal, made.manifest)[IMAGE].stat().st_ino != image(portal).stat().st_ino
    assert restore.problems(portal.open(), Quiet()) == []


def test_what_an_interrupted_run_has_copied_is_compared_and_not_copied_again(portal: Portal) -> None:
    portal.machine.fails = "pg_dump"
    with pytest.raises(DdwdError):
        portal.back_up()
    (cut,) = portal.backups.glob("*.cut")
    change_ten_bytes(cut / "custody/ab/ab.json")
    portal.machine.fails = ""
    custody = portal.paths.custody / "ab" / "ab.json"
    made = portal.back_up()
    assert copies(portal, made.manifest)["custody/ab/ab.json"].read_bytes() == custody.read_bytes()
    copied = sum(tree.bytes for name, tree in made.manifest.trees.items() if name != "ledger")
    dumps = sum(dump.bytes for dump in made.manifest.databases.values())
    settings = sum(map(len, (one for name, one in portal.files().items() if not name.startswith("data/"))))
    assert made.copied == copied + dumps + settings
    assert not list(portal.backups.glob("*.cut"))


def test_a_key_that_cannot_be_made_is_named_before_anything_is_copied(portal: Portal) -> None:
    order = replace(portal.order(), key=portal.root.parent / "missing" / "folder" / "key.pem")
    with pytest.raises(OSError, match="missing"):
        back_up(portal.config, order, portal.machine, Quiet(), portal.clock)
