"""`ddwd pause` and `ddwd resume`: ask the extractor to stop retrieving from storage, and to go on. Writes a request; the extractor acts on it."""

from __future__ import annotations

from argparse import Namespace
from typing import cast

from ddwd.cli.command import Command, VerbResult
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.store.operator_requests import Kind, Request, Requests

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


def _ask(args: Namespace, config: Config) -> VerbResult:
    Requests(Paths(config).requests).submit(Request(cast("Kind", args.verb)))
    return VerbResult({"asked": args.verb}, [_SAID[args.verb]])


PAUSE = Command("pause", "stop fetching studies to the disk", _ask, epilog=_EPILOG)
RESUME = Command("resume", "go on fetching", _ask, epilog=_EPILOG)
