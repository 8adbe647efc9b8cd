"""`ddwd verify STUDY|--all`: is every published image still what its custody record says. Reads only, and no server.

Images are named by StudyInstanceUID and by their file below the study's folder, never by patient.
"""

from __future__ import annotations

import json
import sys
from argparse import RawDescriptionHelpFormatter
from typing import TYPE_CHECKING, TextIO, get_args

from ddwd.errors import NotFoundError
from ddwd.paths import Paths
from ddwd.state.custody import Custody
from ddwd.state.proof import Kind, Prover

if TYPE_CHECKING:
    import argparse

    from ddwd.config import Config
    from ddwd.model import OrthancId
    from ddwd.state.proof import Finding, Proof

_KINDS: tuple[Kind, ...] = get_args(Kind)
_EPILOG = """exit status:
  0   every image is as recorded
  1   an image is missing, changed or extra, or a record is damaged; each is named
  64  wrong usage
  65  this user may not read the custody records
  66  no such study was published
  78  the configuration cannot be used
A damaged record is named with every UID and accession number, since it may be that
study's. An image that is being added at this moment can be shown as extra: run it again."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb and its arguments."""
    parser = subparsers.add_parser(
        "verify",
        help="compare published images with what was recorded of them",
        epilog=_EPILOG,
        formatter_class=RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "study", nargs="?", metavar="STUDY", help="StudyInstanceUID, accession number or Orthanc ID"
    )
    which.add_argument("--all", action="store_true", help="every study that was ever published")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, config: Config, out: TextIO) -> int:
    """Compare and show; the exit status. Raises NotFoundError and StateError."""
    paths = Paths(config)
    prover = Prover(Custody(paths.custody), paths)
    studies = prover.studies() if args.all else prover.matching(args.study)
    if not studies and not args.all:
        raise NotFoundError("no published study has this StudyInstanceUID, accession number or Orthanc ID")
    proof = _with_progress(prover, studies, shown=sys.stderr.isatty() and not args.json)
    out.write(as_json(proof) if args.json else render(proof))
    return 0 if proof.holds else 1


def _with_progress(prover: Prover, studies: list[OrthancId], *, shown: bool) -> Proof:
    """Compare behind a progress bar, which a terminal gets and nothing else."""
    if not shown:
        return prover.prove(studies)
    from rich.console import Console  # noqa: PLC0415 - other verbs and pipes need not load it
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("verifying", total=len(studies))
        return prover.prove(studies, lambda share: progress.advance(task, share))


def as_json(proof: Proof) -> str:
    """The counts, and each finding as an object in the list of its kind."""
    body: dict[str, object] = {"studies": proof.studies, "images": proof.images}
    body |= {kind: [_row(one) for one in proof.of(kind)] for kind in _KINDS}
    body["damaged"] = [{"study": one.study, "reason": one.reason} for one in proof.damaged]
    return json.dumps(body) + "\n"


def _row(one: Finding) -> dict[str, str]:
    row = {"study_uid": one.study_uid, "file": one.file, "sop_uid": one.sop_uid, "reason": one.reason}
    return {key: value for key, value in row.items() if value}


def render(proof: Proof) -> str:
    """One line for each finding and each damaged record, and one with the counts."""
    lines = [_line(one) for kind in _KINDS for one in proof.of(kind)]
    lines += [f"damaged  {one.reason}" for one in proof.damaged]
    counts = ", ".join(f"{len(proof.of(kind))} {kind}" for kind in _KINDS)
    verdict = "all as recorded" if proof.holds else f"{counts}; {len(proof.damaged)} damaged records"
    lines.append(f"{proof.studies} studies, {proof.images} images: {verdict}")
    return "\n".join(lines) + "\n"


def _line(one: Finding) -> str:
    reason = f": {one.reason}" if one.reason else ""
    # a name that someone else gave may hold anything, a terminal's commands too
    name = f"{one.study_uid} {one.file}".encode("unicode_escape").decode("ascii")
    return f"{one.kind:<8} {name}{reason}"
