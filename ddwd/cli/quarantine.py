"""`ddwd quarantine list|show|release`: show quarantined images and ask for their release. Writes requests only."""

from argparse import Namespace
from pathlib import Path
from typing import TypedDict

from ddwd.cli.command import (
    Argument,
    Command,
    Group,
    OneOf,
    VerbResult,
    escaped,
    file_errors,
    flag,
    prints,
    wrapped,
)
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.answers import Key
from ddwd.core.errors import InvalidValueError, NotFoundError, reason_of
from ddwd.core.model import OrthancId
from ddwd.extractor.quarantine import TWO_PATIENTS, Entry, read_entries
from ddwd.extractor.steps.verify import ElementDifference, differences
from ddwd.status.formatting import plain, second, size
from ddwd.store.backends import custody_of
from ddwd.store.operator_requests import Request, Requests

_HIDDEN = "(hidden; see it with --show-patients)"
_SHORT = 4
"""The fewest digits of an ID that name an entry."""


class _Row(TypedDict):
    id: str
    at: str
    kind: str
    study_uid: str
    reason: str
    study: str
    instance: str
    sop_uid: str
    tries: int
    size: int
    sha256: str
    file: str


class _Difference(TypedDict):
    element: str
    published: str | None
    here: str | None


def _list(_args: Namespace, config: Config) -> VerbResult:
    entries = _entries(config)
    digits = _digits([entry.id for entry in entries])
    lines = [line for entry in entries for line in _lines(entry, digits)]
    lines.append(f"{len(entries)} in quarantine")
    return VerbResult({"entries": [_row(entry) for entry in entries]}, lines)


def _digits(ids: list[str]) -> int:
    """Return how many digits tell all entries apart, at least eight."""
    return next(digits for digits in range(8, 99) if len({one[:digits] for one in ids}) == len(ids))


def _show(args: Namespace, config: Config) -> VerbResult:
    entry = _named(args.id, _entries(config))
    row = _row(entry)
    width = max(map(len, row))
    shown: dict[str, object] = {**row, "at": second(row["at"])}
    lines = [f"{key:<{width}}  {escaped(value)}" for key, value in shown.items()]
    published = _published(entry, config)
    if entry.file is None or published is None:
        return VerbResult({"entry": row, "differences": None}, lines)
    try:
        found = differences(entry.file, published)
    except (InvalidValueError, OSError) as error:
        return VerbResult(
            {"entry": row, "differences": None}, [*lines, "", f"{reason_of(error)}: {published.name}"]
        )
    rows = [_difference(one, is_open=args.show_patients) for one in found]
    return VerbResult({"entry": row, "differences": rows}, [*lines, *_difference_lines(rows)])


def _published(entry: Entry, config: Config) -> Path | None:
    """Return the published file whose SOPInstanceUID the entry has; None if there is none."""
    subject = entry.subject
    if not (subject.study and subject.instance):
        return None
    record = custody_of(config).read(OrthancId(subject.study))
    image = record.images.get(OrthancId(subject.instance)) if record else None
    path = Paths(config).output / record.folder / image.file if record and image else None
    return path if path is not None and path.is_file() else None


def _difference(one: ElementDifference, *, is_open: bool) -> _Difference:
    """Return both values of an element; those that may name a person only if they are asked for."""
    theirs, ours = one.theirs, one.ours
    if one.is_personal and not is_open:
        theirs, ours = (None if value is None else _HIDDEN for value in (theirs, ours))
    return {"element": one.element, "published": theirs, "here": ours}


def _difference_lines(rows: list[_Difference]) -> list[str]:
    if not rows:
        return ["", "every element is as in the published image"]
    lines = ["", "element, and its value in the published image and here"]
    for row in rows:
        lines.append(f"  {escaped(row['element'])}")
        lines += [
            f"    {place:<10} {'(absent)' if value is None else plain(value)}"
            for place, value in (("published", row["published"]), ("here", row["here"]))
        ]
    return lines


def _release(args: Namespace, config: Config) -> VerbResult:
    entries = _entries(config)
    chosen = entries if args.all else [_named(args.id, entries)]
    requests = Requests(Paths(config).requests)
    for entry in chosen:
        requests.submit(Request("release", item=entry.id))
    asked = {"asked": "release", "entries": [entry.id for entry in chosen]}
    return VerbResult(asked, [*map(_answer, chosen)] or ["0 in quarantine"])


def _answer(entry: Entry) -> str:
    if entry.subject.kind == "undeliverable":
        return f"the extractor is asked to try {entry.id} again; see: ddwd status"
    if entry.subject.kind == TWO_PATIENTS:
        return f"the extractor is asked to record your decision about {entry.id}: both studies stay"
    return f"the extractor is asked to remove {entry.id} from the list; its file is kept"


def _entries(config: Config) -> list[Entry]:
    folder = Paths(config).quarantine
    with file_errors(folder):
        return read_entries(folder)


def _named(text: str, entries: list[Entry]) -> Entry:
    """Return the entry whose ID begins with `text`. Raises NotFoundError, and InvalidValueError if several do."""
    found = [entry for entry in entries if len(text) >= _SHORT and entry.id.startswith(text.lower())]
    if not found:
        raise NotFoundError("no entry of the quarantine has this ID; see: ddwd quarantine list")
    if len(found) > 1:
        raise InvalidValueError(f"{len(found)} entries of the quarantine begin with these digits; give more")
    return found[0]


def _row(entry: Entry) -> _Row:
    subject = entry.subject
    return {
        "id": entry.id,
        "at": entry.at,
        "kind": subject.kind,
        "study_uid": subject.study_uid,
        "reason": subject.reason,
        "study": subject.study,
        "instance": subject.instance,
        "sop_uid": subject.sop_uid,
        "tries": subject.tries,
        "size": entry.size,
        "sha256": entry.sha256,
        "file": str(entry.file or ""),
    }


def _lines(entry: Entry, digits: int) -> list[str]:
    """Return what an entry is about, and why it is here."""
    subject = entry.subject
    head = f"{entry.id[:digits]}  {second(entry.at)}  {subject.kind:<13}  {size(entry.size):>9}"
    uids = subject.sop_uid or subject.study_uid or "-"
    return [f"{head}  {escaped(uids)}", *wrapped(escaped(subject.reason), " " * (digits + 2), digits + 2)]


_ID_HELP = "as `list` shows it"
COMMAND = Group(
    "quarantine",
    "list, show or release what could not be delivered",
    (
        Command(
            "list",
            "list the entries, oldest first",
            prints(_list),
            answer=(Key("entries", list[_Row], "the entries, oldest first"),),
        ),
        Command(
            "show",
            "show all of one entry, and how it differs from the published image",
            prints(_show),
            (
                Argument("id", metavar="ID", help=_ID_HELP),
                flag("--show-patients", "show values that may name a person"),
            ),
            answer=(
                Key("entry", _Row, "the entry"),
                Key(
                    "differences",
                    list[_Difference] | None,
                    "each element in which it differs from the published image, with both values (null: absent); null if they cannot be compared",
                ),
            ),
        ),
        Command(
            "release",
            "try an entry again, or remove it from the list",
            prints(_release),
            (OneOf(Argument("id", nargs="?", metavar="ID", help=_ID_HELP), flag("--all", "every entry")),),
            answer=(
                Key("asked", str, "what the extractor is asked for"),
                Key("entries", list[str], "the IDs of the entries"),
            ),
        ),
    ),
    about="""An entry is one image, or of the last kind one study, and the reason why it is here:
  undeliverable  it failed repeatedly while other images succeeded; when released, it is tried again
  conflict       another image with the same SOPInstanceUID and other content was received before it
  stray          the receiver acknowledged it, and it belongs to no known study
  vanished       its study was deleted on both Orthancs before it was on disk
  two-patients   the StudyInstanceUID of a published study is in use under another PatientID too
show names each element in which an image differs from the published one, with both values.
When released, conflict, stray and vanished leave the list; the portal cannot deliver them. No file is ever deleted:
the file of a released entry is below quarantine/released. Releasing two-patients records your decision that
both studies stay: no file is moved, and the same two studies are not reported again. ID can be shortened to its first digits, at
least 4, if only one entry begins with them.""",
    exits={
        0: "shown, or the extractor is asked; if it is stopped, it acts on the request when it starts",
        64: "wrong usage, or several entries begin with ID",
        65: "only root and group ddwd may view or ask",
        66: "no such entry",
        74: "no room on the disk",
    },
)
