"""A finished study speaks: every revision is told at least once, a failure is tried again for ever, and nothing of a patient is seen."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ddwd.core.audit import Audit, Event
from ddwd.core.model import OrthancId
from ddwd.hooks.dispatcher import (
    Hook,
    HookDispatcher,
    HookFailedError,
    HookStoppedError,
    environment,
    run_hook,
)
from ddwd.store.hook_queue import HookQueue, Notice
from ddwd.store.rejected_files import RejectedFiles
from tests.unit.fakes import FakeClock, InlineExecutor, power_cut
from tests.unit.planted import PLANTED

STUDY = OrthancId("0123abcd-0123abcd-0123abcd-0123abcd-0123abcd")
OTHER = OrthancId("4567abcd-0123abcd-0123abcd-0123abcd-0123abcd")
NOTICE = Notice(
    study=STUDY,
    study_uid="1.2.3",
    route="research",
    path="/var/lib/ddwd/received_dicom/PAT-7/1.2.3",
    revision=1,
    instances=2,
    published_at="2026-01-02T03:04:05.000Z",
    custody={"revision": 1, "images": []},
)
HOOK = Hook(None, "https://ris.example/finished", 60.0)


class Told:
    """A teller whose hooks answer as the test says; `restart` throws all memory away."""

    def __init__(self, folder: Path) -> None:
        self.notices = HookQueue(folder)
        self.clock = FakeClock()
        self.events: list[tuple[Event, str]] = []
        self.calls: list[tuple[str, int]] = []
        self.failure: Exception | None = None
        self.restart()

    def restart(self) -> None:
        audit = Audit(lambda event, message, _fields: self.events.append((event, message)))
        self.dispatcher = HookDispatcher(
            {"research": HOOK}, self.notices, self._call, InlineExecutor(), self.clock, audit, lambda: None
        )

    def _call(self, _hook: Hook, notice: Notice) -> None:
        self.calls.append((notice.study, notice.revision))
        if self.failure is not None:
            raise self.failure

    def run(self, seconds: float = 1.0) -> None:
        for _ in range(int(seconds)):
            self.dispatcher.turn()
            self.clock.advance(1.0)
        self.dispatcher.turn()


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_a_finished_study_is_told_once_and_never_again(told: Told) -> None:
    assert told.notices.put(NOTICE)
    assert told.notices.is_waiting(STUDY)
    told.run(10)
    assert not told.notices.put(NOTICE)
    told.restart()
    told.run(10)
    assert told.calls == [(STUDY, 1)]
    assert [event for event, _ in told.events] == [Event.HOOK_DONE]
    assert not told.notices.is_waiting(STUDY)
    assert told.notices.newest() == []


def test_late_images_are_told_as_a_revision_of_their_own(told: Told) -> None:
    told.notices.put(NOTICE)
    told.run()
    told.notices.put(replace(NOTICE, revision=2))
    told.run()
    assert told.calls == [(STUDY, 1), (STUDY, 2)]


def test_of_several_revisions_that_wait_the_newest_is_told_alone(told: Told) -> None:
    for revision in (1, 2, 10):
        told.notices.put(replace(NOTICE, revision=revision))
    told.run()
    assert told.calls == [(STUDY, 10)]
    assert told.notices.newest() == []


def test_a_failure_is_tried_again_with_growing_pauses_until_it_succeeds(told: Told) -> None:
    told.notices.put(NOTICE)
    told.failure = HookFailedError("the webhook at ris.example answered HTTP 503")
    told.run(3 * 3600)
    tries = len(told.calls)
    assert 5 <= tries <= 8  # at 0, 10, 50, 210, 850, 3410, 7010 and 10610 s
    (waiting,) = told.dispatcher.turn()
    assert (waiting.failures, waiting.reason) == (tries, str(told.failure))
    told.failure = None
    told.run(3600)
    assert told.calls[tries:] == [(STUDY, 1)]
    assert {event for event, _ in told.events} == {Event.HOOK_FAILED, Event.HOOK_DONE}
    assert told.dispatcher.turn() == []


def test_the_operator_has_all_of_them_tried_at_once(told: Told) -> None:
    told.notices.put(NOTICE)
    told.failure = HookFailedError("no")
    told.run(50)
    before = len(told.calls)
    assert not told.notices.take_retry_request()
    told.notices.request_retry()
    assert told.notices.take_retry_request()
    told.dispatcher.hasten()
    told.run(1)
    assert len(told.calls) == before + 1


def test_a_study_that_cannot_be_told_holds_up_no_other(told: Told) -> None:
    told.notices.put(replace(NOTICE, route="gone"))
    told.notices.put(replace(NOTICE, study=OTHER))
    told.run(5)
    assert told.calls == [(OTHER, 1)]
    (waiting,) = told.dispatcher.turn()
    assert "has no hook any more; delete the notice: ddwd hooks drop" in waiting.reason
    told.notices.drop(OrthancId(waiting.study), waiting.revision)
    assert told.dispatcher.turn() == []


def test_what_is_dropped_is_one_study_up_to_one_revision_whatever_another_user_planted(told: Told) -> None:
    for notice in (NOTICE, replace(NOTICE, revision=3), replace(NOTICE, study=OTHER)):
        told.notices.put(notice)
    (told.notices.waiting / f"{STUDY}.2.json").mkdir()
    told.notices.drop(STUDY, 2)
    assert {notice.name for notice in told.notices.newest()} == {f"{STUDY}.3.json", f"{OTHER}.1.json"}
    told.notices.drop(STUDY, 3)
    assert [notice.study for notice in told.notices.newest()] == [OTHER]


def test_a_stop_in_the_middle_is_no_failure_and_tells_it_again_after_the_start(told: Told) -> None:
    told.notices.put(NOTICE)
    told.failure = HookStoppedError()
    told.run(1)
    assert told.events == []
    told.failure = None
    told.restart()
    told.run(1)
    assert told.calls[-1] == (STUDY, 1)
    assert told.notices.newest() == []


def test_a_power_cut_at_any_step_of_a_notice_loses_none(tmp_path: Path) -> None:
    for step in range(20):
        folder = tmp_path / str(step)
        notices = HookQueue(folder)
        was_cut = power_cut(step, lambda notices=notices: notices.put(NOTICE))  # type: ignore[misc]
        notices.put(NOTICE)  # the cycle calls again: the ledger has not closed the study
        assert notices.newest() == [NOTICE]
        if not was_cut:
            break
    else:
        pytest.fail("it never ran to its end")


def test_a_power_cut_after_a_success_tells_once_more_at_most(tmp_path: Path) -> None:
    for step in range(20):
        told = Told(tmp_path / str(step))
        told.notices.put(NOTICE)
        was_cut = power_cut(step, lambda told=told: told.notices.done(NOTICE))  # type: ignore[misc]
        told.restart()
        told.run(1)
        assert len(told.calls) <= 1
        assert told.notices.newest() == []
        assert told.notices.notified_revision(STUDY) == 1
        if not was_cut:
            break
    else:
        pytest.fail("it never ran to its end")


def test_what_is_no_notice_is_left_alone(told: Told) -> None:
    told.notices.put(NOTICE)
    (told.notices.waiting / "README").write_text("a note of the operator")
    (told.notices.waiting / f"{OTHER}.1.json").write_text("[]")
    assert told.notices.newest() == [NOTICE]


# --- one hook ---------------------------------------------------------------------------------------------------------


def _script(folder: Path, text: str) -> Path:
    path = folder / "hook"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def _tell(folder: Path, text: str, timeout: float = 30.0, stopping: threading.Event | None = None) -> None:
    hook = Hook(_script(folder, text), None, timeout)
    run_hook(hook, NOTICE, folder / "output" / "said.txt", stopping or threading.Event())


def test_an_executable_is_told_by_environment_and_standard_input_and_by_no_argument(tmp_path: Path) -> None:
    _tell(tmp_path, f"cat > {tmp_path}/told; env > {tmp_path}/env; echo $# > {tmp_path}/count")
    assert json.loads((tmp_path / "told").read_text()) == {
        "study": STUDY,
        "study_uid": "1.2.3",
        "route": "research",
        "path": NOTICE.path,
        "revision": 1,
        "instances": 2,
        "published_at": NOTICE.published_at,
        "custody": {"revision": 1, "images": []},
    }
    assert f"DDWD_PATH={NOTICE.path}" in (tmp_path / "env").read_text().splitlines()
    assert (tmp_path / "count").read_text() == "0\n"
    assert not (tmp_path / "output" / "said.txt").exists()


def test_nothing_else_of_our_environment_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTGRES_PASSWORD", "secret")
    assert {key for key in environment(NOTICE) if not key.startswith("DDWD_")} <= {"PATH", "LANG", "TZ"}


def test_what_a_failed_executable_says_is_kept_beside_the_queue_and_not_in_the_reason(tmp_path: Path) -> None:
    with pytest.raises(HookFailedError, match="ended with exit status 3; its output: ") as caught:
        _tell(tmp_path, "echo about PAT-7; exit 3")
    assert "PAT-7" not in str(caught.value)
    assert (tmp_path / "output" / "said.txt").read_text() == "about PAT-7\n"


def test_of_much_that_is_said_the_end_is_kept(tmp_path: Path) -> None:
    with pytest.raises(HookFailedError):
        _tell(tmp_path, "head -c 1000000 /dev/zero; echo; echo end; exit 1")
    said = (tmp_path / "output" / "said.txt").read_bytes()
    assert (len(said), said[-5:]) == (65536, b"\nend\n")


def test_an_executable_that_takes_too_long_is_ended_with_all_it_started(tmp_path: Path) -> None:
    with pytest.raises(HookFailedError, match=r"did not end within 0\.5 s"):
        _tell(tmp_path, f"sleep 600 & echo $! > {tmp_path}/child; wait", timeout=0.5)
    child = int((tmp_path / "child").read_text())
    while _runs(child):
        os.sched_yield()


def _runs(process: int) -> bool:
    """Whether it is there and no zombie that waits for init."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="ascii")
    except OSError:
        return False
    return not stat.rpartition(") ")[2].startswith("Z")


def test_an_executable_is_ended_when_ddwd_hooks_is_to_stop(tmp_path: Path) -> None:
    stopping = threading.Event()
    stopping.set()
    with pytest.raises(HookStoppedError):
        _tell(tmp_path, "sleep 600", stopping=stopping)


def test_an_executable_that_reads_nothing_is_no_failure(tmp_path: Path) -> None:
    _tell(tmp_path, "exec <&-; exit 0")


@pytest.mark.parametrize(("mode", "said"), [(0o644, "Permission denied"), (None, "No such file")])
def test_an_executable_that_cannot_be_run_is_told_by_its_name(
    tmp_path: Path, mode: int | None, said: str
) -> None:
    path = _script(tmp_path, "exit 0")
    path.unlink() if mode is None else path.chmod(mode)
    with pytest.raises(HookFailedError, match=f"cannot be run .{said}"):
        run_hook(Hook(path, None, 5.0), NOTICE, tmp_path / "output" / "said.txt", threading.Event())


# --- what another user planted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("planted", PLANTED)
def test_what_is_no_file_among_the_notices_is_put_aside_and_the_others_are_told(
    tmp_path: Path, planted: str, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told(tmp_path)
    told.notices = HookQueue(tmp_path, RejectedFiles("notice"))
    told.restart()
    told.notices.put(NOTICE)
    PLANTED[planted](told.notices.waiting / f"{OTHER}.1.json")
    told.run(2)
    assert told.calls == [(STUDY, 1)]
    left = {path.name for path in told.notices.waiting.iterdir()} - {"elsewhere"}
    assert left == {f"{OTHER}.1.bad"}
    assert "renamed to *.bad" in caplog.text


def test_a_notice_of_another_study_than_its_name_is_told_to_nobody(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.notices = HookQueue(tmp_path, RejectedFiles("notice"))
    told.restart()
    told.notices.put(NOTICE)
    (told.notices.waiting / NOTICE.name).rename(told.notices.waiting / f"{OTHER}.1.json")
    told.run(2)
    assert told.calls == []
    assert [path.name for path in told.notices.waiting.iterdir()] == [f"{OTHER}.1.bad"]
    assert HookQueue(tmp_path).newest() == []


@pytest.mark.parametrize("planted", ["folder", "pipe", "link to a pipe"])
def test_a_request_to_retry_that_is_no_file_is_taken_once(tmp_path: Path, planted: str) -> None:
    notices = HookQueue(tmp_path)
    notices.waiting.mkdir()
    PLANTED[planted](notices.waiting / "now")
    assert notices.take_retry_request()
    assert not notices.take_retry_request()
