"""`ddwd retention`: show the policy and the last round; `--dry-run` shows what is eligible now, `--now` asks the extractor. Removes nothing itself."""

from argparse import Namespace
from collections.abc import Iterator
from typing import TextIO, TypedDict

from ddwd.cli import progress
from ddwd.cli.command import Command, OneOf, VerbResult, flag, show
from ddwd.config.parsers import FOREVER
from ddwd.config.paths import Paths
from ddwd.config.retention import PLACES, Place
from ddwd.config.schema import Config
from ddwd.core.answers import sometimes
from ddwd.core.clock import SystemClock
from ddwd.core.disk_space import space_of as measure
from ddwd.core.printable import many
from ddwd.retention import round_report
from ddwd.retention.eligibility import Eligibility
from ddwd.retention.remove import Removed
from ddwd.retention.round_report import WHERE, Tally
from ddwd.retention.scheduler import DryRun
from ddwd.status import study_lookup
from ddwd.status.formatting import plain, size, time
from ddwd.store.backends import custody_of
from ddwd.store.operator_requests import Request, Requests
from ddwd.store.record_check import RecordChecker
from ddwd.store.statefile import encode
from ddwd.store.status_files import PlaceReport, RetentionRound


def _run(args: Namespace, config: Config, out: TextIO) -> int:
    if args.dry_run:
        return _dry_run(args, config, out)
    return show(_ask(config) if args.now else _last(config), args, out)


def _ask(config: Config) -> VerbResult:
    Requests(Paths(config).requests).submit(Request("retention"))
    line = "the extractor is asked to remove what may be removed; see: ddwd retention"
    return VerbResult({"asked": "retention"}, [line])


def _last(config: Config) -> VerbResult:
    last = round_report.read(Paths(config).retention)
    policy = {place: _policy(config, place) for place in PLACES}
    has_kept = last is not None and any(place.kept for place in last.places.values())
    return VerbResult(
        {"policy": policy, "last": encode(last) if last else None},
        [*_policy_lines(policy), *_last_lines(last)],
        int(has_kept),
    )


class _Policy(TypedDict):
    days: float | None
    free: str | None
    routes: dict[str, float | None]


class _Row(TypedDict):
    place: str
    study: str
    study_uid: str
    images: int
    bytes: int
    reason: str


def _policy(config: Config, place: Place) -> _Policy:
    """Return the policy of a place; None: for ever, or no limit."""
    retention = config.retention
    own = {route.name: retention.days(place, route) for route in config.routes}
    free = retention.free(place)
    return {
        "days": _finite(retention.days(place)),
        "free": str(free) if free else None,
        "routes": {name: _finite(days) for name, days in own.items() if days != retention.days(place)},
    }


def _finite(days: float) -> float | None:
    return None if days == FOREVER else days


def _policy_lines(policy: dict[Place, _Policy]) -> Iterator[str]:
    for place, terms in policy.items():
        line = f"{place:<8} keeps a study {_for(terms['days'])}"
        if terms["free"]:
            line += f"; while less than {terms['free']} is free, the oldest studies are removed"
        yield line
        yield from (f"           of route {name} {_for(days)}" for name, days in terms["routes"].items())


def _for(days: float | None) -> str:
    return "for ever" if days is None else f"for {days:g} {'day' if days == 1 else 'days'}"


def _last_lines(last: RetentionRound | None) -> Iterator[str]:
    if last is None:
        yield "no round yet"
        return
    yield f"last round: {time(last.ended_at)}"
    if last.problem:
        yield f"  interrupted: {plain(last.problem)}"
    for place, tally in last.places.items():
        if tally.studies or tally.kept:
            yield f"  {_sum(place, tally, 'were removed from')}"
        for kept in tally.kept:
            count = many(kept.studies, "study stays", "studies stay")
            yield f"    {count}: {plain(kept.reason)}, as {plain(kept.example)}"


def _sum(place: Place, tally: PlaceReport, verb: str) -> str:
    images, studies = many(tally.images, "image", "images"), many(tally.studies, "study", "studies")
    return f"{images} of {studies} ({size(tally.bytes)}) {verb} {WHERE[place]}"


def _dry_run(args: Namespace, config: Config, out: TextIO) -> int:
    paths, custody = Paths(config), custody_of(config)
    RecordChecker(custody, paths).assert_listable()
    plan = DryRun(config, paths, study_lookup.both(config), custody, SystemClock().utc(), measure)
    tallies = {place: Tally() for place in PLACES}
    found = []
    with progress.bar("checking", as_json=args.json) as bar:
        for finding in plan.findings(bar.expect, bar.moved):
            tally = tallies[finding.place]
            if finding.reason:
                tally.stays(finding, finding.reason)
            else:
                tally.removed(Removed(len(finding.images), finding.bytes))
            if args.json:
                found.append(_row(finding))
            else:
                out.write(f"{_line(finding)}\n")
    sums = {place: tally.report() for place, tally in tallies.items()}
    result = VerbResult(
        {"studies": found, "places": encode(sums)},
        [_sum(place, tally, "would be removed from") for place, tally in sums.items()],
        int(any(tally.kept for tally in tallies.values())),
    )
    return show(result, args, out)


def _row(finding: Eligibility) -> _Row:
    return {
        "place": finding.place,
        "study": finding.study,
        "study_uid": finding.study_uid,
        "images": len(finding.images),
        "bytes": finding.bytes,
        "reason": finding.reason,
    }


def _line(finding: Eligibility) -> str:
    name = plain(finding.study_uid) or finding.study
    images = many(len(finding.images), "image", "images")
    outcome = f"stays: {finding.reason}" if finding.reason else f"goes: {images}, {size(finding.bytes)}"
    return f"{finding.place:<8} {name} {outcome}"


COMMAND = Command(
    "retention",
    "show what is removed when, what the last round removed, and what stays",
    _run,
    (
        OneOf(
            flag("--dry-run", "show what would be removed now, and what not"),
            flag("--now", "ask the extractor to start a round at once"),
            required=False,
        ),
    ),
    about="""Without an option: the number of days after which a study may be removed from each place
(retention and routes in ddwd.yaml), what the last round removed, and what had to stay, and why.
With --dry-run it checks every study whose time is over as the extractor does: it compares the
lists of both Orthancs, and reads every file that has to remain. It changes nothing.
With --now it asks the extractor to check and to remove at once. The extractor also does so once
an hour, and when room is short.""",
    exits={
        0: "no study whose time is over has to stay; with --now: the extractor is asked",
        1: "a study has to stay; each is listed with the reason (without --dry-run: in the last round)",
        65: "this user may not view or ask",
        69: "an Orthanc does not answer",
        74: "no room on the disk",
        76: "an Orthanc refused to answer",
    },
    answer=(
        sometimes(
            "policy",
            dict[str, _Policy],
            "by place: days (null: for ever), space to keep free, days of routes that differ",
        ),
        sometimes("last", RetentionRound | None, "the last round; null: none yet"),
        sometimes("asked", str, "with --now: what the extractor is asked for"),
        sometimes(
            "studies",
            list[_Row],
            "with --dry-run: each study whose time is over; `reason`: why it stays, empty if it goes",
        ),
        sometimes("places", dict[str, PlaceReport], "with --dry-run: the sums by place"),
    ),
)
