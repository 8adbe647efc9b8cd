"""`ddwd prove STUDY`: write one file with which anybody can check, without the portal, that a study's images are as received.

It reads the custody record and the chain. It does not read the images: the person who checks the file has them.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ddwd.chain.head import HeadFiles
from ddwd.chain.log import ChainLog
from ddwd.chain.proof import ProvedImage, build
from ddwd.chain.records import Statements
from ddwd.cli import output_file, progress, signer_wait
from ddwd.cli.command import Argument, Command, VerbResult, prints
from ddwd.config.paths import Paths
from ddwd.core.answers import Key
from ddwd.core.clock import SystemClock, stamp
from ddwd.core.errors import InvalidValueError, NotFoundError, StateError
from ddwd.core.printable import many
from ddwd.store.backends import custody_of
from ddwd.store.record_check import RecordChecker

if TYPE_CHECKING:
    from argparse import Namespace

    from ddwd.chain.records import RecordComparison
    from ddwd.cli.progress import Bar
    from ddwd.config.schema import Config
    from ddwd.core.model import OrthancId


def _run(args: Namespace, config: Config) -> VerbResult:
    folder, checker = Paths(config).chain, RecordChecker(custody_of(config), Paths(config))
    study = _one(checker, args.study)
    target = output_file.target(args.output, f"ddwd-proof-{study}.json")
    with progress.bar("reading the chain", as_json=args.json) as bar:
        try:
            _assert_entered(folder, checker, study, bar)
            record = checker.record(study)
            images = [
                ProvedImage(one.file, one.sop_uid, one.sha256, one.size) for one in record.images.values()
            ]
            proof = build(folder, study, images, stamp(SystemClock().utc()), Paths(config).chain_stamps)
        except OSError as error:
            raise StateError(f"{folder}: {error.strerror}; the chain is for root and group ddwd") from error
    output_file.write(target, json.dumps(proof, indent=1).encode() + b"\n", 0o644)
    return _result(target, record.study_uid, proof, HeadFiles(folder).public_key)


def _one(checker: RecordChecker, name: str) -> OrthancId:
    """Return the one published study of that name. Raises NotFoundError and InvalidValueError."""
    studies = checker.matching(name, damaged_too=False)
    if not studies:
        raise NotFoundError("no published study has this StudyInstanceUID, accession number or Orthanc ID")
    if len(studies) > 1:
        raise InvalidValueError(
            f"{len(studies)} studies have this name; give the Orthanc ID of one: {', '.join(studies)}"
        )
    return studies[0]


def _assert_entered(folder: Path, checker: RecordChecker, study: OrthancId, bar: Bar) -> None:
    """Check that the study's record is the one that the chain states. Raises NotFoundError, StateError and OSError."""
    statements = found = None
    for _ in signer_wait.tries():
        statements = _statements(folder, study, bar)
        found = None if statements is None else statements.compare({study: checker.stored(study)}, ())
        if found is not None and not found.findings:
            break
    if statements is None or found is None:
        raise NotFoundError(
            "the chain has no signed head yet, so there is no proof; see ddwd-signer in: ddwd status"
        )
    is_stated = study in statements.stated()
    _assert_stated(study, found, statements.begun, is_stated=is_stated)


def _statements(folder: Path, study: OrthancId, bar: Bar) -> Statements | None:
    """Return what the signed entries state of a study, None before the first head. Raises StateError and OSError."""
    head = HeadFiles(folder).read_newest()
    if head is None:
        return None
    statements = Statements({study})
    for index, line in enumerate(islice(ChainLog(folder).lines(), head.size)):
        statements.visit(index, line)
        bar.moved()
    return statements


def _assert_stated(study: OrthancId, found: RecordComparison, begun: str, *, is_stated: bool) -> None:
    if found.older and not is_stated:
        raise NotFoundError(
            f"study {study} was published before the chain began ({begun or 'it has no entry yet'});"
            f" to enter it as it is now: ddwd retry {study}"
        )
    for one in found.findings:
        if one.kind == "unentered":
            raise NotFoundError(
                f"the chain has no entry of study {study} yet; try again in a moment, or see ddwd-signer in: ddwd status"
            )
        raise StateError(f"study {study}: {one.reason}; see: ddwd verify {study}")


def _result(target: Path, study_uid: str, proof: dict[str, Any], public_key: Path) -> VerbResult:
    head, published = proof["head"], proof.get("published")
    body = {
        "file": str(target),
        "study": proof["study"],
        "study_uid": study_uid,
        "images": len(proof["images"]),
        "entries": len(proof["entries"]),
        "signed_at": head["time"],
        "published_at": published["time"] if published else None,
    }
    images, entries = many(body["images"], "image", "images"), many(body["entries"], "entry", "entries")
    lines = [f"{target}: {images}, {entries} of the chain, signed at {head['time']}"]
    if published is None:
        lines.append(
            "its head is not published yet, so it is on this machine only; heads are published daily"
        )
    lines.append(
        f"to check it on any machine, with a copy of {public_key} and of /usr/share/ddwd/check-proof.py:"
        f" python3 check-proof.py {target.name} FOLDER --key {public_key.name}"
    )
    return VerbResult(body, lines)


COMMAND = Command(
    "prove",
    "write a file that proves, without the portal, that a study's images are as received",
    prints(_run),
    (
        Argument("study", metavar="STUDY", help="StudyInstanceUID, accession number or Orthanc ID"),
        Argument(
            "-o",
            "--output",
            type=Path,
            metavar="FILE",
            help="where to write it; a file, or a folder (default: the current one)",
        ),
    ),
    about="""The file has the chain's entries of the study, the proof that they are in the chain, its signed
head, and the SHA-256 of each image. With it, the images and the portal's public key anybody can
check them by /usr/share/ddwd/check-proof.py, which needs Python 3 and openssl only. It names no
patient; the images are not read and are not in it.""",
    exits={
        0: "the file is written",
        64: "more than one study has this name",
        65: "this user may not read the records or the chain; the file exists; or the record is not as entered",
        66: "no such study was published, or the chain has no entry of it: it says why",
    },
    answer=(
        Key("file", str, "the file that was written"),
        Key("study", str, "Orthanc ID"),
        Key("study_uid", str, "StudyInstanceUID"),
        Key("images", int, "images that it proves"),
        Key("entries", int, "entries of the chain in it"),
        Key("signed_at", str, "when the head of the chain was signed"),
        Key("published_at", str | None, "when a head was published that covers it; null: not yet"),
    ),
)
