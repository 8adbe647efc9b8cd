"""A copy of the chain that was taken while the signer works is a chain that holds, and a restore never takes one back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from ddwd.backup import archive, files, restore
from ddwd.chain.check import walk
from ddwd.chain.head import HeadFiles
from ddwd.chain.signer import Chain, Signer
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.audit import Event
from tests.unit.chain import Journal
from tests.unit.fakes import FakeClock


def test_a_copy_that_is_taken_while_the_signer_works_is_a_chain_that_goes_on(tmp_path: Path) -> None:
    paths, journal, clock = Paths(replace(Config(), data_dir=tmp_path / "data")), Journal(), FakeClock()
    chain = Chain(paths.chain, paths.signer_key)
    chain.key.parent.mkdir(parents=True)
    signer = Signer(chain, journal.open, None, journal.audit, clock)

    def work() -> None:
        journal.happen(Event.PUBLISHED, 3)
        clock.advance(86_400)
        for _ in range(3):
            signer.step()

    work()
    copied = Chain(tmp_path / "copy" / "chain", tmp_path / "copy" / "key.pem")
    copied.folder.mkdir(parents=True)
    for tree in archive.trees(paths).values():
        if tree.folder == paths.chain:
            for found in list(files.files(tree.folder, tree.left_out)):
                shutil.copy(tree.folder / found.below, copied.folder)
                work()  # between any two files
    shutil.copy(chain.key, copied.key)
    assert {path.name for path in copied.folder.iterdir()} == {path.name for path in paths.chain.iterdir()}
    elsewhere = Journal()
    other = Signer(copied, elsewhere.open, None, elsewhere.audit, clock)
    for _ in range(3):
        other.step()
    assert not other.broken
    assert walk(copied.folder).problems == []
    assert len(HeadFiles(copied.folder).read_published()) > 1


@pytest.mark.parametrize(
    ("here", "copy", "goes_on"),
    [("a", "a", True), ("a", "b", False), (None, "b", False), ("a", None, True), (None, None, True)],
    ids=["same chain", "other machine", "no chain here", "no chain in the backup", "neither"],
)
def test_the_chain_of_this_machine_goes_on_and_that_of_another_is_taken_over(
    tmp_path: Path, here: str | None, copy: str | None, *, goes_on: bool
) -> None:
    config = replace(Config(), data_dir=tmp_path / "data")
    for content, path in ((here, Paths(config).signer_key), (copy, tmp_path / "set" / "signer" / "key.pem")):
        path.parent.mkdir(parents=True)
        if content is not None:
            path.write_text(content)
    backup = SimpleNamespace(config=config, set=tmp_path / "set")
    assert restore._has_its_chain(backup) is goes_on  # type: ignore[arg-type]
