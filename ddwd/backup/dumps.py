"""Read what a dump of an Orthanc's database contains, and choose what of it may be restored.

An Orthanc owns its database. One that was taken over can make any table, function or trigger in it, so a dump is restored by the role of
that Orthanc, never by the superuser, and only what Orthanc's PostgreSQL plugin makes itself is restored. Nothing of a dump
is run while it is read.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ddwd.core.errors import StateError
from ddwd.provisioning.host import must

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ddwd.provisioning.host import Host, Login

_KEYS = {
    "attachedfiles": "id",
    "changes": "internalid",
    "deletedfiles": "",
    "deletedresources": "",
    "dicomidentifiers": "id",
    "exportedresources": "",
    "globalintegers": "",
    "globalproperties": "",
    "labels": "id",
    "maindicomtags": "id",
    "metadata": "id",
    "patientrecyclingorder": "patientid",
    "remainingancestor": "",
    "resources": "parentid",
    "serverproperties": "",
}
"""The tables that orthanc-postgresql 5.0 (Debian 13) makes, each with its foreign key to `resources`."""
_NUMBERED = {
    "changes": "seq",
    "exportedresources": "seq",
    "patientrecyclingorder": "seq",
    "resources": "internalid",
}
_TRIGGERS = {
    "attachedfiles": ("attachedfiledecrementsize", "attachedfiledeleted", "attachedfileincrementsize"),
    "changes": ("insertedchange",),
    "resources": ("countresourcestracker", "patientadded", "resourcedeleted"),
}
_INDEXES = [
    "changesindex",
    "childrenindex",
    "dicomidentifiersindex1",
    "dicomidentifiersindex2",
    "dicomidentifiersindexvalues",
    "dicomidentifiersindexvalues2",
    "labelsindex1",
    "labelsindex2",
    "maindicomtagsindex",
    "patientrecyclingindex",
    "publicindex",
    "resourcetypeindex",
]
_UNIMPORTANT = ("COMMENT ", "ACL ", "DEFAULT ACL ")
"""Entries that are left out silently: comments, and who may do what, which a restore sets itself."""
_ENTRY = re.compile(r"[0-9]+; [0-9]+ [0-9]+ (.+) \S*")
"""A line of `pg_restore --list`: three numbers, what it is, and its owner."""
_TABLE = re.compile(r"^CREATE [A-Z ]*TABLE (public\.\w+)(.*?;)$", re.DOTALL | re.MULTILINE)
_PLAIN = re.compile(r' \(\n(    "?\w+"? (bigint|integer|text|character varying\(\d+\))( NOT NULL)?,?\n)+\);')
"""A table of Orthanc's: columns only, without constraint, computed column or parent."""


def _known() -> Iterator[str]:
    yield "EXTENSION - pg_trgm"
    yield "FUNCTION public createinstance(text, text, text, text)"
    for table, key in _KEYS.items():
        yield f"TABLE public {table}"
        yield f"TABLE DATA public {table}"
        yield f"CONSTRAINT public {table} {table}_pkey"
        if key:
            yield f"FK CONSTRAINT public {table} {table}_{key}_fkey"
    for table, column in _NUMBERED.items():
        yield f"DEFAULT public {table} {column}"
        yield from (f"{kind} public {table}_{column}_seq" for kind in ("SEQUENCE", "SEQUENCE OWNED BY"))
        yield f"SEQUENCE SET public {table}_{column}_seq"
    for table, names in _TRIGGERS.items():
        for name in names:
            yield f"TRIGGER public {table} {name}"
            yield f"FUNCTION public {name}func()"
    yield from (f"INDEX public {name}" for name in _INDEXES)


KNOWN = frozenset(_known())
"""Everything that Orthanc makes in its database, as `pg_restore --list` names it."""


class Contents(NamedTuple):
    """The entries of a dump: the lines of what Orthanc makes, which are restored, and the names of everything else."""

    wanted: list[str]
    left_out: list[str]


def contents(dump: Path, login: Login, machine: Host) -> Contents:
    """Read a dump by pg_restore, which runs as the user of `login`.

    Raises PeerRefusedError if it is none, StateError if one of Orthanc's tables has a constraint, a computed column or a parent:
    it may need what is left out, and could not be restored.
    """
    with dump.open("rb") as file:
        listing = must(machine.pipe(["pg_restore", "--list"], login, stdin=file), f"pg_restore of {dump}")
    entries = {line: found[1] for line in listing.out.splitlines() if (found := _ENTRY.fullmatch(line))}
    wanted = [line for line, name in entries.items() if name in KNOWN]
    others = [name for name in entries.values() if name not in KNOWN]
    left_out = [name for name in others if not name.startswith(_UNIMPORTANT)]
    with dump.open("rb") as file, listed(wanted) as (option, inherited):
        argv = ["pg_restore", "--section=pre-data", "--no-owner", "--no-privileges", option, "--file=-"]
        made = must(machine.pipe(argv, login, stdin=file, inherited=inherited), f"pg_restore of {dump}")
    for found in _TABLE.finditer(made.out):
        if not _PLAIN.fullmatch(found[2]):
            raise StateError(
                f"{dump}: table {found[1]} is not as Orthanc makes it, and could not be restored: it was changed "
                "with the rights of that Orthanc; look at it by psql, or use an older backup"
            )
    return Contents(wanted, left_out)


@contextmanager
def listed(wanted: list[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the option of pg_restore that selects these entries, and the descriptor that it inherits for it."""
    descriptor = os.memfd_create("ddwd")
    try:
        with open(descriptor, "w", encoding="utf-8", closefd=False) as file:
            file.writelines(f"{line}\n" for line in wanted)
        yield f"--use-list=/proc/self/fd/{descriptor}", (descriptor,)
    finally:
        os.close(descriptor)
