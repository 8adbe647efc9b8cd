"""`ddwd logs`: the journals of the parts merged, whose they are, in what colour, and nothing of another unit."""

from __future__ import annotations

import io
import json
from argparse import Namespace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from ddwd.cli import logs
from ddwd.cli.main import parser
from ddwd.config.schema import Config
from ddwd.core.errors import InvalidValueError, StateError
from ddwd.status import part_logs, units

if TYPE_CHECKING:
    from collections.abc import Iterator

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def _record(unit: str, message: str, priority: int = 6, **fields: Any) -> dict[str, Any]:
    return {"_SYSTEMD_UNIT": unit, "MESSAGE": message, "PRIORITY": priority, **fields}


class _EndedError(Exception):
    """No more records are to come."""


class Reader:
    """python3-systemd's reader over STORED, as far as it is used; `tests/appliance` has the real one."""

    def __init__(self) -> None:
        self._groups: list[list[str]] = [[]]
        self._at = 0

    def query_unique(self, field: str) -> set[str]:
        return {record[field] for record in STORED if field in record}

    def add_match(self, match: str) -> None:
        self._groups[-1].append(match)

    def add_disjunction(self) -> None:
        self._groups.append([])

    def _fits(self, record: dict[str, Any]) -> bool:
        for group in self._groups:
            wanted: dict[str, set[str]] = {}
            for match in group:
                field, _, value = match.partition("=")
                wanted.setdefault(field, set()).add(value)
            if wanted and all(str(record.get(field)) in values for field, values in wanted.items()):
                return True
        return False

    def seek_tail(self) -> None:
        self._at = len(STORED)

    def get_previous(self) -> dict[str, Any]:
        while self._at:
            self._at -= 1
            if self._fits(STORED[self._at]):
                return STORED[self._at]
        return {}

    def get_next(self) -> dict[str, Any]:
        while self._at + 1 < len(STORED):
            self._at += 1
            if self._fits(STORED[self._at]):
                return STORED[self._at]
        return {}

    def wait(self, _seconds: float) -> None:
        if not COMING:
            raise _EndedError
        _store(COMING.pop(0))


STORED: list[dict[str, Any]] = []
COMING: list[dict[str, Any]] = []


def _store(record: dict[str, Any]) -> None:
    STORED.append({"__REALTIME_TIMESTAMP": NOON + timedelta(seconds=len(STORED)), **record})


@pytest.fixture(autouse=True)
def _journal(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(part_logs, "journal", SimpleNamespace(Reader=Reader))
    monkeypatch.setattr(part_logs, "is_readable", lambda: True)
    _store(_record("ssh.service", "a stranger came in"))
    _store(_record("ddwd-gateway.service", "Orthanc has started"))
    _store(_record("ddwd-scp.service", "no room", 3))
    _store(_record("init.scope", "Started ddwd-scp.service", _PID=1, UNIT="ddwd-scp.service"))
    _store(_record("postgresql@17-main.service", "checkpoint", 4))
    yield
    STORED.clear()
    COMING.clear()


def _run(*words: str, out: io.StringIO | None = None) -> str:
    args: Namespace = parser().parse_args(["logs", *words])
    stream = out or io.StringIO()
    assert args.run(args, Config(), stream) == 0
    return stream.getvalue()


def test_the_lines_of_all_parts_come_in_the_order_of_time_with_their_part() -> None:
    assert _run().splitlines() == [
        "2026-01-02 12:00:01 UTC  gateway     Orthanc has started",
        "2026-01-02 12:00:02 UTC  scp         no room",
        "2026-01-02 12:00:03 UTC  scp         Started ddwd-scp.service",
        "2026-01-02 12:00:04 UTC  postgresql  checkpoint",
    ]


def test_one_part_has_what_systemd_says_of_it_and_nothing_of_another() -> None:
    assert [line.split("  ")[1].strip() for line in _run("scp").splitlines()] == ["scp", "scp"]
    assert "checkpoint" in _run("postgresql")


def test_the_last_lines_are_the_newest() -> None:
    assert _run("-n", "1").splitlines() == ["2026-01-02 12:00:04 UTC  postgresql  checkpoint"]
    assert _run("-n", "0") == ""


def test_what_comes_is_shown_once() -> None:
    COMING.extend([_record("ddwd-gateway.service", "one"), _record("ddwd-scp.service", "two")])
    out = io.StringIO()
    with pytest.raises(_EndedError):
        _run("-f", "-n", "1", out=out)
    assert [line.rsplit(" ", 1)[-1] for line in out.getvalue().splitlines()] == ["checkpoint", "one", "two"]


def test_as_json_it_is_one_object_and_an_object_a_line_while_it_follows() -> None:
    told = json.loads(_run("--json", "scp"))["lines"]
    assert told[0] == {"at": "2026-01-02T12:00:02.000Z", "part": "scp", "priority": 3, "message": "no room"}
    out = io.StringIO()
    with pytest.raises(_EndedError):
        _run("--json", "-f", "scp", out=out)
    assert [json.loads(line)["lines"][0]["message"] for line in out.getvalue().splitlines()] == [
        "no room",
        "Started ddwd-scp.service",
    ]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = _run(out=_Terminal())
    assert "\x1b[31mno room\x1b[0m" in shown
    assert "\x1b[33mcheckpoint\x1b[0m" in shown
    assert "\x1b[" not in _run()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in _run(out=_Terminal())


def test_what_a_terminal_would_obey_is_printed_as_text() -> None:
    _store(_record("ddwd-gateway.service", "AE \x1b[2J title"))
    assert "\x1b" not in _run("gateway")


def test_an_unknown_part_lists_those_that_there_are() -> None:
    with pytest.raises(
        InvalidValueError, match=r"there is no such part; the parts are: ddwd, folders, .*postgresql"
    ):
        _run("nowhere")


@pytest.mark.parametrize(("journal", "readable"), [(None, True), (SimpleNamespace(Reader=Reader), False)])
def test_a_journal_that_cannot_be_read_is_said(
    monkeypatch: pytest.MonkeyPatch, journal: object, *, readable: bool
) -> None:
    monkeypatch.setattr(part_logs, "journal", journal)
    monkeypatch.setattr(part_logs, "is_readable", lambda: readable)
    with pytest.raises(StateError, match="the journal"):
        _run()


def test_every_unit_is_a_part() -> None:
    assert set(part_logs.PARTS.values()) >= {f"{unit}.service" for unit in (*units.UNITS, *units.OPTIONAL)}
    assert logs.COMMAND.name == "logs"
