"""Custody records say what was written, or are known to be damaged."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ddwd.core.errors import NewerStateError, StateError, StorageFullError
from ddwd.core.model import OrthancId
from ddwd.store.custody import SCHEMA, Custody, InstanceRecord, Record
from tests.depth import spread
from tests.unit.fakes import image, one_error, power_cut
from tests.unit.portal import Portal, names

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

ONE = image()


def record(revision: int = 1) -> Record:
    kept = InstanceRecord(
        ONE.orthanc_id, ONE.sop_uid, "1.2/1.2.3.dcm", 5, "ab" * 32, "cd" * 16, "equal", at_gateway=True
    )
    return Record(
        study=ONE.study_id,
        study_uid=ONE.study_uid,
        accession="A-é-1",
        folder="P/1.2.3",
        revision=revision,
        published_at="2026-11-24T00:00:00Z",
        images={ONE.orthanc_id: kept},
        set_aside={OrthancId("x"): "cannot be moved"},
        history=[{"revision": 1, "added": 1}],
        route="research",
        retired={"gateway": "2026-12-24T00:00:00Z"},
        passed=[OrthancId("y")],
    )


@pytest.mark.deep
def test_every_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    custody = Custody(tmp_path)
    custody.write(record())
    path = custody.path(ONE.study_id)
    whole = path.read_bytes()
    noticed = 0
    places = spread(range(len(whole)), 60)
    for place in places:
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(flipped)
            try:
                assert custody.read(ONE.study_id) == record(), (place, bit)
            except StateError:
                noticed += 1
    assert noticed > len(places) * 7


def test_a_record_cut_at_any_byte_is_damaged(tmp_path: Path) -> None:
    custody = Custody(tmp_path)
    custody.write(record())
    path = custody.path(ONE.study_id)
    whole = path.read_bytes()
    for cut in range(len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(StateError):
            custody.read(ONE.study_id)


@pytest.mark.parametrize(
    "stop", [power_cut, lambda steps, work: one_error(steps, StorageFullError("no room"), work)]
)
def test_a_write_that_ends_at_any_durable_step_leaves_the_old_record_or_the_new(
    tmp_path: Path, stop: Callable[[int, Callable[[], object]], bool]
) -> None:
    custody = Custody(tmp_path)
    steps = 0
    while True:
        custody.write(record(1))
        stopped = stop(steps, lambda: custody.write(record(2)))
        found = custody.read(ONE.study_id)
        assert found in ([record(1), record(2)] if stopped else [record(2)])
        if not stopped:
            break
        steps += 1
    assert steps >= 3


def test_what_the_version_before_wrote_is_read_and_written_anew_as_it_is_now(tmp_path: Path) -> None:
    custody = Custody(tmp_path)
    custody.write(record())
    path = custody.path(ONE.study_id)
    body = json.loads(path.read_bytes())
    for key in ("route", "retired", "passed", "checksum"):
        del body[key]
    body["schema"] = 1
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    path.write_text(json.dumps(body | {"checksum": f"{zlib.crc32(text.encode()):08x}"}))
    found = custody.read(ONE.study_id)
    assert found == replace(record(), route="", retired={}, passed=[])
    custody.write(found)
    assert json.loads(path.read_bytes())["schema"] == SCHEMA == 2
    assert custody.read(ONE.study_id) == found


def newer(path: Path) -> bytes:
    """The record as a later version would have written it."""
    body = json.loads(path.read_bytes()) | {"schema": SCHEMA + 1, "further": 7}
    del body["checksum"]
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    path.write_text(json.dumps(body | {"checksum": f"{zlib.crc32(text.encode()):08x}"}))
    return path.read_bytes()


def test_what_a_later_version_wrote_is_left_alone(tmp_path: Path) -> None:
    custody = Custody(tmp_path)
    custody.write(record())
    before = newer(custody.path(ONE.study_id))
    with pytest.raises(
        NewerStateError, match=r"schema 3, .*this one reads 2 and before.*install the newer one"
    ):
        custody.read(ONE.study_id)
    assert custody.path(ONE.study_id).read_bytes() == before


def test_an_extractor_that_meets_the_record_of_a_later_version_ends_and_leaves_it_as_it_is(
    tmp_path: Path,
) -> None:
    """The ledger would have kept it out: someone has taken that away."""
    portal = Portal(tmp_path)
    portal.deliver(image(1))
    portal.run()
    before = newer(portal.paths.custody / image(1).study_id[:2] / f"{image(1).study_id}.json")
    portal.deliver(image(2))
    portal.start()
    with pytest.raises(NewerStateError, match="install the newer one again"):
        portal.run()
    assert (portal.paths.custody / image(1).study_id[:2] / f"{image(1).study_id}.json").read_bytes() == before
    assert portal.published() == names(image(1))


def test_a_flipped_bit_in_the_schema_is_damage_and_no_later_version(tmp_path: Path) -> None:
    custody = Custody(tmp_path)
    custody.write(record())
    path = custody.path(ONE.study_id)
    path.write_text(path.read_text().replace('"schema": 2', '"schema": 3'))
    with pytest.raises(StateError, match=r"damaged \(checksum\)"):
        custody.read(ONE.study_id)
