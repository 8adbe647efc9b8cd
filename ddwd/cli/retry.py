"""`ddwd retry STUDY`: asks the extractor to take a study up now, as if nothing had failed yet. It does the work, this only asks."""

from __future__ import annotations

import json
from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, TextIO

from ddwd.paths import Paths
from ddwd.state.custody import Custody
from ddwd.state.proof import Prover
from ddwd.state.requests import Request, Requests
from ddwd.view import peers

if TYPE_CHECKING:
    import argparse

    from ddwd.config import Config

_EPILOG = """The extractor then forgets its failures with this study and looks at it at once: what is
missing in ORTHANC2 is forwarded, what is missing on disk is fetched (files deleted from the
output too), images that were set aside are tried again. See the outcome with: ddwd status

exit status:
  0   the extractor is asked; where it does not run, it will do it when it starts
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
    parser.add_argument("study", metavar="STUDY", help="StudyInstanceUID, accession number or Orthanc ID")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Ask for each study of that name; the exit status."""
    paths = Paths(config)
    studies = peers.studies_named(args.study, peers.both(config), Prover(Custody(paths.custody), paths))
    requests = Requests(paths.requests)
    for study in studies:
        requests.submit(Request("retry", study))
    if args.json:
        out.write(json.dumps({"asked": "retry", "studies": studies}) + "\n")
    else:
        out.writelines(f"the extractor is asked to retry {study}; see: ddwd status\n" for study in studies)
    return 0
