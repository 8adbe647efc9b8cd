"""`ddwd destinations`: how each of `destinations` stands, and what waits for it; try all of them now. Reads ddwd-courier's status."""

from __future__ import annotations

import json
from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, TextIO

from ddwd.config.paths import Paths
from ddwd.core.errors import StateError
from ddwd.delivery.transports import kind
from ddwd.status.formatting import many, time
from ddwd.status.report import destination_states
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.statefile import encode
from ddwd.store.status_files import DestinationStatus

if TYPE_CHECKING:
    import argparse

    from ddwd.config.schema import Config

_EPILOG = """A rule of ddwd.yaml with `also` has its studies sent to these destinations too, by ORTHANC1. What
a destination does not take, or cannot while it is away, waits for it alone and is tried again for
ever, at the latest every 5 minutes. What of a study a destination has: ddwd trace STUDY

exit status:
  0   done; list: every destination answers, and takes what it is sent
  1   list: one does not
  64  wrong usage
  65  only root and group ddwd may ask
  78  the configuration cannot be used"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb and what it can do."""
    parser = subparsers.add_parser(
        "destinations",
        help="what waits for other destinations",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    what = parser.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, text in (
        ("list", "each destination, with its backlog"),
        ("retry", "try all of them, and all that waits, now"),
    ):
        one = what.add_parser(name, help=text)
        one.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Do it; the exit status."""
    if args.what == "list":
        return _list(config, out, as_json=args.json)
    try:
        DeliveryLog(Paths(config).deliveries).request_retry()
    except PermissionError as error:
        raise StateError("only root and group ddwd may; run it with sudo") from error
    asked = "ddwd-courier is asked to try all of them now; see: ddwd destinations list\n"
    out.write('{"asked": "retry"}\n' if args.json else asked)
    return 0


def _list(config: Config, out: TextIO, *, as_json: bool) -> int:
    told = {row.name: row for row in destination_states(config)}
    rows = [told.get(one.name) or _unknown(one.name, kind(one)) for one in config.destinations]
    if as_json:
        out.write(json.dumps({"destinations": encode(rows)}) + "\n")
    else:
        out.writelines(line for row in rows for line in _lines(row))
        if not rows:
            out.write("there are no other destinations\n")
    return int(any(row.state != "ok" or row.reason for row in rows))


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
    lines = [f"{row.name}  {row.kind}, {row.state}{since}\n", f"   {waiting}; {last}\n"]
    return lines + ([f"   {row.reason}\n"] if row.reason else [])
