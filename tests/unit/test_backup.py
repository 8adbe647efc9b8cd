"""Backup and restore without root and PostgreSQL: what is taken in which order, what is refused, and that all of it comes back.

The machine is a fake with two databases that are a text each; every file is real.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

import pytest

from ddwd.backup import archive, seal
from ddwd.backup import restore as restore_module
from ddwd.backup.backup import Made, Order, back_up
from ddwd.backup.restore import (
    CompleteBackup,
    assert_possible,
    assert_whole,
    open_backup,
    restore,
    would_be_lost,
)
from ddwd.cli.config import restore_problems
from ddwd.cli.main import main
from ddwd.config.paths import Paths
from ddwd.config.schema import Config, Loaded
from ddwd.core import safe_folder
from ddwd.core.errors import (
    DdwdError,
    InvalidValueError,
    LinkedError,
    NotFoundError,
    PeerRefusedError,
    StateError,
    StorageFullError,
)
from ddwd.provisioning.host import CommandResult, Login
from tests.unit.fakes import FakeClock

SCHEMAS = {"ledger": 1, "custody": 1}
ENTRIES = """;
; Selected TOC Entries:
;
2; 3079 16749 EXTENSION - pg_trgm{end}
3615; 0 0 COMMENT - EXTENSION pg_trgm{end}
284; 1255 16838 FUNCTION public attachedfiledecrementsizefunc() ddwd-gateway
282; 1255 16831 FUNCTION public createinstance(text, text, text, text) ddwd-gateway
220; 1259 16621 TABLE public resources ddwd-gateway
3392; 2604 16703 DEFAULT public patientrecyclingorder seq ddwd-gateway
3591; 0 16621 TABLE DATA public resources ddwd-gateway
3429; 2606 16627 FK CONSTRAINT public resources resources_parentid_fkey ddwd-gateway""".replace("{end}", " ")
"""As `pg_restore --list` prints them."""
RESOURCES = """
CREATE TABLE public.resources (
    internalid bigint NOT NULL,
    publicid character varying(64) NOT NULL,
    parentid bigint
);
"""


@dataclass
class FakeMachine:
    """A machine whose databases are texts; `meanwhile` happens just before a dump is taken."""

    databases: dict[str, str] = field(default_factory=dict)
    units: Path = Path("/nowhere")
    slices: Path = Path("/nowhere")
    fails: str = ""
    meanwhile: Callable[[], None] = lambda: None
    commands: list[list[str]] = field(default_factory=list)
    given: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    users: dict[str, set[str | None]] = field(default_factory=dict)
    listing: str = ENTRIES
    tables: str = RESOURCES
    selected: str = ""

    def run(self, argv: list[str], login: Login | None = None) -> CommandResult:
        statement = argv[-1]
        if statement.startswith("CREATE DATABASE"):
            self.databases[statement.split('"')[1]] = ""
        if statement.startswith("SELECT 1 FROM pg_database"):
            return CommandResult(0, "1" if statement.split("'")[1] in self.databases else "", "")
        return CommandResult(0, "1000" if "pg_database_size" in statement else "1", "")

    def pipe(
        self,
        argv: list[str],
        login: Login | None = None,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        inherited: tuple[int, ...] = (),
    ) -> CommandResult:
        self.users.setdefault(argv[0], set()).add(login.user if login else None)
        if argv[:2] == ["pg_restore", "--list"]:
            return CommandResult(0, self.listing, "")
        if "--section=pre-data" in argv:
            return CommandResult(0, self.tables, "")
        self.commands.append(argv)
        if self.fails and argv[0] == self.fails:
            return CommandResult(1, "", "error: it does not want to")
        for descriptor in inherited:
            self.selected = Path(f"/proc/self/fd/{descriptor}").read_text(encoding="utf-8")
        if argv[0] == "psql":
            self.databases.pop(argv[-1].split('"')[1], None)
        if stdout is not None:
            self.meanwhile()
            stdout.write(self.databases[argv[-1]].encode())
        if stdin is not None:
            assert self.databases[argv[-1]] == "", "pg_restore into a database that is not empty"
            self.databases[argv[-1]] = stdin.read().decode()
        return CommandResult(0, "", "")

    def hand_over(self, folder: Path, former: str, user: str, group: str, mode: int) -> None:
        raise AssertionError(folder)

    def give(self, place: Path | int, user: str, group: str, mode: int) -> None:
        path = place if isinstance(place, Path) else Path(f"/proc/self/fd/{place}")
        path.chmod(mode)
        self.given[str(path.resolve())] = user, group, mode

    def wait(self, seconds: float) -> None:
        raise AssertionError(seconds)


class Quiet:
    """Nobody looks."""

    def step(self, words: str, total: int) -> None:
        pass

    def moved(self, amount: int) -> None:
        pass


@dataclass
class Portal:
    """An installed portal in a folder of the test, with something in each of its places."""

    root: Path
    machine: FakeMachine = field(default_factory=FakeMachine)
    clock: FakeClock = field(default_factory=FakeClock)

    @property
    def yaml(self) -> Path:
        return self.root / "etc" / "ddwd.yaml"

    @property
    def config(self) -> Config:
        return replace(
            Config(),
            data_dir=self.root / "data",
            run_dir=self.root / "run",
            output_dir=self.root / "data" / "received_dicom",
            credentials_file=self.root / "etc" / "credentials.json",
            tls=replace(Config().tls, folder=self.root / "etc" / "tls"),
        )

    @property
    def paths(self) -> Paths:
        return Paths(self.config)

    @property
    def key(self) -> Path:
        return self.root.parent / "key" / "key.pem"

    @property
    def backups(self) -> Path:
        return self.root.parent / "backups"

    def files(self) -> dict[str, bytes]:
        """Everything of the portal that a backup carries."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and ".ddwd" not in path.parts
        }

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def order(self, **wanted: bool) -> Order:
        return Order(
            key=self.key,
            folder=self.backups,
            settings=(self.yaml, self.root / "default"),
            images=wanted.get("images", True),
            output=wanted.get("output", False),
            portal="0.1.0",
            host="pacs",
            schemas=SCHEMAS,
        )

    def back_up(self, **wanted: bool) -> Made:
        self.clock.advance(1)
        return back_up(self.config, self.order(**wanted), self.machine, Quiet(), self.clock)

    def open(self, portal: str = "0.1.0") -> CompleteBackup:
        backup = open_backup(self.backups, portal, SCHEMAS, seal.own(self.key))
        assert_whole(backup, Quiet())
        return backup

    def restore(self) -> None:
        backup = self.open()
        assert_possible(backup)
        restore(backup, self.machine, Quiet())

    def destroy(self) -> None:
        """As a new machine with the package on it: the same places, and nothing in them."""
        for one in ("data", "etc", "run"):
            shutil.rmtree(self.root / one, ignore_errors=True)
        (self.root / "default").unlink(missing_ok=True)
        (self.root / "data").mkdir()
        self.machine.databases = {"ddwd_gateway": "empty", "ddwd_storage": "empty"}


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    made = Portal(tmp_path / "machine")
    paths = made.paths
    lines = [f"data_dir: {made.root}/data", f"run_dir: {made.root}/run", "poll_interval: 7"]
    lines += [f"output_dir: {paths.output}", f"credentials_file: {made.root}/etc/credentials.json"]
    lines += ["tls:", f"  folder: {made.root}/etc/tls"]
    made.write(made.yaml, "\n".join(lines) + "\n")
    made.write(made.root / "default", "STABLE_AGE=2\n")
    made.write(made.config.credentials_file, '{"secret": 1}')
    made.write(made.root / "etc/tls/ca.pem", "a certificate")
    made.write(paths.additions("gateway") / "more.json", "{}")
    made.write(paths.ledger / "00000001.jsonl", "a snapshot\n")
    made.write(paths.custody / "ab" / "ab.json", "a record")
    for node in archive.NODES:
        made.write(paths.storage_area(node) / "01" / "23" / "0123-uuid", f"an image of {node}")
        made.write(paths.conflicts(node) / "x.dcm", f"a conflict of {node}")
    made.write(paths.quarantine / "q.dcm", "set aside")
    made.write(paths.output / "P" / "1.2" / "1.2.3" / "1.dcm", "published")
    made.write(paths.spool / "1.2" / "1.dcm", "on its way")
    made.machine.databases = {"ddwd_gateway": "rows of the gateway", "ddwd_storage": "rows of storage"}
    return made


# --- all of it comes back ---------------------------------------------------------------------------------------------


def test_on_an_empty_machine_everything_is_as_it_was(portal: Portal) -> None:
    before, rows = portal.files(), dict(portal.machine.databases)
    portal.back_up(output=True)
    portal.destroy()
    portal.restore()
    assert portal.files() == before
    assert portal.machine.databases == rows
    assert portal.open().config.poll_interval == 7
    assert portal.open().config.stable_age == 2


def test_published_files_stay_out_unless_asked_for_and_what_is_on_its_way_always(portal: Portal) -> None:
    portal.back_up()
    assert not list(portal.backups.glob("*/output"))
    portal.back_up(output=True)
    assert [path.name for path in portal.backups.glob("*/output/*")] == ["P"]


def test_the_portal_is_stopped_before_anything_changes(portal: Portal) -> None:
    portal.back_up()
    portal.machine.fails = "systemctl"
    before = portal.files()
    with pytest.raises(PeerRefusedError, match="does not want to"):
        portal.restore()
    assert portal.files() == before
    assert portal.machine.databases["ddwd_gateway"] == "rows of the gateway"


def test_owners_are_given_by_name_and_keys_stay_closed(portal: Portal) -> None:
    key = portal.root / "etc/tls/gateway.key"
    portal.write(key, "a key")
    key.chmod(0o600)
    portal.back_up()
    portal.destroy()
    portal.restore()
    given = portal.machine.given
    assert given[str(portal.paths.storage_area("gateway"))] == ("ddwd-gateway", "ddwd-gateway", 0o700)
    assert given[str(portal.paths.conflicts("storage"))] == ("ddwd", "ddwd-storage", 0o770)
    assert key.stat().st_mode & 0o777 == 0o600
    image = portal.paths.storage_area("gateway") / "01/23/0123-uuid"
    assert image.stat().st_mode & 0o777 == 0o600
    assert image.parent.stat().st_mode & 0o777 == 0o700


def test_the_backup_is_closed_to_everyone_else(portal: Portal) -> None:
    portal.backups.mkdir(mode=0o755)
    made = portal.back_up()
    for path in (portal.backups, portal.backups / made.manifest.set, portal.backups / archive.MANIFEST):
        assert path.stat().st_mode & 0o077 == 0


# --- order ------------------------------------------------------------------------------------------------------------


def test_no_record_is_newer_than_the_databases_and_no_database_than_the_images(portal: Portal) -> None:
    def arrives() -> None:
        portal.write(portal.paths.custody / "cd" / "cd.json", "a record of what came meanwhile")
        portal.write(portal.paths.storage_area("gateway") / "45" / "new-uuid", "what came meanwhile")

    portal.machine.meanwhile = arrives
    made = portal.back_up()
    names = {path.name for path in (portal.backups / made.manifest.set).rglob("*")}
    assert "new-uuid" in names
    assert "cd.json" not in names


def test_what_storage_has_the_gateway_had_before(portal: Portal) -> None:
    portal.back_up()
    dumped = [argv[-1] for argv in portal.machine.commands if argv[0] == "pg_dump"]
    assert dumped == ["ddwd_storage", "ddwd_gateway"]


# --- databases --------------------------------------------------------------------------------------------------------


def test_each_database_is_dumped_and_restored_by_the_role_that_owns_it(portal: Portal) -> None:
    portal.back_up()
    portal.restore()
    owners: set[str | None] = {"ddwd-gateway", "ddwd-storage"}
    assert portal.machine.users["pg_dump"] == portal.machine.users["pg_restore"] == owners
    assert portal.machine.users["psql"] == {"postgres"}
    entered = [argv for argv in portal.machine.commands if argv[0] == "psql"]
    assert {argv[argv.index("-d") + 1] for argv in entered} == {"postgres"}


@pytest.mark.parametrize(
    "entry",
    [
        "FUNCTION public trap() ddwd-gateway",
        "TABLE public bait ddwd-gateway",
        "TABLE DATA public bait ddwd-gateway",
        "TRIGGER public resources trap ddwd-gateway",
        "TRIGGER other attachedfiles attachedfiledeleted ddwd-gateway",
        "TABLE other resources ddwd-gateway",
        "TABLE public resources  ddwd-gateway",
        "RULE public resources _RETURN ddwd-gateway",
        "EVENT TRIGGER - trap postgres",
        "EXTENSION - plpython3u ",
        "CHECK CONSTRAINT public resources trap ddwd-gateway",
        "ROW SECURITY public resources ddwd-gateway",
        "INDEX public trap ddwd-gateway",
        "SCHEMA - trap ddwd-gateway",
    ],
)
def test_what_orthanc_does_not_make_is_named_and_not_restored(portal: Portal, entry: str) -> None:
    portal.machine.listing = f"{ENTRIES}\n7; 0 16621 {entry}"
    name = entry.rpartition(" ")[0]
    left_out = [f"ddwd_storage: {name}", f"ddwd_gateway: {name}"]
    assert list(portal.back_up().left_out) == left_out
    assert restore_module.left_out(portal.open(), portal.machine) == left_out
    portal.restore()
    wanted = [line for line in ENTRIES.splitlines() if line[0] != ";" and "COMMENT" not in line]
    assert portal.machine.selected.splitlines() == wanted


@pytest.mark.parametrize(
    "changed",
    [
        RESOURCES.replace("\n)", ",\n    CONSTRAINT trap CHECK (public.trap(publicid))\n)"),
        RESOURCES.replace("parentid bigint", "parentid bigint DEFAULT public.trap()"),
        RESOURCES.replace("parentid bigint", "parentid bigint GENERATED ALWAYS AS (public.trap()) STORED"),
        RESOURCES.replace(");", ")\nINHERITS (public.trap);"),
        RESOURCES.replace("CREATE TABLE", "CREATE UNLOGGED TABLE").replace(");", ")\nPARTITION BY (x);"),
    ],
)
def test_a_table_of_orthancs_that_was_changed_is_refused_before_anything_is(
    portal: Portal, changed: str
) -> None:
    portal.back_up()
    portal.machine.tables = changed
    with pytest.raises(StateError, match=r"table public\.resources is not as Orthanc makes it"):
        restore_module.left_out(portal.open(), portal.machine)
    with pytest.raises(StateError, match="is not as Orthanc makes it"):
        portal.back_up()


# --- a backup that is none --------------------------------------------------------------------------------------------


def test_what_was_broken_off_is_never_taken_for_a_backup(portal: Portal) -> None:
    portal.machine.fails = "pg_dump"
    with pytest.raises(PeerRefusedError, match="pg_dump of ddwd_storage: error"):
        portal.back_up()
    with pytest.raises(NotFoundError, match="no finished backup"):
        portal.open()


def test_the_backup_before_stays_whole_until_the_next_one_is(portal: Portal) -> None:
    first = portal.back_up().manifest
    portal.machine.fails = "pg_dump"
    portal.write(portal.paths.custody / "ab" / "ab.json", "another record")
    with pytest.raises(PeerRefusedError):
        portal.back_up()
    assert portal.open().manifest == first
    portal.machine.fails = ""
    third = portal.back_up().manifest
    assert portal.open().manifest == third
    assert [path.name for path in portal.backups.iterdir() if archive.is_set(path.name)] == [third.set]


def test_a_further_run_copies_only_what_is_new(portal: Portal) -> None:
    portal.back_up(output=True)
    rows = sum(map(len, portal.machine.databases.values()))
    settings = sum(map(len, (one for name, one in portal.files().items() if not name.startswith("data/"))))
    again = portal.back_up(output=True)
    assert again.copied == rows + settings
    portal.write(portal.paths.custody / "ef" / "ef.json", "12345")
    portal.write(portal.paths.ledger / "00000001.jsonl", "a snapshot\nand more\n")
    assert portal.back_up(output=True).copied == again.copied + 5 + 20
    portal.destroy()
    portal.restore()
    assert (portal.paths.ledger / "00000001.jsonl").read_text(encoding="utf-8") == "a snapshot\nand more\n"


def test_what_is_deleted_leaves_the_next_backup_too(portal: Portal) -> None:
    portal.back_up()
    (portal.paths.storage_area("storage") / "01/23/0123-uuid").unlink()
    assert portal.back_up().manifest.trees["storage"].files == 0


@pytest.mark.parametrize("part", ["databases/gateway.dump", "gateway/01/23/0123-uuid", "custody/ab/ab.json"])
def test_damage_is_named_before_anything_changes(portal: Portal, part: str) -> None:
    made = portal.back_up()
    (portal.backups / made.manifest.set / part).write_text("x", encoding="utf-8")
    with pytest.raises(StateError, match="the backup is damaged"):
        portal.open()


@pytest.mark.parametrize("text", ["", "{}", '{"schema": 1}', "[]", '{"schema": 1, "set": "../../etc"}'])
def test_a_damaged_manifest_is_no_backup(portal: Portal, text: str) -> None:
    portal.back_up()
    (portal.backups / archive.MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(StateError, match=r"manifest\.json: (the manifest is damaged|schema)"):
        portal.open()


def test_a_backup_of_a_newer_version_is_refused_and_one_of_an_older_taken(portal: Portal) -> None:
    portal.back_up()
    assert portal.open("0.2.0").manifest.portal == "0.1.0"
    with pytest.raises(StateError, match=r"of ddwd 0\.1\.0, and this is 0\.0\.9"):
        portal.open("0.0.9")
    path = portal.backups / archive.MANIFEST
    body = json.loads(path.read_text(encoding="utf-8"))
    body["schemas"]["ledger"] = 2
    path.write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(StateError, match="install that version here first"):
        open_backup(portal.backups, "0.1.0", SCHEMAS, seal.Trust((), unsigned=True))


# --- where it may lie -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["data/gateway/backup", "data", "etc/backup", ".", ".."])
def test_a_backup_cannot_lie_in_what_it_backs_up_nor_around_it(portal: Portal, place: str) -> None:
    order = replace(portal.order(), folder=portal.root / place)
    with pytest.raises(InvalidValueError, match="is inside"):
        back_up(portal.config, order, portal.machine, Quiet(), portal.clock)


def test_a_link_into_a_storage_area_is_no_place_either(portal: Portal, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(portal.paths.storage_area("storage"))
    order = replace(portal.order(), folder=tmp_path / "link" / "backup")
    with pytest.raises(InvalidValueError, match="is inside"):
        back_up(portal.config, order, portal.machine, Quiet(), portal.clock)


def test_a_folder_with_other_things_is_not_taken(portal: Portal) -> None:
    portal.write(portal.backups / "thesis.txt", "mine")
    with pytest.raises(InvalidValueError, match=r"holds other files \(thesis.txt\)"):
        portal.back_up()
    assert (portal.backups / "thesis.txt").exists()


def test_where_nothing_is_mounted_no_backup_is_made(portal: Portal) -> None:
    order = replace(portal.order(), folder=portal.root.parent / "not-mounted" / "backup")
    with pytest.raises(NotFoundError, match="does not exist"):
        back_up(portal.config, order, portal.machine, Quiet(), portal.clock)


def test_without_room_nothing_is_copied(portal: Portal) -> None:
    class Huge(FakeMachine):
        def run(self, argv: list[str], login: Login | None = None) -> CommandResult:
            return CommandResult(0, str(2**60), "")

    portal.machine = Huge(portal.machine.databases)
    with pytest.raises(StorageFullError, match=r"TiB are needed, .* free; no file was copied"):
        portal.back_up()
    assert not [path for path in portal.backups.iterdir() if archive.is_set(path.name)]


# --- what a restore leaves alone --------------------------------------------------------------------------------------


def test_a_machine_that_holds_studies_is_told_of(portal: Portal) -> None:
    portal.back_up()
    lost = dict(would_be_lost(portal.open()))
    assert lost["files of ORTHANC1"] == archive.Sum(1, len("an image of gateway"))
    assert {"files of ORTHANC2", "custody records", "files in quarantine"} <= lost.keys()
    portal.destroy()
    assert would_be_lost(portal.open()) == []


def test_what_was_here_goes_and_nothing_of_both_is_mixed(portal: Portal) -> None:
    portal.back_up()
    before = portal.files()
    portal.write(portal.paths.storage_area("gateway") / "ff" / "later", "later")
    portal.write(portal.paths.custody / "ff" / "later.json", "later")
    portal.write(portal.paths.additions("storage") / "later.json", "{}")
    portal.write(portal.yaml, "poll_interval: 9\n")
    portal.restore()
    assert portal.files() == before


def test_published_files_are_never_removed_nor_replaced(portal: Portal) -> None:
    portal.back_up(output=True)
    mine, theirs = (portal.paths.output / "P/1.2/1.2.3" / name for name in ("1.dcm", "2.dcm"))
    mine.write_text("other content", encoding="utf-8")
    theirs.write_text("published later", encoding="utf-8")
    portal.restore()
    assert mine.read_text(encoding="utf-8") == "other content"
    assert theirs.exists()


def test_a_planted_link_in_the_output_leads_no_file_elsewhere(portal: Portal, tmp_path: Path) -> None:
    portal.back_up(output=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.rmtree(portal.paths.output / "P")
    (portal.paths.output / "P").symlink_to(elsewhere)
    with pytest.raises(OSError, match="P"):
        portal.restore()
    assert list(elsewhere.iterdir()) == []


def test_a_ledger_that_is_a_link_is_neither_copied_nor_emptied_by_root(
    portal: Portal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.back_up()
    elsewhere = tmp_path / "elsewhere"
    portal.write(elsewhere / "precious", "of the machine")
    shutil.rmtree(portal.paths.ledger)
    portal.paths.ledger.symlink_to(elsewhere)
    portal.paths.state.chmod(0o777)  # others can change the names in it
    monkeypatch.setattr(safe_folder, "_is_root", lambda: True)
    with pytest.raises(LinkedError):
        portal.restore()
    with pytest.raises(LinkedError):
        portal.back_up()
    assert [path.name for path in elsewhere.iterdir()] == ["precious"]


def test_requests_that_are_a_link_are_not_emptied_elsewhere_by_root(
    portal: Portal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    portal.back_up()
    elsewhere = tmp_path / "elsewhere"
    portal.write(elsewhere / "precious.json", "of the machine")
    shutil.rmtree(portal.paths.requests, ignore_errors=True)
    portal.paths.state.mkdir(exist_ok=True)
    portal.paths.requests.symlink_to(elsewhere)
    portal.paths.state.chmod(0o777)  # others can change the names in it
    monkeypatch.setattr(safe_folder, "_is_root", lambda: True)
    with pytest.raises(LinkedError):
        portal.restore()
    assert (elsewhere / "precious.json").read_text(encoding="utf-8") == "of the machine"


def test_a_request_that_is_a_link_goes_and_its_target_stays(portal: Portal, tmp_path: Path) -> None:
    portal.back_up()
    portal.write(tmp_path / "precious.json", "of the machine")
    portal.paths.requests.mkdir(parents=True, exist_ok=True)
    (portal.paths.requests / "1.json").symlink_to(tmp_path / "precious.json")
    (portal.paths.requests / "2.json").mkdir()
    portal.restore()
    assert [path.name for path in portal.paths.requests.iterdir()] == ["2.json"]
    assert (tmp_path / "precious.json").read_text(encoding="utf-8") == "of the machine"


def test_a_folder_that_another_user_can_replace_holds_no_backup(portal: Portal) -> None:
    portal.backups.parent.chmod(0o777)
    with pytest.raises(InvalidValueError, match="another user"):
        portal.back_up()
    portal.backups.parent.chmod(0o1777)  # as /tmp: there a name belongs to who made it
    portal.back_up()


def test_without_images_the_operators_own_snapshot_stays(portal: Portal) -> None:
    made = portal.back_up(images=False)
    assert not made.manifest.has_images
    image = portal.paths.storage_area("gateway") / "01/23/0123-uuid"
    assert "files of ORTHANC1" not in dict(would_be_lost(portal.open()))
    portal.restore()
    assert image.read_text(encoding="utf-8") == "an image of gateway"
    portal.destroy()
    with pytest.raises(StateError, match="restore its files first"):
        portal.restore()


def test_an_output_that_is_not_mounted_is_missed_before_anything_changes(portal: Portal) -> None:
    far = portal.root.parent / "volume"
    text = portal.yaml.read_text(encoding="utf-8").replace(str(portal.paths.output), str(far))
    portal.write(portal.yaml, text)
    portal.back_up()
    before = portal.files()
    with pytest.raises(DdwdError, match="does not exist here; mount it"):
        portal.restore()
    assert portal.files() == before


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["backup", "restore"])
def test_anyone_but_root_is_told_so(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert main([verb, str(tmp_path / "backup")]) == 65
    assert (
        capsys.readouterr().err
        == "ddwd: only root may read keys, passwords and databases: run it with sudo\n"
    )


def test_where_there_is_no_backup_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.umask", lambda _mask: 0)
    assert main(["restore", str(tmp_path)]) == 66
    assert capsys.readouterr().err == (
        f"ddwd: {tmp_path}: it holds no finished backup (manifest.json does not exist)\n"
    )


# --- broken off -------------------------------------------------------------------------------------------------------


def test_half_a_restore_does_not_start_and_is_done_by_running_it_again(portal: Portal) -> None:
    portal.back_up()
    before, rows = portal.files(), dict(portal.machine.databases)
    portal.destroy()
    assert list(restore_problems(Loaded(portal.config, {}))) == []
    portal.machine.fails = "pg_restore"
    with pytest.raises(PeerRefusedError, match="pg_restore of ddwd_storage"):
        portal.restore()
    (problem,) = restore_problems(Loaded(portal.config, {}))
    assert "run ddwd restore DIR again" in str(problem)
    assert would_be_lost(portal.open()) == [], "what a broken-off restore left is nobody's"
    portal.machine.fails = ""
    portal.restore()
    assert list(restore_problems(Loaded(portal.config, {}))) == []
    output = "data/received_dicom/P"
    assert portal.files() == {name: one for name, one in before.items() if not name.startswith(output)}
    assert portal.machine.databases == rows
