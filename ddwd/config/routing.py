"""The entries of `routes`: which one matches a study, and what is done with the study. Pure.

The routes are rendered to one table (`table`), which this module and orthanc/routes.lua read: tests/routes.json has the cases in which
both must return the same. A study's first image decides, once; the gateway keeps the name of the route as metadata `DdwdRoute`.
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
"""Not a tag, but a route may match it too: the AE title that the image came from."""
TAGS = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "OtherPatientIDs"),
    *("StudyDate", "StudyTime", "StudyID", "StudyDescription", "AccessionNumber", "RequestedProcedureDescription"),
    *("InstitutionName", "RequestingPhysician", "ReferringPhysicianName"),
    *("SeriesDate", "SeriesTime", "Modality", "Manufacturer", "StationName", "SeriesDescription", "BodyPartExamined"),
    *("SequenceName", "ProtocolName", "SeriesNumber", "SeriesType", "OperatorsName", "ContrastBolusAgent"),
    *("PerformedProcedureStepDescription", "AcquisitionDeviceProcessingDescription"),
)  # fmt: skip
"""Main DICOM tags of patient, study and series, as Orthanc keeps them, that a route may match."""
PRIORITIES = {"low": -10, "normal": 0, "high": 10}
"""The priority of Orthanc's jobs, where a higher number goes first."""


class TagCondition(NamedTuple):
    """A tag, and patterns of which one must match a value of it; * matches any text and ? one character."""

    tag: str
    patterns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """One entry of `routes`: its conditions, and what is done with a study that matches.

    `keep_*` are days until retention may remove the study there; infinite: for ever; None: as in section `retention`.
    """

    name: str
    when: tuple[TagCondition, ...] = ()
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
    def has_hook(self) -> bool:
        """Whether it has a notification hook."""
        return self.run is not None or self.webhook is not None

    def __str__(self) -> str:
        return self.name


EVERYTHING = Route("")
"""The only route if `routes` is empty: every study is forwarded and extracted."""
OWN = Route(
    "_selftest", (TagCondition("PatientID", (SELF_TEST_PATIENT,)), TagCondition(CALLING, (SELF_TEST_AET,)))
)
"""Goes before the routes of the operator: the self test passes all hops. No route of an operator can have this name."""
HOLD = Route("-", forward=False, extract=False)
"""Fallback for unmatched studies: leave in place and report as held."""
JOBS_ELSEWHERE = 2
"""Jobs that the gateway runs at once for one destination."""


@dataclass(frozen=True, slots=True)
class Destination:
    """One entry of `destinations`: by DICOMweb if it has a `url`, else by DIMSE."""

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
        """Its name among the gateway's DICOMweb servers or modalities; none of the portal's own begins so."""
        return f"to-{self.name}"

    @property
    def query_server(self) -> str:
        """Name of the same server for queries, which have a short time-out."""
        return f"ask-{self.name}"

    def __str__(self) -> str:
        return self.name


def stow_jobs_elsewhere(destinations: Sequence[Destination]) -> int:
    """Return how many STOW-RS jobs the gateway may run at once for other destinations."""
    return JOBS_ELSEWHERE * sum(destination.url is not None for destination in destinations)


class Judged(NamedTuple):
    """The result for one route: `failed` is None if it matches the study, else the tag of the first condition that fails."""

    route: str
    failed: str | None


def table(routes: Sequence[Route]) -> list[dict[str, Any]]:
    """Return the table that orthanc/routes.lua and `choose` read."""
    return [
        {
            "Name": route.name,
            "When": [{"Tag": tag, "Patterns": [_lower(text) for text in texts]} for tag, texts in route.when],
            "Forward": route.forward,
            "Priority": PRIORITIES[route.priority],
        }
        for route in ((OWN, *routes) if routes else ())
    ]


def rendered(routes: Sequence[Route]) -> bytes:
    """Return the table as the bytes of its file."""
    return json.dumps(table(routes), indent=2).encode("ascii") + b"\n"


def choose(routes: Sequence[Mapping[str, Any]], tags: Mapping[str, str]) -> str | None:
    """Return the name of the first route of the table that matches a study with these tags; None if no route does."""
    return next((result.route for result in judge(routes, tags) if result.failed is None), None)


def judge(routes: Sequence[Mapping[str, Any]], tags: Mapping[str, str]) -> list[Judged]:
    """Return the result for each route of the table, up to the first that matches."""
    results = []
    for route in routes:
        failed = next((condition["Tag"] for condition in route["When"] if not _holds(condition, tags)), None)
        results.append(Judged(route["Name"], failed))
        if failed is None:
            break
    return results


def _holds(condition: Mapping[str, Any], tags: Mapping[str, str]) -> bool:
    """Return whether a value of the tag matches one of the patterns; a tag that is absent has the empty value."""
    values = [_lower(value.strip(" \0")) for value in tags.get(condition["Tag"], "").split("\\")]
    return any(_pattern(text).fullmatch(value) for text in condition["Patterns"] for value in values)


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern. Each piece between two stars matches at its first place only (an atomic group), so no pattern is slow."""
    first, *others = (re.escape(piece).replace(r"\?", ".") for piece in text.split("*"))
    between = "".join(f"(?>.*?{piece})" for piece in others[:-1])
    return re.compile(first + between + "".join(f".*{piece}" for piece in others[-1:]), re.DOTALL)


def _lower(text: str) -> str:
    """Return lower case for A to Z only, as Lua does."""
    return "".join(char.lower() if char.isascii() else char for char in text)
