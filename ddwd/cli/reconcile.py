"""`ddwd reconcile [STUDY]`: ask the extractor to compare all places now; `--dry-run` compares here and changes nothing."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TextIO

from ddwd.cli import progress
from ddwd.cli.command import Argument, Command, VerbResult, show
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.errors import DdwdError
from ddwd.core.model import OrthancId
from ddwd.extractor.consistency import ConsistencyCheck, Difference, DifferenceTotals
from ddwd.orthanc.client import Orthanc
from ddwd.status import study_lookup
from ddwd.store.backends import custody_of
from ddwd.store.custody import CustodyPort
from ddwd.store.operator_requests import Request, Requests
from ddwd.store.record_check import RecordChecker

_EPILOG = """Without --dry-run the extractor is asked to compare all three places now, and to send and
fetch what is missing. By itself it does so at its start, after every fault and every five
minutes; 100,000 studies take it an hour and a half, those finished last first.
With --dry-run nothing is asked and nothing changed: each study whose sets of images
disagree is named, and how many images lack at each hop. One that is arriving at this moment
disagrees too. It asks both Orthancs about every study: some minutes for 10,000 of them.

exit status:
  0   the extractor is asked; with --dry-run: all sets agree
  1   with --dry-run: they do not
  64  wrong usage
  65  only root and group ddwd may ask or look
  66  no such study on either Orthanc or on disk
  69  an Orthanc does not answer; what was found until then is shown
  74  no room on the disk
  76  an Orthanc refused to answer
  78  the configuration cannot be used"""


def _run(args: Namespace, config: Config, out: TextIO) -> int:
    """Ask the extractor, or compare and show."""
    paths = Paths(config)
    custody = custody_of(config)
    prover = RecordChecker(custody, paths)
    studies = None
    if args.study is not None:
        studies = study_lookup.studies_named(args.study, study_lookup.both(config), prover)
    if not args.dry_run:
        return show(_ask(Requests(paths.requests), studies), out, as_json=args.json)
    nodes = study_lookup.both(config)
    comparison = ConsistencyCheck(*nodes, custody, prover, paths)
    show_found = _show_json if args.json else _show
    is_shown = progress.is_wanted(as_json=args.json)
    total = _total(nodes, custody, studies) if is_shown else None
    with progress.bar("comparing", total, shown=is_shown) as bar:
        write = bar.write_above if is_shown and out.isatty() else out.write
        return show_found(_compared(comparison, studies, bar.advance), write)


def _compared(
    comparison: ConsistencyCheck, studies: list[OrthancId] | None, seen: Callable[[], None]
) -> Iterator[Difference]:
    return comparison.everything(seen) if studies is None else comparison.some(studies, seen)


def _ask(requests: Requests, studies: list[OrthancId] | None) -> VerbResult:
    wishes = [Request("reconcile")] if studies is None else [Request("reconcile", one) for one in studies]
    for wish in wishes:
        requests.submit(wish)
    what = "everything" if studies is None else ", ".join(studies)
    line = f"the extractor is asked to compare {what}; see: ddwd status"
    return VerbResult({"asked": "reconcile", "studies": studies}, [line])


def _total(nodes: tuple[Orthanc, Orthanc], custody: CustodyPort, studies: list[OrthancId] | None) -> int:
    """Return how many studies are listed, at all places together."""
    if studies is not None:
        return len(studies)
    listed = sum(int(node.statistics()["CountStudies"]) for node in nodes)
    return listed + sum(1 for _ in custody.studies())


def _show(found: Iterator[Difference], write: Callable[[str], object]) -> int:
    """Write a line for each study that disagrees, as soon as it is found, then the sums."""
    totals = DifferenceTotals()
    try:
        for one in found:
            totals.add(one)
            if not one.agrees:
                write(f"{_named(one)}: {_missing(one)}\n")
    except DdwdError:
        write(f"stopped after {totals.studies} studies, {totals.differing} of which disagree\n")
        raise
    verdict = f"{totals.differing} disagree" if totals.differing else "all agree"
    write(f"{totals.studies} studies: {verdict}\n")
    if totals.differing:
        write(
            f"  gateway has, storage lacks  {totals.not_on_storage:>9} images\n"
            f"  storage has, disk lacks     {totals.not_on_disk:>9} images\n"
            f"  set aside in quarantine     {totals.set_aside:>9} images\n"
            f"  recorded, gone from disk    {totals.gone_from_disk:>9} images\n"
        )
    write(
        f"  studies on the gateway only {totals.on_gateway_only}, on storage only {totals.on_storage_only},"
        f" on disk only {totals.on_disk_only}\n"
    )
    return 1 if totals.differing else 0


def _named(one: Difference) -> str:
    # what a modality gave as its UID may hold anything, a terminal's commands too
    return (one.study_uid or one.study).encode("unicode_escape").decode("ascii")


def _missing(one: Difference) -> str:
    counts = {
        "gateway has, storage lacks": one.not_on_storage,
        "storage has, disk lacks": one.not_on_disk,
        "set aside": one.set_aside,
        "gone from disk": one.gone_from_disk,
    }
    parts = [f"{words} {count}" for words, count in counts.items() if count]
    if one.damage:
        parts.append(one.damage)
    if len(one.nodes) == 1:
        parts.append(f"on the {one.nodes[0]} only" if one.nodes[0] == "gateway" else "on storage only")
    return "; ".join(parts)


def _show_json(found: Iterator[Difference], write: Callable[[str], object]) -> int:
    """Write one JSON object piece by piece: the list may be as long as the archive."""
    totals, separator, failure = DifferenceTotals(), "", None
    write('{"differences": [')
    try:
        for one in found:
            totals.add(one)
            if not one.agrees:
                write(separator + json.dumps(asdict(one)))
                separator = ", "
    except DdwdError as error:
        failure = error
    error_text = json.dumps(str(failure) if failure else None)
    write(f'], "totals": {json.dumps(asdict(totals))}, "error": {error_text}}}\n')
    if failure is not None:
        raise failure
    return 1 if totals.differing else 0


_STUDY = Argument(
    "study",
    nargs="?",
    metavar="STUDY",
    help="StudyInstanceUID, accession number or Orthanc ID (default: every study)",
)
_DRY_RUN = Argument("--dry-run", action="store_true", help="only show the difference, hop by hop")
COMMAND = Command(
    "reconcile",
    "compare both Orthancs and the disk, and have what is missing sent",
    arguments=(_STUDY, _DRY_RUN),
    run_live=_run,
    epilog=_EPILOG,
)
