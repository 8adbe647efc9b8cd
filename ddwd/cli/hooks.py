"""`ddwd hooks`: list published studies whose notification hook has not succeeded; retry or drop them. Reads ddwd-hooks' status."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from ddwd.cli.command import Argument, Command, VerbResult, file_errors
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.errors import NotFoundError
from ddwd.store.hook_queue import HookQueue, Notice
from ddwd.store.status_files import HOOKS, HooksStatus, WaitingNotice

_DENIED = "only root and group ddwd may; run it with sudo"
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


def waiting(paths: Paths, notices: HookQueue) -> list[dict[str, Any]]:
    """Return the waiting notices, each with its state in ddwd-hooks' status file. Raises PermissionError."""
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


def _list(_args: Namespace, config: Config) -> VerbResult:
    paths = Paths(config)
    with file_errors(_DENIED):
        rows = waiting(paths, HookQueue(paths.hooks))
    lines = [_line(row) for row in rows] or ["every finished study was told"]
    return VerbResult({"waiting": rows}, lines, int(any(row["failures"] for row in rows)))


def _line(row: dict[str, Any]) -> str:
    state = "runs now" if row["running"] else row["reason"] or "is about to be told"
    tries = f", {row['failures']} times failed" if row["failures"] else ""
    return f"{row['study_uid']}  rule {row['route']}, revision {row['revision']}{tries}: {state}"


def _retry(_args: Namespace, config: Config) -> VerbResult:
    with file_errors(_DENIED):
        HookQueue(Paths(config).hooks).request_retry()
    return VerbResult(
        {"asked": "retry"}, ["ddwd-hooks is asked to try all of them now; see: ddwd hooks list"]
    )


def _drop(args: Namespace, config: Config) -> VerbResult:
    notices = HookQueue(Paths(config).hooks)
    with file_errors(_DENIED):
        found = [notice for notice in notices.newest() if args.study in {notice.study, notice.study_uid}]
        if not found:
            raise NotFoundError(f"no hook waits for study {args.study}; see: ddwd hooks list")
        for notice in found:
            notices.drop(notice)
    line = f"forgotten: the hook will not be called for revision {found[-1].revision}"
    return VerbResult({"dropped": [notice.study for notice in found]}, [line])


_STUDY = Argument("study", metavar="STUDY", help="its StudyInstanceUID or Orthanc ID")
COMMAND = Command(
    "hooks",
    "what waits for the hook of its rule",
    epilog=_EPILOG,
    action="what",
    actions=(
        Command("list", "studies whose hook has not succeeded yet", _list),
        Command("retry", "try all of them now", _retry),
        Command("drop", "forget one: its hook will not be called", _drop, (_STUDY,), json_first=True),
    ),
)
