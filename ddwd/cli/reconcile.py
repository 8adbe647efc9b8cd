"""`ddwd reconcile [STUDY]`: ask the extractor to compare all places now; `--dry-run` compares here and changes nothing."""

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TextIO

from ddwd.cli import progress
from ddwd.cli.command import PATIENT, Argument, Command, OneOf, VerbResult, escaped, flag, show
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import schema_name, sometimes
from ddwd.core.errors import DdwdError, InvalidValueError
from ddwd.core.model import OrthancId
from ddwd.extractor.consistency import ConsistencyCheck, Difference, DifferenceTotals
from ddwd.orthanc.client import Orthanc
from ddwd.status import study_lookup
from ddwd.store.backends import custody_of
from ddwd.store.custody import Custody
from ddwd.store.operator_requests import Request, Requests
from ddwd.store.record_check import RecordChecker

_COUNTS = {
    "not_on_storage": "on the gateway, not on storage",
    "not_on_disk": "on storage, not on disk",
    "set_aside": "in quarantine",
    "gone_from_disk": "recorded, gone from disk",
    "lost_on_gateway": "received, gone from the gateway",
    "lost_on_storage": "received, gone from storage",
}
"""Counts of Difference and of DifferenceTotals, in messages to people."""


def _run(args: Namespace, config: Config, out: TextIO) -> int:
    paths = Paths(config)
    custody = custody_of(config)
    checker = RecordChecker(custody, paths)
    if args.accept and args.dry_run:
        raise InvalidValueError("--accept and --dry-run exclude each other")
    studies = None
    if args.study is not None or args.patient is not None:
        nodes = study_lookup.both(config)
        studies = study_lookup.studies_meant(args.study, args.patient, nodes, checker)
    if args.accept:
        return show(_accept(Requests(paths.requests), studies), args, out)
    if not args.dry_run:
        return show(_ask(Requests(paths.requests), studies), args, out)
    nodes = study_lookup.both(config)
    check = ConsistencyCheck(*nodes, custody, checker, paths)
    with progress.bar("comparing", as_json=args.json) as bar:
        if bar.is_shown:
            bar.expect(_total(nodes, custody, studies))
        found = check.everything(bar.moved) if studies is None else check.some(studies, bar.moved)
        write = bar.write_above if bar.is_shown and out.isatty() else out.write
        return _show_json(found, write, args.answers) if args.json else _show(found, write)


def _ask(requests: Requests, studies: list[OrthancId] | None) -> VerbResult:
    for request in [Request("reconcile", study) for study in studies or ()] or [Request("reconcile")]:
        requests.submit(request)
    subject = "everything" if studies is None else ", ".join(studies)
    line = f"the extractor is asked to compare {subject}; see: ddwd status"
    return VerbResult({"asked": "reconcile", "studies": studies}, [line])


def _accept(requests: Requests, studies: list[OrthancId] | None) -> VerbResult:
    for request in [Request("accept", study) for study in studies or ()] or [Request("accept")]:
        requests.submit(request)
    subject = "every study" if studies is None else ", ".join(studies)
    line = f"the extractor is asked to accept that images of {subject} are missing on an Orthanc; see: ddwd status"
    return VerbResult({"asked": "accept", "studies": studies}, [line])


def _total(nodes: tuple[Orthanc, Orthanc], custody: Custody, studies: list[OrthancId] | None) -> int:
    if studies is not None:
        return len(studies)
    listed = sum(int(node.statistics()["CountStudies"]) for node in nodes)
    return listed + sum(1 for _ in custody.studies())


def _show(found: Iterator[Difference], write: Callable[[str], object]) -> int:
    """Write a line for each study that disagrees, as soon as it is found, then the sums."""
    totals = DifferenceTotals()
    try:
        for difference in found:
            totals.add(difference)
            if not difference.agrees:
                name = escaped(difference.study_uid or difference.study)
                write(f"{name}: {'; '.join(_missing(difference))}\n")
    except DdwdError:
        write(f"stopped after {totals.studies} studies, {totals.differing} of which disagree\n")
        raise
    verdict = f"{totals.differing} disagree" if totals.differing else "all agree"
    write(f"{totals.studies} studies: {verdict}\n")
    if totals.differing:
        for name, meaning in _COUNTS.items():
            write(f"  {meaning:<32}{getattr(totals, name):>9} images\n")
    write(
        f"  studies on the gateway only {totals.on_gateway_only}, on storage only {totals.on_storage_only},"
        f" on disk only {totals.on_disk_only}\n"
    )
    return 1 if totals.differing else 0


def _missing(difference: Difference) -> Iterator[str]:
    for name, meaning in _COUNTS.items():
        if count := getattr(difference, name):
            yield f"{meaning} {count}"
    if difference.damage:
        yield difference.damage
    if len(difference.nodes) == 1:
        yield "on the gateway only" if difference.nodes[0] == "gateway" else "on storage only"


def _show_json(found: Iterator[Difference], write: Callable[[str], object], verb: str) -> int:
    """Write one JSON object piece by piece: the list may be as long as the archive."""
    totals, separator, failure = DifferenceTotals(), "", None
    write(f'{{"schema": {json.dumps(schema_name(verb))}, "differences": [')
    try:
        for difference in found:
            totals.add(difference)
            if not difference.agrees:
                write(separator + json.dumps(asdict(difference)))
                separator = ", "
    except DdwdError as error:
        failure = error
    rest = {"totals": asdict(totals), "error": str(failure) if failure else None}
    write(f"], {json.dumps(rest | {'well': not totals.differing and failure is None})[1:]}\n")
    if failure is not None:
        raise failure
    return 1 if totals.differing else 0


COMMAND = Command(
    "reconcile",
    "compare both Orthancs and the disk, and transfer what is missing",
    _run,
    (
        OneOf(
            Argument(
                "study",
                nargs="?",
                metavar="STUDY",
                help="StudyInstanceUID, accession number or Orthanc ID (default: every study)",
            ),
            PATIENT,
            required=False,
        ),
        flag("--dry-run", "only show the difference, hop by hop"),
        flag(
            "--accept",
            "images of it that are missing on an Orthanc were removed on purpose: no problem any longer",
        ),
    ),
    about="""Without --dry-run it asks the extractor to compare all three places now, and to forward and
retrieve what is missing. The extractor also does so at its start, after every fault and every
five minutes; 100,000 studies take an hour and a half, and those that finished last come first.
With --dry-run it asks for no transfer and changes nothing. It lists each study whose sets of
images disagree, with the number of images that are missing at each hop, also of images that somebody deleted on an Orthanc. A study that is arriving
at this moment disagrees too. With --accept what is missing on an Orthanc now, and is known, is no
problem of ddwd status any longer, until more is missing. It asks both Orthancs about every study: some minutes for 10,000.""",
    exits={
        0: "the extractor is asked; with --dry-run: all sets agree",
        1: "with --dry-run: they do not",
        65: "only root and group ddwd may ask or view",
        66: "no such study on either Orthanc or on disk",
        69: "an Orthanc does not answer; what was found until then is shown",
        74: "no room on the disk",
        76: "an Orthanc refused to answer",
    },
    answer=(
        sometimes("asked", str, "what the extractor is asked for"),
        sometimes("studies", list[str] | None, "Orthanc IDs of the studies; null: every study"),
        sometimes("differences", list[Difference], "with --dry-run: the studies that disagree"),
        sometimes("totals", DifferenceTotals, "with --dry-run: the sums over all studies compared"),
        sometimes("error", str | None, "with --dry-run: why it ended before the last study"),
    ),
)
