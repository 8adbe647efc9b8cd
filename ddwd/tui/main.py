"""Run `ddwd-top`: the dashboard on a terminal, or once as text or JSON. Parses the arguments and connects the screens to the portal."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from ddwd import __version__
from ddwd.config.loader import CONFIG_FILE, DEFAULTS_FILE, load
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import Key, printed
from ddwd.core.errors import ConfigError, DdwdError, NotFoundError
from ddwd.core.problem import PROBLEMS, VERDICT, Problem, as_answer, is_well
from ddwd.extractor.quarantine import read_entries
from ddwd.status import study_lookup
from ddwd.status.dashboard import DashboardReader, Patients, Today
from ddwd.status.events import tail_of
from ddwd.status.flow import HopRate
from ddwd.status.formatting import show_utc
from ddwd.status.journal_events import refusals_of
from ddwd.status.report import Report, real_sources
from ddwd.status.trace import Trace, or_refused, trace
from ddwd.store.backends import custody_of
from ddwd.store.operator_requests import Requests
from ddwd.store.record_check import RecordChecker
from ddwd.store.statefile import encode
from ddwd.tui.text import PatientMasking, page

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ddwd.core.model import OrthancId
    from ddwd.extractor.quarantine import Entry
    from ddwd.orthanc.port import OrthancPort
    from ddwd.status.dashboard import DashboardModel
    from ddwd.status.events import AuditEvent
    from ddwd.store.operator_requests import Request

SCHEMA = "top"
ANSWER = (
    VERDICT,
    PROBLEMS,
    Key("hops", list[HopRate], "the hops in the order of the flow"),
    Key("today", Today | None, "counts since midnight; null: not for this user"),
    Key("report", Report, "what `ddwd status --json` has"),
)
"""What --json prints, besides `schema` and `well`."""
_LAST_EVENTS = 200
_PATIENCE_SECONDS = 1.8
"""An Orthanc that takes longer is shown as one that does not answer; the picture is not kept waiting for it."""
_EPILOG = """Users in group ddwd can retry, pause and release; other users see what every user may see. Keys: ? in the dashboard.

exit status of --once and --json:
  0   all is well, or there are warnings alone
  1   something is broken; it is named, with what to do
  66  the extractor runs on another machine
  78  the configuration cannot be used"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; man page and completion are made from it."""
    made = argparse.ArgumentParser(
        prog="ddwd-top",
        description="Dashboard of the D-DW-D Portal: whether images flow, which study waits, and why.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--version", action="version", version=f"ddwd-top {__version__}")
    made.add_argument("--utc", action="store_true", help="show times in UTC, not in local time")
    how = made.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="print it once as text, and exit")
    how.add_argument("--json", action="store_true", help="print it once as one JSON object, and exit")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return the exit status."""
    try:
        args = parser().parse_args(argv)
    except SystemExit as end:
        return 64 if end.code else 0  # EX_USAGE of sysexits.h
    if args.utc:
        show_utc()
    try:
        config = _config()
        if not config.has("extractor"):
            raise NotFoundError(
                "the extractor runs on another machine (roles in ddwd.yaml): run it there, or: ddwd status"
            )
        if args.once or args.json or not sys.stdout.isatty():
            return _once(config, as_json=args.json)
        return _live(config)
    except DdwdError as error:
        sys.stderr.writelines(f"ddwd-top: {line}\n" for line in str(error).splitlines())
        return error.exit_status


def _config() -> Config:
    """Return the settings, or the defaults for a user who may not read them, who then sees what every user may see."""
    try:
        return load()
    except ConfigError:
        if all(os.access(path, os.R_OK) for path in (CONFIG_FILE, DEFAULTS_FILE)):
            raise
        return Config()


def _once(config: Config, *, as_json: bool) -> int:
    board = DashboardReader(config, real_sources()).read()
    if as_json:
        body = as_answer(board.problems) | {
            "hops": [asdict(hop) for hop in board.hops],
            "today": asdict(board.today) if board.today else None,
            "report": encode(board.report),
        }
        text = printed(SCHEMA, body, well=is_well(board.problems)).rstrip()
    else:
        text = page(board, PatientMasking(), shutil.get_terminal_size().columns).plain
    sys.stdout.write(f"{text}\n")
    return 0 if is_well(board.problems) else 1


def _live(config: Config) -> int:
    from ddwd.tui.app import Dashboard  # noqa: PLC0415 - `--once` need not load Textual
    from ddwd.tui.feed import Feed  # noqa: PLC0415 - as above

    portal = RealPortal(config)
    reader = DashboardReader(config, replace(real_sources(), patience=_PATIENCE_SECONDS))

    def read() -> DashboardModel:
        board = reader.read()
        portal.problems = board.report.problems
        portal.patients.ask([row.study for row in board.report.studies])
        return board

    folder = Paths(config).heartbeat("extractor").parent
    Dashboard(lambda deliver: Feed(read, deliver, folder), portal).run()
    return 0


class RealPortal:
    """The portal of this machine, see tui/app.py. For a user who may not read the Orthancs' passwords, patients are not shown."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._paths = Paths(config)
        try:
            nodes: Sequence[OrthancPort] = study_lookup.both(config)
        except DdwdError:
            nodes = ()
        self.patients = Patients(nodes)
        self.problems: tuple[Problem, ...] = ()
        """Those of the last report."""

    def trace(self, study: OrthancId) -> Trace:
        return trace(study, self._config, study_lookup.both(self._config), self.problems)

    def find(self, name: str) -> list[OrthancId]:
        records = RecordChecker(custody_of(self._config), self._paths)
        nodes = study_lookup.both(self._config)
        return or_refused(
            name, lambda one: study_lookup.studies_named(one, nodes, records, or_patient=True), refusals_of
        )

    def quarantine(self) -> list[Entry]:
        return read_entries(self._paths.quarantine)

    def tail(self) -> Callable[[], list[AuditEvent]]:
        return tail_of(self._config, last=_LAST_EVENTS)

    def submit(self, request: Request) -> None:
        Requests(self._paths.requests).submit(request)


if __name__ == "__main__":
    sys.exit(main())
