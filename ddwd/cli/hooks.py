"""`ddwd hooks`: which finished studies still wait for the hook of their rule, and why; try them now, or forget one. Reads ddwd-hooks' status."""

from __future__ import annotations

import json
from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, Any, TextIO

from ddwd.config.paths import Paths
from ddwd.core.errors import NotFoundError, StateError
from ddwd.store.hook_queue import HookQueue
from ddwd.store.status_files import HOOKS, HooksStatus, WaitingNotice

if TYPE_CHECKING:
    import argparse

    from ddwd.config.schema import Config
    from ddwd.store.hook_queue import Notice

_EPILOG = """A rule of ddwd.yaml with `run` or `webhook` has it called when a study of it is published, and
again when images came late. What fails is tried again for ever: after 10 seconds, then four
times as long each time, at most an hour. An executable gets the notice as JSON on its standard input, and in
its environment DDWD_PATH, DDWD_STUDY_UID, DDWD_ROUTE, DDWD_REVISION, DDWD_INSTANCES,
DDWD_STUDY and DDWD_PUBLISHED_AT; what it says is kept in /var/lib/ddwd/hooks/output.

exit status:
  0   done; list: no hook has failed
  1   list: a hook has failed, and is tried again
  64  wrong usage
  65  only root and group ddwd may look and ask
  66  drop: nothing waits for that study
  78  the configuration cannot be used"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb and what it can do."""
    parser = subparsers.add_parser(
        "hooks",
        help="what waits for the hook of its rule",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, text in (
        ("list", "studies whose hook has not succeeded yet"),
        ("retry", "try all of them now"),
        ("drop", "forget one: its hook will not be called"),
    ):
        one = what.add_parser(name, help=text)
        one.add_argument("--json", action="store_true", help="print the result as one JSON object")
        if name == "drop":
            one.add_argument("study", metavar="STUDY", help="its StudyInstanceUID or Orthanc ID")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Do it; the exit status."""
    paths = Paths(config)
    notices = HookQueue(paths.hooks)
    try:
        if args.what == "list":
            return _list(waiting(paths, notices), out, as_json=args.json)
        if args.what == "retry":
            notices.request_retry()
            out.write(
                '{"asked": "retry"}\n'
                if args.json
                else "ddwd-hooks is asked to try all of them now; see: ddwd hooks list\n"
            )
            return 0
        return _drop(args.study, notices, out, as_json=args.json)
    except PermissionError as error:
        raise StateError("only root and group ddwd may; run it with sudo") from error


def waiting(paths: Paths, notices: HookQueue) -> list[dict[str, Any]]:
    """What waits, each with what ddwd-hooks says of it. Raises PermissionError."""
    status = HOOKS.read_or_none(paths.hooks_status) or HooksStatus()
    known = {(one.study, one.revision): one for one in status.waiting}
    return [_row(notice, known.get((notice.study, notice.revision))) for notice in notices.newest()]


def _row(notice: Notice, said: WaitingNotice | None) -> dict[str, Any]:
    said = said or WaitingNotice(notice.study)
    return {
        "study": notice.study,
        "study_uid": notice.study_uid,
        "route": notice.route,
        "revision": notice.revision,
        "since": notice.published_at,
        "running": said.running,
        "failures": said.failures,
        "reason": said.reason,
    }


def _list(rows: list[dict[str, Any]], out: TextIO, *, as_json: bool) -> int:
    failed = any(row["failures"] for row in rows)
    if as_json:
        out.write(json.dumps({"waiting": rows}) + "\n")
        return int(failed)
    for row in rows:
        state = "runs now" if row["running"] else row["reason"] or "is about to be told"
        tries = f", {row['failures']} times failed" if row["failures"] else ""
        out.write(f"{row['study_uid']}  rule {row['route']}, revision {row['revision']}{tries}: {state}\n")
    if not rows:
        out.write("every finished study was told\n")
    return int(failed)


def _drop(study: str, notices: HookQueue, out: TextIO, *, as_json: bool) -> int:
    """Forget what waits for it."""
    found = [notice for notice in notices.newest() if study in {notice.study, notice.study_uid}]
    if not found:
        raise NotFoundError(f"no hook waits for study {study}; see: ddwd hooks list")
    for notice in found:
        notices.drop(notice)
    out.write(
        json.dumps({"dropped": [notice.study for notice in found]}) + "\n"
        if as_json
        else f"forgotten: the hook will not be called for revision {found[-1].revision}\n"
    )
    return 0
