"""The doorbell: each call changes the file that the extractor watches, and what fails is said once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ddwd.orthanc.plugin.doorbell import Doorbell

if TYPE_CHECKING:
    from pathlib import Path


def test_each_ring_writes_to_the_file(tmp_path: Path) -> None:
    said: list[str] = []
    path = tmp_path / "gateway"
    doorbell = Doorbell(str(path), said.append)
    for _ in range(2):
        path.write_bytes(b"")
        doorbell.ring()
        assert path.read_bytes() == b"."
    assert said == []


def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    said: list[str] = []
    doorbell = Doorbell(str(tmp_path / "missing" / "gateway"), said.append)
    doorbell.ring()
    doorbell.ring()
    assert len(said) == 1
    assert "No such file or directory" in said[0]
    assert "restart ddwd-provision" in said[0]
