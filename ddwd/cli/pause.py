"""`ddwd pause` and `ddwd resume`: ask the extractor to stop fetching from ORTHANC2, and to go on. It does it, these only ask."""

from __future__ import annotations

import json
from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, TextIO, cast

from ddwd.config.paths import Paths
from ddwd.store.operator_requests import Request, Requests

if TYPE_CHECKING:
    import argparse

    from ddwd.config.schema import Config
    from ddwd.store.operator_requests import Kind

_EPILOG = """Images are still received and forwarded while it is paused: they wait on ORTHANC2, nothing
is lost, and a restart does not end it. `ddwd status` and the dashboard say that it is paused.

exit status:
  0   the extractor is asked; where it does not run, it will do it when it starts
  64  wrong usage
  65  only root and group ddwd may ask
  74  no room on the disk
  78  the configuration cannot be used"""
_SAID = {
    "pause": "the extractor is asked to pause: no study is fetched until: ddwd resume",
    "resume": "the extractor is asked to go on; see: ddwd status",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare both verbs."""
    for verb, text in (("pause", "stop fetching studies to the disk"), ("resume", "go on fetching")):
        parser = subparsers.add_parser(
            verb, help=text, epilog=_EPILOG, formatter_class=RawDescriptionHelpFormatter
        )
        parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
        parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Leave the request; the exit status."""
    Requests(Paths(config).requests).submit(Request(cast("Kind", args.verb)))
    out.write(json.dumps({"asked": args.verb}) + "\n" if args.json else f"{_SAID[args.verb]}\n")
    return 0
