"""`ddwd hooks`: list published studies whose notification hook has not succeeded; retry or drop them.

Reads ddwd-hooks' status. ddwd-hooks retries; the extractor drops, since it runs also where no route has a hook any more.
"""

from argparse import Namespace
from typing import TypedDict

from ddwd.cli.command import Argument, Command, Group, VerbResult, file_errors, prints
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import Key
from ddwd.core.errors import NotFoundError
from ddwd.core.printable import many
from ddwd.store.hook_queue import HookQueue
from ddwd.store.operator_requests import Request, Requests
from ddwd.store.status_files import HOOKS, HooksStatus, WaitingNotice


class _Row(TypedDict):
    study: str
    study_uid: str
    route: str
    revision: int
    since: str
    running: bool
    failures: int
    reason: str


def _waiting(paths: Paths) -> list[_Row]:
    """Return the waiting notices, each with its state in ddwd-hooks' status file. Raises PermissionError."""
    status = HOOKS.read_or_none(paths.hooks_status) or HooksStatus()
    states = {(row.study, row.revision): row for row in status.waiting}
    rows: list[_Row] = []
    for notice in HookQueue(paths.hooks).newest():
        state = states.get((notice.study, notice.revision)) or WaitingNotice()
        rows.append(
            {
                "study": notice.study,
                "study_uid": notice.study_uid,
                "route": notice.route,
                "revision": notice.revision,
                "since": notice.published_at,
                "running": state.running,
                "failures": state.failures,
                "reason": state.reason,
            }
        )
    return rows


def _list(_args: Namespace, config: Config) -> VerbResult:
    with file_errors():
        rows = _waiting(Paths(config))
    lines = [_line(row) for row in rows] or ["no hook waits"]
    return VerbResult({"waiting": rows}, lines, int(any(row["failures"] for row in rows)))


def _line(row: _Row) -> str:
    state = "runs now" if row["running"] else row["reason"] or "is about to run"
    tries = f", {many(row['failures'], 'failure', 'failures')}" if row["failures"] else ""
    return f"{row['study_uid']}  route {row['route']}, revision {row['revision']}{tries}: {state}"


def _retry(_args: Namespace, config: Config) -> VerbResult:
    with file_errors():
        HookQueue(Paths(config).hooks).request_retry()
    line = "ddwd-hooks is asked to try all of them now; see: ddwd hooks list"
    return VerbResult({"asked": "retry"}, [line])


def _drop(args: Namespace, config: Config) -> VerbResult:
    paths = Paths(config)
    with file_errors():
        found = [one for one in HookQueue(paths.hooks).newest() if args.study in {one.study, one.study_uid}]
    if not found:
        raise NotFoundError(f"no hook waits for study {args.study}; see: ddwd hooks list")
    requests = Requests(paths.requests)
    for notice in found:
        requests.submit(Request("drop-hook", notice.study, revision=notice.revision))
    lines = [
        f"the extractor is asked to drop the hook of {one.study}, revision {one.revision}; see: ddwd hooks list"
        for one in found
    ]
    return VerbResult({"asked": "drop", "studies": [notice.study for notice in found]}, lines)


_ASKED = Key("asked", str, "what is asked for")
COMMAND = Group(
    "hooks",
    "list the studies that wait for the hook of their route, retry or drop them",
    (
        Command(
            "list",
            "list the studies whose hook has not succeeded yet",
            prints(_list),
            answer=(
                Key("waiting", list[_Row], "the notices whose hook has not succeeded yet, newest first"),
            ),
        ),
        Command("retry", "try all of them now", prints(_retry), answer=(_ASKED,)),
        Command(
            "drop",
            "drop one study: its hook is not called",
            prints(_drop),
            (Argument("study", metavar="STUDY", help="its StudyInstanceUID or Orthanc ID"),),
            answer=(_ASKED, Key("studies", list[str], "Orthanc IDs of the studies whose notice is dropped")),
        ),
    ),
    about="""The hook of a route in ddwd.yaml is an executable (`run`) or a URL (`webhook`). It is called when
a study of that route is published, and again when images came late. A hook that fails is called
again without end: after 10 seconds, then four times as long each time, at most an hour. An
executable gets the notice as JSON on its standard input, and in its environment DDWD_PATH,
DDWD_STUDY_UID, DDWD_ROUTE, DDWD_REVISION, DDWD_INSTANCES, DDWD_STUDY and DDWD_PUBLISHED_AT; its
output is in /var/lib/ddwd/hooks/output.""",
    exits={
        0: "done; list: no hook has failed",
        1: "list: a hook has failed, and is called again",
        65: "only root and group ddwd may view and ask",
        66: "drop: no hook waits for that study",
    },
)
