"""What the admission filter says of an image reaches the acceptor, and nobody waits for it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from ddwd.orthanc.plugin.verdicts import Verdicts, report

if TYPE_CHECKING:
    from pathlib import Path


def test_a_verdict_is_taken_once(tmp_path: Path) -> None:
    with closing(Verdicts(tmp_path / "verdicts")) as verdicts:
        report(str(tmp_path / "verdicts"), "1.2.3", "too deep")
        report(str(tmp_path / "verdicts"), "1.2.4", "no space")
        assert [verdicts.take(uid) for uid in ("1.2.4", "1.2.3", "1.2.3")] == ["no space", "too deep", ""]


def test_nobody_waits_for_an_acceptor_that_does_not_read_or_is_not_there(tmp_path: Path) -> None:
    report(str(tmp_path / "none"), "1.2.3", "too deep")
    with closing(Verdicts(tmp_path / "verdicts")) as verdicts:
        for number in range(5000):
            report(str(tmp_path / "verdicts"), f"1.2.{number}", "too deep")
        assert verdicts.take("1.2.0") == "too deep"


def test_what_is_no_verdict_is_dropped(tmp_path: Path) -> None:
    with closing(Verdicts(tmp_path / "verdicts")) as verdicts:
        report(str(tmp_path / "verdicts"), "1.2.3", "x" * 2000)
        report(str(tmp_path / "verdicts"), "1.2.4", "no space")
        assert verdicts.take("1.2.4") == "no space"


def test_a_second_start_takes_the_place_of_the_first(tmp_path: Path) -> None:
    Verdicts(tmp_path / "verdicts").close()
    with closing(Verdicts(tmp_path / "verdicts")) as verdicts:
        report(str(tmp_path / "verdicts"), "1.2.3", "too deep")
        assert verdicts.take("1.2.3") == "too deep"
