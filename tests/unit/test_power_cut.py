"""Whatever is going on when the power is cut, or a durable step fails: the end is the same. Tried at every durable step."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING

import pytest

from ddwd.core.errors import StorageFullError
from ddwd.store.operator_requests import Request
from tests.depth import spread
from tests.unit.fakes import count_steps, image, one_error, power_cut
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

IMAGES = [image(study, number=n) for study in (1, 2) for n in range(1, 4)]
TINY_SEGMENT = 200
MOST_STEPS = 6
"""Of each scene and kind of fault, unless at full depth."""
LONG_SECONDS = 400.0
"""More than any back-off, and a sweep."""


class Scene:
    """What is so before, what goes on meanwhile, and what must be so in the end."""

    seconds = 10.0
    segment_bytes = 4096

    def before(self, portal: Portal) -> None:
        """Arrange what is so before, with the power on."""

    def meanwhile(self, portal: Portal) -> None:
        """What is cut off."""
        portal.run(self.seconds)

    def judge(self, portal: Portal) -> None:
        """Demand the end state."""
        assert portal.published() == names(*IMAGES)
        assert portal.quarantine.entries() == []
        assert all(portal.custody.has(one.study_id) for one in IMAGES)


class Publication(Scene):
    """Two studies come."""

    def before(self, portal: Portal) -> None:
        portal.deliver(*IMAGES)


class Rotation(Publication):
    """The same, and the ledger begins a new segment with nearly each record."""

    segment_bytes = TINY_SEGMENT


class LateImages(Scene):
    """Images come after their studies were published."""

    def before(self, portal: Portal) -> None:
        portal.deliver(*IMAGES[::2])
        portal.run(10)
        portal.deliver(*IMAGES[1::2])
        for one in IMAGES:
            portal.storage.settle(one.study_id)


class Conflict(Scene):
    """The gateway holds other content than storage, which came first."""

    ours, theirs = image(number=1), image(number=1, pixels=b"y" * 64)

    def before(self, portal: Portal) -> None:
        portal.storage.store(self.theirs)
        portal.gateway.store(self.ours)

    def judge(self, portal: Portal) -> None:
        assert portal.published() == names(self.theirs)
        (entry,) = portal.quarantine.entries()
        assert entry.file is not None
        assert entry.file.read_bytes() == self.ours.content


class Poison(Scene):
    """One image can never be moved, and goes to quarantine after its tries."""

    seconds = 120.0

    def before(self, portal: Portal) -> None:
        portal.mover.poisoned = {IMAGES[0].sop_uid}
        portal.deliver(*IMAGES)

    def judge(self, portal: Portal) -> None:
        assert portal.published() == names(*IMAGES[1:])
        (entry,) = portal.quarantine.entries()
        assert entry.subject.instance == IMAGES[0].orthanc_id
        assert entry.file is not None
        assert entry.file.read_bytes() == IMAGES[0].content


class Release(Scene):
    """What was in quarantine is released, and can be moved now."""

    def before(self, portal: Portal) -> None:
        portal.mover.poisoned = {IMAGES[0].sop_uid}
        portal.deliver(*IMAGES)
        portal.run(120)
        (entry,) = portal.quarantine.entries()
        portal.mover.poisoned = set()
        portal.requests.submit(Request("release", item=entry.id))

    def judge(self, portal: Portal) -> None:
        super().judge(portal)
        assert portal.requests.take() == []


class TwoPatients(Scene):
    """The study of another patient comes under a StudyInstanceUID that is published: one entry, and none after the decision."""

    mine, theirs = [image(number=n) for n in (1, 2)], [image(number=n, patient="PAT2") for n in (1, 2)]

    def before(self, portal: Portal) -> None:
        portal.deliver(*self.mine)
        portal.run(10)
        portal.deliver(*self.theirs)

    def judge(self, portal: Portal) -> None:
        assert portal.published() == names(*self.mine, *self.theirs)
        (entry,) = portal.quarantine.entries()
        assert entry.subject.kind == "two-patients"
        record = portal.custody.read(self.theirs[0].study_id)
        assert record is not None
        assert record.namesakes == [self.mine[0].study_id]


SCENES = [Publication(), Rotation(), LateImages(), Conflict(), Poison(), Release(), TwoPatients()]


@pytest.fixture(params=SCENES, ids=lambda scene: type(scene).__name__)
def scene(request: pytest.FixtureRequest) -> Scene:
    found: Scene = request.param
    return found


@pytest.fixture(autouse=True)
def _memory_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test here loses a page cache, and there are thousands of fsyncs."""
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)


def _portal(scene: Scene, home: Path) -> Portal:
    home.mkdir()
    portal = Portal(home, scene.segment_bytes)
    scene.before(portal)
    return portal


def _portals(scene: Scene, folder: Path) -> Iterator[tuple[int, Portal]]:
    """A portal of its own for each durable step of the scene."""
    for step in spread(range(_steps(scene, folder / "whole")), MOST_STEPS):
        yield step, _portal(scene, folder / str(step))


def _steps(scene: Scene, home: Path) -> int:
    """How many durable steps the scene has when nothing goes wrong; it must end well then too."""
    portal = _portal(scene, home)
    total = count_steps(partial(scene.meanwhile, portal))
    _judge(scene, portal, total)
    assert total > 10
    return total


def _judge(scene: Scene, portal: Portal, step: int) -> None:
    try:
        scene.judge(portal)
        assert portal.leftovers() == []
        assert portal.records_not_as_stated() == []
    except (AssertionError, ValueError) as error:
        error.add_note(f"at durable step {step}")
        raise


@pytest.mark.deep
def test_a_power_cut_at_any_durable_step_changes_nothing_in_the_end(scene: Scene, tmp_path: Path) -> None:
    for step, portal in _portals(scene, tmp_path):
        assert power_cut(step, partial(scene.meanwhile, portal))
        portal.start()
        portal.run(LONG_SECONDS)
        _judge(scene, portal, step)


@pytest.mark.deep
@pytest.mark.parametrize(
    "error", [StorageFullError("no room"), OSError(errno.EIO, "i/o error")], ids=["full", "i/o"]
)
def test_an_error_at_any_durable_step_changes_nothing_in_the_end(
    scene: Scene, error: Exception, tmp_path: Path
) -> None:
    for step, portal in _portals(scene, tmp_path):
        assert one_error(step, error, partial(scene.meanwhile, portal))
        portal.run(LONG_SECONDS)
        _judge(scene, portal, step)
