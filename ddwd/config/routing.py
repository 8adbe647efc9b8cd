"""Which rule of `routes` takes a study, and what it says is to be done with it. Pure.

The rules are rendered to one table (`table`), which this module and orthanc/routes.lua read alike: tests/routes.json holds the cases that
both must answer the same. A study's first image decides, once; the gateway's metadata `DdwdRoute` keeps the name of the rule.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from ddwd.core.model import SELF_TEST_AET, SELF_TEST_PATIENT, TREE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

CALLING = "CallingAET"
"""What a rule may match beside main DICOM tags: the AE title that the image came from."""
TAGS = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "OtherPatientIDs"),
    *("StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "RequestedProcedureDescription"),
    *("InstitutionName", "RequestingPhysician", "ReferringPhysicianName"),
    *("SeriesDate", "SeriesTime", "Modality", "Manufacturer", "StationName", "SeriesDescription", "BodyPartExamined"),
    *("SequenceName", "ProtocolName", "SeriesNumber", "SeriesType", "OperatorsName", "ContrastBolusAgent"),
    *("PerformedProcedureStepDescription", "AcquisitionDeviceProcessingDescription"),
)  # fmt: skip
"""Main DICOM tags of patient, study and series, as Orthanc keeps them, that a rule may match."""
PRIORITIES = {"low": -10, "normal": 0, "high": 10}
"""What each priority is among Orthanc's jobs, where a higher number goes first."""


class Condition(NamedTuple):
    """One tag, and the patterns of which one must match a value of it; * stands for any text and ? for one character."""

    tag: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of `routes`: what it takes, and what is done with a study it takes.

    `keep_*` are days until retention may remove it there, infinite for ever, None as `retention` says.
    """

    name: str
    when: tuple[Condition, ...] = ()
    forward: bool = True
    also: tuple[str, ...] = ()
    extract: bool = True
    layout: str = TREE
    priority: str = "normal"
    run: Path | None = None
    webhook: str | None = field(default=None, repr=False)
    marker: str | None = None
    keep_gateway: float | None = None
    keep_storage: float | None = None
    keep_output: float | None = None

    @property
    def speaks(self) -> bool:
        """Whether it has a hook."""
        return self.run is not None or self.webhook is not None

    def __str__(self) -> str:
        """Its name: what a list of routes shows."""
        return self.name


EVERYTHING = Route("")
"""The one rule there is where `routes` is empty: all is forwarded and extracted."""
OWN = Route("_selftest", (Condition("PatientID", (SELF_TEST_PATIENT,)), Condition(CALLING, (SELF_TEST_AET,))))
"""Before all others where there are any: the portal's self test goes all the way. No rule of an operator has such a name."""
HOLD = Route("-", forward=False, extract=False)
"""What no rule takes: it stays where it is, and is shown."""


JOBS_ELSEWHERE = 2
"""Jobs of the gateway's at once for one destination."""


@dataclass(frozen=True, slots=True)
class Destination:
    """One entry of `destinations`: by DICOMweb where it has a `url`, else by DIMSE."""

    name: str
    url: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: Path | None = None
    aet: str | None = None
    host: str | None = None
    port: int = 104
    tls: bool = False

    @property
    def server(self) -> str:
        """Its name among the gateway's DICOMweb servers or modalities: none of the portal's own is called so."""
        return f"to-{self.name}"

    @property
    def asked(self) -> str:
        """The same server, as it is only asked: with a short time-out."""
        return f"ask-{self.name}"

    def __str__(self) -> str:
        """Its name: what a list of destinations shows."""
        return self.name


def stow_jobs_elsewhere(destinations: Sequence[Destination]) -> int:
    """STOW-RS jobs of the gateway's that may go to other destinations at once."""
    return JOBS_ELSEWHERE * sum(one.url is not None for one in destinations)


class Judged(NamedTuple):
    """What was said of one rule: None where it takes the study, else the first condition that does not hold."""

    route: str
    failed: str | None


def table(routes: Sequence[Route]) -> list[dict[str, Any]]:
    """What orthanc/routes.lua and `choose` read."""
    return [
        {
            "Name": one.name,
            "When": [{"Tag": tag, "Patterns": [_lower(text) for text in texts]} for tag, texts in one.when],
            "Forward": one.forward,
            "Priority": PRIORITIES[one.priority],
        }
        for one in ((OWN, *routes) if routes else ())
    ]


def rendered(routes: Sequence[Route]) -> bytes:
    """The table as the file that both read."""
    return json.dumps(table(routes), indent=2).encode("ascii") + b"\n"


def choose(rules: Sequence[Mapping[str, Any]], tags: Mapping[str, str]) -> str | None:
    """The name of the first rule of the table that takes a study with these tags; None where none does."""
    return next((judged.route for judged in judge(rules, tags) if judged.failed is None), None)


def judge(rules: Sequence[Mapping[str, Any]], tags: Mapping[str, str]) -> list[Judged]:
    """Every rule of the table up to the one that takes the study, each with why it does not."""
    said = []
    for rule in rules:
        failed = next((one["Tag"] for one in rule["When"] if not _holds(one, tags)), None)
        said.append(Judged(rule["Name"], failed))
        if failed is None:
            break
    return said


def _holds(condition: Mapping[str, Any], tags: Mapping[str, str]) -> bool:
    """Whether a value of the tag matches one of the patterns; a tag that is absent has the empty value."""
    values = [_lower(value.strip(" \0")) for value in tags.get(condition["Tag"], "").split("\\")]
    return any(_pattern(text).fullmatch(value) for text in condition["Patterns"] for value in values)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Each piece between two stars has the first place it can (an atomic group): no pattern makes a long value slow."""
    first, *others = (re.escape(piece).replace(r"\?", ".") for piece in text.split("*"))
    between = "".join(f"(?>.*?{piece})" for piece in others[:-1])
    return re.compile(first + between + "".join(f".*{piece}" for piece in others[-1:]), re.DOTALL)


def _lower(text: str) -> str:
    """Lower case of A to Z alone: what Lua does too."""
    return "".join(one.lower() if one.isascii() else one for one in text)
