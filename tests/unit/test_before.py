"""What the version before knew is kept aside whole before this one writes, so that going back is possible."""

from __future__ import annotations

import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd import __version__
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core import durable
from ddwd.core.errors import StateError, StorageFullError
from ddwd.store.ledger import SCHEMA, Ledger, schema_of
from ddwd.store.pre_upgrade_copy import copy_before_upgrade
from tests.unit.fakes import FakeClock

if TYPE_CHECKING:
    from pathlib import Path


def line(schema: int) -> bytes:
    text = b'{"kind":"snapshot","schema":%d,"cursors":{},"open":{}}' % schema
    return b"%08x %s\n" % (zlib.crc32(text), text)


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    """The state of an older version: a segment, a packed one, two records."""
    made = Paths(replace(Config(), data_dir=tmp_path))
    for path, content in (
        (made.ledger / "00000001.jsonl.gz", b"packed"),
        (made.ledger / "00000002.jsonl", line(1)),
        (made.custody / "ab" / "ab1.json", b"one"),
        (made.custody / "cd" / "cd2.json", b"two"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def start(paths: Paths) -> Ledger:
    copy_before_upgrade(paths)
    return Ledger.open(paths.ledger, FakeClock(), segment_bytes=1 << 20, keep_days=1)


def test_all_of_it_is_kept_and_stays_as_it_was_whatever_this_version_writes(paths: Paths) -> None:
    old = contents(paths.state)
    ledger = start(paths)
    ledger.append("swept", at="now")
    ledger.commit()
    durable.replace_file(paths.custody / "ab" / "ab1.json", b"changed")
    durable.unlink(paths.custody / "cd" / "cd2.json")
    assert contents(paths.pre_upgrade_copy) == old
    assert paths.pre_upgrade_copy.name == f"before-{__version__}"


def test_what_is_appended_to_is_a_file_of_its_own_and_the_rest_costs_no_room(paths: Paths) -> None:
    start(paths)
    links = {
        str(path.relative_to(paths.pre_upgrade_copy)): path.stat().st_nlink
        for path in paths.pre_upgrade_copy.rglob("*.*")
        if path.is_file()
    }
    assert links == {
        "ledger/00000001.jsonl.gz": 2,
        "ledger/00000002.jsonl": 1,
        "custody/ab/ab1.json": 2,
        "custody/cd/cd2.json": 2,
    }


@pytest.mark.parametrize("schema", [SCHEMA, SCHEMA + 1])
def test_nothing_is_kept_of_a_ledger_of_this_version_or_a_newer_one(paths: Paths, schema: int) -> None:
    (paths.ledger / "00000002.jsonl").write_bytes(line(schema))
    old = contents(paths.state)
    copy_before_upgrade(paths)
    assert contents(paths.state) == old


def test_a_new_machine_has_nothing_to_keep(tmp_path: Path) -> None:
    paths = Paths(replace(Config(), data_dir=tmp_path))
    start(paths)
    assert not paths.pre_upgrade_copy.exists()


def test_a_power_cut_at_any_step_leaves_the_old_state_or_the_whole_of_what_is_kept(
    paths: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = contents(paths.state)
    steps = 0
    while True:
        left = steps

        def cut(_name: str, _path: Path) -> None:
            nonlocal left
            if left == 0:
                raise StorageFullError("cut")
            left -= 1

        with monkeypatch.context() as patched:
            patched.setattr(durable, "step", cut)
            try:
                start(paths)
            except StorageFullError:
                steps += 1
            else:
                break
        kept = contents(paths.state)
        assert {name: kept[name] for name in old} == old
        if paths.pre_upgrade_copy.exists():
            assert contents(paths.pre_upgrade_copy) == old
        else:
            assert schema_of(paths.ledger) == 1
    assert steps > 10
    assert schema_of(paths.ledger) == SCHEMA
    assert contents(paths.pre_upgrade_copy) == old
    assert [path.name for path in paths.state.iterdir() if path.name.startswith(".")] == []


def test_where_it_cannot_be_kept_nothing_is_changed(paths: Paths, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_named: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refuse)
    with pytest.raises(
        StateError, match=r"cannot be copied \(Operation not permitted\); no file was changed"
    ):
        start(paths)
    assert schema_of(paths.ledger) == 1


def test_going_back_and_forward_again_keeps_the_later_state(paths: Paths) -> None:
    start(paths)
    durable.rename(paths.state, paths.state.with_name("state-newer"))
    durable.rename(paths.state.with_name("state-newer") / paths.pre_upgrade_copy.name, paths.state)
    (paths.custody / "ab" / "ab3.json").write_bytes(b"published by the old version")
    old = contents(paths.state)
    start(paths)
    assert contents(paths.pre_upgrade_copy) == old
