"""The reference pages of the site, made from the code: settings, commands, events, exit statuses, statuses, metrics, files, modules.

PAGES: name of the page -> what makes it, as Markdown. SOURCES: name of the page -> the file or folder of the clone that it is made from.
Used by pages.py and held against the code by tests/unit/test_site.py.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

HERE = Path(__file__).resolve().parent
REPO = HERE.parents[1]
sys.path[:0] = [str(REPO), str(HERE.parent)]

import manual  # noqa: E402 - the path comes first
import settings_files  # noqa: E402

from ddwd.cli import main as ddwd  # noqa: E402
from ddwd.config.loader import CONFIG_FILE, DEFAULTS_FILE  # noqa: E402
from ddwd.config.paths import Paths  # noqa: E402
from ddwd.config.schema import SETTINGS, Config  # noqa: E402
from ddwd.core import errors  # noqa: E402
from ddwd.core.audit import FIELDS, WARNINGS, Event  # noqa: E402
from ddwd.core.problem_codes import ENTRIES  # noqa: E402
from ddwd.monitoring.metrics import Metrics  # noqa: E402
from ddwd.status.status_codes import MEANINGS  # noqa: E402

if TYPE_CHECKING:
    import argparse

_SPECIAL = re.compile(r"([\\*_\[\]<>|#])")
_CODE = re.compile(r"(`[^`]*`)")
_ENTRY = re.compile(
    r"^-- ([0-9a-f]{32})\nSubject: ([^\n]*)\nDefined-By: ddwd\n\n(.*?)(?=^-- |\Z)", re.MULTILINE | re.DOTALL
)
_VARIABLE = re.compile(r"@(DDWD_\w+)@")
_STATUS = re.compile(r"^ {2}(\d+) +(.*)$")


def md(text: str) -> str:
    """As Markdown shows it unchanged, but for what stands in backticks."""
    parts = _CODE.split(text)
    return "".join(part if part.startswith("`") else _SPECIAL.sub(r"\\\1", part) for part in parts)


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    columns = list(head)
    lines = [columns, ["---"] * len(columns), *([" ".join(cell.split()) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _page(title: str, *parts: str) -> str:
    return "\n\n".join([f"# {title}", *parts]) + "\n"


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


# --- settings ---------------------------------------------------------------------------------------------------------


def settings() -> str:
    """Every setting with its comment in ddwd.yaml, and the file as it is installed."""
    parts = list[str]()
    for one in settings_files.explained():
        if one.key in SETTINGS:
            variables = ", ".join(f"`{name}`" for name in SETTINGS[one.key].variables)
            notes = [f"Default: `{one.value}`." if one.value else "No default."]
            notes += [f"Variable: {variables}."] if variables else []
            parts += [
                f"{'###' if '.' in one.key else '##'} `{one.key}`",
                *_prose(one.said),
                " ".join(notes),
            ]
        else:
            parts += [f"## {one.key}", *_prose(one.said)]
    file = (REPO / "etc/ddwd.yaml").read_text(encoding="utf-8")
    return _page(
        "Settings",
        f"In `{CONFIG_FILE}`; those with a variable in `{DEFAULTS_FILE}` too, which wins. A key with a dot stands below its section.",
        *parts,
        "## The file as it is installed",
        f"```yaml\n{file}```",
    )


def _prose(lines: list[str]) -> list[str]:
    return [_block(text) if is_example else md(text) for is_example, text in manual.prose(lines)]


# --- commands and what they end with ----------------------------------------------------------------------------------


def commands() -> str:
    """Every verb as `--help` tells it."""
    parts = [part for verb in manual.verbs(ddwd.parser()) for part in _verb(verb)]
    return _page(
        "Commands",
        "Each verb has `--json` where it says so, and `--help`. The dashboard is `ddwd-top`.",
        *parts,
    )


def _verb(verb: manual.Verb) -> Iterator[str]:
    yield f"## `ddwd {verb.name}`"
    yield f"{md(verb.help)[:1].upper()}{md(verb.help)[1:]}."
    yield from _options(verb.parser)
    for below in verb.actions:
        yield f"### `ddwd {verb.name} {below.name}`"
        yield f"{md(below.help)[:1].upper()}{md(below.help)[1:]}."
        yield from _options(below.parser)
    if verb.parser.epilog:
        yield _block(verb.parser.epilog)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    options = manual.options(parser)
    if options:
        rows = [
            [f"`{manual.synopsis(one)}`", md((one.help or "").replace("%(default)s", str(one.default)))]
            for one in options
        ]
        yield _table(["argument", "what it does"], rows)


class Ending(NamedTuple):
    """One exit status of a verb and what it means there."""

    verb: str
    status: int
    meaning: str


def endings() -> Iterator[Ending]:
    """Every exit status that a verb's own help documents."""
    for verb in manual.verbs(ddwd.parser()):
        found: Ending | None = None
        for line in (verb.parser.epilog or "").partition("exit status:\n")[2].splitlines():
            if begins := _STATUS.match(line):
                if found:
                    yield found
                found = Ending(verb.name, int(begins[1]), begins[2])
            elif found and line.startswith("      "):
                found = found._replace(meaning=f"{found.meaning} {line.strip()}")
            else:
                break
        if found:
            yield found


def failures() -> list[type[errors.DdwdError]]:
    """Every deliberate failure, in the order of the module."""
    classes = [
        one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, errors.DdwdError)
    ]
    return sorted(
        (one for one in classes if one is not errors.DdwdError),
        key=lambda one: inspect.getsourcelines(one)[1],
    )


def exit_statuses() -> str:
    """Every failure's exit status, then verb by verb."""
    rows = [
        [
            str(one.exit_status),
            f"`{one.code}`",
            "yes" if one.retryable else "no",
            md(inspect.getdoc(one) or ""),
        ]
        for one in sorted(failures(), key=lambda one: one.exit_status)
    ]
    return _page(
        "Exit statuses",
        "0 is done, 1 the answer is no, 64 also wrong usage, 130 broken off by Ctrl-C. The numbers are those of sysexits.h.",
        "## Failures",
        _table(["status", "code", "can a retry help", "what it means"], rows),
        "## By verb",
        _table(
            ["verb", "status", "meaning"],
            ([f"`ddwd {one.verb}`", str(one.status), md(one.meaning)] for one in endings()),
        ),
    )


# --- what is told -----------------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """What the journal's catalog has of an event."""

    subject: str
    text: str


def catalog() -> dict[str, Entry]:
    """Message ID -> entry of systemd/ddwd.catalog."""
    text = (REPO / "systemd/ddwd.catalog").read_text(encoding="utf-8")
    return {key: Entry(subject, said) for key, subject, said in _ENTRY.findall(text)}


def events() -> str:
    """Every audit event with its entry of the catalog."""
    known = catalog()
    parts = list[str]()
    for event in Event:
        entry = known[event.message_id]
        level = "warning" if event in WARNINGS else "notice"
        parts += [
            f"## `{event.value}`",
            f"**{md(entry.subject)}.** Level {level}, MESSAGE_ID `{event.message_id}`.",
        ]
        parts += [_said(paragraph) for paragraph in re.split(r"\n{2,}", entry.text.strip())]
    fields = ", ".join(f"`DDWD_{name.upper()}`" for name in sorted(FIELDS))
    return _page(
        "Audit events",
        "What `journalctl -t ddwd-audit` shows, and `-x` explains. Each record has `DDWD_EVENT`, and of these fields those that "
        f"apply: {fields}; with `audit.patient_id: true` also `DDWD_PATIENT_ID`.",
        *parts,
    )


def _said(paragraph: str) -> str:
    """Prose, with the lines that are set in (commands) as a block."""
    shown = [_VARIABLE.sub(r"\1", line) for line in paragraph.splitlines()]
    prose = [line for line in shown if not line.startswith("  ")]
    told = [line.strip() for line in shown if line.startswith("  ")]
    return "\n\n".join([md("\n".join(prose)), *([_block("\n".join(told))] if told else [])])


def statuses() -> str:
    """What a status means in plain words."""
    rows = [[f"`{status}`", md(meaning)] for status, meaning in MEANINGS.items()]
    return _page(
        "Statuses of DICOM, HTTP and Orthanc",
        "As they stand in events and reasons; `ddwd trace` and the dashboard tell them in these words.",
        _table(["status", "what it means, and what to do"], rows),
    )


def problems() -> str:
    """Every code of a problem."""
    rows = [
        [f"`{code}`", f"{entry.severity}, {entry.part}", entry.meaning, entry.shows, entry.to_do]
        for code, entry in ENTRIES.items()
    ]
    return _page(
        "Problems",
        "The codes of `ddwd status`, `ddwd-top`, `ddwd doctor`, alerts and metrics. On the machine: `man ddwd-problems`.",
        _table(["code", "severity, part", "what it means", "how it shows", "what to do"], rows),
    )


def metrics() -> str:
    """Every figure for Prometheus."""
    ours = Metrics(Config().metrics.textfile)
    labels = {one._name: one._labelnames for one in ours.registry._collector_to_names}
    rows = [
        [
            f"`{one.name}`",
            one.type,
            ", ".join(f"`{label}`" for label in labels[one.name]),
            md(one.documentation),
        ]
        for one in ours.registry.collect()
    ]
    return _page(
        "Metrics",
        "In the file `metrics.textfile`, for node_exporter's textfile collector. A counter's line ends in `_total` there.",
        _table(["metric", "kind", "labels", "what it is"], rows),
    )


# --- what there is ----------------------------------------------------------------------------------------------------


def files() -> str:
    """Every path that the portal owns with its one writer, from ddwd/config/paths.py."""
    paths = Paths(Config())
    below = settings_files.texts_below(Paths)
    rows = [
        [f"`{where}`", md(text)]
        for name, one in vars(Paths).items()
        if not name.startswith("_") and name != "config" and (text := below.get(name) or inspect.getdoc(one))
        for where in _places(paths, name)
    ]
    return _page(
        "Files",
        "With the default settings. Each has one writer, which its line names.",
        _table(["path", "what, and who writes it"], rows),
    )


def _places(paths: Paths, name: str) -> list[str]:
    """Its value, or one for each thing that it can be asked for."""
    found = getattr(paths, name)
    if callable(found):
        wanted = inspect.signature(found).parameters
        found = [found(one) for one in _ASKED[next(iter(wanted))]] if wanted else found()
    return [str(one) for one in found] if isinstance(found, list) else [str(found)]


_ASKED = {
    "node": ("gateway", "storage"),
    "role": ("gateway", "storage", "extractor"),
    "daemon": ("scp", "extractor"),
    "place": ("output",),
}


def modules() -> str:
    """Every module with the first line of its docstring."""
    parts = list[str]()
    for folder in [REPO / "ddwd", *sorted(path.parent for path in (REPO / "ddwd").rglob("*/__init__.py"))]:
        told = [(path, _first_line(path)) for path in sorted(folder.glob("*.py"))]
        rows = [[f"`{path.stem}`", md(line)] for path, line in told if line]
        parts += [f"## `{folder.relative_to(REPO)}`", _table(["module", "what it is"], rows)]
    return _page(
        "Modules",
        "From their first lines. [Architecture](../architecture.md) tells how they belong together.",
        *parts,
    )


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n")[0]


PAGES: dict[str, Callable[[], str]] = {
    "settings.md": settings,
    "commands.md": commands,
    "events.md": events,
    "exit-statuses.md": exit_statuses,
    "problems.md": problems,
    "statuses.md": statuses,
    "metrics.md": metrics,
    "files.md": files,
    "modules.md": modules,
}

SOURCES: dict[str, str] = {
    "settings.md": "etc/ddwd.yaml",
    "commands.md": "packaging/manual/ddwd.1",
    "events.md": "systemd/ddwd.catalog",
    "exit-statuses.md": "ddwd/core/errors.py",
    "problems.md": "ddwd/core/problem_codes.py",
    "statuses.md": "ddwd/status/status_codes.py",
    "metrics.md": "ddwd/monitoring/metrics.py",
    "files.md": "ddwd/config/paths.py",
    "modules.md": "ddwd",
}
"""Pages of the clone link to the source, which is always there; on the site such a link leads to the page made from it."""
