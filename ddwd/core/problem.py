"""One problem of the portal, as every view reports it: its code, how bad it is, its cause, and what to do.

What each code means stands in `problem_codes`, of which ddwd-problems(7) is made.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ddwd.core.answers import Key
from ddwd.core.printable import many
from ddwd.core.problem_codes import ENTRIES, Code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


class Severity(IntEnum):
    """How bad a problem is; the order is from good to bad. Only BROKEN makes a view end with status 1."""

    NOTE = 1
    WARN = 2
    BROKEN = 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem; `cause` and `remedy` are for people and hold no patient data.

    `subject` is what it is about where several may have the code: a unit, an AE title, a path. `since` is a stamp, empty if not known.
    `study` is a StudyInstanceUID. `count` is the number of things it is about, 0 where they are not counted.
    """

    code: Code
    severity: Severity
    part: str
    cause: str
    remedy: str = ""
    subject: str = ""
    since: str = ""
    study: str = ""
    count: int = 0
    consequences: tuple[Problem, ...] = ()

    @property
    def key(self) -> str:
        """Code and subject: the same while the problem lasts."""
        return f"{self.code} {self.subject}".rstrip()

    @property
    def line(self) -> str:
        """Cause, number of consequences and remedy in one line."""
        count = len(self.consequences)
        follows = f" ({many(count, 'consequence', 'consequences')})" if count else ""
        return f"{self.cause}{follows}" + (f"; do: {self.remedy}" if self.remedy else "")

    def as_json(self) -> dict[str, Any]:
        """Return the problem for json.dumps, its consequences in it."""
        return {
            "code": self.code.value,
            "severity": self.severity.name.lower(),
            "part": self.part,
            "cause": self.cause,
            "remedy": self.remedy,
            "subject": self.subject,
            "since": self.since,
            "study": self.study,
            "count": self.count,
            "consequences": [one.as_json() for one in self.consequences],
        }


def problem(code: Code, cause: str, remedy: str = "", subject: str = "", **facts: Any) -> Problem:
    """Make a problem; severity and part are those of its code. `facts` are further fields."""
    entry = ENTRIES[code]
    return Problem(code, Severity[entry.severity], entry.part, cause, remedy, subject, **facts)


def with_all(problems: Iterable[Problem]) -> Iterator[Problem]:
    """Yield each problem, and after it its consequences."""
    for one in problems:
        yield replace(one, consequences=())
        yield from with_all(one.consequences)


def is_well(problems: Iterable[Problem]) -> bool:
    """Return whether nothing is broken. Warnings ask for attention, and keep no image away."""
    return all(one.severity is not Severity.BROKEN for one in problems)


def worst(problems: Iterable[Problem]) -> Severity | None:
    """Return the highest severity; None without a problem."""
    return max((one.severity for one in problems), default=None)


def verdict(problems: Sequence[Problem]) -> str:
    """Return the verdict of every view: `all is well`, `1 warning`, `2 things are broken, 1 warning`."""
    counts = Counter(one.severity for one in problems)
    words = (Severity.BROKEN, "thing is broken", "things are broken"), (Severity.WARN, "warning", "warnings")
    parts = [many(counts[severity], *forms) for severity, *forms in words if counts[severity]]
    return ", ".join(parts) or "all is well"


def as_answer(problems: Sequence[Problem]) -> dict[str, Any]:
    """Return what each view says of the problems, for json.dumps."""
    return {
        "well": is_well(problems),
        "verdict": verdict(problems),
        "problems": [one.as_json() for one in problems],
    }


VERDICT = Key("verdict", str, "the verdict of every view, in words")
PROBLEMS = Key("problems", list[Problem], "what is not well, causes with their consequences in them")
"""What `as_answer` has, besides `well`."""
