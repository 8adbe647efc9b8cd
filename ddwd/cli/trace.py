"""`ddwd trace STUDY`: show one study over all hops, why it is not complete, and what to do. Writes nothing."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import asdict
from typing import TextIO

from ddwd.cli.command import CLEAR_SCREEN, SAME, Argument, Command, VerbResult, show
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.clock import sleep
from ddwd.status import study_lookup
from ddwd.status.trace import Trace, lines, trace
from ddwd.store.backends import custody_of
from ddwd.store.record_check import RecordChecker

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


def _run(args: Namespace, config: Config, out: TextIO) -> int:
    """Show each study of that name; with --watch, repeatedly."""
    paths = Paths(config)
    nodes = study_lookup.both(config)
    studies = study_lookup.studies_named(
        args.study, nodes, RecordChecker(custody_of(config), paths), or_patient=True
    )
    while True:
        result = _result([trace(study, config, nodes) for study in studies], again=args.watch)
        show(result, out, as_json=args.json)
        if result.status == 0 or not args.watch:
            return result.status
        out.flush()
        sleep(_LOOK_SECONDS)


def _result(told: list[Trace], *, again: bool) -> VerbResult:
    complete = all(one.complete for one in told)
    text = "\n".join("\n".join(lines(one, _WIDTH)) + "\n" for one in told)
    if again and sys.stdout.isatty():
        text = f"{CLEAR_SCREEN}{text}"
    data = {"complete": complete, "studies": [asdict(one) for one in told]}
    return VerbResult(data, text.splitlines(), 0 if complete else 1)


_STUDY = Argument(
    "study", metavar="STUDY", help="StudyInstanceUID, accession number, Orthanc ID or PatientID"
)
_WATCH = Argument("--watch", action="store_true", help="follow it until it is complete")
COMMAND = Command(
    "trace",
    "why is a study not there: one study over all hops",
    arguments=(_STUDY, _WATCH),
    run_live=_run,
    epilog=_EPILOG,
    json_help=SAME,
)
