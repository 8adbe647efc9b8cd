"""`python -m tests.identifiers COUNT`: generated identifiers to names on disk, looking for one that escapes and for two that meet.

Run by `make identifiers` with ten million, by the unit tests with fewer. Most come in families whose members are near each
other: another case, another normal form, a member's name on disk as an identifier of its own. The same seed, the same run.
"""

from __future__ import annotations

import hashlib
import random
import sys
import time
import unicodedata
from array import array
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from ddwd.core.model import identifier_of, marked_component, safe_component

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 255
LONGEST_MARKED = 120
PADDING = " \0"
_ALLOWED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-%")
_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(10))]
)
_UNWANTED = frozenset("/\\\0")
_NASTY = [
    "/",
    "\\",
    ".",
    "..",
    "../",
    "%",
    "%2F",
    "%2e",
    "%-",
    "%-F",
    "%_",
    "%EMPTY",
    "-",
    "~1",
    ":",
    "\0",
    "\n",
    " ",
    "^",
]
_NASTY += [
    *_DEVICES,
    "CON",
    "Nul.",
    ".ddwd",
    "released",
    "\u212a",
    "\u017f",
    "ß",
    "İ",
    "é",
    "e\u0301",
    "Å",
    "A\u030a",
    "ﬁ",
    "\ud800",
    "\udcff",
]


def escapes(name: str) -> str:
    """Why this is no harmless name of one file on Linux, or over a share of it; nothing if it is one."""
    if not 0 < len(name.encode("utf-8")) <= LONGEST:
        return "its length"
    if _UNWANTED.intersection(name) or any(map(_is_unprintable, name)):
        return "its characters"
    if name[0] in ".- " or name[-1] in ". ":
        return "a dot, a dash or a space at an end"
    if name.partition(".")[0].rstrip(" ").lower() in _DEVICES:
        return "a device of Windows"
    return ""


def _is_unprintable(character: str) -> bool:
    return not character.isprintable() and unicodedata.category(character) != "Zs"


def escapes_marked(name: str) -> str:
    """Why this is no harmless name on any file system; nothing if it is one."""
    if not len(name) <= LONGEST_MARKED:
        return "its length"
    if not _ALLOWED.issuperset(name):
        return "its characters"
    return escapes(name)


def families(chance: random.Random) -> Iterator[str]:
    """Identifiers without end."""
    while True:
        one = _base(chance)
        yield one
        yield from (one.upper(), one.lower(), one.swapcase(), one.title(), f" {one}\0", f"{one}.")
        yield from (unicodedata.normalize(form, one) for form in ("NFC", "NFD"))
        yield "".join(chance.choice((letter.lower(), letter.upper())) for letter in one)
        name = marked_component(one)
        yield from (safe_component(one), name, name.lower(), name.upper(), name.partition("%-")[0])


def _base(chance: random.Random) -> str:
    kind = chance.random()
    if kind < 0.3:
        return "".join(chance.choices("ABCabc019._- ", k=chance.randint(1, 16)))
    if kind < 0.5:
        return "".join(chance.choices([*_NASTY, "A", "b", "7"], k=chance.randint(1, 6)))
    if kind < 0.6:
        return f"1.2.{chance.randrange(10**20)}.{chance.randrange(10**9)}"
    if kind < 0.8:
        return chance.randbytes(chance.randint(0, 64)).decode("utf-8", "surrogateescape")
    length = chance.choice((1, 2, 3, 8, 20, 64, 119, 120, 121, 300))
    return "".join(
        chr(chance.randrange(0x110000) if chance.random() < 0.5 else chance.randrange(128))
        for _ in range(length)
    )


@dataclass
class Found:
    """What a run saw: identifiers, those that differ by more than padding, their names; what is wrong.

    `marked` are the marked names that stay different where case is ignored.
    """

    generated: int = 0
    different: int = 0
    names: int = 0
    marked: int = 0
    escaped: list[str] = field(default_factory=list)
    lost: int = 0

    @property
    def collisions(self) -> int:
        """Identifiers that share a name, or a marked name where case is ignored, with another one."""
        return 2 * self.different - self.names - self.marked


def look(count: int, seed: int) -> Found:
    """Generate, map, and compare by 64 bits of a digest of each."""
    found, identifiers, names, marked = Found(generated=count), array("Q"), array("Q"), array("Q")
    for one in islice(families(random.Random(seed)), count):  # noqa: S311 - not for secrets
        name, other = safe_component(one), marked_component(one)
        if reason := escapes(name) or escapes_marked(other):
            found.escaped.append(f"{one!a}: {reason}")
        raw = one.strip(PADDING).encode("utf-8", "surrogatepass")
        found.lost += any(
            "%_" not in form and identifier_of(form) != one.strip(PADDING) for form in (name, other)
        )
        identifiers.append(_short(raw))
        names.append(_short(name.encode()))
        marked.append(_short(other.casefold().encode()))
    found.different, found.names, found.marked = map(_distinct, (identifiers, names, marked))
    return found


def _short(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big")


def _distinct(values: array[int]) -> int:
    ordered = sorted(values)
    return sum(1 for one, other in pairwise(ordered) if one != other) + bool(ordered)


def main(count: int, seed: int = 6) -> int:
    """Print the figures; 0 where nothing is wrong."""
    began = time.monotonic()
    found = look(count, seed)
    print(  # noqa: T201
        f"{found.generated:,} identifiers generated (seed {seed}), {found.different:,} of them different: "
        f"{len(found.escaped)} escapes, {found.collisions} collisions, the marked names compared without case, "
        f"{found.lost} that cannot be told from their name; {time.monotonic() - began:.0f} s"
    )
    for line in found.escaped[:20]:
        print(line)  # noqa: T201
    return int(bool(found.escaped or found.collisions or found.lost))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
