"""`ddwd retry STUDY`: ask the extractor to process a study now, as if nothing had failed yet.

`--gone` asks for every study of which a published file is gone from OUTPUT_DIR, a few at a time, and waits.
"""

from argparse import Namespace

from ddwd.cli import progress
from ddwd.cli.command import PATIENT, STUDY, Command, OneOf, VerbResult, flag, prints
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import Key, sometimes
from ddwd.core.clock import SystemClock, sleep
from ddwd.extractor.refetch import Refetch, RefetchOutcome
from ddwd.status import study_lookup
from ddwd.store.backends import custody_of
from ddwd.store.delivery_log import DeliveryLog
from ddwd.store.operator_requests import Request, Requests
from ddwd.store.record_check import RecordChecker


def _run(args: Namespace, config: Config) -> VerbResult:
    paths = Paths(config)
    checker = RecordChecker(custody_of(config), paths)
    if args.gone:
        checker.assert_listable()
        return _result(refetch(config, as_json=args.json))
    studies = study_lookup.studies_meant(args.study, args.patient, study_lookup.both(config), checker)
    requests = Requests(paths.requests)
    for study in studies:
        requests.submit(Request("retry", study))
    if config.destinations:
        DeliveryLog(paths.deliveries).request_retry()
    lines = [f"the extractor is asked to retry {study}; see: ddwd status" for study in studies]
    return VerbResult({"asked": "retry", "studies": studies}, lines)


def refetch(config: Config, *, as_json: bool) -> RefetchOutcome:
    """Have every published file that is missing retrieved again. Raises StateError if this user may not ask."""
    paths, clock = Paths(config), SystemClock()
    missing = Refetch(paths, custody_of(config), Requests(paths.requests, clock), clock, sleep)
    with progress.bar("searching for missing files", as_json=as_json) as bar:
        return missing.run(
            lambda now: bar.step(f"{now.asked} studies requested, {now.back} are on disk again")
        )


def unfinished(outcome: RefetchOutcome) -> list[str]:
    """Return a line for the studies that are lost, and one for those that are not yet on disk again."""
    lines = []
    if outcome.lost:
        lines.append(f"{outcome.lost} cannot be retrieved from ORTHANC2: ddwd verify --all names the images")
    if outcome.waiting:
        lines.append(f"{outcome.waiting} are still under way, see: ddwd status; then: ddwd retry --gone")
    return lines


def _result(outcome: RefetchOutcome) -> VerbResult:
    back = f"{outcome.asked} studies had missing files, {outcome.back} of them are on disk again"
    status = 0 if outcome.asked == outcome.back else 1
    data = {"asked": "retry", "missing": outcome.asked, "back": outcome.back}
    data |= {"lost": outcome.lost, "under_way": outcome.waiting}
    return VerbResult(data, [back, *unfinished(outcome)], status)


COMMAND = Command(
    "retry",
    "process a study now: what is missing is retrieved again",
    prints(_run),
    (OneOf(STUDY, PATIENT, flag("--gone", "every study with a missing published file")),),
    about="""The extractor discards the failures of this study and processes it at once. What is missing on
ORTHANC2 is forwarded; what is missing on disk is retrieved (files that were deleted from the
output too); images in quarantine are tried again. So is all that waits for another destination.
To see the result: ddwd status
--gone does so with every study of which a published file is missing in the output, a few at a
time, and waits for them: after the loss of a disk, or a restore that was interrupted.""",
    exits={
        0: "the extractor is asked; if it is stopped, it acts on the request when it starts; with --gone: all"
        " files are on disk again",
        1: "with --gone: some files are not on disk, since neither Orthanc has them, or not yet",
        65: "only root and group ddwd may ask",
        66: "no such study on either Orthanc or on disk",
        69: "an Orthanc that may have the study does not answer",
        74: "no room on the disk",
    },
    answer=(
        Key("asked", str, "what the extractor is asked for"),
        sometimes("studies", list[str], "Orthanc IDs of the studies"),
        sometimes("missing", int, "with --gone: studies of which a published file was missing"),
        sometimes("back", int, "with --gone: those that are on disk again"),
        sometimes("lost", int, "with --gone: those that ORTHANC2 cannot give"),
        sometimes("under_way", int, "with --gone: those that are still retrieved"),
    ),
)
