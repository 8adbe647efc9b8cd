"""The custody machine with retention at work: whatever else happens, nothing goes that is not somewhere else at that very moment."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis.stateful import invariant, rule

from ddwd.config.retention import Retention
from ddwd.store.operator_requests import Request
from tests.unit.fakes import FakeOrthanc
from tests.unit.portal import Portal
from tests.unit.test_custody_machine import Custody

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ddwd.core.model import OrthancId
    from ddwd.store.custody import Record


class Emptied(Custody):
    """Gateway and storage let go of everything at once; the disk keeps all."""

    retention = Retention(gateway_days=0, storage_days=0)

    def __init__(self) -> None:
        super().__init__()
        self.portal = Portal(Path(self._home.name), retention=self.retention)
        for node in (self.portal.gateway, self.portal.storage):
            node.forget = self._forget_of(node)  # type: ignore[method-assign, assignment]

    @rule()
    def operator_has_a_round(self) -> None:
        """`ddwd retention --now`."""
        self.portal.requests.submit(Request("retention"))

    def _forget_of(self, node: FakeOrthanc) -> Callable[[OrthancId], None]:
        def forget(instance: OrthancId) -> None:
            if (one := node.images.get(instance)) is not None and not node.down:
                assert one.content in self._elsewhere(node), "a copy goes that nothing else has"
            FakeOrthanc.forget(node, instance)

        return forget

    def _elsewhere(self, node: FakeOrthanc) -> set[bytes]:
        """What there is further down the flow."""
        found = set(self.portal.published().values())
        if node is self.portal.gateway:
            found |= {one.content for one in self.portal.storage.images.values()}
        return found


class Archived(Emptied):
    """Gateway and output let go of everything at once; storage keeps all."""

    retention = Retention(gateway_days=0, output_days=0)

    def __init__(self) -> None:
        super().__init__()
        start = self.portal.start

        def started() -> None:
            start()
            self._watch_output()

        self.portal.start = started  # type: ignore[method-assign]
        self._watch_output()

    def _watch_output(self) -> None:
        tree = self.portal.extractor.output
        remove = tree.remove

        def watched(record: Record, images: Iterable[OrthancId] | None = None) -> None:
            for one in images or ():
                assert one in self.portal.storage.images, "a file goes that storage has not"
            remove(record, images)

        tree.remove = watched  # type: ignore[method-assign]

    @invariant()
    def nothing_published_is_ever_taken_back_or_changed(self) -> None:
        """But by retention, which says so."""
        there = self.portal.published()
        for name, content in self.ever.items():
            assert there.get(name) == content or (name not in there and self._is_removed(name))
        assert set(there.values()) <= self.sent
        self.ever = there

    def _is_removed(self, name: str) -> bool:
        records = (self.portal.custody.read(study) for study in self.portal.custody.studies())
        return any(
            f"{record.folder}/{kept.file}" == name and kept.removed
            for record in records
            if record is not None
            for kept in record.images.values()
        )

    def _none_is_partial(self, before: set[tuple[str, ...]]) -> None:
        """A study comes back in parts: what is late of it, without what was removed."""

    def _judge(self) -> None:
        for node in (self.portal.gateway, self.portal.storage):
            for one in node.images.values():
                record = self.portal.custody.read(one.study_id)
                assert record is not None
                assert one.orthanc_id in record.images
        assert set(self.portal.gateway.images) <= set(self.portal.storage.images)
        assert self.portal.open == {}
        assert self.portal.leftovers() == []
        assert self.portal.records_not_as_stated() == []


for machine in (Emptied, Archived):
    machine.TestCase.settings = Custody.TestCase.settings
TestEmptied = pytest.mark.deep(Emptied.TestCase)
TestArchived = pytest.mark.deep(Archived.TestCase)
