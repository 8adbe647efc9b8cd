"""`ddwd destinations`: show the state and backlog of each destination, or ask for an immediate retry. Reads ddwd-courier's status."""

from argparse import Namespace

from ddwd.cli.command import Command, Group, VerbResult, file_errors, prints
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import Key
from ddwd.core.printable import many
from ddwd.delivery.transports import kind
from ddwd.status.formatting import time
from ddwd.status.report import destination_states
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.statefile import encode
from ddwd.store.status_files import DestinationStatus


def _retry(_args: Namespace, config: Config) -> VerbResult:
    with file_errors():
        DeliveryLog(Paths(config).deliveries).request_retry()
    asked = "ddwd-courier is asked to try all of them now; see: ddwd destinations list"
    return VerbResult({"asked": "retry"}, [asked])


def _list(_args: Namespace, config: Config) -> VerbResult:
    states = {row.name: row for row in destination_states(config)}
    unknown = "ddwd-courier has not reported its state yet: systemctl status ddwd-courier"
    rows = [
        states.get(one.name) or DestinationStatus(one.name, kind(one), "unknown", reason=unknown)
        for one in config.destinations
    ]
    lines = [line for row in rows for line in _lines(row)] or ["there are no other destinations"]
    status = int(any(row.state != "ok" or row.reason for row in rows))
    return VerbResult({"destinations": encode(rows)}, lines, status)


def _lines(row: DestinationStatus) -> list[str]:
    since = f" since {time(row.since)}" if row.since else ""
    studies, images = many(row.studies, "study waits", "studies wait"), many(row.images, "image", "images")
    backlog = (
        f"{studies} ({images}), the oldest since {time(row.oldest)}" if row.studies else "no study waits"
    )
    last = f"last delivery {time(row.delivered_at)}" if row.delivered_at else "no delivery since the start"
    lines = [f"{row.name}  {row.kind}, {row.state}{since}", f"   {backlog}; {last}"]
    return lines + ([f"   {row.reason}"] if row.reason else [])


COMMAND = Group(
    "destinations",
    "list what waits for other destinations, or try it again",
    (
        Command(
            "list",
            "show each destination, with its backlog",
            prints(_list),
            answer=(Key("destinations", list[DestinationStatus], "each destination of the settings"),),
        ),
        Command(
            "retry",
            "try all of them, and all that waits, now",
            prints(_retry),
            answer=(Key("asked", str, "what is asked for"),),
        ),
    ),
    about="""ORTHANC1 also sends the studies of a route that has `also` in ddwd.yaml to these destinations.
What a destination refuses, or cannot receive while it is away, waits for that destination only.
It is tried again without end, at least every 5 minutes. To see which images of a study a
destination has: ddwd trace STUDY""",
    exits={
        0: "done; list: every destination answers and accepts what it is sent",
        1: "list: a destination does not",
        65: "only root and group ddwd may ask",
    },
)
