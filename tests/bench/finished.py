"""Run inside the machine as user ddwd, by `growth.py`: lays finished studies as the extractor leaves them behind.

    python3 finished.py lay TEMPLATE FIRST LAST     records, published files, ledger; the Orthanc IDs go to standard output
    python3 finished.py caught-up GATEWAY STORAGE   the cursors into both `/changes`

The package's own code writes all of it, from the record and the ledger's lines of one study that was delivered for real. The
daemons must be stopped. No fsync: nobody cuts the power of this machine, and 100,000 studies are to be laid in a minute.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ddwd.config.loader import load
from ddwd.config.paths import Paths
from ddwd.core.model import OrthancId
from ddwd.store.custody import Custody, Record
from ddwd.store.ledger import Ledger, parse_line

if TYPE_CHECKING:
    from collections.abc import Iterator

_APART = timedelta(days=400) / 100_000
"""Time between two studies: so many as a clinic may have in the time that the ledger is kept."""


class _Then:
    """The time at which the studies came: so the ledger has years in it."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def utc(self) -> datetime:
        return self.now

    def monotonic(self) -> float:
        return 0.0


def lay(template: OrthancId, first: int, last: int) -> None:
    """Lay the studies FIRST to LAST, each with one image, and print the four Orthanc IDs of each, from patient to instance."""
    config, clock = load(), _Then()
    paths = Paths(config)
    custody = Custody(paths.custody)
    record = custody.read(template)
    assert record is not None
    (kept,) = record.images.values()
    content = (paths.output / record.folder / kept.file).read_bytes()
    lines = list(_lines(paths, template))
    ledger = Ledger.open(
        paths.ledger, clock, segment_bytes=config.ledger.segment_bytes, keep_days=config.ledger.keep_days
    )
    began = clock.now - timedelta(days=401)
    for number in range(first, last + 1):
        ids = _ids(number)
        new = _record(record, number, ids)
        folder = paths.output / new.folder
        file = folder / new.images[ids[3]].file
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        custody.write(new)
        clock.now = began + number * _APART
        _tell(ledger, lines, record, new)
        sys.stdout.write("".join(f"{number}\t{level}\t{one}\n" for level, one in enumerate(ids)))


def _uids(number: int) -> tuple[str, str, str, str]:
    study = f"2.25.98.{number}"
    return f"GROWTH{number}", study, f"{study}.1", f"{study}.1.1"


def _ids(number: int) -> list[OrthancId]:
    """Orthanc IDs of patient, study, series and instance: SHA-1 of the identifiers joined by a bar, in five groups."""
    uids = _uids(number)
    digests = (
        hashlib.sha1("|".join(uids[: level + 1]).encode(), usedforsecurity=False) for level in range(4)
    )
    return [
        OrthancId("-".join(digest.hexdigest()[at : at + 8] for at in range(0, 40, 8))) for digest in digests
    ]


def _record(record: Record, number: int, ids: list[OrthancId]) -> Record:
    (kept,) = record.images.values()
    patient, study, series, sop = _uids(number)
    image = replace(kept, orthanc_id=ids[3], sop_uid=sop, file=f"{series}/{sop}.dcm")
    return replace(
        record,
        study=ids[1],
        study_uid=study,
        accession=f"GROWTH{number}",
        folder=f"{patient}/{study}",
        images={ids[3]: image},
    )


def _lines(paths: Paths, study: str) -> Iterator[dict[str, Any]]:
    """What the ledger says of one study."""
    for path in sorted(paths.ledger.glob("*.jsonl")):
        for raw in path.read_bytes().splitlines(keepends=True):
            if study.encode() in raw and (found := parse_line(raw)) and found["kind"] != "snapshot":
                yield {key: value for key, value in found.items() if key != "at"}


def _tell(ledger: Ledger, lines: list[dict[str, Any]], old: Record, new: Record) -> None:
    names = {old.study: new.study, old.study_uid: new.study_uid, old.accession: new.accession}
    for line in lines:
        fields = {key: names.get(value, value) for key, value in line.get("fields", {}).items()}
        said = {key: names.get(value, value) for key, value in line.items() if key not in {"kind", "fields"}}
        ledger.append(line["kind"], **said, **({"fields": fields} if fields else {}))
    ledger.commit()


def caught_up(gateway: int, storage: int) -> None:
    """Remember that everything up to these rows was seen."""
    config = load()
    ledger = Ledger.open(
        Paths(config).ledger,
        _Then(),
        segment_bytes=config.ledger.segment_bytes,
        keep_days=config.ledger.keep_days,
    )
    ledger.append("cursor", node="gateway", seq=gateway)
    ledger.append("cursor", node="storage", seq=storage)
    ledger.commit()


if __name__ == "__main__":
    with patch("os.fsync", lambda *_: None):
        match sys.argv[1:]:
            case ["lay", template, first, last]:
                lay(OrthancId(template), int(first), int(last))
            case ["caught-up", gateway, storage]:
                caught_up(int(gateway), int(storage))
