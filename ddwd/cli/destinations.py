"""`ddwd destinations`: show the state and backlog of each destination, or ask for an immediate retry. Reads ddwd-courier's status."""

from __future__ import annotations

from argparse import Namespace

from ddwd.cli.command import Command, VerbResult, file_errors
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.delivery.transports import kind
from ddwd.status.formatting import many, time
from ddwd.status.report import destination_states
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.statefile import encode
from ddwd.store.status_files import DestinationStatus

_EPILOG = """A rule of ddwd.yaml with `also` has its studies sent to these destinations too, by ORTHANC1. What
a destination does not take, or cannot while it is away, waits for it alone and is tried again for
ever, at the latest every 5 minutes. What of a study a destination has: ddwd trace STUDY

exit status:
  0   done; list: every destination answers, and takes what it is sent
  1   list: one does not
  64  wrong usage
  65  only root and group ddwd may ask
  78  the configuration cannot be used"""


def _retry(_args: Namespace, config: Config) -> VerbResult:
    with file_errors("only root and group ddwd may; run it with sudo"):
        DeliveryLog(Paths(config).deliveries).request_retry()
    asked = "ddwd-courier is asked to try all of them now; see: ddwd destinations list"
    return VerbResult({"asked": "retry"}, [asked])


def _list(_args: Namespace, config: Config) -> VerbResult:
    states = {row.name: row for row in destination_states(config)}
    rows = [states.get(one.name) or _unknown(one.name, kind(one)) for one in config.destinations]
    lines = [line for row in rows for line in _lines(row)] or ["there are no other destinations"]
    status = int(any(row.state != "ok" or row.reason for row in rows))
    return VerbResult({"destinations": encode(rows)}, lines, status)


def _unknown(name: str, kind: str) -> DestinationStatus:
    why = "ddwd-courier has not told of it yet: systemctl status ddwd-courier"
    return DestinationStatus(name, kind, "unknown", reason=why)


def _lines(row: DestinationStatus) -> list[str]:
    since = f" since {time(row.since)}" if row.since else ""
    waiting = (
        f"{many(row.studies, 'study waits', 'studies wait')} ({many(row.images, 'image', 'images')}), "
        f"the oldest since {time(row.oldest)}"
        if row.studies
        else "nothing waits"
    )
    last = (
        f"last delivered {time(row.delivered_at)}"
        if row.delivered_at
        else "nothing delivered since the start"
    )
    lines = [f"{row.name}  {row.kind}, {row.state}{since}", f"   {waiting}; {last}"]
    return lines + ([f"   {row.reason}"] if row.reason else [])


COMMAND = Command(
    "destinations",
    "what waits for other destinations",
    epilog=_EPILOG,
    action="what",
    actions=(
        Command("list", "each destination, with its backlog", _list),
        Command("retry", "try all of them, and all that waits, now", _retry),
    ),
)
