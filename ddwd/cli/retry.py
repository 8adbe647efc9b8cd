"""`ddwd retry STUDY`: asks the extractor to take a study up now, as if nothing had failed yet. It does the work, this only asks.

`--gone` asks for every study of which a published file is gone from OUTPUT_DIR, a few at a time, and waits.
"""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from ddwd.config.paths import Paths
from ddwd.core.clock import SystemClock, sleep
from ddwd.extractor.refetch import Regain
from ddwd.status import study_lookup
from ddwd.store.backends import custody_of
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.operator_requests import Request, Requests
from ddwd.store.record_check import RecordChecker

if TYPE_CHECKING:
    import argparse

    from ddwd.config.schema import Config
    from ddwd.extractor.refetch import Outcome

_EPILOG = """The extractor then forgets its failures with this study and looks at it at once: what is
missing in ORTHANC2 is forwarded, what is missing on disk is fetched (files deleted from the
output too), images that were set aside are tried again. So is all that waits for another
destination. See the outcome with: ddwd status
--gone does so with every study of which a published file is gone from the output, some at a
time, and waits for them: after a lost disk, or a restore that was broken off.

exit status:
  0   the extractor is asked; where it does not run, it will do it when it starts;
      with --gone: all are there again
  1   with --gone: some are not, as neither Orthanc has them, or for now
  64  wrong usage
  65  only root and group ddwd may ask
  66  no such study on either Orthanc or on disk
  69  an Orthanc that may know the study does not answer
  74  no room on the disk
  78  the configuration cannot be used"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb and its arguments."""
    parser = subparsers.add_parser(
        "retry",
        help="have a study taken up now: what is missing is fetched again",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "study", nargs="?", metavar="STUDY", help="StudyInstanceUID, accession number or Orthanc ID"
    )
    which.add_argument("--gone", action="store_true", help="every study that lacks a published file")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Ask for each study of that name; the exit status."""
    paths = Paths(config)
    if args.gone:
        RecordChecker(custody_of(config), paths).assert_listable()
        return show_outcome(bring_back(config, shown=not args.json), out, as_json=args.json)
    studies = study_lookup.studies_named(
        args.study, study_lookup.both(config), RecordChecker(custody_of(config), paths)
    )
    requests = Requests(paths.requests)
    for study in studies:
        requests.submit(Request("retry", study))
    if config.destinations:
        DeliveryLog(paths.deliveries).request_retry()
    if args.json:
        out.write(json.dumps({"asked": "retry", "studies": studies}) + "\n")
    else:
        out.writelines(f"the extractor is asked to retry {study}; see: ddwd status\n" for study in studies)
    return 0


def bring_back(config: Config, *, shown: bool) -> Outcome:
    """Have every published file that is gone fetched again. Raises StateError where this user may not ask."""
    paths, clock = Paths(config), SystemClock()
    regain = Regain(paths, custody_of(config), Requests(paths.requests, clock), clock, sleep)
    if not (shown and sys.stderr.isatty()):
        return regain.run(lambda _: None)
    from rich.console import Console  # noqa: PLC0415 - other verbs and pipes need not load it

    with Console(stderr=True).status("looking for what is gone") as line:
        return regain.run(
            lambda now: line.update(f"{now.asked} studies asked for, {now.back} are on disk again")
        )


def show_outcome(outcome: Outcome, out: TextIO, *, as_json: bool) -> int:
    """What came of it; 0 where nothing lacks any more."""
    if as_json:
        out.write(json.dumps({"asked": "retry"} | asdict(outcome)) + "\n")
    else:
        out.write(f"{outcome.asked} studies lacked files, {outcome.back} of them are on disk again\n")
        if outcome.lost:
            out.write(f"{outcome.lost} could not be had from ORTHANC2: ddwd verify --all names the images\n")
        if outcome.waiting:
            out.write(
                f"{outcome.waiting} are still under way: ddwd status says why; then: ddwd retry --gone\n"
            )
    return 0 if outcome.asked == outcome.back else 1
