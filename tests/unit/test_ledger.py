"""The ledger's promises: nothing open is forgotten, and damage is never fatal nor silent."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from ddwd import durable
from ddwd.errors import StateError, StorageFullError
from ddwd.state.ledger import Ledger
from tests.unit.fakes import FakeClock, orthanc_id

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


def test_a_tail_torn_at_any_byte_is_cut_and_the_rest_is_kept(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    whole = (tmp_path / "whole" / "00000001.jsonl").read_bytes()
    first_line = whole.index(b"\n") + 1
    for cut in range(first_line, len(whole)):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "00000001.jsonl").write_bytes(whole[:cut])
        ledger = open_ledger(folder)
        assert not ledger.damaged, cut
        assert set(ledger.state.open) <= set(STUDIES[:5])
        ledger.append("opened", study=STUDIES[20])
        ledger.commit()
        assert STUDIES[20] in open_ledger(folder).state.open


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path) -> None:
    filled(tmp_path / "whole")
    whole = (tmp_path / "whole" / "00000001.jsonl").read_bytes()
    last_line = whole.rindex(b"\n", 0, -1) + 1
    for place in range(0, last_line - 1, 3):
        folder = tmp_path / str(place)
        folder.mkdir()
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (folder / "00000001.jsonl").write_bytes(flipped)
        assert open_ledger(folder).damaged, place


def test_an_unknown_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    filled(tmp_path)
    path = tmp_path / "00000001.jsonl"
    import zlib  # noqa: PLC0415

    text = b'{"kind":"snapshot","schema":99,"cursors":{},"open":{}}'
    content = b"%08x %s\n" % (zlib.crc32(text), text)
    path.write_bytes(content)
    with pytest.raises(StateError, match="schema 99"):
        open_ledger(tmp_path)
    assert path.read_bytes() == content


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
