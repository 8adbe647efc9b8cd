"""`ddwd retry STUDY`: ask the extractor to process a study now, as if nothing had failed yet.

`--gone` asks for every study of which a published file is gone from OUTPUT_DIR, a few at a time, and waits.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict

from ddwd.cli import progress
from ddwd.cli.command import Argument, Command, OneOf, VerbResult
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.clock import SystemClock, sleep
from ddwd.extractor.refetch import RefetchOutcome, Regain
from ddwd.status import study_lookup
from ddwd.store.backends import custody_of
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.operator_requests import Request, Requests
from ddwd.store.record_check import RecordChecker

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


def _run(args: Namespace, config: Config) -> VerbResult:
    """Submit a request for each study of that name."""
    paths = Paths(config)
    if args.gone:
        RecordChecker(custody_of(config), paths).assert_listable()
        return _result(bring_back(config, as_json=args.json))
    studies = study_lookup.studies_named(
        args.study, study_lookup.both(config), RecordChecker(custody_of(config), paths)
    )
    requests = Requests(paths.requests)
    for study in studies:
        requests.submit(Request("retry", study))
    if config.destinations:
        DeliveryLog(paths.deliveries).request_retry()
    lines = [f"the extractor is asked to retry {study}; see: ddwd status" for study in studies]
    return VerbResult({"asked": "retry", "studies": studies}, lines)


def bring_back(config: Config, *, as_json: bool) -> RefetchOutcome:
    """Have every published file that is missing retrieved again. Raises StateError if this user may not ask."""
    paths, clock = Paths(config), SystemClock()
    regain = Regain(paths, custody_of(config), Requests(paths.requests, clock), clock, sleep)
    with progress.status_line("looking for what is gone", shown=progress.is_wanted(as_json=as_json)) as tell:
        return regain.run(lambda now: tell(f"{now.asked} studies asked for, {now.back} are on disk again"))


def _result(outcome: RefetchOutcome) -> VerbResult:
    lines = [f"{outcome.asked} studies lacked files, {outcome.back} of them are on disk again"]
    if outcome.lost:
        lines.append(f"{outcome.lost} could not be had from ORTHANC2: ddwd verify --all names the images")
    if outcome.waiting:
        lines.append(f"{outcome.waiting} are still under way: ddwd status says why; then: ddwd retry --gone")
    status = 0 if outcome.asked == outcome.back else 1
    return VerbResult({"asked": "retry"} | asdict(outcome), lines, status)


_STUDY = Argument(
    "study", nargs="?", metavar="STUDY", help="StudyInstanceUID, accession number or Orthanc ID"
)
_GONE = Argument("--gone", action="store_true", help="every study that lacks a published file")
COMMAND = Command(
    "retry",
    "have a study taken up now: what is missing is fetched again",
    _run,
    (OneOf((_STUDY, _GONE)),),
    epilog=_EPILOG,
)
