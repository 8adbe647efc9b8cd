"""`ddwd routes`: list the routes, or show which of them a file matches and why. Reads the settings, changes nothing."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.multival import MultiValue

from ddwd.cli.command import Argument, Command, VerbResult
from ddwd.config.routing import CALLING, OWN, TAGS, Judged, Route, judge, table
from ddwd.config.schema import Config
from ddwd.core.errors import NotFoundError
from ddwd.core.model import SEND_AET, TREE

_EPILOG = """test says which rule takes a study whose first image the file is, and for each rule before it
which condition does not hold. It judges by ddwd.yaml as it is now, also before a restart. Values of
the file are not shown.

exit status:
  0   list: done; test: a rule takes each file
  1   test: no rule takes one of the files: its study would be held
  64  wrong usage
  66  one of the files cannot be read, or is not DICOM
  78  the configuration cannot be used"""


def _list(_args: Namespace, config: Config) -> VerbResult:
    rows = [_row(route) for route in config.routes]
    lines = [line for number, row in enumerate(rows, start=1) for line in _rule_lines(number, row)]
    return VerbResult(
        {"routes": rows}, lines or ["there are no rules: every study is forwarded and extracted"]
    )


def _rule_lines(number: int, row: dict[str, Any]) -> list[str]:
    when = "; ".join(f"{tag} is {' or '.join(texts)}" for tag, texts in row["when"].items())
    return [f"{number}  {row['name']}: {when or 'everything'}", f"   {', '.join(_done_with(row))}"]


def _row(route: Route) -> dict[str, Any]:
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


def _done_with(row: dict[str, Any]) -> list[str]:
    said = ["forwarded" if row["forward"] else "stays on ORTHANC1"]
    said += [f"sent to {' and '.join(row['also'])}"] if row["also"] else []
    if row["extract"]:
        said.append("extracted" + ("" if row["layout"] == TREE else f" to {row['layout']}"))
    said += [f"{row['priority']} priority"] if row["priority"] != "normal" else []
    hook = row["run"] or ("a webhook" if row["webhook"] else "")
    return (
        said + ([f"told to {hook}"] if hook else []) + ([f"marked {row['marker']}"] if row["marker"] else [])
    )


def _test(args: Namespace, config: Config) -> VerbResult:
    """Match each file against the routes. Raises NotFoundError."""
    routes = config.routes
    rules = table(routes)
    answers = [(path, judge(rules, {**_tags(path), CALLING: args.aet})) for path in args.files]
    return VerbResult(
        {"files": [_answer(path, said, routes) for path, said in answers]},
        [line for path, said in answers for line in _told(path, said, routes)],
        int(any(_taker(said) is None and routes for _, said in answers)),
    )


def _taker(said: list[Judged]) -> str | None:
    return said[-1].route if said and said[-1].failed is None else None


def _answer(path: Path, said: list[Judged], routes: Sequence[Route]) -> dict[str, Any]:
    return {
        "file": str(path),
        "route": _taker(said) if routes else "",
        "not": {one.route: one.failed for one in said if one.failed and one.route != OWN.name},
    }


def _told(path: Path, said: list[Judged], routes: Sequence[Route]) -> list[str]:
    if not routes:
        return [f"{path}: there are no rules: it is forwarded and extracted"]
    taker = _taker(said)
    head = f"taken by rule {taker}" if taker else "no rule takes it: its study would be held on ORTHANC1"
    why = [
        f"  not by {one.route}: {one.failed} is another"
        for one in said
        if one.failed and one.route != OWN.name
    ]
    return [f"{path}: {head}", *why]


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


_FILES = Argument("files", nargs="+", type=Path, metavar="FILE", help="a DICOM file")
_AET = Argument("--aet", default=SEND_AET, help="AE title it would come from (default: that of ddwd send)")
COMMAND = Command(
    "routes",
    "the rules of routes, and which of them takes a file",
    epilog=_EPILOG,
    action="what",
    actions=(
        Command("list", "the rules in their order, and what each does", _list),
        Command("test", "which rule takes a file, and why", _test, (_FILES, _AET)),
    ),
)
