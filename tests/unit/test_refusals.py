"""What ORTHANC2 and stunnel log of those they refuse becomes an audit event, once, whatever a stranger calls itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ddwd.monitoring.rejected_associations import RejectionReporter, RejectionWatcher
from tests.unit.fakes import FakeClock
from tests.unit.test_audit import Told

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD = "W1125 03:22:13.336750     DICOM-SERVER CommandDispatcher.cpp:628] "


class _Log:
    """A journal: what was written, and from which cursor it is read."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.read = 0

    def write(self, text: str | bytes, unit: str = "storage") -> None:
        self.records.append(
            {
                "MESSAGE": text,
                "_SYSTEMD_UNIT": f"ddwd-{unit}.service",
                "__CURSOR": str(len(self.records) + 1),
            }
        )

    def open(self, cursor: str) -> Callable[[], list[dict[str, Any]]]:
        self.read = int(cursor or 0)
        return self.new

    def new(self) -> list[dict[str, Any]]:
        found, self.read = self.records[self.read :], len(self.records)
        return found


@pytest.fixture
def log() -> _Log:
    return _Log()


@pytest.mark.parametrize(
    ("text", "said", "aet"),
    [
        (
            HEAD + "Rejected association for remote AET CT 9 on IP 10.1.2.3",
            "refused an association of CT 9 at 10.1.2.3",
            "CT 9",
        ),
        (
            HEAD + "Rejected association, because of a bad called AET in the request (NOBODY)",
            "refused an association that called NOBODY",
            "?",
        ),
        (
            HEAD
            + 'Rejected C-MOVE request from remote DICOM modality with AET "A"B" and hostname "10.1.2.3"',
            'refused a request of A"B at 10.1.2.3',
            'A"B',
        ),
        (
            HEAD + "Receiving Association failed: TLS error: peer did not return a certificate",
            "refused a connection by TLS (peer did not return a certificate)",
            "?",
        ),
        (
            "2026.11.25 03:31:02 LOG3[7]: SSL_accept: error:0A000086:SSL routines::certificate verify failed",
            "refused a connection by TLS (certificate verify failed)",
            "?",
        ),
        (
            (HEAD + "Rejected association for remote AET \xff\x1b[2J on IP 10.1.2.3").encode("latin-1"),
            "refused an association of \ufffd?[2J at 10.1.2.3",
            "\ufffd?[2J",
        ),
    ],
)
def test_a_refusal_in_the_log_is_told(
    log: _Log, tmp_path: Path, text: str | bytes, said: str, aet: str
) -> None:
    told = Told()
    log.write("W1125 03:22:09 MAIN main.cpp:946] Orthanc has started")
    log.write(text, "storage")
    RejectionWatcher(RejectionReporter(told.audit, FakeClock()), tmp_path / "cursor", log.open).step()
    ((_, message, fields),) = told.journal
    assert message == said
    assert (fields["DDWD_AET"], fields["DDWD_PEER"]) == (aet, "storage")


def test_each_is_told_once_also_after_a_restart(log: _Log, tmp_path: Path) -> None:
    told = Told()
    for number in range(3):
        watch = RejectionWatcher(RejectionReporter(told.audit, FakeClock()), tmp_path / "cursor", log.open)
        log.write(f"{HEAD}Rejected association for remote AET A{number} on IP 10.1.2.3")
        watch.step()
        watch.step()
    assert [fields["DDWD_AET"] for _, _, fields in told.journal] == ["A0", "A1", "A2"]


def test_where_there_is_no_journal_nothing_is_told(tmp_path: Path) -> None:
    told = Told()
    RejectionWatcher(
        RejectionReporter(told.audit, FakeClock()), tmp_path / "cursor", lambda _cursor: tuple
    ).step()
    assert told.journal == []
