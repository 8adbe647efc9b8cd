"""The ledger's promises: nothing open is forgotten, and damage is never fatal nor silent."""

from __future__ import annotations

import gzip
import os
import zlib
from typing import TYPE_CHECKING

import pytest

from ddwd.core import durable
from ddwd.core.errors import StateError, StorageFullError
from ddwd.store.ledger import SCHEMA, Ledger, schema_of
from tests.depth import spread
from tests.unit.fakes import FakeClock, one_error, orthanc_id

if TYPE_CHECKING:
    from pathlib import Path

STUDIES = [orthanc_id("P", str(n)) for n in range(50)]


def open_ledger(folder: Path, segment_bytes: int = 1 << 20) -> Ledger:
    return Ledger.open(folder, FakeClock(), segment_bytes=segment_bytes, keep_days=1)


def filled(folder: Path) -> Ledger:
    ledger = open_ledger(folder)
    for study in STUDIES[:5]:
        ledger.append("opened", study=study)
    ledger.append("closed", study=STUDIES[0])
    ledger.append("cursor", node="storage", seq=42)
    ledger.commit()
    return ledger


def test_open_studies_and_cursors_survive_a_restart(tmp_path: Path) -> None:
    filled(tmp_path)
    state = open_ledger(tmp_path).state
    assert set(state.open) == set(STUDIES[1:5])
    assert state.cursors == {"storage": 42}


def test_what_was_not_committed_is_not_remembered(tmp_path: Path) -> None:
    ledger = filled(tmp_path)
    ledger.append("opened", study=STUDIES[9])
    assert STUDIES[9] not in open_ledger(tmp_path).state.open


def test_rotation_keeps_the_open_studies_and_packs_the_old_segments(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, segment_bytes=2000)
    for study in STUDIES:
        ledger.append("opened", study=study)
        ledger.commit()
    assert len(list(tmp_path.glob("*.jsonl"))) == 1
    packed = sorted(tmp_path.glob("*.gz"))
    assert packed
    assert b"snapshot" in gzip.decompress(packed[0].read_bytes())
    assert set(open_ledger(tmp_path).state.open) == set(STUDIES)


@pytest.mark.deep
def test_a_tail_torn_at_any_byte_is_cut_and_the_rest_is_kept(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    whole = (tmp_path / "whole" / "00000001.jsonl").read_bytes()
    first_line = whole.index(b"\n") + 1
    for cut in spread(range(first_line, len(whole)), 40):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "00000001.jsonl").write_bytes(whole[:cut])
        ledger = open_ledger(folder)
        assert not ledger.damaged, cut
        assert set(ledger.state.open) <= set(STUDIES[:5])
        ledger.append("opened", study=STUDIES[20])
        ledger.commit()
        assert STUDIES[20] in open_ledger(folder).state.open


def test_a_segment_cut_inside_its_first_line_is_damage(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    whole = (tmp_path / "whole" / "00000001.jsonl").read_bytes()
    for cut in range(whole.index(b"\n") + 1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "00000001.jsonl").write_bytes(whole[:cut])
        ledger = open_ledger(folder)
        assert ledger.damaged, cut
        ledger.append("opened", study=STUDIES[20])
        ledger.commit()
        assert set(open_ledger(folder).state.open) == {STUDIES[20]}


@pytest.mark.deep
def test_every_flipped_bit_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    whole = (tmp_path / "00000001.jsonl").read_bytes()
    # thousands of fsyncs, and no page cache is lost here
    monkeypatch.setattr("os.fsync", lambda _descriptor: None)
    last_newline = len(whole) - 1  # without it the last line is a torn tail, and is cut
    for place in spread(range(last_newline), 60):
        for bit in range(8):
            for path in tmp_path.iterdir():
                path.unlink()
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            (tmp_path / "00000001.jsonl").write_bytes(flipped)
            assert open_ledger(tmp_path).damaged, (place, bit)


def test_a_start_reads_the_newest_segment_alone(tmp_path: Path) -> None:
    ledger = open_ledger(tmp_path, segment_bytes=400)
    for study in STUDIES:
        ledger.append("opened", study=study)
        ledger.commit()
    newest = max(tmp_path.glob("*.jsonl"))
    older = [path for path in tmp_path.iterdir() if path != newest]
    assert len(older) > 5
    for path in older:
        path.write_bytes(b"not to be read")
    (tmp_path / "00000001.jsonl").write_bytes(b"not packed yet, and not to be read either")
    again = open_ledger(tmp_path)
    assert not again.damaged
    assert set(again.state.open) == set(STUDIES)


@pytest.mark.parametrize("segment_bytes", [1 << 20, 300])
def test_no_room_at_any_durable_step_loses_nothing_that_a_later_commit_makes_durable(
    tmp_path: Path, segment_bytes: int
) -> None:
    steps = 0
    while True:
        folder = tmp_path / str(steps)
        ledger = open_ledger(folder, segment_bytes)
        ledger.append("opened", study=STUDIES[0])
        ledger.commit()
        ledger.append("opened", study=STUDIES[1])
        ledger.append("closed", study=STUDIES[0])
        if not one_error(steps, StorageFullError("no room"), ledger.commit):
            break
        assert set(open_ledger(folder).state.open) <= {STUDIES[0], STUDIES[1]}
        ledger = open_ledger(folder, segment_bytes) if steps % 2 else ledger
        ledger.append("opened", study=STUDIES[2])
        ledger.append("opened", study=STUDIES[1])
        ledger.commit()
        assert {STUDIES[1], STUDIES[2]} <= set(open_ledger(folder).state.open), steps
        steps += 1
    assert steps >= (1 if segment_bytes > 300 else 5)


@pytest.mark.parametrize(
    "text",
    [
        b'{"kind":"snapshot"}',
        b'{"kind":"snapshot","schema":1,"cursors":7,"open":{}}',
        b'{"kind":"snapshot","schema":1,"cursors":{},"open":[]}',
        b'{"kind":"snapshot","schema":1,"cursors":{"storage":"x"},"open":{}}',
        b'{"schema":1}',
        b'{"kind":7}',
        b"[]",
        b"7",
        b"[" * 100_000,
    ],
)
def test_a_line_whose_checksum_holds_and_whose_record_is_none_is_damage(tmp_path: Path, text: bytes) -> None:
    """What a flipped bit before the checksum was taken leaves, or a hand: nothing a start may end by."""
    (tmp_path / "00000001.jsonl").write_bytes(b"%08x %s\n" % (zlib.crc32(text), text))
    ledger = open_ledger(tmp_path)
    assert ledger.damaged
    ledger.append("opened", study=STUDIES[20])
    ledger.commit()
    assert STUDIES[20] in open_ledger(tmp_path).state.open


def segment(folder: Path, schema: int) -> bytes:
    """A sound segment 3 as a version with that schema leaves it, and an older one beside it that is not packed yet."""
    text = b'{"kind":"snapshot","schema":%d,"cursors":{"storage":7},"open":{"%s":"then"}}' % (
        schema,
        STUDIES[3].encode(),
    )
    content = b"%08x %s\n" % (zlib.crc32(text), text)
    (folder / "00000002.jsonl").write_bytes(content)
    (folder / "00000003.jsonl").write_bytes(content)
    return content


@pytest.mark.parametrize("schema", [SCHEMA + 1, 99])
def test_a_ledger_of_a_newer_version_is_refused_and_nothing_is_written(tmp_path: Path, schema: int) -> None:
    content = segment(tmp_path, schema)
    (tmp_path / "00000001.jsonl.gz").write_bytes(b"packed")
    os.utime(tmp_path / "00000001.jsonl.gz", (0, 0))  # long past its days
    with pytest.raises(StateError, match=rf"00000003.jsonl: schema {schema}, .*install the newer one again"):
        Ledger.open(tmp_path, FakeClock(), segment_bytes=10, keep_days=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "00000001.jsonl.gz": b"packed",
        "00000002.jsonl": content,
        "00000003.jsonl": content,
    }


def test_a_ledger_of_the_version_before_is_read_and_goes_on_in_a_segment_of_this_one(tmp_path: Path) -> None:
    content = segment(tmp_path, 1)
    ledger = open_ledger(tmp_path)
    assert not ledger.damaged
    assert ledger.state.cursors == {"storage": 7}
    assert (tmp_path / "00000003.jsonl").read_bytes() == content
    assert schema_of(tmp_path) == SCHEMA
    assert set(open_ledger(tmp_path).state.open) == {STUDIES[3]}
    assert not (tmp_path / "00000005.jsonl").exists(), "it is migrated once"


def test_a_full_disk_keeps_the_batch_for_the_next_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = filled(tmp_path)
    before = (tmp_path / "00000001.jsonl").read_bytes()
    ledger.append("opened", study=STUDIES[9])

    def full(_name: str, path: Path) -> None:
        raise StorageFullError(f"no room for {path.name}")

    monkeypatch.setattr(durable, "step", full)
    with pytest.raises(StorageFullError):
        ledger.commit()
    monkeypatch.undo()
    assert (tmp_path / "00000001.jsonl").read_bytes() == before
    ledger.commit()
    assert STUDIES[9] in open_ledger(tmp_path).state.open


def test_a_live_segment_that_is_gone_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "00000007.jsonl.gz").write_bytes(gzip.compress(b""))
    ledger = open_ledger(tmp_path)
    assert ledger.damaged
    assert (tmp_path / "00000008.jsonl").exists()
