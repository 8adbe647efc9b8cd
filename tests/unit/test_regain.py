"""Published files that are gone are asked for again, some at a time, and the run ends whatever the extractor can do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.clock import stamp
from ddwd.core.model import OrthancId
from ddwd.extractor.refetch import Refetch, RefetchOutcome
from ddwd.store.custody import Custody, InstanceRecord, Record
from ddwd.store.operator_requests import Requests
from tests.unit.fakes import FakeClock, orthanc_id

if TYPE_CHECKING:
    from pathlib import Path

from dataclasses import replace


@dataclass
class Extractor:
    """What the extractor does while the other one waits: takes requests, fetches what storage has, tells of itself."""

    paths: Paths
    custody: Custody
    requests: Requests
    clock: FakeClock
    on_storage: set[OrthancId] = field(default_factory=set)
    works: bool = True
    most_at_once: int = 0

    def turn(self, seconds: float) -> None:
        self.clock.advance(seconds)
        taken = self.requests.take()
        self.most_at_once = max(self.most_at_once, len(taken))
        if not self.works:
            return
        for path, request in taken:
            assert request.kind == "retry"
            if request.study in self.on_storage:
                _publish(self.paths, self.custody, OrthancId(request.study))
            self.requests.done(path)
        body = {"updated": stamp(self.clock.utc()), "in_flight": []}
        status = self.paths.heartbeat("extractor")
        status.parent.mkdir(parents=True, exist_ok=True)
        status.write_text(json.dumps(body), encoding="utf-8")


def _publish(paths: Paths, custody: Custody, study: OrthancId) -> None:
    record = custody.read(study)
    assert record is not None
    for kept in record.images.values():
        path = paths.output / record.folder / kept.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * kept.size)


@pytest.fixture
def extractor(tmp_path: Path) -> Extractor:
    config = replace(
        Config(), data_dir=tmp_path / "data", run_dir=tmp_path / "run", output_dir=tmp_path / "output"
    )
    paths, clock = Paths(config), FakeClock()
    return Extractor(paths, Custody(paths.custody), Requests(paths.requests, clock), clock)


def _recorded(extractor: Extractor, name: str) -> OrthancId:
    study = orthanc_id("P", name)
    kept = InstanceRecord(
        orthanc_id("P", name, "i"), "1.2.3", "1.2/1.2.3.dcm", 5, "", "", "equal", at_gateway=True
    )
    images = {kept.orthanc_id: kept}
    extractor.custody.write(Record(study, name, "", f"P/{name}", 1, "2026-11-24T00:00:00Z", images=images))
    return study


def _run(extractor: Extractor) -> RefetchOutcome:
    refetch = Refetch(extractor.paths, extractor.custody, extractor.requests, extractor.clock, extractor.turn)
    return refetch.run(lambda _: None)


def test_only_studies_that_lack_a_file_are_asked_for(extractor: Extractor) -> None:
    there, gone = _recorded(extractor, "1"), _recorded(extractor, "2")
    _publish(extractor.paths, extractor.custody, there)
    extractor.on_storage = {there, gone}
    assert _run(extractor) == RefetchOutcome(asked=1, back=1)


def test_a_hundred_studies_are_asked_for_some_at_a_time(extractor: Extractor) -> None:
    extractor.on_storage = {_recorded(extractor, str(number)) for number in range(100)}
    assert _run(extractor) == RefetchOutcome(asked=100, back=100)
    assert 1 < extractor.most_at_once <= 30


def test_what_no_orthanc_has_is_counted_and_holds_up_nothing(extractor: Extractor) -> None:
    lost, found = _recorded(extractor, "1"), _recorded(extractor, "2")
    extractor.on_storage = {found}
    assert _run(extractor) == RefetchOutcome(asked=2, back=1, lost=1)
    assert lost not in extractor.on_storage


def test_an_extractor_that_does_nothing_is_not_waited_for_for_ever(extractor: Extractor) -> None:
    _recorded(extractor, "1")
    extractor.works = False
    assert _run(extractor) == RefetchOutcome(asked=1, waiting=1)
