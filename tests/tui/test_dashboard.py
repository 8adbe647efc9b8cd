"""Each screen and key of the dashboard, by Textual's pilot; the screens are compared with pictures made before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import Mock

import pytest
from textual.app import App
from textual.widgets import DataTable, Static

from ddwd.core.errors import StateError
from ddwd.extractor.quarantine import Entry, QuarantinedObject
from ddwd.status.dashboard import Patient
from ddwd.store.operator_requests import Request
from ddwd.tui.app import Dashboard, Refreshed
from tests.tui import boards
from tests.tui.boards import MadeUpPortal, StillFeed

if TYPE_CHECKING:
    from textual.pilot import Pilot

    from ddwd.status.dashboard import DashboardModel
    from ddwd.tui.feed import Feed

NARROW, WIDE = (80, 24), (120, 40)


@pytest.fixture(autouse=True)
def _ended_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of a dashboard that ended with an error is none: Textual would hand it out all the same."""
    export = App.export_screenshot

    def of_one_that_runs(app: App[None], **how: Any) -> str:
        assert not app.return_code, "the dashboard ended with an error"
        return export(app, **how)

    monkeypatch.setattr(App, "export_screenshot", of_one_that_runs)


def dashboard(portal: MadeUpPortal | None = None) -> Dashboard:
    """A dashboard whose feed is silent: tests hand it boards."""
    return Dashboard(lambda _deliver: cast("Feed", StillFeed()), portal or MadeUpPortal())


async def _settle(pilot: Pilot[None]) -> None:
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


async def _show(pilot: Pilot[None], board: DashboardModel | str) -> None:
    pilot.app.post_message(Refreshed(board))
    await pilot.pause()


def _said(app: Any) -> str:
    """All text of the screen."""
    return "\n".join(str(one.render()) for one in app.screen.query(Static))


def _rows(app: Any, table: str) -> list[list[str]]:
    shown = app.screen.query_one(f"#{table}", DataTable)
    return [[str(cell).strip() for cell in shown.get_row(row)] for row in shown.rows]


@pytest.mark.parametrize("size", [NARROW, WIDE])
@pytest.mark.parametrize("name", ["flowing", "in_trouble", "empty"])
def test_the_overview_looks_as_it_did(snap_compare: Any, name: str, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await _show(pilot, getattr(boards, name)())

    assert snap_compare(dashboard(), terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", [NARROW, WIDE])
@pytest.mark.parametrize("keys", ["enter", "x", "s", "l", "question_mark", "slash", "r"])
def test_each_key_shows_what_it_did(snap_compare: Any, keys: str, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[None]) -> None:
        await _show(pilot, boards.in_trouble())
        await pilot.press(keys)
        await _settle(pilot)

    assert snap_compare(dashboard(), terminal_size=size, run_before=before)


def test_it_looks_right_on_a_light_terminal(snap_compare: Any) -> None:
    async def before(pilot: Pilot[None]) -> None:
        pilot.app.theme = "textual-light"
        await _show(pilot, boards.in_trouble())

    assert snap_compare(dashboard(), terminal_size=NARROW, run_before=before)


async def test_trouble_is_on_top_only_while_there_is_any() -> None:
    async with dashboard().run_test(size=NARROW) as pilot:
        await _show(pilot, boards.in_trouble())
        trouble = pilot.app.screen.query_one("#problems", Static)
        assert trouble.display
        assert "ddwd-storage is failed" in str(trouble.render())
        assert "2 images wait for you in quarantine" in str(trouble.render())
        await _show(pilot, boards.flowing())
        assert not trouble.display


@pytest.mark.parametrize("rows", [24, 20])
async def test_light_hops_and_disk_stay_on_a_small_screen_whatever_the_trouble(rows: int) -> None:
    async with dashboard().run_test(size=(80, rows)) as pilot:
        await _show(pilot, boards.in_trouble())
        for keys in [(), ("tab",), ("down", "down")]:
            await pilot.press(*keys)
            await _settle(pilot)
            where = {name: pilot.app.screen.query_one(f"#{name}").region for name in ("head", "flow", "foot")}
            assert where["head"].y == 0
            assert where["flow"].bottom <= where["foot"].y
            assert where["foot"].bottom == rows - 1  # above the keys
            assert pilot.app.screen.max_scroll_y == 0


async def test_the_table_with_the_focus_is_scrolled_into_a_small_screen() -> None:
    async with dashboard().run_test(size=(80, 20)) as pilot:
        await _show(pilot, boards.in_trouble())
        finished, lists = pilot.app.screen.query_one("#finished"), pilot.app.screen.query_one("#lists")
        assert not lists.region.contains_region(finished.region)
        await pilot.press("tab")
        await _settle(pilot)
        assert lists.region.contains_region(finished.region)


async def test_what_the_feed_delivers_before_the_screen_is_complete_is_shown() -> None:
    class EagerFeed(StillFeed):
        def start(self) -> None:
            app.on_refreshed(Refreshed(boards.in_trouble()))
            app.on_refreshed(Refreshed("the status cannot be read"))

    app = Dashboard(lambda _deliver: cast("Feed", EagerFeed()), MadeUpPortal())
    async with app.run_test(size=NARROW) as pilot:
        await _settle(pilot)
        assert _rows(app, "flight")[0][1] == "A-2026-0001"
        assert "! the status cannot be read" in _said(app)


async def test_patient_ids_are_masked_until_asked_for() -> None:
    async with dashboard().run_test(size=NARROW) as pilot:
        await _show(pilot, boards.flowing())
        assert _rows(pilot.app, "flight")[0][:2] == ["••••••11", "A-2026-0001"]
        await pilot.press("u")
        assert _rows(pilot.app, "flight")[0][0] == "DOE-4711"
        await pilot.press("u")
        assert "DOE" not in str(_rows(pilot.app, "flight"))


async def test_the_cursor_stays_on_its_study_while_others_come_and_go() -> None:
    portal = MadeUpPortal()
    async with dashboard(portal).run_test(size=NARROW) as pilot:
        board = boards.flowing()
        await _show(pilot, board)
        await pilot.press("down")
        object.__setattr__(board.report, "in_flight", board.report.in_flight[1:])
        await _show(pilot, board)
        await pilot.press("r", "y")
        assert portal.submitted == [Request("retry", boards.study(2))]


@pytest.mark.parametrize(
    ("keys", "wish"),
    [
        (["r", "y"], Request("retry", boards.study(1))),
        (["p", "y"], Request("pause")),
        (["x", "x", "y"], Request("release", item="1" * 32)),
        (["x", "down", "x", "y"], Request("release", item="2" * 32)),
    ],
)
async def test_what_changes_something_is_asked_first(keys: list[str], wish: Request) -> None:
    portal = MadeUpPortal()
    async with dashboard(portal).run_test(size=NARROW) as pilot:
        await _show(pilot, boards.flowing())
        await pilot.press(*keys[:-1], "n")
        assert portal.submitted == []
        for key in ("escape",) if keys[0] == "x" else ():
            await pilot.press(key)
        await pilot.press(*keys)
        assert portal.submitted == [wish]


async def test_a_retry_is_asked_for_by_the_accession_number_and_without_one_by_the_uid() -> None:
    portal = MadeUpPortal()
    async with dashboard(portal).run_test(size=NARROW) as pilot:
        await _show(pilot, boards.flowing())
        for accession, name in (("A-7", "with accession number A-7"), ("", boards.uid(1))):
            portal.patients = Mock(of=Mock(return_value=Patient("DOE", accession)))
            await pilot.press("r")
            (question, *_) = pilot.app.screen.query(Static)
            assert str(question.render()) == f"Retry the study {name}?"
            await pilot.press("n")


class _TwoPatients(MadeUpPortal):
    def quarantine(self) -> list[Entry]:
        """See Portal."""
        both = QuarantinedObject("two-patients", boards.uid(1), "as study 2; both stay", boards.study(1))
        return [Entry("3" * 32, "2026-01-02T03:04:05Z", both, 0, "", Path("/nonexistent/3.json"))]


async def test_two_patients_are_a_problem_and_a_decision_of_the_operator() -> None:
    portal = _TwoPatients()
    async with dashboard(portal).run_test(size=NARROW) as pilot:
        board = boards.flowing()
        await _show(pilot, replace(board, report=replace(board.report, two_patients=1)))
        trouble = str(pilot.app.screen.query_one("#problems", Static).render())
        assert "1 study has the UID of another patient's study; do: ddwd quarantine list" in trouble
        await pilot.press("x")
        await _settle(pilot)
        assert "both stay" in _said(pilot.app)
        assert "no file was moved" in _said(pilot.app)
        await pilot.press("x")
        assert "record that both studies stay?" in _said(pilot.app)
        await pilot.press("y")
        assert portal.submitted == [Request("release", item="3" * 32)]


async def test_paused_p_resumes() -> None:
    portal = MadeUpPortal()
    async with dashboard(portal).run_test(size=NARROW) as pilot:
        board = boards.flowing()
        object.__setattr__(board.report, "paused", True)
        await _show(pilot, board)
        assert "PAUSED" in _said(pilot.app)
        await pilot.press("p", "y")
        assert portal.submitted == [Request("resume")]


async def test_enter_traces_the_study_and_escape_goes_back() -> None:
    async with dashboard().run_test(size=NARROW) as pilot:
        await _show(pilot, boards.flowing())
        await pilot.press("down", "enter")
        await _settle(pilot)
        assert boards.uid(2) in _said(pilot.app)
        assert "0xA702" in _said(pilot.app)
        await pilot.press("escape")
        assert pilot.app.screen.query("#flow")


@pytest.mark.parametrize(
    ("name", "found"), [("A-2026-0003", 3), ("DOE-4715", 5), (boards.uid(6), 6), ("not on the screen", 9)]
)
async def test_a_study_is_found_by_each_of_its_names(name: str, found: int) -> None:
    portal = MadeUpPortal()
    async with dashboard(portal).run_test(size=NARROW) as pilot:
        await _show(pilot, boards.flowing())
        await pilot.press("slash")
        await pilot.press(*("space" if char == " " else char for char in name), "enter")
        await _settle(pilot)
        await _settle(pilot)
        assert boards.uid(found) in _said(pilot.app)
        assert portal.searched == ([name] if found == 9 else [])


@pytest.mark.parametrize("keys", [["enter"], ["x"], ["r", "y"]])
async def test_what_cannot_be_done_is_said_in_one_line(keys: list[str]) -> None:
    portal = MadeUpPortal(error=StateError("only root and group ddwd may do that"))
    async with dashboard(portal).run_test(size=NARROW) as pilot:
        await _show(pilot, boards.flowing())
        await pilot.press(*keys)
        await _settle(pilot)
        told = _said(pilot.app) + str([one.message for one in pilot.app._notifications])
        assert "only root and group ddwd" in told


async def test_the_last_events_are_shown_and_new_ones_added() -> None:
    async with dashboard().run_test(size=NARROW) as pilot:
        await _show(pilot, boards.flowing())
        await pilot.press("l")
        assert "512 images published" in _said(pilot.app)
        await pilot.press("q")
        assert pilot.app.screen.query("#flow")


async def test_a_resize_and_a_look_that_failed_leave_the_last_board_standing() -> None:
    async with dashboard().run_test(size=WIDE) as pilot:
        await _show(pilot, boards.flowing())
        for size in ((60, 15), (200, 60), NARROW):
            await pilot.resize_terminal(*size)
            await pilot.pause()
        await _show(pilot, "the dashboard cannot look (OSError); it tries again")
        assert "cannot look" in _said(pilot.app)
        assert len(_rows(pilot.app, "flight")) == 3


@pytest.mark.parametrize("size", [(60, 15), NARROW, WIDE, (200, 60)])
async def test_the_senders_are_shown_refused_ones_first_with_their_reasons(size: tuple[int, int]) -> None:
    async with dashboard().run_test(size=size) as pilot:
        await _show(pilot, boards.in_trouble())
        await pilot.press("s")
        assert [row[0] for row in _rows(pilot.app, "senders")] == ["US4", "CT1", "MR2"]
        assert _rows(pilot.app, "senders")[0][1:5] == ["10.1.0.9", "1", "17", "15"]
        told = _said(pilot.app)
        assert "senders: 12 of 600 associations; 15 refusals in the last hour" in told
        assert "3 x image, 0xC000: ORTHANC1 cannot parse the data set" in told
        assert "12 x presentation context: C-FIND is not offered here" in told
        await pilot.press("down")
        assert "was refused in the last hour" in _said(pilot.app)
        await _show(pilot, boards.flowing())
        assert [row[0] for row in _rows(pilot.app, "senders")] == ["CT1", "MR2"]
        await pilot.press("escape")
        assert pilot.app.screen.query("#flow")


@pytest.mark.parametrize(
    ("size", "told"),
    [((60, 15), "12/600"), (NARROW, "12/600 assoc."), (WIDE, "12 of 600 associations")],
)
async def test_the_open_associations_and_their_limit_are_on_the_overview(
    size: tuple[int, int], told: str
) -> None:
    async with dashboard().run_test(size=size) as pilot:
        await _show(pilot, boards.flowing())
        assert told in str(pilot.app.screen.query_one("#flow", Static).render())


async def test_q_leaves() -> None:
    app = dashboard()
    async with app.run_test(size=NARROW) as pilot:
        await _show(pilot, boards.flowing())
        await pilot.press("q")
    assert app.return_code == 0
