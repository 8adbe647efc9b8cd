"""`ddwd quarantine list|show|release`: show quarantined images and ask for their release. Writes requests only."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from ddwd.cli.command import LIST, Argument, Command, OneOf, VerbResult
from ddwd.config.paths import Paths
from ddwd.config.schema import Config
from ddwd.core.errors import InvalidValueError, NotFoundError, StateError
from ddwd.extractor.quarantine import Entry, read_entries
from ddwd.store.operator_requests import Request, Requests

_SHORT = 4
"""The fewest digits of an ID that name an entry."""
_EPILOG = """An entry is one image, and why it is here:
  undeliverable  it failed again and again while others passed; released, it is tried again
  conflict       another image with its SOPInstanceUID and other content was there first
  stray          the receiver acknowledged it, and no study wants it
  vanished       its study was deleted on both Orthancs before it was on disk
Released, the last three leave the list; the portal cannot deliver them. No file is ever
deleted: what was released lies below quarantine/released. Of ID as few digits as tell it
apart will do, at least 4.

exit status:
  0   shown, or the extractor is asked; where it does not run, it will do it when it starts
  64  wrong usage, or ID is that of several
  65  only root and group ddwd may look or ask
  66  no such entry
  74  no room on the disk
  78  the configuration cannot be used"""


def _list(_args: Namespace, config: Config) -> VerbResult:
    entries = _entries(config)
    lines = [*map(_line, entries), f"{len(entries)} in quarantine"]
    return VerbResult([_row(entry) for entry in entries], lines)


def _show(args: Namespace, config: Config) -> VerbResult:
    row = _row(_named(args.id, _entries(config)))
    width = max(map(len, row))
    return VerbResult(row, [f"{key:<{width}}  {_plain(value)}" for key, value in row.items()])


def _release(args: Namespace, config: Config) -> VerbResult:
    entries = _entries(config)
    chosen = entries if args.all else [_named(args.id, entries)]
    requests = Requests(Paths(config).requests)
    for entry in chosen:
        requests.submit(Request("release", item=entry.id))
    asked = {"asked": "release", "entries": [entry.id for entry in chosen]}
    return VerbResult(asked, [*map(_asked, chosen)] or ["0 in quarantine"])


def _asked(entry: Entry) -> str:
    if entry.subject.kind == "undeliverable":
        return f"the extractor is asked to try {entry.id} again; see: ddwd status"
    return f"the extractor is asked to take {entry.id} off the list; its file is kept"


def _entries(config: Config) -> list[Entry]:
    folder = Paths(config).quarantine
    try:
        return read_entries(folder)
    except OSError as error:
        raise StateError(f"{folder}: {error.strerror}; the quarantine is for root and group ddwd") from error


def _named(text: str, entries: list[Entry]) -> Entry:
    """Return the one entry whose ID has this beginning. Raises NotFoundError, and InvalidValueError if several have it."""
    found = [entry for entry in entries if len(text) >= _SHORT and entry.id.startswith(text.lower())]
    if not found:
        raise NotFoundError("no entry of the quarantine has this ID; see: ddwd quarantine list")
    if len(found) > 1:
        raise InvalidValueError(f"{len(found)} entries of the quarantine begin so; give more digits")
    return found[0]


def _row(entry: Entry) -> dict[str, Any]:
    row: dict[str, Any] = {"id": entry.id, "at": entry.at, **asdict(entry.subject)}
    file = entry.file
    return row | {"size": entry.size, "sha256": entry.sha256, "file": str(file) if file else ""}


def _line(entry: Entry) -> str:
    subject = entry.subject
    uids = f"{subject.study_uid} {subject.sop_uid or '-'}"
    return _plain(f"{entry.id}  {entry.at}  {subject.kind:<13}  {entry.size:>10}  {uids}: {subject.reason}")


def _plain(value: object) -> str:
    """Return printable text: a modality may have sent control sequences of a terminal."""
    return str(value).encode("unicode_escape").decode("ascii")


_ID = Argument("id", metavar="ID", help="as `list` shows it")
_WHICH = OneOf(
    (
        Argument("id", nargs="?", metavar="ID", help="as `list` shows it"),
        Argument("--all", action="store_true", help="every entry"),
    )
)
COMMAND = Command(
    "quarantine",
    "what could not be delivered: list, show, release",
    epilog=_EPILOG,
    actions=(
        Command("list", "one line for each entry, oldest first", _list, json_help=LIST),
        Command("show", "everything about one entry, and where its file is", _show, (_ID,), json_help=LIST),
        Command("release", "have it tried again, or taken off the list", _release, (_WHICH,), json_help=LIST),
    ),
)
