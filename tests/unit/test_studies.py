"""`ddwd studies` and its index: every study, by each filter; the index follows the records, and is made anew from them when it is lost."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.cli.main import parser
from ddwd.core.errors import InvalidValueError, StateError
from ddwd.daemon.extractor import StatusTotals, extractor_status
from ddwd.status import study_list
from ddwd.store import study_index
from ddwd.store.custody import Custody
from ddwd.store.status_files import EXTRACTOR
from tests.unit.fakes import image
from tests.unit.portal import Portal

if TYPE_CHECKING:
    from pathlib import Path

    from ddwd.config.schema import Config

_CT = {"StudyDescription": "Thorax, nativ", "StudyDate": "20260131"}


@pytest.fixture
def portal(tmp_path: Path) -> Portal:
    """Three published studies: of two patients, of which one has two."""
    made = Portal(tmp_path)
    for study, patient, count in ((1, "Smith", 2), (2, "Jones", 3), (3, "Smith", 1)):
        made.gateway.tags = made.storage.tags = {**_CT, "StudyDescription": f"study {study}"}
        made.deliver(
            *(image(study, number, patient=patient, accession=f"A{study}") for number in range(1, count + 1))
        )
        made.run(20)
        made.clock.advance(3600)
    assert len(made.published()) == 6
    return made


def _said(config: Config, *words: str) -> str:
    out = io.StringIO()
    args = parser().parse_args(["studies", *words])
    assert args.run(args, config, out) == 0
    return out.getvalue()


def _found(config: Config, *words: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(_said(config, "--json", *words))["studies"]
    return rows


def test_the_newest_study_is_the_first_and_says_what_its_record_says(portal: Portal) -> None:
    rows = _found(portal.config, "--show-patients")
    assert [row["accession"] for row in rows] == ["A3", "A2", "A1"]
    record = Custody(portal.paths.custody).read(rows[1]["study"])
    assert record is not None
    assert rows[1] | {"seconds": 0} == {
        "at": record.published_at,
        "study": record.study,
        "study_uid": "1.2.3.2",
        "patient_id": "Jones",
        "accession": "A2",
        "study_date": "20260131",
        "modality": "CT",
        "description": "study 2",
        "sender": "CT1",
        "route": "",
        "images": 3,
        "on_disk": 3,
        "set_aside": 0,
        "bytes": sum(one.size for one in record.images.values()),
        "revision": 1,
        "first_at": record.history[0]["at"],
        "seconds": 0,
        "state": "complete",
        "folder": "Jones/1.2.3.2",
    }
    assert rows[1]["seconds"] == record.history[0]["seconds"]


@pytest.mark.parametrize(
    ("words", "accessions"),
    [
        (["--patient", "Smith"], ["A3", "A1"]),
        (["--patient", " Smith "], ["A3", "A1"]),
        (["--patient", "smith"], []),
        (["--accession", "A2"], ["A2"]),
        (["--uid", "1.2.3.2"], ["A2"]),
        (["--modality", "ct"], ["A3", "A2", "A1"]),
        (["--modality", "C"], []),
        (["--description", "STUDY 1"], ["A1"]),
        (["--sender", "CT1", "--patient", "Jones"], ["A2"]),
        (["--sender", "CT2"], []),
        (["--route", "research"], []),
        (["--state", "complete"], ["A3", "A2", "A1"]),
        (["--state", "removed"], []),
        (["--limit", "2"], ["A3", "A2"]),
    ],
)
def test_each_filter_takes_what_it_says(portal: Portal, words: list[str], accessions: list[str]) -> None:
    assert [row["accession"] for row in _found(portal.config, *words)] == accessions


def test_since_and_until_are_local_times_or_how_long_ago(portal: Portal) -> None:
    second = _found(portal.config)[1]["at"]
    local = datetime.fromisoformat(second).astimezone().replace(tzinfo=None, microsecond=0).isoformat(" ")
    after = [row["accession"] for row in _found(portal.config, "--since", local)]
    before = [row["accession"] for row in _found(portal.config, "--until", local)]
    assert (after, before) == (["A3", "A2"], ["A1"])
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert study_list.moment_of("2h", now) == "2026-03-01T10:00:00.000Z"
    assert study_list.moment_of("30min", now) == "2026-03-01T11:30:00.000Z"
    for text in ("yesterday", "", "2026-13-01", "9" * 30 + "d", "-3d"):
        with pytest.raises(InvalidValueError, match="is no time: write 2026-01-31"):
            study_list.moment_of(text, now)


def test_no_patient_is_shown_unless_asked(portal: Portal) -> None:
    for words in ([], ["--csv"], ["--json"]):
        said = _said(portal.config, *words)
        assert "Smith" not in said
        assert "Jones" not in said
    rows = _found(portal.config)
    assert (rows[1]["patient_id"], rows[1]["folder"]) == ("•••es", "•••es/1.2.3.2")
    assert "Jones" in _said(portal.config, "--show-patients")


@pytest.mark.parametrize(
    ("patient", "folder", "shown"),
    [
        ("4711", "research/x4711_1.2/1.4711.2", "research/••11/1.4711.2"),
        ("4711", "4711/1.2.3", "••11/1.2.3"),
        ("Smith/7", "Smith%2F7%-F/1.2.3", "•••••/7/1.2.3"),
        ("Smith/7", "x_Smith%2F7/1.2.3", "•••••/7/1.2.3"),
        ("", "%EMPTY/1.2.3", "/1.2.3"),
    ],
)
def test_the_patient_is_masked_in_every_part_of_the_folder(patient: str, folder: str, shown: str) -> None:
    row = study_index.IndexedStudy(image().study_id, patient_id=patient, folder=folder)
    assert study_list.masked(row).folder == shown


def test_a_study_in_flight_is_shown_with_its_stage_and_counts_once(portal: Portal) -> None:
    portal.close_forwarding()
    portal.gateway.store(image(2, 9, patient="Jones", accession="A2"), image(4, 1))
    portal.run(5)
    status = extractor_status(portal.extractor, StatusTotals(), portal.clock)
    path = portal.paths.heartbeat("extractor")
    path.parent.mkdir(parents=True)
    EXTRACTOR.write_status(path, status)
    rows = _found(portal.config)
    assert len(rows) == 4
    flying = _found(portal.config, "--state", "in-flight")
    assert {row["study_uid"]: (row["images"], row["seconds"]) for row in flying} == {
        "1.2.3.2": (4, None),
        "1.2.3.4": (1, None),
    }
    assert {row["state"] for row in flying} == {one.state for one in status.in_flight}


def test_a_late_image_and_a_removed_record_are_in_the_index_at_once(portal: Portal) -> None:
    portal.deliver(image(1, 3, patient="Smith", accession="A1"))
    portal.run(20)
    rows = _found(portal.config)
    assert (rows[0]["accession"], rows[0]["images"], rows[0]["revision"]) == ("A1", 3, 2)
    portal.custody.remove(rows[1]["study"])
    portal.extractor.index.note(rows[1]["study"])
    portal.run(2)
    assert [row["accession"] for row in _found(portal.config)] == ["A1", "A2"]


def _contents(portal: Portal) -> list[study_index.IndexedStudy]:
    with closing(study_index.opened(portal.paths.studies)) as database:
        assert study_index.share_made(database) == 1.0
        return study_index.studies(database, "order by study")


@pytest.mark.parametrize(
    "damage", ["lost", "not SQLite", "cut", "of another version", "empty", "rows by hand"]
)
def test_an_index_that_is_lost_or_damaged_is_made_anew_from_the_records(portal: Portal, damage: str) -> None:
    path, before = portal.paths.studies, _contents(portal)
    content = path.read_bytes()
    if damage == "lost":
        path.unlink()
    elif damage == "not SQLite":
        path.write_bytes(b"no database" * 1000)
    elif damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        with closing(sqlite3.connect(path)) as database, database:
            database.execute(
                "pragma user_version = 99"
                if damage == "of another version"
                else "update studies set mark = 0, accession = 'x'"
            )
    portal.start()
    portal.run(20)
    assert _contents(portal) == before


def test_records_that_came_while_the_extractor_was_stopped_are_taken_up(portal: Portal) -> None:
    study = _contents(portal)[0].study
    record = portal.custody.read(study)
    assert record is not None
    portal.custody.write(replace(record, route="by hand", revision=7))
    portal.start()
    portal.run(2)
    assert [(row.route, row.revision) for row in _contents(portal) if row.study == study] == [("by hand", 7)]


def test_a_damaged_record_is_a_study_that_is_known_and_nothing_more(portal: Portal) -> None:
    study = _contents(portal)[0].study
    portal.custody.path(study).write_bytes(b"{")
    portal.start()
    portal.run(2)
    assert [row["state"] for row in _found(portal.config) if row["study"] == study] == ["damaged"]
    assert len(_found(portal.config, "--state", "damaged")) == 1


def test_a_record_of_an_earlier_version_tells_the_patient_by_its_folder(portal: Portal) -> None:
    record = portal.custody.read(_contents(portal)[0].study)
    assert record is not None
    row = study_index.row_of(replace(record, tags={}, folder="smith%-1F/1.2.3"), 1)
    assert (row.patient_id, row.modality) == ("smith", "")


def test_what_was_published_last_is_known_after_a_restart(portal: Portal) -> None:
    before = portal.loop.recent
    assert len(before) == 3
    portal.start()
    assert portal.loop.recent == before


def test_without_an_index_one_line_says_who_makes_it(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="there is no index of studies yet: ddwd-extractor makes it"):
        study_list.find(tmp_path / "studies.sqlite", [], {})


def test_an_interrupted_write_is_not_read(portal: Portal) -> None:
    path = portal.paths.studies
    path.with_name(f"{path.name}-journal").write_bytes(b"x")
    with pytest.raises(StateError, match="was interrupted"):
        study_list.find(path, [], {})


def test_the_writer_and_a_reader_wait_for_each_other(portal: Portal) -> None:
    """A reader in another process holds the lock: the writer goes on after it, and loses nothing."""
    path = portal.paths.studies
    hold = f"import fcntl, time\nfile = open({str(path)!r}, 'rb')\nfcntl.flock(file, fcntl.LOCK_SH)\nprint(flush=True)\ntime.sleep(0.5)\n"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as reader:
        assert reader.stdout
        reader.stdout.readline()
        portal.deliver(image(5))
        portal.run(20)
    assert len(_contents(portal)) == 4


def test_the_table_fits_the_terminal_and_shows_more_on_a_wide_one(
    portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = {}
    for width in (60, 80, 120, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        lines = _said(portal.config).splitlines()
        assert max(map(len, lines[:-1])) <= width
        heads[width] = lines[0].split()
        assert lines[-1] == "3 studies"
    assert "patient" in heads[60]
    assert "state" in heads[80]
    assert "folder" in heads[200]


def test_the_table_names_how_many_there_are(portal: Portal) -> None:
    assert (
        _said(portal.config, "--limit", "1").splitlines()[-1]
        == "1 of 3 studies, the newest; all of them: --limit 0"
    )
    assert _said(portal.config, "--patient", "nobody") == "no study matches\n"


def test_totals_are_by_day_and_modality(portal: Portal) -> None:
    days = json.loads(_said(portal.config, "--stats", "--json"))["days"]
    assert [(day["modality"], day["studies"], day["images"]) for day in days] == [("CT", 3, 6)]
    assert _said(portal.config, "--stats").splitlines()[-1] == "3 studies in all; to disk: the median"
    rows = list(csv.DictReader(io.StringIO(_said(portal.config, "--stats", "--csv"))))
    assert rows[0]["studies"] == "3"


def test_csv_has_every_field_and_no_formula(tmp_path: Path) -> None:
    portal = Portal(tmp_path)
    portal.gateway.tags = portal.storage.tags = {"StudyDescription": '=cmd|"/c calc"!A1'}
    portal.deliver(image())
    portal.run(20)
    (row,) = csv.DictReader(io.StringIO(_said(portal.config, "--csv")))
    assert row["description"] == '\'=cmd|"/c calc"!A1'
    assert list(row) == list(_found(portal.config)[0])
