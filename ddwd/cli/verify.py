"""`ddwd verify STUDY|--all`: compare published images with their custody records, and these with the chain. Reads files only, asks no server.

`--storage` also compares each image with ORTHANC2's copy, as before its publication. It is an option: the records alone prove the disk,
with both Orthancs stopped, and after a study was deleted there. Messages name images by StudyInstanceUID and file, never by patient.
"""

from argparse import Namespace
from pathlib import Path
from typing import TypedDict, get_args

from ddwd.cli import progress, record_chain
from ddwd.cli.command import PATIENT, STUDY, Command, OneOf, VerbResult, escaped, flag, prints
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import Key, sometimes
from ddwd.core.errors import NotFoundError, PeerRefusedError
from ddwd.core.model import OrthancId
from ddwd.extractor.steps.verify import Verifier
from ddwd.status import study_lookup
from ddwd.store.backends import custody_of
from ddwd.store.custody import InstanceRecord
from ddwd.store.record_check import CheckResult, FileDifference, Kind, RecordChecker, SecondCheck

_KINDS: tuple[Kind, ...] = get_args(Kind)
_KINDS_OF_RECORDS: tuple[Kind, ...] = ("missing", "changed", "extra")


def _run(args: Namespace, config: Config) -> VerbResult:
    second_check = _comparison_with_storage(config) if args.storage else None
    checker = RecordChecker(custody_of(config), Paths(config), second_check)
    studies = _meant(args, checker)
    with progress.bar("verifying", len(studies), as_json=args.json) as bar:
        result = checker.check(studies, bar.moved)
        names = None if args.all else [args.study] if args.study else []
        chain = record_chain.check(config, checker, result, names, bar)
    if not studies and not args.all and not (chain and chain.records.findings):
        names_of = "PatientID" if args.patient else "StudyInstanceUID, accession number or Orthanc ID"
        raise NotFoundError(f"no published study has this {names_of}")
    kinds = _KINDS if args.storage else _KINDS_OF_RECORDS
    is_sound = result.is_sound and (chain is None or chain.is_sound)
    return VerbResult(
        _counts(result, kinds) | {"chain": record_chain.as_json(chain)},
        [*_lines(result, kinds), *record_chain.lines(chain)],
        0 if is_sound else 1,
    )


def _meant(args: Namespace, checker: RecordChecker) -> list[OrthancId]:
    if args.all:
        return checker.studies()
    return checker.matching(args.study) if args.patient is None else checker.of_patient(args.patient)


def _comparison_with_storage(config: Config) -> SecondCheck:
    """Return the comparison of a file with ORTHANC2's copy, as before its publication. Raises PeerDownError and ConfigError."""
    gateway, storage = study_lookup.both(config)
    verifier = Verifier(storage, gateway)

    def compare(path: Path, record: InstanceRecord) -> tuple[Kind, str] | None:
        try:
            verdict = verifier.compare(path, record.orthanc_id)
        except NotFoundError:
            return "gone", "ORTHANC2 no longer holds it"
        except PeerRefusedError as error:
            return "differs", f"ORTHANC2 cannot give its copy ({error})"
        except OSError as error:
            return "changed", f"it cannot be read ({error.strerror})"
        return None if verdict.is_sound else ("differs", f"ORTHANC2's copy is different: {verdict.reason}")

    return compare


def _counts(result: CheckResult, kinds: tuple[Kind, ...]) -> dict[str, object]:
    body: dict[str, object] = {"studies": result.studies, "images": result.images, "removed": result.removed}
    body |= {kind: [_row(one) for one in result.of(kind)] for kind in kinds}
    body["damaged"] = [{"study": one.study, "reason": one.reason} for one in result.damaged]
    return body


class _Row(TypedDict, total=False):
    study_uid: str
    file: str
    sop_uid: str
    reason: str


class _Damaged(TypedDict):
    study: str
    reason: str


def _row(one: FileDifference) -> dict[str, str]:
    row = {"study_uid": one.study_uid, "file": one.file, "sop_uid": one.sop_uid, "reason": one.reason}
    return {key: value for key, value in row.items() if value}


def _lines(result: CheckResult, kinds: tuple[Kind, ...]) -> list[str]:
    lines = [_line(one) for kind in kinds for one in result.of(kind)]
    lines += [f"damaged  {one.reason}" for one in result.damaged]
    counts = ", ".join(f"{len(result.of(kind))} {kind}" for kind in kinds)
    verdict = "all as recorded" if result.is_sound else f"{counts}; {len(result.damaged)} damaged records"
    removed = f", {result.removed} of them removed by retention" if result.removed else ""
    lines.append(f"{result.studies} studies, {result.images} images{removed}: {verdict}")
    return lines


def _line(one: FileDifference) -> str:
    reason = f": {one.reason}" if one.reason else ""
    return f"{one.kind:<8} {escaped(f'{one.study_uid} {one.file}')}{reason}"


COMMAND = Command(
    "verify",
    "compare published images with their custody records, and these with the chain",
    prints(_run),
    (
        OneOf(STUDY, PATIENT, flag("--all", "every study that was ever published")),
        flag("--storage", "compare each image with ORTHANC2's copy too"),
    ),
    about="""Without --storage it asks no server: it compares each file with the size and SHA-256 that were
recorded at its publication, also where ORTHANC2's copy was deleted since. What retention removed
from the output counts as recorded; the last line says how many images that is. A damaged record
is listed for every UID and accession number, since it may be the record of that study. An image
that is being added at this moment can be listed as extra: run it again.

The chain is the signed log of ddwd-signer: user ddwd may write records and images, and not the
chain. Its entries are compared with each signed head that is kept, and each record with what was
entered when it was written (for a study whose record was deleted, by its UID or with --all): rewritten, rolled-back (an earlier record was put in place), deleted,
unentered (no entry, though the chain had begun). Records older than the chain are counted.""",
    answer=(
        Key("studies", int, "studies that were checked"),
        Key("images", int, "images of their records"),
        Key("removed", int, "those that retention removed"),
        Key("missing", list[_Row], "images whose file is missing"),
        Key("changed", list[_Row], "images whose file is not as recorded"),
        Key("extra", list[_Row], "files that no record has"),
        sometimes("differs", list[_Row], "with --storage: images that differ from ORTHANC2's copy"),
        sometimes("gone", list[_Row], "with --storage: images that ORTHANC2 no longer has"),
        Key("damaged", list[_Damaged], "records that cannot be read"),
        Key(
            "chain",
            record_chain.Answer | None,
            "what the chain says of the records; null: there is no signed head",
        ),
    ),
    exits={
        0: "every image is as recorded, and every record as entered in the chain",
        1: "an image is missing, changed or extra, or a record is damaged or not as entered, or the chain was"
        " changed; each is listed; with --storage also: an image differs from ORTHANC2's copy, or that copy is gone",
        65: "this user may not read the custody records or the chain",
        66: "no such study was published",
        69: "with --storage: ORTHANC2 does not answer",
    },
)
