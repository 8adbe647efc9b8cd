"""`ddwd quarantine list|show|release`: show quarantined images and ask for their release. Writes requests only."""

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from ddwd.cli.command import Argument, Command, Group, OneOf, VerbResult, escaped, file_errors, flag, prints
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.errors import InvalidValueError, NotFoundError
from ddwd.extractor.quarantine import TWO_PATIENTS, Entry, read_entries
from ddwd.status.formatting import second
from ddwd.store.operator_requests import Request, Requests

_SHORT = 4
"""The fewest digits of an ID that name an entry."""


def _list(_args: Namespace, config: Config) -> VerbResult:
    entries = _entries(config)
    lines = [*map(_line, entries), f"{len(entries)} in quarantine"]
    return VerbResult([_row(entry) for entry in entries], lines)


def _show(args: Namespace, config: Config) -> VerbResult:
    row = _row(_named(args.id, _entries(config)))
    width = max(map(len, row))
    shown = row | {"at": second(row["at"])}
    return VerbResult(row, [f"{key:<{width}}  {escaped(value)}" for key, value in shown.items()])


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


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "at": entry.at,
        **asdict(entry.subject),
        "size": entry.size,
        "sha256": entry.sha256,
        "file": str(entry.file or ""),
    }


def _line(entry: Entry) -> str:
    subject = entry.subject
    uids = f"{subject.study_uid} {subject.sop_uid or '-'}"
    return escaped(
        f"{entry.id}  {second(entry.at)}  {subject.kind:<13}  {entry.size:>10}  {uids}: {subject.reason}"
    )


_ID_HELP = "as `list` shows it"
COMMAND = Group(
    "quarantine",
    "list, show or release what could not be delivered",
    (
        Command("list", "list the entries, oldest first", prints(_list)),
        Command(
            "show",
            "show all of one entry, and where its file is",
            prints(_show),
            (Argument("id", metavar="ID", help=_ID_HELP),),
        ),
        Command(
            "release",
            "try an entry again, or remove it from the list",
            prints(_release),
            (OneOf(Argument("id", nargs="?", metavar="ID", help=_ID_HELP), flag("--all", "every entry")),),
        ),
    ),
    about="""An entry is one image, or of the last kind one study, and the reason why it is here:
  undeliverable  it failed repeatedly while other images succeeded; when released, it is tried again
  conflict       another image with the same SOPInstanceUID and other content was received before it
  stray          the receiver acknowledged it, and it belongs to no known study
  vanished       its study was deleted on both Orthancs before it was on disk
  two-patients   the StudyInstanceUID of a published study is in use under another PatientID too
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
