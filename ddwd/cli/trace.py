"""`ddwd trace STUDY`: why a study is not there. The account of one study over all hops, with the next step; writes nothing."""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from dataclasses import asdict
from typing import TYPE_CHECKING, TextIO

from ddwd.config.paths import Paths
from ddwd.core.clock import sleep
from ddwd.status import study_lookup
from ddwd.status.trace import Trace, lines, trace
from ddwd.store.backends import custody_of
from ddwd.store.record_check import RecordChecker

if TYPE_CHECKING:
    import argparse

    from ddwd.config.schema import Config

_WIDTH = 80
_LOOK_SECONDS = 1.0
_EPILOG = """It asks both Orthancs, the extractor, the custody record, the disk, the quarantine and the
ledger, says where the images are, what happened to them and when (in UTC), and what to do.
No patient ID is shown. Names are taken as they stand in the images, whatever is in them (a
PatientID of "Smith/7", say), or as the folders on disk have them ("Smith%2F7%-F").
With --watch it is shown anew until the study is complete.

exit status:
  0   complete on disk: every image that the Orthancs hold, as recorded
  1   not complete, or nobody can say; the verdict tells why
  64  wrong usage
  66  no such study on either Orthanc or on disk
  69  an Orthanc that may know the study does not answer
  78  the configuration cannot be used"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb and its arguments."""
    parser = subparsers.add_parser(
        "trace",
        help="why is a study not there: one study over all hops",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "study", metavar="STUDY", help="StudyInstanceUID, accession number, Orthanc ID or PatientID"
    )
    parser.add_argument("--watch", action="store_true", help="follow it until it is complete")
    parser.add_argument("--json", action="store_true", help="print the same as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Tell of each study of that name; the exit status."""
    paths = Paths(config)
    nodes = study_lookup.both(config)
    studies = study_lookup.studies_named(
        args.study, nodes, RecordChecker(custody_of(config), paths), or_patient=True
    )
    while True:
        told = [trace(study, config, nodes) for study in studies]
        complete = all(one.complete for one in told)
        if args.json:
            out.write(json.dumps({"complete": complete, "studies": [asdict(one) for one in told]}) + "\n")
        else:
            out.write(_render(told, again=args.watch))
        if complete or not args.watch:
            return 0 if complete else 1
        out.flush()
        sleep(_LOOK_SECONDS)


def _render(told: list[Trace], *, again: bool) -> str:
    text = "\n".join("\n".join(lines(one, _WIDTH)) + "\n" for one in told)
    return f"\033[H\033[2J{text}" if again and sys.stdout.isatty() else text
