"""`ddwd routes`: list the routes, or show which of them a file matches and why. Reads the settings, changes nothing."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from ddwd.cli.command import Argument, Command, Group, VerbResult, prints
from ddwd.config.routing import CALLING, OWN, TAGS, Route, judge, table
from ddwd.config.schema import Config
from ddwd.core.answers import Key
from ddwd.core.errors import NotFoundError
from ddwd.core.model import SEND_AET, TREE


class _Row(TypedDict):
    name: str
    when: dict[str, list[str]]
    forward: bool
    also: list[str]
    extract: bool
    layout: str
    priority: str
    run: str | None
    webhook: bool
    marker: str | None


_Judged = TypedDict("_Judged", {"file": str, "route": str | None, "not": dict[str, str]})


def _list(_args: Namespace, config: Config) -> VerbResult:
    rows = [_row(route) for route in config.routes]
    lines = [line for number, row in enumerate(rows, start=1) for line in _lines(number, row)]
    none = "there are no routes: every study is forwarded and extracted"
    return VerbResult({"routes": rows}, lines or [none])


def _lines(number: int, row: _Row) -> list[str]:
    when = "; ".join(f"{tag} is {' or '.join(texts)}" for tag, texts in row["when"].items())
    return [f"{number}  {row['name']}: {when or 'everything'}", f"   {', '.join(_effects(row))}"]


def _row(route: Route) -> _Row:
    return {
        "name": route.name,
        "when": {tag: list(texts) for tag, texts in route.when},
        "forward": route.forward,
        "also": list(route.also),
        "extract": route.extract,
        "layout": route.layout,
        "priority": route.priority,
        "run": str(route.run) if route.run else None,
        "webhook": route.webhook is not None,
        "marker": route.marker,
    }


def _effects(row: _Row) -> Iterator[str]:
    yield "forwarded" if row["forward"] else "stays on ORTHANC1"
    if row["also"]:
        yield f"sent to {' and '.join(row['also'])}"
    if row["extract"]:
        yield "extracted" + ("" if row["layout"] == TREE else f" to {row['layout']}")
    if row["priority"] != "normal":
        yield f"{row['priority']} priority"
    if row["run"] or row["webhook"]:
        yield f"hook {row['run'] or 'a webhook'}"
    if row["marker"]:
        yield f"marked {row['marker']}"


def _test(args: Namespace, config: Config) -> VerbResult:
    entries = table(config.routes)
    results = [(path, judge(entries, {**_tags(path), CALLING: args.aet})) for path in args.files]
    if not config.routes:
        lines = [f"{path}: there are no routes: it is forwarded and extracted" for path, _ in results]
        return VerbResult(
            {"files": [{"file": str(path), "route": "", "not": {}} for path, _ in results]}, lines
        )
    rows: list[_Judged] = []
    lines = []
    for path, judged in results:
        route = judged[-1].route if judged[-1].failed is None else None
        failed = {one.route: one.failed for one in judged if one.failed and one.route != OWN.name}
        rows.append({"file": str(path), "route": route, "not": failed})
        lines.append(
            f"{path}: matched by route {route}"
            if route
            else f"{path}: no route matches: its study would be held on ORTHANC1"
        )
        lines += [f"  not by {name}: {tag} does not match" for name, tag in failed.items()]
    return VerbResult({"files": rows}, lines, int(any(row["route"] is None for row in rows)))


def _tags(path: Path) -> dict[str, str]:
    """Return the tags that routes can match, as Orthanc reads them. Raises NotFoundError."""
    try:
        data_set = dcmread(path, stop_before_pixels=True, specific_tags=["SpecificCharacterSet", *TAGS])
        return {tag: _text(data_set.get(tag)) for tag in TAGS}
    except InvalidDicomError as error:
        raise NotFoundError(f"{path} is not a DICOM file") from error
    except OSError as error:
        raise NotFoundError(f"{path} cannot be read ({error.strerror})") from error


def _text(value: object) -> str:
    """Return the value as one text; several values are separated by a backslash."""
    if isinstance(value, MultiValue):
        return "\\".join(str(one) for one in value)
    return "" if value is None else str(value)


COMMAND = Group(
    "routes",
    "list the routes, or show which of them matches a file",
    (
        Command(
            "list",
            "list the routes in their order, and what each does",
            prints(_list),
            answer=(Key("routes", list[_Row], "the routes in their order"),),
        ),
        Command(
            "test",
            "show which route matches a file, and why",
            prints(_test),
            (
                Argument("files", nargs="+", type=Path, metavar="FILE", help="a DICOM file"),
                Argument(
                    "--aet",
                    default=SEND_AET,
                    help="AE title it would come from (default: that of ddwd send)",
                ),
            ),
            answer=(
                Key(
                    "files",
                    list[_Judged],
                    "each file with its route (empty without routes, null if none matches), and the condition by which each of the"
                    " routes before does not match",
                ),
            ),
        ),
    ),
    about="""test shows which route matches a study whose first image the file is, and for each route before
it which condition does not match. It uses ddwd.yaml as it is now, also before a restart. It does
not show values of the file.""",
    exits={
        0: "list: done; test: a route matches each file",
        1: "test: no route matches one of the files: its study would be held",
        66: "one of the files cannot be read, or is not DICOM",
    },
)
